"""Indexes of faiss that take long to build: built on every core, kept in a folder."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from time import perf_counter
from typing import Any

import faiss
import numpy as np

from benchmarks.peers.peer import Setup


def built(setup: Setup, kind: str, make: Callable[[], Any]) -> Any:
    """The index ``kind`` of the table, from the cache or from ``make``; searched on one thread."""
    rows, dimension = setup.vectors.shape
    sample = np.ascontiguousarray(setup.vectors[:: max(1, rows // 1_000)])
    digest = hashlib.blake2b(sample.tobytes(), digest_size=8).hexdigest()
    file = None if setup.cache is None else setup.cache / f"{kind}-{rows}x{dimension}-{digest}.faiss"
    try:
        if file is not None and file.exists():
            return faiss.read_index(str(file))
        faiss.omp_set_num_threads(os.cpu_count() or 1)
        setup.report(f"building {kind} of {rows:,} rows…")
        started = perf_counter()
        index = make()
        setup.report(f"built {kind} in {perf_counter() - started:.0f} s")
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            part = file.with_suffix(".part")
            faiss.write_index(index, str(part))
            part.rename(file)
        return index
    finally:
        faiss.omp_set_num_threads(1)
