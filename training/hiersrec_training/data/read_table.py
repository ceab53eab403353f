"""Tables on disk: csv and tsv, plain or gzipped, and parquet; scanned with Polars, so that only the columns asked
for are kept."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from hiersrec_sdk.errors import DataError, InvalidOptionError, MissingColumnError

SEPARATORS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
_GZIP = b"\x1f\x8b"


@dataclass(frozen=True)
class Table:
    """A table that was opened: its columns are known, nothing else is read."""

    path: Path
    columns: list[str]
    frame: pl.LazyFrame

    def read(self, wanted: Mapping[str, str], *, whole: bool = False) -> pl.DataFrame:
        """The columns ``wanted``, a mapping of column to the option that names it. Csv columns come as strings.

        Rows that are empty in all of them are left out; ``whole``: only those that are empty in every column.

        Raises:
            MissingColumnError: the table lacks one; the message lists those it has.
            DataError: the table is damaged.
        """
        for column, option in wanted.items():
            if column not in self.columns:
                raise MissingColumnError(
                    f"{self.path} has no column {column!r}; its columns are {', '.join(self.columns)}: "
                    f"name the right one with {option}"
                )
        with reading(self.path):
            filled = ~pl.all_horizontal(pl.col(self.columns if whole else list(wanted)).is_null())
            return self.frame.filter(filled).select(list(wanted)).collect()  # a blank line is no row


def open_table(
    path: Path,
    separator: str | None = None,
    *,
    names: Sequence[str] = (),
    comments: bool = False,
    empty: type[DataError] = DataError,
) -> Table:
    """Open the table at ``path``.

    Args:
        separator: of csv fields; by default the one of the file's suffix.
        names: of the columns, where the file has no header.
        comments: lines that begin with # are skipped, and blank ones above the header.
        empty: the error to raise for a file that holds nothing.

    Raises:
        DataError: no such file, of an unknown kind, or damaged.
    """
    suffix = suffix_of(path)
    if suffix == ".parquet":
        existing(path)
        with reading(path):
            frame = pl.scan_parquet(path, glob=False)
            return Table(path, frame.collect_schema().names(), frame)
    if suffix not in SEPARATORS and separator is None:
        raise DataError(
            f"{path}: tables end in .csv, .tsv or .parquet (or .csv.gz); for another text table name its separator"
        )
    separator = separator or SEPARATORS[suffix]
    if len(separator.encode()) != 1:
        raise InvalidOptionError(f"the separator of a table is one character of ASCII, not {separator!r}")
    above = leading_lines(path)
    with reading(path, empty):
        frame = pl.scan_csv(
            path,
            glob=False,
            separator=separator,
            infer_schema=False,
            has_header=not names,
            comment_prefix="#" if comments else None,
            skip_lines=above if comments else 0,
        )
        columns = frame.collect_schema().names()
    if names:
        if len(names) != len(columns):
            raise DataError(f"{path} has {len(columns)} columns, and {len(names)} names were given for them")
        frame = frame.rename(dict(zip(columns, names, strict=True)))
        columns = list(names)
    return Table(path, columns, frame)


def suffix_of(path: Path) -> str:
    """The suffix that tells the kind, without .gz, in lower case."""
    name = path.name.lower().removesuffix(".gz")
    return Path(name).suffix


def existing(path: Path) -> None:
    """Raise :class:`DataError` where ``path`` is no file."""
    if not path.exists():
        raise DataError(f"there is no file {path}")
    if not path.is_file():
        raise DataError(f"{path} is no file")


def leading_lines(path: Path) -> int:
    """How many blank and comment lines stand above the first line of data; checks that the file is text.

    Raises:
        DataError: no file, damaged at its beginning, or binary.
    """
    existing(path)
    with reading(path), path.open("rb") as raw:
        packed = raw.read(2) == _GZIP
        raw.seek(0)
        count = 0
        with gzip.open(raw) if packed else raw as lines:
            if b"\0" in lines.read(65_536):
                raise DataError(f"{path} is no text in UTF-8: it holds zero bytes")
            lines.seek(0)
            for line in lines:
                if line.strip() and not line.startswith(b"#"):
                    break
                count += 1
        return count


@contextmanager
def reading(path: Path, empty: type[DataError] = DataError) -> Iterator[None]:
    """Turn what Polars and the system raise into a :class:`DataError` that names the file and the cause."""
    try:
        yield
    except pl.exceptions.NoDataError:
        raise empty(f"{path} is empty") from None
    except (pl.exceptions.PolarsError, OSError, EOFError, zlib.error) as error:
        cause = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path} cannot be read: {cause}") from error
