"""Ours: the C kernel over int8 codes and over float32, the Numba twin, and a batch one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from benchmarks.aligned import copied
from benchmarks.peers.peer import Answer, Peer, Setup, Work
from hiersrec_sdk.ranking import Backend, Codes, Request, Table, available_backends, get_backend
from hiersrec_sdk.ranking.row_ranges import complement


def build(setup: Setup) -> list[Peer]:
    plain = Table(setup.vectors)
    coded = Table(setup.vectors, codes=aligned_codes(setup.vectors))
    backend = get_backend("c")
    found: list[Peer] = [
        HierSRec("hiersrec-int8", backend, coded, setup.k),
        HierSRec("hiersrec-float32", backend, plain, setup.k),
        OneByOne("hiersrec-one-by-one", backend, coded, setup.k),
    ]
    if "numba" in available_backends():
        found.append(HierSRec("hiersrec-numba", get_backend("numba"), coded, setup.k))
    return found


def aligned_codes(vectors: NDArray[np.float32]) -> Codes:
    """The codes of ``vectors`` as a bundle would hold them: each array aligned to 64 bytes."""
    codes = Codes.of(vectors)
    return Codes(*(copied(getattr(codes, field.name)) for field in fields(codes)))


class HierSRec(Peer):
    """A backend and a table."""

    ours = True
    ranks_candidates = True

    def __init__(self, name: str, backend: Backend, table: Table, k: int) -> None:
        self.name = name
        self._backend = backend
        self._table = table
        self._k = k

    def candidates(self, query: NDArray[np.float32], ranges: NDArray[np.int64]) -> Answer:
        return self._answer([Request(query, ranges)])

    def exact(self, query: NDArray[np.float32], ranges: NDArray[np.int64]) -> Answer:
        return self._answer([Request(query, ranges, complement(ranges, len(self._table)))])

    def batch(self, queries: NDArray[np.float32], ranges: Sequence[NDArray[np.int64]]) -> Answer:
        n = len(self._table)
        requests = [
            Request(query, own, complement(own, n)) for query, own in zip(queries, ranges, strict=True)
        ]
        return self._answer(requests)

    def _answer(self, requests: list[Request]) -> Answer:
        # as the recommender asks: without the checks of topk(), since it made the requests itself
        founds = self._backend.search(self._table, requests, self._k)
        if len(founds) == 1:
            return Answer(*founds[0][1:])
        return Answer(
            np.stack([found.rows for found in founds]),
            sum(found.rows_scored for found in founds),
            sum(found.bytes_read for found in founds),
        )


class OneByOne(HierSRec):
    """A batch without the kernel for batches: what that kernel gains."""

    works: ClassVar[tuple[Work, ...]] = ("batch",)

    def batch(self, queries: NDArray[np.float32], ranges: Sequence[NDArray[np.int64]]) -> Answer:
        answers = [self.exact(query, own) for query, own in zip(queries, ranges, strict=True)]
        return Answer(
            np.stack([answer.rows for answer in answers]),
            sum(answer.rows_scored or 0 for answer in answers),
            sum(answer.bytes_read or 0 for answer in answers),
        )
