"""The ranking kernel in C (``csrc/``), through its Cython binding."""

from __future__ import annotations

import os
from collections.abc import Sequence

from hiersrec_sdk import _kernel
from hiersrec_sdk.errors import BackendError
from hiersrec_sdk.ranking.requests import Found, Request, Table

choose = _kernel.choose

_ISA = os.environ.get("HIERSREC_ISA")  # an instruction set to use instead of the best that the processor has
if _ISA and not _kernel.use_isa(_ISA):
    raise BackendError(f"HIERSREC_ISA is {_ISA!r}; this processor has {', '.join(_kernel.available_isas())}")


def search(table: Table, requests: Sequence[Request], k: int) -> list[Found]:
    """The best ``k`` of each request. Runs without the GIL."""
    return [Found(*found) for found in _kernel.topk(native(table), list(requests), k)]


def native(table: Table) -> _kernel.Table:
    """The table as the kernel knows it, made once. Two threads that make it at once make the same."""
    if table.native is None:
        codes = table.codes
        arrays = (
            (
                codes.codes,
                codes.scales,
                codes.tails,
                codes.residuals,
                codes.stage_ends,
                float(codes.largest[0]),
            )
            if codes is not None
            else (None, None, None, None, None, 0.0)
        )
        object.__setattr__(table, "native", _kernel.Table(table.vectors, table.bias, *arrays))
    made: _kernel.Table = table.native
    return made
