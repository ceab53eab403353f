from typing import Any

import numpy as np
from numpy.typing import NDArray

class Table:
    def __init__(
        self,
        vectors: NDArray[Any],
        bias: NDArray[np.float32] | None,
        codes: NDArray[np.uint8] | None,
        scales: NDArray[np.uint16] | None,
        tails: NDArray[np.uint16] | None,
        residuals: NDArray[np.float32] | None,
        stage_ends: NDArray[np.int64] | None,
        largest: float,
    ) -> None: ...

class Wide:
    def __init__(
        self,
        popularity: NDArray[np.float32],
        offsets: NDArray[np.int64],
        rows: NDArray[np.int32],
        clicks: NDArray[np.uint16],
        hidden_weight: NDArray[np.float32],
        hidden_bias: NDArray[np.float32],
        weight: NDArray[np.float32],
    ) -> None: ...
    def boosts(self, session: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float32]]: ...

def topk(
    table: Table, requests: list[Any], k: int
) -> list[tuple[NDArray[np.float32], NDArray[np.int64], int, int]]: ...
def find(
    ids: NDArray[np.int64], order: NDArray[np.int64], wanted: NDArray[np.int64]
) -> NDArray[np.int64]: ...
def own_items(
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
def dots(table: Table, query: NDArray[np.float32]) -> tuple[NDArray[np.int16], NDArray[np.int64]] | None: ...
def isa() -> str: ...
def available_isas() -> tuple[str, ...]: ...
def use_isa(name: str) -> bool: ...
