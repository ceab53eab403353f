"""Who ranks: ours and the peers, behind one face (:class:`Peer`).

A peer that is not installed is left out, with a line that says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.peer import Answer, Peer, Setup, Work

__all__ = ["OURS", "PEERS", "READ", "SLOW", "Answer", "Peer", "Setup", "Work", "build"]

OURS: Final = "hiersrec"
READ: Final = "plain-read"
# Which module of this package builds them, by name.
_MODULES: Final = {
    OURS: "hiersrec",
    READ: "plain_read",
    "onnxruntime": "onnx_runtime",
    "numpy": "numpy_",
    "torch": "torch_",
    "faiss-flat": "faiss_flat",
    "faiss-ivf": "faiss_ivf",
    "faiss-hnsw": "faiss_hnsw",
    "implicit": "implicit_",
}
PEERS: Final = tuple(name for name in _MODULES if name not in (OURS, READ))
SLOW: Final = ("faiss-hnsw",)  # to build: many minutes for a million rows


def build(
    names: Sequence[str],
    vectors: NDArray[np.float32],
    k: int,
    cache: Path | None,
    report: Callable[[str], None],
) -> list[Peer]:
    """The peers ``names`` over the table ``vectors`` float32 [n, d], ready to be asked, in this order.

    ``cache`` is a folder that keeps indexes which take long to build; ``report`` takes lines for a person.
    """
    found: list[Peer] = []
    for name in names:
        try:
            module = import_module(f"{__name__}.{_MODULES[name]}")
        except ModuleNotFoundError as error:
            report(
                f"{name} is left out: {error.name} is missing (pip install -c constraints.txt -e '.[bench]')"
            )
            continue
        found += module.build(Setup(vectors, k, cache, report))
    return found
