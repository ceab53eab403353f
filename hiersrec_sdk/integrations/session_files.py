"""Sessions in Parquet files, which are read as one long table: any range of its rows, in pieces of bounded size."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from hiersrec_sdk.atomic import is_time_limit
from hiersrec_sdk.errors import DataError, MissingExtraError
from hiersrec_sdk.integrations.batch import CHUNK, BatchRecommender
from hiersrec_sdk.shown import shortened, shown


class Piece(NamedTuple):
    """Some rows of one file: ``table`` begins with its row ``first``, counted from 0."""

    file: Path
    first: int
    table: Any

    def where(self, at: int) -> str:
        """The row ``at`` a position of the table, for messages."""
        return f"{shortened(self.file)}, row {self.first + at}"


@dataclass(frozen=True)
class SessionFile:
    """A Parquet file as it was when the job was begun."""

    path: Path
    rows: int
    size: int
    modified: int  # nanoseconds

    def check_unchanged(self) -> None:
        """Raise :class:`DataError` where somebody has written to the file since."""
        try:
            now = self.path.stat()
        except FileNotFoundError:
            raise DataError(f"{shortened(self.path)} was removed while it was read") from None
        if (now.st_size, now.st_mtime_ns) != (self.size, self.modified):
            raise DataError(f"{shortened(self.path)} was changed while it was read")


@dataclass(frozen=True)
class SessionFiles:
    """Files of sessions, one after the other.

    Attributes:
        files: in the order of their names.
        columns: those that are read: the sessions' and those that are kept, each once.
        schema: of these columns, an Arrow schema.
    """

    files: tuple[SessionFile, ...]
    columns: tuple[str, ...]
    schema: Any

    @property
    def rows(self) -> int:
        """Of all files."""
        return sum(file.rows for file in self.files)

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What tells these files from others."""
        return {
            "rows": self.rows,
            "schema": {field.name: str(field.type) for field in self.schema},
            "files": [
                {"name": file.path.name, "rows": file.rows, "bytes": file.size, "modified": file.modified}
                for file in self.files
            ],
        }

    def read(self, start: int, stop: int, columns: Sequence[str] | None = None) -> Iterator[Piece]:
        """The rows ``start`` to ``stop`` in pieces of at most ``CHUNK`` rows, each of one file.

        Raises:
            DataError: a file cannot be read, or was changed.
        """
        firsts = [0]
        for file in self.files:
            firsts.append(firsts[-1] + file.rows)
        at = max(bisect_right(firsts, start) - 1, 0)
        while start < stop:
            file, first = self.files[at], firsts[at]
            end = min(stop, firsts[at + 1])
            yield from _read(file, start - first, end - first, list(columns or self.columns))
            start, at = end, at + 1


def open_files(path: Path, recommend: BatchRecommender) -> SessionFiles:
    """The Parquet file ``path``, or those in the folder ``path``, with the columns that ``recommend`` reads.

    Raises:
        DataError: there is no such file; one is no Parquet file; or the columns of one are missing, of a wrong type, or
            of another type than in the first.
        MissingExtraError: pyarrow is not installed.
    """
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError("arrow", "a file of sessions", "pyarrow") from error
    paths = [path]
    if path.is_dir():
        paths = sorted(
            each
            for each in path.iterdir()
            if each.suffix == ".parquet" and not each.name.startswith((".", "_"))
        )
    if not path.exists() or not paths:
        what = (
            "there is no file whose name ends in .parquet in this folder" if paths == [] else "no such file"
        )
        raise DataError(f"{shortened(path)}: {what}")
    columns = tuple(dict.fromkeys((recommend.session_column, *recommend.keep)))
    files, schema = [], None
    for each in paths:
        found = each.stat()
        with _opened(each) as parquet:
            try:
                recommend.schema(parquet.schema_arrow)
            except DataError as error:
                raise type(error)(f"{shortened(each)}: {error}") from error
            # nullable, as the column of one file may be and that of another may not
            fields = [
                parquet.schema_arrow.field(name).remove_metadata().with_nullable(True) for name in columns
            ]
            given = pyarrow.schema(fields)
            files.append(SessionFile(each, parquet.metadata.num_rows, found.st_size, found.st_mtime_ns))
        if schema is None:
            schema = given
        for ours, first in zip(given, schema, strict=True):
            if ours.type != first.type:
                raise DataError(
                    f"{shortened(each)}: the column {shown(ours.name)} has the type {ours.type}, but in "
                    f"{paths[0].name} {first.type}"
                )
    return SessionFiles(tuple(files), columns, schema)


def check_sessions(files: SessionFiles, recommend: BatchRecommender) -> None:
    """Look at every session for nulls, which are no item ids, and text that is not UTF-8.

    Raises:
        DataError: names the first one.
    """
    name = recommend.session_column
    for piece in files.read(0, files.rows, [name]):
        column = piece.table.column(name)
        for chunk in column.chunks:
            if chunk.null_count or chunk.flatten().null_count or not _is_utf8(chunk):
                _raise_first(piece, column)


def _raise_first(piece: Piece, column: Any) -> None:
    for at, cell in enumerate(column):
        why = ""
        try:
            session = cell.as_py()
        except UnicodeDecodeError as error:
            session, why = error.object, "has a text that is not UTF-8"
        if session is None:
            why = "is null"
        elif not why and None in session:
            why = f"has a null at position {session.index(None)}"
        if why:
            raise DataError(
                f"{piece.where(at)}: the session {why}: {shown(session)}; on_bad='skip' (--on-bad skip) gives such a "
                "session no items"
            )


def _is_utf8(chunk: Any) -> bool:
    import pyarrow

    try:
        chunk.validate(full=True)
    except pyarrow.ArrowInvalid:
        return False
    return True


def _read(file: SessionFile, start: int, stop: int, columns: list[str]) -> Iterator[Piece]:
    """The rows ``start`` to ``stop`` of one file."""
    import pyarrow

    with _opened(file.path) as parquet:
        file.check_unchanged()
        groups, first = [], 0
        for group in range(parquet.metadata.num_row_groups):
            rows = parquet.metadata.row_group(group).num_rows
            if first + rows > start and first < stop:
                groups.append((group, first))
            first += rows
        at = groups[0][1] if groups else stop
        try:
            for batch in parquet.iter_batches(
                CHUNK, [group for group, _ in groups], columns, use_threads=False
            ):
                skipped = max(0, start - at)
                wanted = batch.slice(skipped, max(0, stop - at - skipped))
                if wanted.num_rows:
                    yield Piece(file.path, at + skipped, pyarrow.table(wanted))
                at += batch.num_rows
                if at >= stop:
                    break
        except (pyarrow.ArrowException, OSError) as error:
            raise _unreadable(file.path, error) from error
        file.check_unchanged()


def _opened(path: Path) -> Any:
    import pyarrow.parquet

    try:
        return pyarrow.parquet.ParquetFile(os.fspath(path))
    except (pyarrow.ArrowException, OSError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> DataError:
    if isinstance(error, OSError) and is_time_limit(error):
        raise error
    return DataError(
        f"{shortened(path)} cannot be read as Parquet: {shortened(' '.join(str(error).split()))}"
    )
