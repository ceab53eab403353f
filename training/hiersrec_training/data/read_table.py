"""Tables on disk: csv and tsv, plain or gzipped, and parquet. And the ids in them.

Polars scans them, so that only the columns asked for are kept. Ids stay those of the shop: integers where every table
has integers, else strings.
"""

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
    """An open table: its columns are known, nothing else was read."""

    path: Path
    columns: list[str]
    frame: pl.LazyFrame

    def read(self, wanted: Mapping[str, str], *, whole: bool = False) -> pl.DataFrame:
        """Read some columns. Those of a csv are strings.

        Args:
            wanted: the columns, each with the command-line option that names it.
            whole: leave out only the rows that are empty in every column of the table, not in those ``wanted``.

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
            return self.frame.filter(filled).select(list(wanted)).collect()  # blank lines are not rows


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
        empty: the error to raise for an empty file.

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
        raise InvalidOptionError(f"the separator of a table must be one ASCII character, got {separator!r}")
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
    """The suffix that says the kind of file, without .gz, in lower case."""
    name = path.name.lower().removesuffix(".gz")
    return Path(name).suffix


def existing(path: Path) -> None:
    """Raise :class:`DataError` where ``path`` is not a file."""
    if not path.exists():
        raise DataError(f"there is no file {path}")
    if not path.is_file():
        raise DataError(f"{path} is not a file")


def leading_lines(path: Path) -> int:
    """How many blank and comment lines are above the first line of data; checks that the file is text.

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
                raise DataError(f"{path} is not UTF-8 text: it holds zero bytes")
            lines.seek(0)
            for line in lines:
                if line.strip() and not line.startswith(b"#"):
                    break
                count += 1
        return count


@contextmanager
def reading(path: Path, empty: type[DataError] = DataError) -> Iterator[None]:
    """Turn errors of Polars and the system into a :class:`DataError` that names the file and the cause."""
    try:
        yield
    except pl.exceptions.NoDataError:
        raise empty(f"{path} is empty") from None
    except (pl.exceptions.PolarsError, OSError, EOFError, zlib.error) as error:
        cause = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path} cannot be read: {cause}") from error


def unify_ids(columns: Sequence[pl.Series], what: str) -> list[pl.Series]:
    """The columns with one id type: int64 where all values of all of them are integers, else string.

    Text counts as an integer only where the integer is written back as the same text: "007" stays "007".
    Nulls stay null; an empty string is null. Columns of nulls only are strings.

    Raises:
        DataError: a column of a type that cannot be an id, such as fractions.
    """
    columns = [_plain(column, what) for column in columns]
    if all(column.null_count() == len(column) for column in columns):
        return [column.cast(pl.String) for column in columns]
    whole = [_as_int(column) for column in columns]
    if all(column is not None for column in whole):
        return [column for column in whole if column is not None]
    return [column.cast(pl.String) for column in columns]


def _plain(column: pl.Series, what: str) -> pl.Series:
    """The column as Int64, UInt64 or String."""
    if column.dtype == pl.Null or column.dtype in (pl.Categorical, pl.Enum):
        column = column.cast(pl.String)
    if column.dtype == pl.String:
        return column.set(column == "", None)
    if column.dtype == pl.UInt64:
        return column
    if column.dtype.is_integer():
        return column.cast(pl.Int64)
    if column.dtype.is_float():
        # a table with gaps often has integers as floats
        column = column.fill_nan(None)
        if bool((column == column.round()).all()) and bool((column.abs() < 2**53).all()):
            return column.cast(pl.Int64)
    raise DataError(
        f"{what} ids of column {column.name!r} are {column.dtype}: ids must be integers or strings"
    )


def _as_int(column: pl.Series) -> pl.Series | None:
    number = column.cast(pl.Int64, strict=False)
    same = (number.cast(pl.String) == column.cast(pl.String)).fill_null(False) | column.is_null()
    return number if bool(same.all()) else None
