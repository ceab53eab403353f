"""The safetensors files: what is written is read, by us and by the safetensors library, and nothing else is."""

from __future__ import annotations

import json
import struct
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from hiersrec_sdk.bundle.tables import StringTable, read_tables, write_tables
from hiersrec_sdk.errors import BundleCorruptError, BundleError, BundleMissingError

DTYPES = ["<f8", "<f4", "<f2", "<i8", "<i4", "<i2", "i1", "<u8", "<u4", "<u2", "u1", "?"]
shapes = st.lists(st.integers(0, 9), max_size=3).map(tuple)
names = st.text(min_size=1, max_size=9).filter(lambda name: not name.startswith(("padding.", "__metadata__")))


def fill(dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    return (np.arange(np.prod(shape, dtype=int)) % 100).reshape(shape).astype(dtype)


def header(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    found: dict[str, Any] = json.loads(data[8 : 8 + size])
    return found


@settings(max_examples=100, deadline=None)
@given(tables=st.dictionaries(names, st.builds(fill, st.sampled_from(DTYPES), shapes), max_size=6))
def test_round_trip(tables: dict[str, NDArray[Any]], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("tables") / "t.safetensors"
    write_tables(path, tables)
    theirs = {name: table for name, table in load_file(path).items() if not name.startswith("padding.")}
    for found in (read_tables(path), theirs):
        assert found.keys() == tables.keys()
        for name, table in tables.items():
            assert found[name].dtype == table.dtype
            assert found[name].shape == table.shape
            assert np.array_equal(found[name], table)


def test_layout(tmp_path: Path) -> None:
    tables = {"small": fill("u1", (3,)), "large": fill("<f4", (33, 5)), "middle": fill("<i8", (7,))}
    write_tables(tmp_path / "t", tables)
    about = header(tmp_path / "t")
    assert [name for name in about if not name.startswith("padding.")] == ["large", "middle", "small"]
    size = struct.unpack("<Q", (tmp_path / "t").read_bytes()[:8])[0]
    for name in tables:
        assert (8 + size + about[name]["data_offsets"][0]) % 64 == 0
    for table in read_tables(tmp_path / "t").values():
        assert table.ctypes.data % 64 == 0
        assert type(table) is np.ndarray
        assert not table.flags.writeable


def test_other_layouts_are_written_in_the_one_of_the_format(tmp_path: Path) -> None:
    table = fill(">f4", (6, 4)).T[::2]
    write_tables(tmp_path / "t", {"t": table})
    found = read_tables(tmp_path / "t")["t"]
    assert found.dtype == np.dtype("<f4")
    assert np.array_equal(found, table)


def test_reads_what_the_library_writes(tmp_path: Path) -> None:
    tables = {"a": fill("<f4", (3, 3)), "b": fill("<i8", (5,))}
    save_file(tables, tmp_path / "t", metadata={"by": "the library"})
    found = read_tables(tmp_path / "t")
    assert found.keys() == tables.keys()
    assert all(np.array_equal(found[name], table) for name, table in tables.items())


@pytest.mark.parametrize(
    ("tables", "cause"),
    [
        ({"a": np.zeros(3, dtype=np.complex64)}, "table 'a' has dtype complex64"),
        ({"a": np.array(["x"])}, "table 'a' has dtype <U1"),
        ({"padding.0": np.zeros(3)}, "'padding.0' is reserved"),
        ({"__metadata__": np.zeros(3)}, "'__metadata__' is reserved"),
    ],
)
def test_what_cannot_be_written(tables: dict[str, NDArray[Any]], cause: str, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=cause):
        write_tables(tmp_path / "t", tables)
    assert not (tmp_path / "t").exists()


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(BundleMissingError, match=r"nothing\.safetensors is missing"):
        read_tables(tmp_path / "nothing.safetensors")


@pytest.mark.parametrize("content", [b"", b"abc", b"PK\x03\x04" * 30, b"\xff" * 99, bytes(64)])
def test_a_foreign_file(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "t.safetensors").write_bytes(content)
    with pytest.raises(BundleCorruptError, match=r"t\.safetensors is truncated or not a safetensors file"):
        read_tables(tmp_path / "t.safetensors")


def test_every_truncation(tmp_path: Path) -> None:
    write_tables(tmp_path / "whole", {"a": fill("<f4", (3, 3)), "b": fill("u1", (5,))})
    data = (tmp_path / "whole").read_bytes()
    for size in range(len(data)):
        (tmp_path / "part").write_bytes(data[:size])
        with pytest.raises(BundleCorruptError):
            read_tables(tmp_path / "part")


def test_a_dtype_that_numpy_lacks(tmp_path: Path) -> None:
    about = json.dumps({"a": {"dtype": "BF16", "shape": [4], "data_offsets": [0, 8]}}).encode()
    (tmp_path / "t").write_bytes(struct.pack("<Q", len(about)) + about + bytes(8))
    with pytest.raises(BundleCorruptError, match="table 'a' has dtype 'BF16'"):
        read_tables(tmp_path / "t")


@given(strings=st.lists(st.text(max_size=5)))
def test_string_table(strings: list[str]) -> None:
    table = StringTable.from_strings(strings)
    assert len(table) == len(strings)
    assert [table[index] for index in range(len(table))] == strings
    assert table.take(list(range(len(strings)))[::-1]) == strings[::-1]
    again = StringTable.from_tables(table.tables("x"), "x")
    assert again is not None
    assert again.take(range(len(strings))) == strings
    assert StringTable.from_tables({}, "x") is None
    with pytest.raises(IndexError):
        table[len(strings)]


@given(strings=st.lists(st.text(max_size=5)), cuts=st.lists(st.integers(0, 40)), junk=st.binary(max_size=3))
def test_a_string_table_is_right_where_every_string_can_be_read(
    strings: list[str], cuts: list[int], junk: bytes
) -> None:
    """Offsets at any byte, and any bytes at the end: the check refuses exactly what a decoder does."""
    data = "".join(strings).encode() + junk
    offsets = np.array([0, *sorted(min(cut, len(data)) for cut in cuts), len(data)], dtype=np.int64)
    table = StringTable(np.frombuffer(data, np.uint8), offsets, "names")
    try:
        parts = [data[begin:end].decode() for begin, end in pairwise(offsets.tolist())]
    except UnicodeDecodeError:
        with pytest.raises(
            ValueError, match=r"table 'names\.(bytes' is not UTF-8|offsets' cuts a character)"
        ):
            table.check()
        with pytest.raises(BundleCorruptError, match="table 'names' has a string that is not UTF-8"):
            table.take(range(len(table)))
    else:
        table.check()
        assert table.take(range(len(table))) == parts


@pytest.mark.parametrize("size", [1 << 18, (1 << 18) - 1, (1 << 19) + 1])
def test_characters_at_the_edge_of_what_is_decoded_at_once(size: int) -> None:
    StringTable.from_strings(["x" * size, "ü€😀" * 5, ""]).check()
    StringTable.from_strings(["x" * (size - 2), "ü€😀" * 5, ""]).check()


@pytest.mark.parametrize(
    ("data", "offsets"),
    [
        (np.zeros(3, np.uint8), np.array([0, 2])),
        (np.zeros(3, np.uint8), np.array([1, 3])),
        (np.zeros(3, np.uint8), np.array([0, 2, 1, 3])),
        (np.zeros(3, np.uint8), np.array([0, -1, 3])),
        (np.zeros(3, np.uint8), np.empty(0, np.int64)),
        (np.zeros(3, np.uint8), np.array([[0, 3]])),
        (np.zeros(3, np.uint8), np.array([0, 3], np.int32)),
        (np.zeros(3, np.int8), np.array([0, 3])),
        (np.zeros((3, 1), np.uint8), np.array([0, 3])),
    ],
)
def test_offsets_that_are_wrong(data: NDArray[Any], offsets: NDArray[Any]) -> None:
    with pytest.raises(ValueError, match="table 'names"):
        StringTable(data, offsets, "names").check()


@given(offsets=st.lists(st.integers(-(2**63), 2**63 - 1), min_size=2, max_size=9))
def test_whatever_the_offsets_they_lead_nowhere_else(offsets: list[int]) -> None:
    table = StringTable(np.frombuffer(b"abcdef", np.uint8), np.array(offsets))
    assert all(len(part) <= 6 and bytes(part) in b"abcdef" for part in table.raw(range(len(table))))


A = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
HEADERS: list[tuple[str, str]] = [
    ("[]", "its header is no object"),
    ('{"a": []}', "table 'a' needs dtype, shape and data_offsets"),
    ('{"a": {"dtype": "F32", "shape": [2]}}', "table 'a' needs dtype, shape and data_offsets"),
    (json.dumps({"a": {**A, "more": 1}}), "table 'a' needs dtype, shape and data_offsets"),
    (json.dumps({"a": {**A, "dtype": "F8"}}), "table 'a' has dtype 'F8'"),
    (json.dumps({"a": {**A, "dtype": ["F32"]}}), r"table 'a' has dtype \['F32'\]"),
    (json.dumps({"a": {**A, "shape": 2}}), "the shape of table 'a' must be"),
    (json.dumps({"a": {**A, "shape": [2.0]}}), "the shape of table 'a' must be"),
    (json.dumps({"a": {**A, "shape": [True, 2]}}), "the shape of table 'a' must be"),
    (json.dumps({"a": {**A, "shape": [-1, -2]}}), "the shape of table 'a' must be"),
    (json.dumps({"a": {**A, "shape": [2**62]}}), "the shape of table 'a' must be"),
    (json.dumps({"a": {**A, "shape": [1] * 9 + [2]}}), "the shape of table 'a' must be at most 8"),
    (json.dumps({"a": {**A, "shape": [3]}}), "has another size than its shape"),
    (json.dumps({"a": {**A, "shape": [0, 2**40, 2**40], "data_offsets": [0, 0]}}), "is truncated or not"),
    (json.dumps({"a": {**A, "data_offsets": [0, 8, 8]}}), "the data_offsets of table 'a' must be two"),
    (json.dumps({"a": {**A, "data_offsets": [8, 0]}}), "the data_offsets of table 'a' must be two"),
    (json.dumps({"a": {**A, "data_offsets": [-8, 0]}}), "the data_offsets of table 'a' must be two"),
    (json.dumps({"a": {**A, "data_offsets": [8, 16]}}), "table 'a' does not follow the one before it"),
    (json.dumps({"a": A, "b": A}), "table '[ab]' does not follow the one before it"),
    (json.dumps({"a": A, "b": {**A, "data_offsets": [4, 12]}}), "does not follow the one before it"),
    (
        json.dumps({"a": {**A, "shape": [4], "data_offsets": [0, 16]}, "b": {**A, "data_offsets": [16, 24]}}),
        "table 'b'",
    ),
    (json.dumps({"a": {**A, "shape": [1], "data_offsets": [0, 4]}}), "12 bytes belong to no table"),
    ('{"a": {"dtype": "U8", "shape": [16], "data_offsets": [0, 16]}, "a": 1}', "the key 'a' stands twice"),
    ('{"a": NaN}', "NaN is no number"),
    ("[" * 5_000, "nested more than 32 levels"),
    (
        json.dumps(
            {
                "a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
                "b": {"dtype": "U8", "shape": [7], "data_offsets": [9, 16]},
                "c": {"dtype": "F64", "shape": [1], "data_offsets": [1, 9]},
            }
        ),
        "table 'c' is not aligned to its elements",
    ),
]


def write_header(path: Path, text: bytes, data: bytes = bytes(16)) -> None:
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


@pytest.mark.parametrize(("text", "cause"), HEADERS)
def test_a_wrong_header(text: str, cause: str, tmp_path: Path) -> None:
    write_header(tmp_path / "t", text.encode())
    with pytest.raises(
        BundleCorruptError, match=f"t is truncated or not a safetensors file: .*{cause}|{cause}"
    ):
        read_tables(tmp_path / "t")


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 1 << 40, 10_000, 17])
def test_a_header_of_an_absurd_length(length: int, tmp_path: Path) -> None:
    (tmp_path / "t").write_bytes(struct.pack("<Q", length) + b"{}" + bytes(14))
    with pytest.raises(BundleCorruptError, match="t is truncated or not a safetensors file"):
        read_tables(tmp_path / "t")


def test_a_header_that_is_too_large(tmp_path: Path) -> None:
    write_header(tmp_path / "t", b"{}" + b" " * (1 << 20))
    with pytest.raises(BundleCorruptError, match="its header would have 1,048,584 bytes"):
        read_tables(tmp_path / "t")


numbers = st.integers(-2, 20) | st.sampled_from([2**31, 2**40, 2**63, 2**64])
entries: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "U8", "I64", "U16", "BOOL", "F9"]),
        "shape": st.lists(numbers, max_size=3),
        "data_offsets": st.lists(numbers, min_size=2, max_size=2),
    }
)


@st.composite
def headers(draw: st.DrawFn) -> tuple[bytes, int]:
    """A header and the bytes of its tables: one after the other, of the right size; then some changed."""
    tables: dict[str, Any] = {}
    end = 0
    for name in draw(st.lists(st.sampled_from("abcd"), unique=True)):
        dtype, size = draw(st.sampled_from([("F32", 4), ("U8", 1), ("I64", 8), ("U16", 2), ("BOOL", 1)]))
        shape = draw(st.lists(st.integers(0, 3), max_size=3))
        begin, end = end, end + size * int(np.prod(shape, dtype=int))
        tables[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    is_changed: bool = draw(st.booleans())
    if tables and is_changed:
        name, key = (
            draw(st.sampled_from(sorted(tables))),
            draw(st.sampled_from(["dtype", "shape", "data_offsets"])),
        )
        tables[name][key] = draw(entries)[key]
    items = draw(st.permutations(sorted(tables.items())))
    return json.dumps(dict(items)).encode(), max(0, end + draw(st.sampled_from([0, 0, 0, -1, 1])))


@settings(max_examples=300, deadline=None)
@given(header=headers())
def test_what_is_read_the_library_reads_too(
    header: tuple[bytes, int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    text, size = header
    path = tmp_path_factory.mktemp("headers") / "t"
    write_header(path, text, bytes(at % 256 for at in range(size)))
    try:
        found = read_tables(path)
    except BundleCorruptError as error:
        aligned = "not aligned" not in str(error)
        try:
            load_file(path)
        except Exception:  # of the library
            return
        assert not aligned  # which the library does not ask for
    else:
        theirs = load_file(path)
        assert found.keys() == theirs.keys()
        assert all(table.tobytes() == theirs[name].tobytes() for name, table in found.items())
        assert all(table.shape == theirs[name].shape for name, table in found.items())
