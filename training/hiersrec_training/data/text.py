"""Delimited text, read line by line, so that every value has a line number and no row is read as another.

Polars splits the lines. Lines with quotes go through Python's csv module where a quoted field holds a separator, a
quote or a line break; a row that such a field seems to have swallowed is an error.
"""

from __future__ import annotations

import codecs
import csv
import lzma
import re
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from hiersrec_sdk.errors import DataError, InvalidOptionError
from hiersrec_training.data.files import existing, opened, reading

BATCH = 500_000  # rows
_LONGEST_FIELD = 10_000  # lines that one quoted field may span
csv.field_size_limit(1 << 30)
_NOT_TEXT = {
    b"PAR1": "it is a Parquet file: name it .parquet",
    b"PK\x03\x04": "it is a zip archive or an Excel workbook: unpack it, or save it as csv",
    b"\xff\xfe": "it is UTF-16: give --encoding utf-16",
    b"\xfe\xff": "it is UTF-16: give --encoding utf-16",
    b"\x80": "it looks like a Python pickle: write it as csv or parquet",
    b"Obj\x01": "it is an Avro file: write it as csv or parquet",
}


@dataclass(frozen=True)
class TextFormat:
    """How a text file is read.

    Attributes:
        separator: of the fields of a row.
        quote: the character around fields that hold separators; None: quotes are characters like others.
        multiline: a quoted field may hold what looks like rows; otherwise that is an error.
        comment: lines that begin with it are left out.
        encoding_option: that gives the encoding, for messages.
        encoding: of the file.
        skip_malformed: leave out rows with too many or too few fields.
        warn: takes what is unusual.
    """

    separator: str = ","
    quote: str | None = None
    multiline: bool = False
    encoding_option: str = "--encoding"
    comment: str | None = None
    encoding: str = "utf-8"
    skip_malformed: bool = False
    warn: Callable[[str], object] = field(default=lambda what: None, compare=False)

    @property
    def plain_row(self) -> str:
        """A pattern of rows whose quoted fields are all plain: they hold neither a separator nor a quote."""
        quote, separator = re.escape(self.quote or ""), re.escape(self.separator)
        plain = f"(?: *{quote}[^{quote}{separator}]*{quote} *|[^{quote}{separator}]*)"
        return f"^{plain}(?:{separator}{plain})*$"

    def reader(self, lines: Iterable[str]) -> Iterator[list[str]]:
        """The rows in lines with quoted fields; blanks around the quotes do not count."""
        quote, separator = re.escape(self.quote or ""), re.escape(self.separator)
        blanks = re.compile(f"(?<!{quote}){quote} +(?={separator}|$)")  # behind a closing quote
        return csv.reader(
            (blanks.sub(self.quote or "", line) for line in lines),
            delimiter=self.separator,
            quotechar=self.quote,
            skipinitialspace=True,
            strict=True,
        )

    def check(self) -> None:
        """Raise :class:`InvalidOptionError` for an encoding, a quote or a separator that cannot be."""
        try:
            "é".encode(self.encoding, "replace").decode(self.encoding)
        except (LookupError, ValueError, TypeError):
            raise InvalidOptionError(
                f"{self.encoding_option} {self.encoding!r} is not known; examples: utf-8, latin-1, cp1252, utf-16"
            ) from None
        if not self.separator or "\n" in self.separator or "\r" in self.separator:
            raise InvalidOptionError(f"a separator must be text within a line, got {self.separator!r}")
        is_bad = self.quote is not None and (
            len(self.quote) != 1 or self.quote.isspace() or self.quote in self.separator
        )
        if is_bad and self.quote != "auto":
            raise InvalidOptionError(
                f"--quote must be one character other than the separator, or none; got {self.quote!r}"
            )


@dataclass
class Skipped:
    """Lines that are no rows: how many there are, with one example of each kind."""

    comments: int = 0
    malformed: int = 0
    headers: int = 0
    examples: dict[str, str] = field(default_factory=dict)


class Lines(NamedTuple):
    """Some lines of a file: ``numbers`` int64 (counted from 1), ``text`` strings, and ``is_data`` bool, whether a line
    is neither blank nor a comment. Within a quoted field all are data."""

    numbers: NDArray[np.int64]
    text: pl.Series
    is_data: pl.Series

    def data(self, skipped: Skipped) -> Lines:
        """The lines that are data; the comments are counted."""
        if self.is_data.all():
            return self
        skipped.comments += int((self.text.filter(~self.is_data).str.strip_chars() != "").sum())
        return Lines(
            self.numbers[self.is_data.to_numpy()],
            self.text.filter(self.is_data),
            self.is_data.filter(self.is_data),
        )


def utf8_copy(path: Path, form: TextFormat, work: Path, *, unpack: bool = False) -> Path:
    """``path`` itself where Polars can read it, or a copy in ``work``: unpacked, in UTF-8.

    Args:
        path: of the file.
        form: the encoding of its text.
        work: folder for copies.
        unpack: files that Polars reads packed are unpacked too, and a byte order mark is taken off.

    Raises:
        DataError: no such file, damaged, or not text of this encoding.
    """
    existing(path)
    form.check()
    if str(path) != str(path).encode("utf-8", "replace").decode():
        raise DataError(f"{path!a}: the name of a file must be UTF-8; rename it")
    name = path.name.lower()
    is_utf8 = codecs.lookup(form.encoding).name == "utf-8"
    copy = work / f"{len(list(work.iterdir()))}.txt"
    if name.endswith(".zst") and (unpack or not is_utf8):
        if not is_utf8:
            raise DataError(f"{path}: unpack it first; .zst files are read packed only in UTF-8")
        with reading(path, lambda: _find_bad_byte(path)), copy.open("wb") as out:
            lines = pl.scan_lines(path.absolute(), glob=False)
            for frame in lines.collect_batches(chunk_size=BATCH, maintain_order=True):
                out.writelines(line.encode() + b"\n" for line in frame["line"])
        return copy
    packed = (".bz2", ".xz", ".zip", ".gz") if unpack else (".bz2", ".xz", ".zip")
    with reading(path), opened(path) as raw:
        has_mark = unpack and raw.read(3) == codecs.BOM_UTF8
    if is_utf8 and not has_mark and not name.endswith(packed):
        return path
    with reading(path), opened(path) as raw, copy.open("wb") as out:
        if is_utf8:
            raw.read(3 if has_mark else 0)
            shutil.copyfileobj(raw, out, 1 << 22)
        else:
            _transcode(path, raw, out, form)
    return copy


def _transcode(path: Path, raw: IO[bytes], out: IO[bytes], form: TextFormat) -> None:
    """Write the text of ``raw`` in UTF-8."""
    decoder = codecs.getincrementaldecoder(form.encoding)()
    as_utf8 = codecs.getincrementaldecoder("utf-8")()
    is_utf8, has_accents, lines, controls = True, False, 1, 0
    is_latin = codecs.lookup(form.encoding).name == "iso8859-1"
    of_windows = "[\x80\x82-\x8c\x8e\x91-\x9c\x9e\x9f]"  # letters and marks in cp1252
    try:
        while block := raw.read(1 << 22):
            text = decoder.decode(block)
            if is_latin and not controls and (found := re.search(of_windows, text)):
                controls = ord(found[0])
            out.write(text.encode("utf-8", "surrogatepass"))
            lines += text.count("\n")
            has_accents |= not block.isascii()
            if is_utf8:
                try:
                    as_utf8.decode(block)
                except UnicodeDecodeError:
                    is_utf8 = False
        decoder.decode(b"", final=True)
    except UnicodeError as error:
        hint = ""
        if "BOM" in str(error):
            hint = f"; give {form.encoding_option} {form.encoding}-le, or {form.encoding}-be"
        raise DataError(
            f"{path}, about line {lines:,}: not text of {form.encoding_option} {form.encoding}: {error}{hint}"
        ) from None
    if is_utf8 and has_accents and codecs.lookup(form.encoding).name != "utf-8-sig":
        raise DataError(
            f"{path} is UTF-8, not {form.encoding}: leave {form.encoding_option} out; --encoding is for logs, "
            "--item-encoding for the item table and the category tree"
        )
    if controls:
        form.warn(
            f"{path.name} holds byte 0x{controls:02x}, which is no letter in {form.encoding}: give "
            f"{form.encoding_option} cp1252 (Windows) if it is {bytes([controls]).decode('cp1252')!r}"
        )


def check_is_text(path: Path, file: Path) -> None:
    """Raise :class:`DataError` where ``file``, a copy of ``path``, is binary, and say what it seems to be."""
    if file.suffix.lower() == ".zst":
        return  # Polars unpacks it
    with reading(path), opened(file) as raw:
        head = raw.read(65_536)
    for magic, what in _NOT_TEXT.items():
        if head.startswith(magic):
            raise DataError(f"{path} is not UTF-8 text: {what}")
    if b"\0" in head:
        hint, zeros = "", {"be": head[::2].count(0), "le": head[1::2].count(0)}
        order = max(zeros, key=lambda name: zeros[name])
        if zeros[order] * 3 > len(head):  # of letters up to U+00FF, one byte is zero
            hint = f"; it looks like UTF-16 without a byte order mark: give --encoding utf-16-{order}"
        raise DataError(f"{path} is not UTF-8 text: it holds zero bytes{hint}")
    if b"\r" in head and b"\n" not in head:
        raise DataError(f"{path}: its lines end with CR alone; save it with LF or CRLF")


def count_lines(file: Path) -> int:
    """How many lines the file has; 0 where they cannot be counted."""
    try:
        return int(pl.scan_lines(file.absolute(), glob=False).select(pl.len()).collect().item())
    except pl.exceptions.PolarsError:
        return 0


def read_lines(path: Path, file: Path, form: TextFormat) -> Iterator[Lines]:
    """The lines of ``file``, in batches.

    Args:
        path: the name of the file, for messages.
        file: the copy to read.
        form: how.
    """
    first = 1
    with reading(path, lambda: _find_bad_byte(path)):
        for frame in pl.scan_lines(file.absolute(), glob=False).collect_batches(
            chunk_size=BATCH, maintain_order=True
        ):
            text = frame["line"]
            numbers = np.arange(first, first + len(text))
            odd = text.str.contains("[\r\0\ufeff]")
            if odd.any():
                text = _without_odd(path, text, numbers, odd)
            first += len(text)
            is_data = text.str.strip_chars() != ""
            if form.comment is not None:
                is_data &= ~text.str.starts_with(form.comment)
            yield Lines(numbers, text, is_data)


def _without_odd(path: Path, text: pl.Series, numbers: NDArray[np.int64], odd: pl.Series) -> pl.Series:
    """The lines without byte order marks, at whose beginning they stand where files were joined."""
    bad = text.str.contains("[\r\0]")
    if bad.any():
        row = int(bad.arg_max() or 0)
        what = "a zero byte" if "\0" in text[row] else "a CR that ends no line"
        raise DataError(
            f"{path}, line {numbers[row]:,}: {what} in {_short(text[row])}; save it as plain text"
        )
    return text.zip_with(~odd, text.str.strip_prefix("\ufeff"))


def read_rows(
    lines: Iterator[Lines], columns: int, path: Path, form: TextFormat, skipped: Skipped
) -> Iterator[tuple[NDArray[np.int64], pl.DataFrame]]:
    """The rows in ``lines``: line numbers int64 and fields, ``field_0`` and so on, strings.

    Raises:
        DataError: a row has too many or too few fields, or a quote that does not close; the message has the line.
    """
    open_row = _OpenRow(path, columns, form)
    for batch in lines:
        if form.quote is None:
            rows = _plain_rows(batch, form.separator, columns, skipped)
        else:
            rows = open_row.split(batch, skipped)
        for at, fields, original in [rows] if len(rows[0]) else []:
            wrong = fields[f"field_{columns - 1}"].is_null() | fields[f"field_{columns}"].is_not_null()
            if wrong.any():
                row = int(wrong.arg_max() or 0)
                message = _malformed(path, int(at[row]), original[row], columns, form)
                if not form.skip_malformed:
                    raise DataError(message)
                skipped.malformed += int(wrong.sum())
                skipped.examples.setdefault("malformed", f"line {at[row]}: {_short(original[row])}")
                at, fields = at[~wrong.to_numpy()], fields.filter(~wrong)
            yield at, fields
    open_row.check_closed()


def split_line(line: str, form: TextFormat) -> list[str]:
    """The fields of one row, such as the header."""
    if form.quote is not None and form.quote in line and len(form.separator) == 1:
        if re.match(form.plain_row, line):
            return line.replace(form.quote, "").split(form.separator)
        try:
            return next(form.reader([line]))
        except (csv.Error, StopIteration):
            pass
    return line.split(form.separator)


class Rows(NamedTuple):
    """Rows of a file: their line ``numbers``, their ``fields`` with one column more than there should be, and the line
    where each begins."""

    numbers: NDArray[np.int64]
    fields: pl.DataFrame
    text: pl.Series


def _plain_rows(lines: Lines, separator: str, columns: int, skipped: Skipped) -> Rows:
    """The rows in lines without quoted fields."""
    numbers, text, _ = lines.data(skipped)
    return Rows(numbers, text.str.split_exact(separator, columns).struct.unnest(), text)


class _OpenRow:
    """Splits lines with quotes, and keeps the row that a quoted field leaves open at the end of a line."""

    def __init__(self, path: Path, columns: int, form: TextFormat) -> None:
        self._path, self._columns, self._form = path, columns, form
        self._lines: list[str] = []
        self._first = 0
        quote, separator = re.escape(form.quote or ""), re.escape(form.separator)
        # a field that begins with a quote; blanks before it are a common slip
        self._begins = f"(?:^|{separator}) *{quote}"
        self._plain = form.plain_row

    def split(self, lines: Lines, skipped: Skipped) -> Rows:
        """The rows that end in these lines."""
        quote, separator, columns = self._form.quote or "", self._form.separator, self._columns
        text = lines.text
        has_quote = text.str.contains(quote, literal=True)
        if not self._lines and not has_quote.any():
            return _plain_rows(lines, separator, columns, skipped)
        quoted = has_quote & lines.is_data & text.str.contains(self._begins)
        plain = quoted & text.str.contains(self._plain)
        stripped = text.zip_with(~plain, text.str.replace_all(quote, "", literal=True))
        hard = quoted & ~plain
        if not self._lines and not hard.any():
            return _plain_rows(lines._replace(text=stripped), separator, columns, skipped)
        return self._by_csv(lines, stripped, hard, skipped)

    def _by_csv(self, lines: Lines, stripped: pl.Series, hard: pl.Series, skipped: Skipped) -> Rows:
        """As :meth:`split`, where some lines need the csv module; the others are split by Polars."""
        width = self._columns + 1
        fields: list[list[str | None]] = []
        at: list[int] = []
        originals: list[str] = []
        taken = np.zeros(len(stripped), dtype=bool)
        position = 0
        hard_lines = np.flatnonzero(hard.to_numpy())
        while True:
            if not self._lines:
                following = hard_lines[hard_lines.searchsorted(position) :]
                if not len(following):
                    break
                position = int(following[0])
                self._first = int(lines.numbers[position])
            if position >= len(stripped):
                break
            taken[position] = True
            self._lines.append(lines.text[position])
            position += 1
            row = self._parsed()
            if row is not None:
                self._check_swallowed()
                at.append(self._first)
                originals.append(self._lines[0])
                fields.append([*row[:width], *[None] * (width - len(row))])
                self._lines = []
        rest = pl.Series(~taken)
        easy = Lines(lines.numbers[~taken], stripped.filter(rest), lines.is_data.filter(rest))
        numbers, split, text = _plain_rows(easy, self._form.separator, self._columns, skipped)
        schema: dict[str, Any] = dict.fromkeys(split.columns, pl.String)
        parsed = pl.DataFrame(fields, schema=schema, orient="row")
        numbers = np.concatenate([numbers, np.array(at, dtype=np.int64)])
        order = np.argsort(numbers, kind="stable")
        shown = pl.concat([text, pl.Series(originals, dtype=pl.String)])
        return Rows(numbers[order], pl.concat([split.cast(pl.String), parsed])[order], shown[order])

    def _parsed(self) -> list[str] | None:
        """The fields of the row so far; None where a quoted field is still open."""
        try:
            return next(self._form.reader(line + "\n" for line in self._lines))
        except csv.Error as error:
            if "unexpected end of data" in str(error):
                if len(self._lines) > _LONGEST_FIELD:
                    self.check_closed()
                return None
            raise DataError(
                f"{self._path}, line {self._first:,}: a quoted field is followed by more text: "
                f"{_short(self._lines[0])}; give --quote none where quotes are characters like others"
            ) from None

    def _check_swallowed(self) -> None:
        """A quoted field that holds whole rows probably began with a stray quote."""
        if len(self._lines) == 1 or self._form.multiline:
            return
        separators = self._columns - 1
        whole = [line for line in self._lines[1:] if line.count(self._form.separator) >= separators]
        if whole:
            raise DataError(
                f"{self._path}, line {self._first:,}: the quote in {_short(self._lines[0])} closes only "
                f"{len(self._lines) - 1} lines below, after what looks like another row, {_short(whole[0])}; give "
                "--quote none where quotes are characters like others, or --multiline where fields do span lines"
            )

    def check_closed(self) -> None:
        """Raise :class:`DataError` where a quoted field was never closed."""
        if self._lines:
            raise DataError(
                f"{self._path}, line {self._first:,}: the quote in {_short(self._lines[0])} never closes; give --quote "
                "none where quotes are characters like others"
            )


def _malformed(path: Path, number: int, line: str, columns: int, form: TextFormat) -> str:
    found = len(split_line(line, form))
    hint = "another --separator, --quote or --comment"
    if found > columns and form.quote is None:
        hint = "--quote '\"' where fields with the separator in them are quoted"
    elif found == 1:
        hint = "another --separator"
    return (
        f"{path}, line {number:,}: {found} fields where the header has {columns}: {_short(line)}; give {hint}, or "
        "--skip-malformed to leave such rows out"
    )


def _short(line: str) -> str:
    return repr(line if len(line) <= 80 else line[:79] + "…")


def _find_bad_byte(path: Path) -> DataError | None:
    """The first line that is not UTF-8, as an error."""
    if path.suffix.lower() == ".zst":
        return None
    try:
        with opened(path) as lines:
            for number, line in enumerate(lines, 1):
                try:
                    line.decode("utf-8")
                except UnicodeDecodeError as error:
                    return DataError(
                        f"{path}, line {number:,}: byte 0x{line[error.start]:02x} is not UTF-8 in "
                        f"{_short(line.decode('latin-1').rstrip())}; name the encoding of the file, such as "
                        "--encoding cp1252 (--item-encoding for the item table)"
                    )
    except (OSError, EOFError, zlib.error, lzma.LZMAError):
        pass
    return None
