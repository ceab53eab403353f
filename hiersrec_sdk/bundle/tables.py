"""Named tables in one safetensors file, read through a memory map.

Any reader of safetensors opens these files. In addition every table starts at a multiple of 64 bytes, the largest
first. The format allows no gaps, so the bytes up to the next multiple are an entry of their own, ``padding.<i>``.
"""

from __future__ import annotations

import codecs
import json
import math
import mmap
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hiersrec_sdk.bundle.opened import OpenFile
from hiersrec_sdk.bundle.strict_json import parse_json
from hiersrec_sdk.errors import BundleCorruptError, BundleError
from hiersrec_sdk.shown import shown

ALIGNMENT = 64  # a cache line, and one AVX-512 register
_PADDING = "padding."
_LARGEST_HEADER = 1 << 20  # bytes; real ones have a few thousand
_LARGEST_COUNT = 1 << 40
_MOST_DIMENSIONS = 8
_DECODED_AT_ONCE = 1 << 18  # bytes
_DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}


def write_tables(path: Path, tables: Mapping[str, NDArray[Any]]) -> None:
    """Write ``tables`` to the file ``path``.

    Raises:
        BundleError: a name that is reserved, or a dtype that the format does not have.
        OSError: the file cannot be written.
    """
    blocks: dict[str, NDArray[Any]] = {}
    for name in sorted(tables, key=lambda name: (-tables[name].nbytes, name)):
        dtype = tables[name].dtype.newbyteorder("<")
        if dtype not in _CODES:
            raise BundleError(
                f"table {name!r} has dtype {tables[name].dtype}, which safetensors does not have"
            )
        if name.startswith(_PADDING) or name == "__metadata__":
            raise BundleError(f"table name {name!r} is reserved")
        blocks[name] = np.asarray(tables[name], dtype=dtype, order="C")
        gap = -blocks[name].nbytes % ALIGNMENT
        if gap:
            blocks[f"{_PADDING}{len(blocks)}"] = np.zeros(gap, dtype=np.uint8)
    header = {}
    position = 0
    for name, block in blocks.items():
        end = position + block.nbytes
        header[name] = {"dtype": _CODES[block.dtype], "shape": block.shape, "data_offsets": [position, end]}
        position = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % ALIGNMENT)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for block in blocks.values():
            file.write(block.reshape(-1).view(np.uint8).data)


def read_tables(path: Path) -> dict[str, NDArray[Any]]:
    """Read the tables of the file ``path``, by name, as read-only views of one memory map.

    Raises:
        BundleMissingError: there is no such file.
        BundleCorruptError: see :func:`parse_tables`.
        BundleError: it cannot be read.
    """
    return parse_tables(OpenFile(path, str(path)).map(), str(path))


def parse_tables(data: mmap.mmap | bytes, label: str) -> dict[str, NDArray[Any]]:
    """The tables by name in the content ``data`` of a file, as read-only views.

    The safetensors library opens a path, so that what it checks need not be what is read here: a file may be replaced
    between. The header is small, and all of its rules are checked below.

    Raises:
        BundleCorruptError: ``data``, which messages call ``label``, is truncated, not a safetensors file, or has a
            table that NumPy cannot hold or that is not aligned to its elements.
    """
    try:
        return _parsed(data)
    except (ValueError, MemoryError, RecursionError) as error:
        raise BundleCorruptError(f"{label} is truncated or not a safetensors file: {error}") from error


def _parsed(data: mmap.mmap | bytes) -> dict[str, NDArray[Any]]:
    length = int.from_bytes(data[:8], "little")
    first = 8 + length  # byte where the tables begin
    if len(data) < 8 or first > len(data) or length > _LARGEST_HEADER:
        raise ValueError(f"its header would have {length:,} bytes")
    header = parse_json(data[8:first])
    if not isinstance(header, dict):
        raise ValueError("its header is no object")
    header.pop("__metadata__", None)
    entries = [(name, *_entry(name, about)) for name, about in header.items()]
    entries.sort(key=lambda entry: entry[3:])
    tables, position = {}, 0
    for name, dtype, shape, begin, end in entries:
        # one after the other, which also says that each lies within the file
        if begin != position or end - begin != math.prod(shape) * dtype.itemsize or first + end > len(data):
            raise ValueError(
                f"table {shown(name)} does not follow the one before it, or has another size than its shape"
            )
        position = end
        if name.startswith(_PADDING):
            continue
        if (first + begin) % dtype.itemsize:
            raise ValueError(f"table {shown(name)} is not aligned to its elements")
        flat = np.frombuffer(data, dtype, count=math.prod(shape), offset=first + begin)
        tables[name] = flat.reshape(shape)
    if first + position != len(data):
        raise ValueError(f"{len(data) - first - position} bytes belong to no table")
    return tables


def _entry(name: str, about: Any) -> tuple[np.dtype[Any], list[int], int, int]:
    """Dtype, shape, and first and last byte of a table, from the header."""
    if not isinstance(about, dict) or about.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"table {shown(name)} needs dtype, shape and data_offsets, and nothing else")
    dtype, shape, offsets = about["dtype"], about["shape"], about["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise ValueError(f"table {shown(name)} has dtype {shown(dtype)}, which NumPy does not have")
    if not _are_counts(shape) or len(shape) > _MOST_DIMENSIONS:
        raise ValueError(f"the shape of table {shown(name)} must be at most {_MOST_DIMENSIONS} integers ≥ 0")
    if not _are_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise ValueError(f"the data_offsets of table {shown(name)} must be two rising integers ≥ 0")
    return _DTYPES[dtype], shape, offsets[0], offsets[1]


def _are_counts(value: Any) -> bool:
    # at most 2^40 each: NumPy computes sizes in 64 bits, also those of tables without elements
    return isinstance(value, list) and all(
        type(each) is int and 0 <= each <= _LARGEST_COUNT for each in value
    )


@dataclass(frozen=True)
class StringTable:
    """Strings laid end to end: ``data`` uint8 [total], UTF-8; ``offsets`` int64 [strings + 1]; their ``name``.

    Offsets are not trusted: whatever they are, they lead nowhere but into ``data``.
    """

    data: NDArray[np.uint8]
    offsets: NDArray[np.int64]
    name: str = "strings"

    @classmethod
    def from_strings(cls, strings: Iterable[str]) -> StringTable:
        """The table of ``strings``, in their order."""
        parts = [string.encode() for string in strings]
        offsets = np.zeros(len(parts) + 1, dtype=np.int64)
        np.cumsum([len(part) for part in parts], out=offsets[1:])
        return cls(np.frombuffer(b"".join(parts), dtype=np.uint8), offsets)

    @classmethod
    def from_tables(cls, tables: Mapping[str, NDArray[Any]], name: str) -> StringTable | None:
        """The string table ``name`` of ``tables``, or None where there is none."""
        if f"{name}.offsets" not in tables:
            return None
        return cls(tables[f"{name}.bytes"], tables[f"{name}.offsets"], name)

    def tables(self, name: str) -> dict[str, NDArray[Any]]:
        """The two tables that keep it under ``name``: the inverse of :meth:`from_tables`."""
        return {f"{name}.bytes": self.data, f"{name}.offsets": self.offsets}

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> str:
        return self.take([range(len(self))[index]])[0]

    def take(self, indices: Sequence[int] | NDArray[np.int64]) -> list[str]:
        """The strings at ``indices`` (each in ``[0, len)``).

        Raises:
            BundleCorruptError: one of them is not UTF-8.
        """
        try:
            return [str(part, "utf-8") for part in self.raw(indices)]
        except UnicodeDecodeError as error:  # of a bundle that was not verified
            raise BundleCorruptError(
                f"catalog.safetensors: table {self.name!r} has a string that is not UTF-8: {error}"
            ) from None

    def raw(self, indices: Sequence[int] | NDArray[np.int64]) -> list[memoryview]:
        """The UTF-8 bytes of the strings at ``indices``, not copied."""
        index = np.asarray(indices, dtype=np.int64)
        begins, ends = self.offsets[index].tolist(), self.offsets[index + 1].tolist()
        data = self.data.data
        return [data[begin:end] for begin, end in zip(begins, ends, strict=True)]

    def check(self) -> None:
        """Check that every string is UTF-8 and that they are the whole of the data, one after the other.

        Raises:
            ValueError: says what is wrong.
        """
        data, offsets = self.data, self.offsets
        if data.dtype != np.uint8 or data.ndim != 1 or offsets.dtype != np.int64 or offsets.ndim != 1:
            raise ValueError(f"table {self.name!r} must be bytes uint8 and offsets int64")
        if (
            not len(offsets)
            or offsets[0] != 0
            or offsets[-1] != len(data)
            or (offsets[1:] < offsets[:-1]).any()
        ):
            raise ValueError(f"table '{self.name}.offsets' does not rise from 0 to the end of the bytes")
        decoder = codecs.getincrementaldecoder("utf-8")()
        try:
            for start in range(0, len(data), _DECODED_AT_ONCE):
                decoder.decode(data[start : start + _DECODED_AT_ONCE].data)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError as error:
            raise ValueError(f"table '{self.name}.bytes' is not UTF-8: {error}") from None
        begins = offsets[offsets < len(data)]
        if ((data[begins] & 0xC0) == 0x80).any():  # a byte that goes on with a character
            raise ValueError(f"table '{self.name}.offsets' cuts a character")
