"""Tables of any kind, in batches of rows: delimited text, parquet, JSON lines, and frames in memory."""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from hiersrec_sdk.errors import DataError, InvalidOptionError, MissingColumnError
from hiersrec_sdk.shown import shortened
from hiersrec_training.data.files import existing, reading
from hiersrec_training.data.json_shapes import (
    find_bad_json,
    is_array,
    mixed_fields,
    refuse_mixed,
    without_mixed,
)
from hiersrec_training.data.kinds import JSON, PACKED, SEPARATORS, suffix_of
from hiersrec_training.data.nested import columns_of, is_list, nested_fields, plain
from hiersrec_training.data.options import PrepareOptions
from hiersrec_training.data.text import (
    BATCH,
    Lines,
    Skipped,
    TextFormat,
    check_is_text,
    count_lines,
    read_lines,
    read_rows,
    split_line,
    utf8_copy,
)


class Batch(NamedTuple):
    """Some rows of a table: ``numbers`` int64, line or row numbers counted from 1; ``frame``, the columns asked for."""

    numbers: NDArray[np.int64]
    frame: pl.DataFrame


@dataclass
class Table(ABC):
    """An open table: its columns are known, nothing else was read.

    Attributes:
        name: of the file, for messages; of a frame, what it was given as.
        columns: their names.
        counted: what ``numbers`` of a batch counts: "line" or "row".
        skipped: lines that are no rows, after the batches were read.
        unquotes: quotes around fields are taken off.
        unusable: columns and fields that cannot be read, and why.
    """

    name: str
    columns: list[str]
    counted: str = "row"
    skipped: Skipped = field(default_factory=Skipped)
    unquotes: bool = False
    unusable: dict[str, str] = field(default_factory=dict)

    def place(self, number: int) -> str:
        """Where a row is, such as "log.csv, line 7"."""
        return f"{self.name}, {self.counted} {number:,}"

    @abstractmethod
    def size(self) -> int:
        """How many rows there are, about; 0 where that is not known."""

    @abstractmethod
    def batches(self, wanted: Sequence[str]) -> Iterator[Batch]:
        """The columns ``wanted`` of all rows. Those of text files are strings."""

    def read(self, wanted: Sequence[str]) -> Batch:
        """As :meth:`batches`, all in one."""
        parts = list(self.batches(wanted))
        if not parts:
            return Batch(np.zeros(0, np.int64), pl.DataFrame({name: [] for name in wanted}))
        frame = pl.concat([part.frame for part in parts], how="vertical_relaxed")
        return Batch(np.concatenate([part.numbers for part in parts]), frame)

    def is_list(self, column: str) -> bool:
        """Whether the cells of a column are lists."""
        return False

    def require(self, wanted: Mapping[str, str]) -> None:
        """Check that the table has columns.

        Args:
            wanted: the columns, each with the command-line option that names it.

        Raises:
            MissingColumnError: it lacks one, or has it twice; the message lists those it has.
            DataError: one cannot be read.
        """
        for column, option in wanted.items():
            for name, why in self.unusable.items():
                if _is_within([column], name):
                    raise DataError(why)
            if column in self.columns or self._nested(column):
                if self.columns.count(column) > 1:
                    raise MissingColumnError(
                        f"{self.name} has two columns {column!r}: give them different names"
                    )
                continue
            known = {name.lower(): name for name in (*self.columns, *self.nested())}
            short = {name.rpartition(".")[2]: known[name] for name in known}
            close = difflib.get_close_matches(column.lower(), [*known, *short], 1)
            near = f" (is it {(known | short)[close[0]]!r}?)" if close else ""
            raise MissingColumnError(
                f"{self.name} has no column {column!r}{near}; its columns are {', '.join(self.columns)}: "
                f"{self.hint() or f'name the right one with {option}{self.without_header()}'}"
            )

    def nested(self) -> list[str]:
        """The names of the fields of structs."""
        return []

    def _nested(self, column: str) -> bool:
        return column in self.nested()

    def hint(self) -> str:
        """What else may be wrong where a column is missing."""
        return ""

    def without_header(self) -> str:
        """What to do where the first row is no header."""
        return ""


class Origin(NamedTuple):
    """Where a table comes from, in terms of the command line.

    Attributes:
        role: what a frame is called in messages.
        separator: of its fields, where it was given; ``separator_option`` gives it.
        names: of its columns, where it has no header; ``names_option`` gives them, where there is one.
    """

    role: str
    separator: str | None
    separator_option: str
    names: Sequence[str] = ()
    names_option: str = ""


def open_table(
    source: Any, form: TextFormat, work: Path, origin: Origin, empty: type[DataError] = DataError
) -> Table:
    """Open a table.

    Args:
        source: path of a file, or a Polars, pandas or Arrow table.
        form: of text files; its separator is that of the file's suffix unless ``origin`` has one.
        work: folder for copies that Polars can read.
        origin: what was given for it.
        empty: the error to raise for an empty file.

    Raises:
        DataError: no such file, of an unknown kind, or damaged.
    """
    if not isinstance(source, str | Path):
        return _frame_table(source, origin.role)
    path = Path(source)
    suffix = suffix_of(path)
    if suffix == ".parquet" or suffix in JSON:
        existing(path)
        return _open_scanned(path, suffix, form, work, empty)
    if suffix not in SEPARATORS and origin.separator is None:
        raise DataError(
            f"{path}: the kind of a table is told by its name, .csv, .tsv, .parquet or .jsonl (text also packed as "
            f"{', '.join(PACKED)}); for another text table name its separator, for example "
            f"{origin.separator_option} ';'"
        )
    separator = origin.separator or SEPARATORS[suffix]
    quote = form.quote
    if quote == "auto":
        quote = None if separator == "\t" or len(separator) > 1 else '"'
    form = replace(form, separator=separator, quote=quote)
    if quote is not None and len(separator) > 1:
        raise InvalidOptionError(f"--quote goes with a separator of one character, not with {separator!r}")
    return _TextTable.open(path, form, work, origin, empty)


class _TextTable(Table):
    """Delimited text."""

    def __init__(
        self,
        path: Path,
        file: Path,
        form: TextFormat,
        columns: list[str],
        has_header: bool,
        origin: Origin,
    ) -> None:
        super().__init__(str(path), columns, "line")
        self._path, self._file, self._form, self._has_header = path, file, form, has_header
        self._origin = origin
        self.unquotes = form.quote is not None

    @classmethod
    def open(
        cls,
        path: Path,
        form: TextFormat,
        work: Path,
        origin: Origin,
        empty: type[DataError],
    ) -> _TextTable:
        """Read the header, or take ``names`` for it."""
        file, names = utf8_copy(path, form, work), origin.names
        check_is_text(path, file)
        data = (lines.data(Skipped()) for lines in read_lines(path, file, form))
        first = next((lines for lines in data if len(lines.text)), None)
        if first is None:
            raise empty(f"{path} is empty")
        header = split_line(first.text[0], form)
        if names and len(names) != len(header):
            raise DataError(
                f"{path} has {len(header)} columns in line {first.numbers[0]}, and {origin.names_option} names "
                f"{len(names)}"
            )
        columns = list(names) if names else [name.strip() for name in header]
        return cls(path, file, form, columns, not names, origin)

    def size(self) -> int:
        return count_lines(self._file) - self._has_header

    def batches(self, wanted: Sequence[str]) -> Iterator[Batch]:
        self.skipped = Skipped()
        lines = read_lines(self._path, self._file, self._form)
        if self._has_header:
            lines = self._below_header(lines)
        picked = {f"field_{self.columns.index(name)}": name for name in wanted}
        for numbers, fields in read_rows(lines, len(self.columns), self._path, self._form, self.skipped):
            frame = fields.select(pl.col(field).alias(name) for field, name in picked.items())
            if self._has_header and len(numbers):
                # where files were joined, the header stands in the middle too
                is_header = frame.select(
                    pl.all_horizontal(pl.col(name) == name for name in frame.columns)
                ).to_series()
                if is_header.any():
                    self.skipped.headers += int(is_header.sum())
                    numbers, frame = numbers[~is_header.to_numpy()], frame.filter(~is_header)
            yield Batch(numbers, frame)

    def _below_header(self, lines: Iterator[Lines]) -> Iterator[Lines]:
        for numbers, text, is_data in lines:
            if is_data.any():
                after = int(is_data.arg_max() or 0) + 1
                above = Lines(numbers[: after - 1], text.head(after - 1), is_data.head(after - 1))
                above.data(self.skipped)  # counts the comments there
                yield Lines(numbers[after:], text.slice(after), is_data.slice(after))
                break
            Lines(numbers, text, is_data).data(self.skipped)
        yield from lines

    def hint(self) -> str:
        header, origin = self.columns[0], self._origin
        if header.startswith("sep="):
            return f"the first line is one for Excel: --comment sep= leaves it out, beside {origin.separator_option}"
        if len(self.columns) == 1:
            for separator in ",;|\t":
                if separator in header:
                    shown = "\\t" if separator == "\t" else separator
                    return f"give {origin.separator_option} '{shown}' if that separates them"
        if self._form.quote is None and all(name[:1] == name[-1:] == '"' for name in self.columns):
            return "give --quote '\"' if they are quoted"
        return ""

    def without_header(self) -> str:
        """What to do where the first row is no header."""
        option = self._origin.names_option
        return (
            f", or the columns with {option} if the file has no header" if self._has_header and option else ""
        )


class _FrameTable(Table):
    """A frame in memory."""

    def __init__(self, frame: pl.DataFrame, name: str) -> None:
        super().__init__(name, frame.columns)
        self._frame = frame

    def size(self) -> int:
        return self._frame.height

    def batches(self, wanted: Sequence[str]) -> Iterator[Batch]:
        first = 1
        for part in self._frame.select(columns_of(wanted, self._frame.schema)).iter_slices(BATCH):
            yield Batch(np.arange(first, first + part.height), plain(part))
            first += part.height

    def is_list(self, column: str) -> bool:
        return is_list(column, self._frame.schema)

    def nested(self) -> list[str]:
        return list(nested_fields(self._frame.schema))


class _ScannedTable(Table):
    """A file that Polars reads: parquet or JSON lines."""

    def __init__(self, path: Path, frame: pl.LazyFrame, schema: pl.Schema) -> None:
        super().__init__(str(path), schema.names())
        self._path, self._frame, self._schema = path, frame, schema

    def size(self) -> int:
        with reading(self._path):
            return int(self._frame.select(pl.len()).collect().item())

    def batches(self, wanted: Sequence[str]) -> Iterator[Batch]:
        first = 1
        with reading(self._path, lambda: self._explain(wanted)):
            chosen = self._frame.select(columns_of(wanted, self._schema))
            for part in chosen.collect_batches(chunk_size=BATCH, maintain_order=True):
                yield Batch(np.arange(first, first + part.height), plain(part))
                first += part.height

    def _explain(self, wanted: Sequence[str]) -> DataError | None:
        """Why columns cannot be read, where more is known than Polars says."""
        return None

    def is_list(self, column: str) -> bool:
        return is_list(column, self._schema)

    def nested(self) -> list[str]:
        return list(nested_fields(self._schema))


class _JsonTable(_ScannedTable):
    """A file of JSON. Polars makes text of a column that holds texts beside lists or objects; such a one is refused.

    Args:
        file: copy of ``path`` in UTF-8.
        unusable: fields that ``frame`` lacks as they have several shapes, and why.
    """

    def __init__(
        self, path: Path, file: Path, frame: pl.LazyFrame, schema: pl.Schema, unusable: dict[str, str]
    ) -> None:
        super().__init__(path, frame, schema)
        self._file, self.unusable = file, unusable
        self.columns = [*self.columns, *(name for name in unusable if "." not in name)]

    def batches(self, wanted: Sequence[str]) -> Iterator[Batch]:
        checked: set[str] = set()
        for batch in super().batches(wanted):
            for values in batch.frame:
                if values.name not in checked and _may_be_json(values):
                    checked.add(values.name)
                    parts = nested_fields(self._schema).get(values.name, (values.name,))
                    listed = isinstance(values.dtype, pl.List)
                    refuse_mixed(self._path, self._file, values.name, parts, is_list=listed)
            yield batch

    def _explain(self, wanted: Sequence[str]) -> DataError | None:
        mixed = mixed_fields(self._path, self._file)
        return next((DataError(why) for name, why in mixed.items() if _is_within(wanted, name)), None)


def _is_within(columns: Iterable[str], outer: str) -> bool:
    """Whether one of the columns is a field or within it."""
    return any(f"{column}.".startswith(f"{outer}.") for column in columns)


def _may_be_json(values: pl.Series) -> bool:
    """Whether a text may be that of a list or object, or has lost a character."""
    if isinstance(values.dtype, pl.List):
        values = values.explode()
    if values.dtype != pl.String:
        return False
    text = values.str
    odd = text.starts_with("[") | text.starts_with("{") | text.contains("\0", literal=True)
    return bool(odd.any())


def _open_scanned(
    path: Path, suffix: str, form: TextFormat, work: Path, empty: type[DataError]
) -> _ScannedTable:
    if suffix == ".parquet":
        with reading(path):
            frame = pl.scan_parquet(path.absolute(), glob=False, hive_partitioning=False)
            return _ScannedTable(path, frame, frame.collect_schema())
    file = utf8_copy(path, form, work, unpack=True)
    check_is_text(path, file)
    with reading(path), file.open("rb") as lines:
        if not lines.read(4096).strip():
            raise empty(f"{path} is empty")
    with reading(path, lambda: find_bad_json(path, file)):
        # of an array, Polars would read values of several shapes without a word
        unusable = mixed_fields(path, file) if is_array(file) else {}
        try:
            if unusable:
                raise pl.exceptions.SchemaError(*unusable.values())
            frame = _scan_json(file)
            schema = frame.collect_schema()
        except pl.exceptions.PolarsError:
            copy = work / f"{len(list(work.iterdir()))}.jsonl"
            mixed = without_mixed(path, file, copy)
            if mixed is None:
                raise
            unusable, frame = mixed, _scan_json(copy)
            schema = frame.collect_schema()
    if not schema and unusable:
        raise DataError(next(iter(unusable.values())))
    if not schema:
        raise empty(f"{path} is empty")
    return _JsonTable(path, file, frame, schema, unusable)


def _scan_json(file: Path) -> pl.LazyFrame:
    # an open file, as Polars would take the path for a pattern
    if is_array(file):
        return pl.read_json(file.open("rb"), infer_schema_length=None).lazy()
    return pl.scan_ndjson(file.open("rb"), infer_schema_length=None)


def _frame_table(source: Any, role: str) -> _FrameTable:
    """A table of any library that shows it as Arrow."""
    try:
        if isinstance(source, pl.LazyFrame):
            source = source.collect()
        if type(source).__module__.partition(".")[0] == "pandas":
            return _from_pandas(source, role)
        return _FrameTable(pl.DataFrame(source), role)
    except Exception as error:  # of any library
        raise DataError(
            f"{role} must be the path of a file or a Polars, pandas or Arrow table, got {type(source).__name__}: "
            f"{error}"
        ) from error


def _from_pandas(source: Any, role: str) -> _FrameTable:
    """A pandas frame. A column that cannot be read, such as one of numbers and texts, is an error only where wanted."""
    columns: list[pl.Series] = []
    unusable = {}
    for at, name in enumerate(map(str, source.columns)):
        values = source.iloc[:, at]
        try:
            # NaN among texts is None; in a column of numbers it stays
            found: Any = pl.from_pandas(values, nan_to_null=values.dtype == object)
        except Exception as error:  # of pandas, Arrow or Polars
            cause = shortened(str(error).partition("\n")[0])
            unusable[name] = f"{role}: column {name!r} cannot be read: {cause}; give its values one type"
            found = pl.Series([None] * len(values))
        columns.append(found.alias(name))
    table = _FrameTable(pl.DataFrame(columns), role)
    table.unusable = unusable
    return table


def text_format(options: PrepareOptions, warn: Callable[[str], object], *, is_log: bool = True) -> TextFormat:
    """How text files are read: logs, or the item table and the category tree. ``warn`` takes what is unusual."""
    quote = options.quote
    if quote == "none":
        quote = None
    elif quote is None:
        quote = "auto"
    has_own = options.item_encoding is not None and not is_log
    form = TextFormat(
        quote=quote,
        multiline=options.multiline,
        comment=options.comment,
        encoding=str(options.item_encoding) if has_own else options.encoding,
        encoding_option="--item-encoding" if has_own else "--encoding",
        skip_malformed=options.skip_malformed,
        warn=warn,
    )
    if quote != "auto":
        form.check()
    return form


def unescaped(separator: str | None) -> str | None:
    r"""A separator as typed, with \t for a tab."""
    return separator.replace("\\t", "\t") if separator else separator
