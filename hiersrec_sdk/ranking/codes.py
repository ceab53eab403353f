"""The int8 copy of a table's rows that the kernel bounds scores with: symmetric, one scale a row, in stages.

``csrc/topk.h`` specifies the layout, ``csrc/query_codes.h`` derives the bound.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

BLOCK: Final = 16  # rows that are interleaved
GROUP: Final = 4  # dimensions that one instruction takes
MULTIPLE: Final = 8  # of dimensions: the first stage holds two groups in a byte
MAX_STAGES: Final = 4
LARGEST_CODE: Final = 127
_ZERO = 128  # how a code of 0 is stored
_MIDDLE = 8  # what the trailing 4 bits are taken for before they are read
_STAGES = (32, 64, 96)  # measured on trained vectors, see docs/explanation/ranking.md
_CHUNK = 16_384  # rows at a time: the work is done in float64, whose copy of a whole catalog would be large
_NAMES = ("codes", "scales", "suffix_norms", "quantization_errors", "stage_ends", "max_norm")


@dataclass(frozen=True, slots=True, eq=False)
class Codes:
    """int8 codes of n rows of d dimensions; N is n rounded up to blocks of 16, S the number of stages.

    bfloat16 are uint16 here: the leading half of a float32.

    Attributes:
        codes: uint8 [N * stage_ends[-1]], the codes + 128, interleaved (see ``csrc/topk.h``).
        scales: bfloat16 [N], what one step of a row's codes is worth; 0 for padding.
        suffix_norms: bfloat16 [S - 1, N], length of each row's dimensions from ``stage_ends[s]`` on, rounded up.
        quantization_errors: float32 [1 + S], largest length of ``row / scale - code`` below ``stage_ends[s]``, rounded
            up; before that, its largest length where only the leading 4 bits of the first stage are read.
        stage_ends: int64 [S], rising multiples of 8, the last is d rounded up to one.
        max_norm: float32 [1], length of the longest row, rounded up.
    """

    codes: NDArray[np.uint8]
    scales: NDArray[np.uint16]
    suffix_norms: NDArray[np.uint16]
    quantization_errors: NDArray[np.float32]
    stage_ends: NDArray[np.int64]
    max_norm: NDArray[np.float32]

    @classmethod
    def of(cls, vectors: NDArray[np.float32], stages: Sequence[int] | None = None) -> Codes:
        """The codes of ``vectors`` float32 [n, d], n and d at least 1.

        Args:
            vectors: the rows. Pruning pays where the first dimensions carry most of the scores, as after a rotation
                to the principal axes.
            stages: where the stages but the last end: rising multiples of 8, at most 3; by default after 32, 64 and 96
                dimensions.

        Raises:
            ValueError: a value is NaN or infinite, the vectors are not [n, d], or the stages cannot be used.
        """
        if vectors.ndim != 2 or 0 in vectors.shape:
            raise ValueError(f"vectors must be [n, d], both at least 1, got {list(vectors.shape)}")
        n, d = vectors.shape
        padded_n, padded_d = n + -n % BLOCK, d + -d % MULTIPLE
        ends = [*(end for end in _STAGES if end < padded_d)] if stages is None else list(stages)
        ends.append(padded_d)
        rising = all(low < high for low, high in zip([0, *ends], ends, strict=False))
        if not rising or any(end % MULTIPLE for end in ends) or len(ends) > MAX_STAGES:
            raise ValueError(
                f"stages must be at most {MAX_STAGES - 1} rising multiples of {MULTIPLE} below {padded_d}, got {stages}"
            )
        codes = np.empty(padded_n * padded_d, np.uint8)
        scales = np.zeros(padded_n, np.uint16)
        suffix_norms = np.zeros((len(ends) - 1, padded_n), np.uint16)
        quantization_errors = np.zeros(1 + len(ends))
        max_square = 0.0
        for start in range(0, n, _CHUNK):
            rows = np.zeros((min(_CHUNK, padded_n - start), padded_d))
            rows[: n - start, :d] = vectors[start : start + _CHUNK]
            if not np.isfinite(rows).all():
                row = start + int(np.argmin(np.isfinite(rows).all(axis=1)))
                raise ValueError(f"row {row} has a NaN or an infinity, which codes cannot hold")
            stop = start + len(rows)
            scales[start:stop] = _up_to_bfloat(np.abs(rows).max(axis=1) / LARGEST_CODE)
            scale = from_bfloat(scales[start:stop]).astype(np.float64)[:, None]
            exact = np.divide(rows, scale, out=np.zeros_like(rows), where=scale > 0)
            code = np.rint(exact)
            stored = (code + _ZERO).astype(np.uint8)
            leading = (stored[:, : ends[0]] & 0xF0) + (_MIDDLE - float(_ZERO))
            left_out = np.where(scale > 0, exact[:, : ends[0]] - leading, 0)[:, :d]  # padding is exact
            quantization_errors[0] = max(quantization_errors[0], np.square(left_out).sum(axis=1).max())
            errors, squares = np.square(exact - code), np.square(rows)
            for at, (begin, end) in enumerate(zip([0, *ends], ends, strict=False)):
                quantization_errors[at + 1] = max(
                    quantization_errors[at + 1], errors[:, :end].sum(axis=1).max()
                )
                if at < len(suffix_norms):
                    suffix_norms[at, start:stop] = _up_to_bfloat(np.sqrt(squares[:, end:].sum(axis=1)))
                groups = (
                    stored[:, begin:end]
                    .reshape(-1, BLOCK, (end - begin) // GROUP, GROUP)
                    .transpose(0, 2, 1, 3)
                )
                if at:
                    first = padded_n * begin + start * (end - begin)
                    codes[first : first + groups.size] = groups.ravel()
                    continue
                low, high = groups[:, ::2], groups[:, 1::2]  # the groups in the halves of a byte
                for part, halves in enumerate(((low >> 4) | (high & 0xF0), (low & 0x0F) | (high << 4))):
                    first = part * padded_n * end // 2 + start * end // 2
                    codes[first : first + halves.size] = halves.ravel()
            max_square = max(max_square, float(squares.sum(axis=1).max()))
        return cls(
            codes,
            scales,
            suffix_norms,
            _up(np.sqrt(quantization_errors)),
            np.array(ends, np.int64),
            _up(np.sqrt(np.array([max_square]))),
        )

    @property
    def nbytes(self) -> int:
        """Bytes of all tables together."""
        return sum(int(getattr(self, name).nbytes) for name in _NAMES)

    def tables(self) -> dict[str, NDArray[Any]]:
        """The tables of a bundle; the inverse of :meth:`from_tables`."""
        return dict(zip(self.names({"codes": None}), (getattr(self, name) for name in _NAMES), strict=True))

    @staticmethod
    def names(tables: Mapping[str, Any]) -> list[str]:
        """Names of the tables that codes need in a bundle; empty if it has no codes."""
        return [name if name == "codes" else f"codes.{name}" for name in _NAMES] if "codes" in tables else []

    @classmethod
    def from_tables(cls, tables: Mapping[str, NDArray[Any]]) -> Codes | None:
        """The codes in a bundle's tables, or None if it has none."""
        return cls(*(tables[name] for name in cls.names(tables))) if "codes" in tables else None

    def check(self, n: int, d: int) -> None:
        """Raise :class:`ValueError` unless dtypes, shapes and stages are those of codes of n rows of d dimensions."""
        padded_n, padded_d = n + -n % BLOCK, d + -d % MULTIPLE
        stages = self.stage_ends.size
        if not 1 <= stages <= MAX_STAGES:
            raise ValueError(f"stage_ends are {stages}, not 1 to {MAX_STAGES}")
        wanted: dict[str, tuple[type[np.generic], tuple[int, ...]]] = {
            "stage_ends": (np.int64, (stages,)),
            "codes": (np.uint8, (padded_n * padded_d,)),
            "scales": (np.uint16, (padded_n,)),
            "suffix_norms": (np.uint16, (stages - 1, padded_n)),
            "quantization_errors": (np.float32, (1 + stages,)),
            "max_norm": (np.float32, (1,)),
        }
        for name, (dtype, shape) in wanted.items():
            table = getattr(self, name)
            if table.dtype != dtype or table.shape != shape:
                raise ValueError(
                    f"{name} is {table.dtype} {list(table.shape)}, not {np.dtype(dtype)} {list(shape)}"
                )
            if not (table.flags.c_contiguous and table.flags.aligned):
                raise ValueError(f"{name} is not C-contiguous and aligned")
        ends = self.stage_ends.tolist()
        rising = all(low < high for low, high in zip([0, *ends], ends, strict=False))
        if not rising or any(end % MULTIPLE for end in ends) or ends[-1] != padded_d:
            raise ValueError(
                f"stage_ends are {ends}, not 1 to {MAX_STAGES} rising multiples of {MULTIPLE} up to {padded_d}"
            )
        errors = self.quantization_errors
        if not (errors >= 0).all() or np.isinf(errors).any() or not (self.max_norm >= 0).all():
            raise ValueError(
                "quantization_errors or max_norm are negative or NaN, or quantization_errors infinite"
            )


def from_bfloat(leading: NDArray[np.uint16]) -> NDArray[np.float32]:
    """bfloat16 as float32, which is exact."""
    return (leading.astype(np.uint32) << 16).view(np.float32)


def _up(values: NDArray[np.float64]) -> NDArray[np.float32]:
    """The next float32 at or above what ``values`` >= 0 are up to their own rounding."""
    with np.errstate(over="ignore"):  # beyond float32 it is infinite
        above: NDArray[np.float32] = np.nextafter(values.astype(np.float32), np.float32(np.inf))
    return np.where(values > 0, above, np.float32(0))


def _up_to_bfloat(values: NDArray[np.float64]) -> NDArray[np.uint16]:
    """:func:`_up` in bfloat16."""
    return ((_up(values).view(np.uint32) + np.uint32(0xFFFF)) >> 16).astype(np.uint16)
