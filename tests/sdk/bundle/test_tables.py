"""The safetensors files: what is written is read, by us and by the safetensors library, and nothing else is."""

from __future__ import annotations

import json
import struct
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
