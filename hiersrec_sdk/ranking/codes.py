"""The int8 copy of a table's rows that the kernel bounds scores with: symmetric, one scale a row, in stages.

``csrc/topk.h`` is the layout's contract, ``csrc/topk.c`` derives the bound.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

BLOCK: Final = 16  # rows that are interleaved
GROUP: Final = 4  # dimensions that one instruction takes
MAX_STAGES: Final = 4
LARGEST_CODE: Final = 127
_ZERO = 128  # how a code of 0 is stored
_STAGES = (32, 64)  # measured on trained vectors, see docs/ranking.md
_CHUNK = 16_384  # rows at a time: the work is done in float64, whose copy of a whole catalogue would be large
_NAMES = ("codes", "scales", "tails", "residuals", "stage_ends", "largest")


@dataclass(frozen=True, slots=True, eq=False)
class Codes:
    """int8 codes of n rows of d dimensions; N is n rounded up to blocks of 16, S the number of stages.

    Attributes:
        codes: uint8 [N * stage_ends[-1]], the codes + 128, interleaved (see ``csrc/topk.h``).
        scales: float32 [N], what one step of a row's codes is worth; 0 for padding.
        tails: float32 [S - 1, N], length of each row's dimensions from ``stage_ends[s]`` on, rounded up.
        residuals: float32 [S], largest length of ``row / scale - code`` below ``stage_ends[s]``, rounded up.
        stage_ends: int64 [S], rising multiples of 4, the last is d rounded up to one.
        largest: float32 [1], length of the longest row, rounded up.
    """

    codes: NDArray[np.uint8]
    scales: NDArray[np.float32]
    tails: NDArray[np.float32]
    residuals: NDArray[np.float32]
    stage_ends: NDArray[np.int64]
    largest: NDArray[np.float32]

    @classmethod
    def of(cls, vectors: NDArray[Any], stages: Sequence[int] | None = None) -> Codes:
        """The codes of ``vectors`` float32 or float16 [n, d], n and d at least 1.

        Args:
            vectors: the rows. Pruning pays where the first dimensions carry most of the scores, as after a rotation
                to the principal axes.
            stages: where the stages but the last end: rising multiples of 4, at most 3; by default after 32 and 64
                dimensions.

        Raises:
            ValueError: a value is NaN or infinite, the vectors are not [n, d], or the stages are none.
        """
        if vectors.ndim != 2 or 0 in vectors.shape:
            raise ValueError(f"vectors: {list(vectors.shape)}; they must be [n, d], both at least 1")
        n, d = vectors.shape
        padded_n, padded_d = n + -n % BLOCK, d + -d % GROUP
        ends = [*(end for end in _STAGES if end < padded_d)] if stages is None else list(stages)
        ends.append(padded_d)
        rising = all(low < high for low, high in zip([0, *ends], ends, strict=False))
        if not rising or any(end % GROUP for end in ends) or len(ends) > MAX_STAGES:
            raise ValueError(
                f"stages: {stages}; they must be at most {MAX_STAGES - 1} rising multiples of {GROUP} below {padded_d}"
            )
        codes = np.empty(padded_n * padded_d, np.uint8)
        scales = np.zeros(padded_n, np.float32)
        tails = np.zeros((len(ends) - 1, padded_n), np.float32)
        residuals = np.zeros(len(ends))
        largest = 0.0
        for start in range(0, n, _CHUNK):
            rows = np.zeros((min(_CHUNK, padded_n - start), padded_d))
            rows[: n - start, :d] = vectors[start : start + _CHUNK]
            if not np.isfinite(rows).all():
                row = start + int(np.argmin(np.isfinite(rows).all(axis=1)))
                raise ValueError(f"row {row} has a NaN or an infinity, which codes cannot hold")
            stop = start + len(rows)
            scale = _up(np.abs(rows).max(axis=1) / LARGEST_CODE)
            scales[start:stop] = scale
            exact = np.divide(rows, scale[:, None], out=np.zeros_like(rows), where=scale[:, None] > 0)
            code = np.rint(exact)
            errors, squares = np.square(exact - code), np.square(rows)
            for at, (begin, end) in enumerate(zip([0, *ends], ends, strict=False)):
                residuals[at] = max(residuals[at], errors[:, :end].sum(axis=1).max())
                if at < len(tails):
                    tails[at, start:stop] = _up(np.sqrt(squares[:, end:].sum(axis=1)))
                blocks = (code[:, begin:end] + _ZERO).astype(np.uint8).reshape(-1, BLOCK, (end - begin) // GROUP, GROUP)
                first = padded_n * begin + start * (end - begin)
                codes[first : first + blocks.size] = blocks.transpose(0, 2, 1, 3).ravel()
            largest = max(largest, float(squares.sum(axis=1).max()))
        return cls(
            codes,
            scales,
            tails,
            _up(np.sqrt(residuals)),
            np.array(ends, np.int64),
            _up(np.sqrt(np.array([largest]))),
        )

    @property
    def nbytes(self) -> int:
        """Bytes of all tables together."""
        return sum(int(getattr(self, name).nbytes) for name in _NAMES)

    def tables(self) -> dict[str, NDArray[Any]]:
        """The tables of a bundle that keep it; the inverse of :meth:`from_tables`."""
        return dict(zip(self.names({"codes": None}), (getattr(self, name) for name in _NAMES), strict=True))

    @staticmethod
    def names(tables: Mapping[str, Any]) -> list[str]:
        """The names that a bundle's tables need for their codes, none where they have none."""
        return [name if name == "codes" else f"codes.{name}" for name in _NAMES] if "codes" in tables else []

    @classmethod
    def from_tables(cls, tables: Mapping[str, NDArray[Any]]) -> Codes | None:
        """The codes in a bundle's tables, or None where it has none."""
        return cls(*(tables[name] for name in cls.names(tables))) if "codes" in tables else None

    def check(self, n: int, d: int) -> None:
        """Raise :class:`ValueError` unless dtypes, shapes and stages are those of codes of n rows of d dimensions."""
        padded_n, padded_d = n + -n % BLOCK, d + -d % GROUP
        stages = len(self.stage_ends)
        wanted: dict[str, tuple[type[np.generic], tuple[int, ...]]] = {
            "stage_ends": (np.int64, (stages,)),
            "codes": (np.uint8, (padded_n * padded_d,)),
            "scales": (np.float32, (padded_n,)),
            "tails": (np.float32, (stages - 1, padded_n)),
            "residuals": (np.float32, (stages,)),
            "largest": (np.float32, (1,)),
        }
        for name, (dtype, shape) in wanted.items():
            table = getattr(self, name)
            if table.dtype != dtype or table.shape != shape or not table.flags.c_contiguous:
                raise ValueError(f"{name} is {table.dtype} {list(table.shape)}, not {np.dtype(dtype)} {list(shape)}")
        ends = self.stage_ends.tolist()
        rising = all(low < high for low, high in zip([0, *ends], ends, strict=False))
        if not 1 <= stages <= MAX_STAGES or not rising or any(end % GROUP for end in ends) or ends[-1] != padded_d:
            raise ValueError(
                f"stage_ends are {ends}, not 1 to {MAX_STAGES} rising multiples of {GROUP} up to {padded_d}"
            )
        if not (np.isfinite(self.residuals).all() and np.isfinite(self.largest).all()):
            raise ValueError("residuals or largest are not finite")


def _up(values: NDArray[np.float64]) -> NDArray[np.float32]:
    """The next float32 at or above what ``values`` are up to their own rounding."""
    rounded = values.astype(np.float32)
    above: NDArray[np.float32] = np.nextafter(rounded, np.float32(np.inf))
    return np.where(values > 0, above, np.float32(0))
