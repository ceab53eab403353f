"""Delimited text against Python's csv module, and the places that its errors name."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import lzma
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hiersrec_sdk.errors import DataError
from hiersrec_training.data import text as text_module
from hiersrec_training.data.tables import Origin, Table, open_table
from hiersrec_training.data.text import TextFormat

ORIGIN = Origin("the table", None, "--separator")
Rows = list[tuple[int, tuple[str | None, ...]]]


def table_of(content: str | bytes, name: str = "t.csv", **form: Any) -> tuple[Table, Rows]:
    """A table, and its rows with their line numbers."""
    names = form.pop("names", ())
    separator = form.pop("separator", None)
    form.setdefault("quote", "auto")
    with tempfile.TemporaryDirectory() as folder:
        path, work = Path(folder) / name, Path(folder) / "work"
        work.mkdir()
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        origin = Origin("the table", separator, "--separator", names, "--names")
        table = open_table(path, TextFormat(**form), work, origin)
        numbers, frame = table.read(table.columns)
    return table, list(zip(numbers.tolist(), frame.rows(), strict=True))


def rows_of(content: str | bytes, name: str = "t.csv", **form: Any) -> list[tuple[str | None, ...]]:
    return [row for _, row in table_of(content, name, **form)[1]]


@pytest.fixture(params=[1, 2, 3, 500_000], ids=lambda rows: f"batches-of-{rows}")
def batches(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is read in batches of so many lines."""
    monkeypatch.setattr(text_module, "BATCH", request.param)


cells = st.text(st.sampled_from("ab\"',;\n |#é\\"), max_size=5)


@settings(max_examples=200, deadline=None)
@given(
    st.integers(2, 4).flatmap(
        lambda width: st.lists(st.lists(cells, min_size=width, max_size=width), min_size=1, max_size=9)
    ),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    st.sampled_from([",", ";", "|", "\t"]),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from([1, 2, 500_000]),
)
def test_what_the_csv_module_writes_is_read_back(
    rows: list[list[str]], quoting: Any, separator: str, ending: str, batch: int
) -> None:
    file = io.StringIO()
    writer = csv.writer(file, delimiter=separator, quoting=quoting, lineterminator=ending)
    writer.writerow([f"c{at}" for at in range(len(rows[0]))])
    writer.writerows(rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_module, "BATCH", batch)
        found = rows_of(file.getvalue(), separator=separator, quote='"', multiline=True)
    # a separator that is a blank makes a row of nothing a blank line
    blank = separator.isspace() and quoting == csv.QUOTE_MINIMAL
    rows = [row for row in rows if not blank or "".join(row).strip(" ") or separator in "".join(row)]
    # blanks before a field may go where another field is quoted: values are stripped later anyway
    assert [[(cell or "").lstrip(" ") for cell in row] for row in found] == [
        [cell.lstrip(" ") for cell in row] for row in rows
    ]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.lists(st.text(st.sampled_from("ab\"' #é\\:"), min_size=1, max_size=5), min_size=3, max_size=3),
        max_size=9,
    ),
    st.sampled_from(["\t", "::", " | ", ","]),
)
def test_without_quotes_every_character_stays(rows: list[list[str]], separator: str) -> None:
    rows = [[cell.strip() or "x" for cell in row] for row in rows]
    rows = [
        ["x" if separator.strip() and separator.strip() in cell else cell for cell in row] for row in rows
    ]
    rows = [[cell.strip(":|") or "x" for cell in row] for row in rows]
    content = "\n".join(separator.join(row) for row in [["a", "b", "c"], *rows]) + "\n"
    assert rows_of(content, separator=separator, quote=None) == [tuple(row) for row in rows]


@pytest.mark.usefixtures("batches")
def test_every_row_has_its_line_number() -> None:
    content = '\ufeffa,b\r\n\r\n1,x\n   \n# c,d\n2,"two\nlines"\n3,"a ""b"", c"\n\n4,y'
    table, rows = table_of(content, comment="#", multiline=True, quote='"')
    assert table.columns == ["a", "b"]
    assert rows == [(3, ("1", "x")), (6, ("2", "two\nlines")), (8, ("3", 'a "b", c')), (10, ("4", "y"))]
    assert table.skipped.comments == 1
    assert table.place(6).endswith("t.csv, line 6")


@pytest.mark.usefixtures("batches")
def test_a_number_sign_is_data() -> None:
    assert rows_of("#item,name\n#1,a\n#2,b\n") == [("#1", "a"), ("#2", "b")]
    assert rows_of("a\tb\n#1\t#2\n", "t.tsv") == [("#1", "#2")]


def test_quotes_in_a_tsv_are_characters() -> None:
    content = 'item\ttitle\n1\t"open mug\n2\tcup\n3\tpot"\n'
    assert rows_of(content, "t.tsv") == [("1", '"open mug'), ("2", "cup"), ("3", 'pot"')]
    assert rows_of('item,title\n1,5" pipe\n2,"6"" pipe"\n3,7" x 8"\n') == [
        ("1", '5" pipe'),
        ("2", '6" pipe'),
        ("3", '7" x 8"'),
    ]
    assert rows_of("item,title\n1,'a, b'\n", quote="'") == [("1", "a, b")]
    assert rows_of('item,title\n1, "a, b"\n') == [("1", "a, b")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            'item,title\n1,"open mug\n2,cup\n3,pot"\n',
            r"line 2: .*'1,\"open mug' closes only 2 lines below, .*'2,cup'",
        ),
        (
            'item,title\n1,"open mug\n2,pot"\n',
            r"line 2: the quote .* another row, '2,pot\"'; give --quote none",
        ),
        ('item,title\n0,x\n1,"open mug\n2,cup\n', r"line 3: the quote .* never closes; give --quote none"),
        (
            'item,title\n1,"a" b\n',
            r"line 2: a quoted field is followed by more text: '1,\"a\" b'; give --quote none",
        ),
        ("item,title\n1,a,b\n", r"line 2: 3 fields where the header has 2: '1,a,b'; .* --skip-malformed"),
        ("item,title\n1,a\n2\n", r"line 3: 1 fields where the header has 2: '2'; .* --separator"),
        ("item;title\n1,a;b\n\n\n7;8;9\n", r"line 5: 3 fields where the header has 2"),
        ("", "is empty"),
        ("\n\n  \n", "is empty"),
    ],
)
@pytest.mark.usefixtures("batches")
def test_what_is_wrong_is_named_with_its_line(content: str, message: str) -> None:
    separator = ";" if ";" in content else None
    with pytest.raises(DataError, match=rf"t\.csv,? {message}"):
        rows_of(content, separator=separator)


@pytest.mark.usefixtures("batches")
def test_malformed_rows_can_be_left_out() -> None:
    table, rows = table_of("a,b\n1,2\n1,2,3\n4\n5,6\n", skip_malformed=True)
    assert [row for _, row in rows] == [("1", "2"), ("5", "6")]
    assert table.skipped.malformed == 2
    assert table.skipped.examples == {"malformed": "line 3: '1,2,3'"}


def test_names_for_a_file_without_header() -> None:
    assert table_of("1,a\n2,b\n", names=("item", "title"))[1] == [(1, ("1", "a")), (2, ("2", "b"))]
    with pytest.raises(DataError, match=r"t\.csv has 2 columns in line 1"):
        table_of("1,a\n", names=("item",))


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16", "utf-16-le", "utf-8-sig", "shift_jis"])
def test_encodings(encoding: str) -> None:
    title = "ソ能" if encoding == "shift_jis" else "café"
    content = f"item,title\n1,{title}\n".encode(encoding)
    assert rows_of(content, encoding=encoding) == [("1", title)]


def test_a_wrong_encoding() -> None:
    content = "item,title\n1,cafe\n2,café\n".encode("latin-1")
    with pytest.raises(
        DataError, match=r"t\.csv, line 3: byte 0xe9 is not UTF-8 in '2,café'; .* --encoding cp1252"
    ):
        rows_of(content)
    with pytest.raises(DataError, match=r"t\.csv, about line 1: not text of --encoding ascii"):
        rows_of(content, encoding="ascii")
    with pytest.raises(DataError, match=r"t\.csv is not UTF-8 text: it is UTF-16: give --encoding utf-16"):
        rows_of("a,b\n".encode("utf-16"))
    with pytest.raises(DataError, match="its lines end with CR alone"):
        rows_of("a,b\r1,2\r")


def _zipped(content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("inner.csv", content)
    return file.getvalue()


@pytest.mark.parametrize(
    ("suffix", "pack"),
    [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress), (".zip", _zipped)],
)
def test_packed_files(suffix: str, pack: Callable[[bytes], bytes]) -> None:
    content = "item,title\n1,é\n".encode()
    assert rows_of(pack(content), f"t.csv{suffix}") == [("1", "é")]
    assert rows_of(pack("item\ttitle\n1\té\n".encode("latin-1")), f"t.tsv{suffix}", encoding="latin-1") == [
        ("1", "é")
    ]
    with pytest.raises(DataError, match=r"cannot be read|is not UTF-8 text"):
        rows_of(pack(content)[: len(pack(content)) // 2], f"t.csv{suffix}")


def test_a_zip_of_several_files(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "t.csv.zip", "w") as archive:
        archive.writestr("a.csv", "a\n")
        archive.writestr("b.csv", "a\n")
    with pytest.raises(DataError, match=r"t\.csv\.zip holds 2 files: unpack it"):
        open_table(tmp_path / "t.csv.zip", TextFormat(), tmp_path, ORIGIN)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"PAR1xx", "Parquet"),
        (b"PK\x03\x04xx", "Excel"),
        (b"\x80\x04xx", "pickle"),
        (b"Obj\x01", "Avro"),
        (b"a\0b", "zero bytes"),
    ],
)
def test_binary_files(content: bytes, what: str) -> None:
    with pytest.raises(DataError, match=rf"t\.csv is not UTF-8 text: .*{what}"):
        rows_of(content)


def test_json_lines_and_nested_columns(tmp_path: Path) -> None:
    path = tmp_path / "t[1].jsonl"
    path.write_text(
        '{"session": 1, "events": [{"aid": 5, "ts": 7}, {"aid": 6, "ts": 8}]}\n{"session": 2, "events": []}\n'
    )
    table = open_table(path, TextFormat(), tmp_path, ORIGIN)
    table.require({"session": "-", "events.aid": "-"})
    assert table.is_list("events.aid")
    numbers, frame = table.read(["session", "events.aid", "events.ts"])
    assert numbers.tolist() == [1, 2]
    assert frame.rows() == [(1, [5, 6], [7, 8]), (2, [], [])]
    frame.write_parquet(tmp_path / "t.parquet")
    assert pl.read_parquet(tmp_path / "t.parquet").height == 2
