"""The native operations in C (``csrc/``), through their Cython binding."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Final
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from hiersrec_sdk import _kernel
from hiersrec_sdk.errors import BackendError
from hiersrec_sdk.ranking import numpy_backend
from hiersrec_sdk.ranking.backend import (
    AddedScope,
    Backend,
    RankAdded,
    RankedAdded,
    RankedSession,
    RankSession,
    Scope,
)
from hiersrec_sdk.ranking.candidates import Choice
from hiersrec_sdk.ranking.codes import BLOCK
from hiersrec_sdk.ranking.covisitation import CovisitationScorer, ScoreOffsets
from hiersrec_sdk.ranking.requests import Found, Request, Table
from hiersrec_sdk.shown import shown

_ISA = os.environ.get("HIERSREC_ISA")  # an instruction set to use instead of the best that the processor has
if _ISA and not _kernel.use_isa(_ISA):
    raise BackendError(
        f"HIERSREC_ISA is {shown(_ISA)}; this processor has {', '.join(_kernel.available_isas())}"
    )

_FEW_CLICKS: Final = 512  # which the kernel puts in order faster; more take time by their square

_scorers: Final[WeakKeyDictionary[CovisitationScorer, _kernel.Covisitation]] = WeakKeyDictionary()


def search(table: Table, requests: Sequence[Request], k: int) -> list[Found]:
    """The best ``k`` of each request. Runs without the GIL."""
    return [Found(*found) for found in _kernel.topk(prepare(table), requests, k)]


def prepare(table: Table) -> _kernel.Table:
    """The table as the kernel knows it, made once. Two threads that make it at once make the same."""
    if not table.prepared:
        table.prepared[:] = [_prepare(table)]
    prepared: _kernel.Table = table.prepared[0]
    return prepared


def _prepare(table: Table) -> _kernel.Table:
    codes, bias = table.codes, table.bias
    if codes is None:
        return _kernel.Table(table.vectors, bias, None, None, None, None, None, None)
    if bias is not None and len(bias) % BLOCK:
        # the kernel reads whole blocks
        bias = np.concatenate([bias, np.zeros(-len(bias) % BLOCK, np.float32)])
    return _kernel.Table(
        table.vectors,
        bias,
        codes.codes,
        codes.scales,
        codes.suffix_norms,
        codes.quantization_errors,
        codes.stage_ends,
        codes.max_norm,
    )


def choose(
    logits: NDArray[np.float32],
    ranges: NDArray[np.int64],
    eligible: NDArray[np.int64] | None,
    first: NDArray[np.int64] | None,
    rows: int,
    least: int,
    top_p: float,
    ordered: int,
) -> Choice:
    """Which categories are candidates; see :func:`hiersrec_sdk.ranking.candidates.choose`."""
    return Choice(*_kernel.choose(logits, ranges, eligible, first, rows, least, top_p, ordered))


def covisitation(scorer: CovisitationScorer) -> ScoreOffsets:
    """The scorer in C, which has 1 to ``MAX_HIDDEN`` hidden units; another one stays in NumPy."""
    prepared = _prepare_scorer(scorer)
    return numpy_backend.covisitation(scorer) if prepared is None else prepared.score_offsets


def _prepare_scorer(scorer: CovisitationScorer) -> _kernel.Covisitation | None:
    """The scorer as the kernel knows it, made once; None where it has too many hidden units, or none."""
    if not 1 <= len(scorer.hidden_bias) <= _kernel.MAX_HIDDEN:
        return None
    prepared = _scorers.get(scorer)
    if prepared is None:
        prepared = _scorers[scorer] = _kernel.Covisitation(*scorer.tables().values())
    return prepared


def rank_sessions(scope: Scope) -> RankSession | None:
    """From a session's rows to its results in one call, without the GIL.

    None where the scorer stays in NumPy, or the putting in order of a session's clicks does.
    """
    scorer = None if scope.covisitation is None else _prepare_scorer(scope.covisitation)
    if scope.max_length > _FEW_CLICKS or (scorer is None and scope.covisitation is not None):
        return None
    rank = _kernel.SessionRanking(prepare(scope.table), scorer, *scope[2:-1])

    def ranked(*asked: Any) -> RankedSession:
        return RankedSession(*rank(*asked))

    return ranked


def rank_added(scope: AddedScope) -> RankAdded:
    """The rows that were added since, ranked beside those of the bundle in one call."""
    rank = _kernel.AddedRanking(prepare(scope.table), *scope[1:])

    def ranked(*asked: Any) -> RankedAdded:
        return RankedAdded(*rank(*asked))

    return ranked


def session_items(
    session: NDArray[np.int64], logits: NDArray[np.float32] | None
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The distinct rows of ``session``, rising, and the sums of their ``logits``, or zeros."""
    native = len(session) <= _FEW_CLICKS
    return _kernel.session_items(session, logits) if native else numpy_backend.session_items(session, logits)


BACKEND: Final = Backend(
    "c",
    search,
    choose,
    _kernel.find_ids,
    session_items,
    covisitation,
    rank_sessions,
    rank_added,
    _kernel.copy_rows,
    _kernel.all_finite,
)
