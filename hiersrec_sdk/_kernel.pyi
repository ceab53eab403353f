from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_HIDDEN: int

class Table:
    def __init__(
        self,
        vectors: NDArray[np.float32],
        bias: NDArray[np.float32] | None,
        codes: NDArray[np.uint8] | None,
        scales: NDArray[np.uint16] | None,
        suffix_norms: NDArray[np.uint16] | None,
        quantization_errors: NDArray[np.float32] | None,
        stage_ends: NDArray[np.int64] | None,
        max_norm: NDArray[np.float32] | None,
    ) -> None: ...

class Covisitation:
    def __init__(
        self,
        popularity: NDArray[np.float32],
        offsets: NDArray[np.int64],
        rows: NDArray[np.int32],
        counts: NDArray[np.uint16],
        hidden_weight: NDArray[np.float32],
        hidden_bias: NDArray[np.float32],
        weight: NDArray[np.float32],
    ) -> None: ...
    def score_offsets(self, session: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float32]]: ...

class SessionRanking:
    def __init__(
        self,
        table: Table,
        covisitation: Covisitation | None,
        leaves: NDArray[np.int64],
        eligible: NDArray[np.int64] | None,
        bitmap: NDArray[np.uint64] | None,
        deleted: NDArray[np.int64] | None,
        extra_offsets: NDArray[np.int64] | None,
        extra_rows: NDArray[np.int64] | None,
        rows: int,
        top_p: float,
        exact: bool,
        k: int,
        ordered: int,
    ) -> None: ...
    def __call__(
        self,
        session: NDArray[np.int64],
        known: NDArray[np.int64],
        repeat_logits: NDArray[np.float32] | None,
        logits: NDArray[np.float32],
        query: NDArray[np.float32],
        first: NDArray[np.int64] | None,
        skipped: NDArray[np.int64] | None,
        least: int,
    ) -> tuple[Any, ...]: ...

class AddedRanking:
    def __init__(
        self,
        table: Table,
        first_row: int,
        placements_of_leaf: dict[int, list[int]],
        rows_of_placement: list[list[int]],
        live: NDArray[np.uint64] | None,
        bitmap: NDArray[np.uint64] | None,
        deleted: NDArray[np.int64],
        successors: NDArray[np.int64],
        exact: bool,
        k: int,
    ) -> None: ...
    def __call__(
        self, ranked: tuple[Any, ...], query: NDArray[np.float32], skipped: NDArray[np.int64] | None
    ) -> tuple[Any, ...]: ...

def topk(
    table: Table, requests: Sequence[Any], k: int
) -> list[tuple[NDArray[np.float32], NDArray[np.int64], int, int]]: ...
def find_ids(
    ids: NDArray[np.int64], order: NDArray[np.int64], wanted: NDArray[np.int64]
) -> NDArray[np.int64]: ...
def session_items(
    session: NDArray[np.int64], logits: NDArray[np.float32] | None
) -> tuple[NDArray[np.int64], NDArray[np.float32]]: ...
def choose(
    logits: NDArray[np.float32],
    ranges: NDArray[np.int64],
    eligible: NDArray[np.int64] | None,
    first: NDArray[np.int64] | None,
    rows: int,
    least: int,
    top_p: float,
    ordered: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64], tuple[tuple[int, float], ...]]: ...
def integer_dots(
    table: Table, query: NDArray[np.float32]
) -> tuple[NDArray[np.int16], NDArray[np.int64]] | None: ...
def copy_rows(table: NDArray[np.float32], rows: NDArray[np.int64], out: NDArray[np.float32]) -> None: ...
def all_finite(values: NDArray[np.float32]) -> bool: ...
def isa() -> str: ...
def available_isas() -> tuple[str, ...]: ...
def use_isa(name: str) -> bool: ...
def first_wrong_codes(table: Table, start: int, stop: int) -> int: ...
def hash_strings(data: NDArray[np.uint8], offsets: NDArray[np.int64]) -> NDArray[np.uint64]: ...
