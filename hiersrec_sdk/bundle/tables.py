"""Named tables in one safetensors file, read through a memory map.

Any reader of safetensors opens these files. In addition every table starts at a multiple of 64 bytes, the largest
first. The format allows no gaps, so the bytes up to the next multiple are an entry of their own, ``padding.<i>``.
"""

from __future__ import annotations

import json
import mmap
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from hiersrec_sdk.errors import BundleCorruptError, BundleError, BundleMissingError

ALIGNMENT = 64  # a cache line, and one AVX-512 register
_PADDING = "padding."
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
        BundleCorruptError: it is truncated, not a safetensors file, or has a dtype that NumPy does not have.
    """
    try:
        # The library checks the header: size, JSON, shapes against offsets, no gap or overlap, end of file.
        with safe_open(path, framework="np"):
            pass
        with path.open("rb") as file:
            (size,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(size))
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError:
        raise BundleMissingError(f"{path} is missing") from None
    except SafetensorError as error:
        raise BundleCorruptError(f"{path} is truncated or not a safetensors file: {error}") from error
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error}") from error
    header.pop("__metadata__", None)
    tables = {}
    for name, about in header.items():
        if name.startswith(_PADDING):
            continue
        if about["dtype"] not in _DTYPES:
            raise BundleCorruptError(
                f"{path}: table {name!r} has dtype {about['dtype']}, which NumPy does not have"
            )
        begin, end = about["data_offsets"]
        dtype = _DTYPES[about["dtype"]]
        flat = np.frombuffer(data, dtype, count=(end - begin) // dtype.itemsize, offset=8 + size + begin)
        tables[name] = flat.reshape(about["shape"])
    return tables


@dataclass(frozen=True)
class StringTable:
    """Strings laid end to end: ``data`` uint8 [total], UTF-8; ``offsets`` int64 [strings + 1]."""

    data: NDArray[np.uint8]
    offsets: NDArray[np.int64]

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
        return cls(tables[f"{name}.bytes"], tables[f"{name}.offsets"])

    def tables(self, name: str) -> dict[str, NDArray[Any]]:
        """The two tables that keep it under ``name``: the inverse of :meth:`from_tables`."""
        return {f"{name}.bytes": self.data, f"{name}.offsets": self.offsets}

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> str:
        return self.take([range(len(self))[index]])[0]

    def take(self, indices: Sequence[int] | NDArray[np.int64]) -> list[str]:
        """The strings at ``indices`` (each in ``[0, len)``)."""
        return [str(part, "utf-8") for part in self.raw(indices)]

    def raw(self, indices: Sequence[int] | NDArray[np.int64]) -> list[memoryview]:
        """The UTF-8 bytes of the strings at ``indices``, not copied."""
        index = np.asarray(indices, dtype=np.int64)
        begins, ends = self.offsets[index].tolist(), self.offsets[index + 1].tolist()
        data = self.data.data
        return [data[begin:end] for begin, end in zip(begins, ends, strict=True)]
