import numpy as np
from numpy.typing import NDArray

def topk_float32(
    vectors: NDArray[np.float32],
    query: NDArray[np.float32],
    ranges: NDArray[np.int64],
    bias: NDArray[np.float32] | None,
    bitmap: NDArray[np.uint64] | None,
    deny: bool,
    scores: NDArray[np.float32],
    rows: NDArray[np.int64],
) -> int: ...
def topk_int8(
    vectors: NDArray[np.int8],
    scales: NDArray[np.float32],
    query: NDArray[np.int8],
    query_scale: float,
    ranges: NDArray[np.int64],
    bias: NDArray[np.float32] | None,
    bitmap: NDArray[np.uint64] | None,
    deny: bool,
    scores: NDArray[np.float32],
    rows: NDArray[np.int64],
) -> int: ...
