"""Recommendations in Ray Data: a pool of actors, each with a recommender of its own."""

from __future__ import annotations

import os
from collections.abc import Iterable
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, Unpack

from hiersrec_sdk.arguments import is_integer
from hiersrec_sdk.errors import InvalidBatchSizeError, InvalidOptionError
from hiersrec_sdk.integrations.batch import BatchRecommender, OnBad
from hiersrec_sdk.options import ManyOptions
from hiersrec_sdk.shown import shown

if TYPE_CHECKING:
    import pyarrow
    from ray.data import Dataset

_READING: Final = 1  # CPU that Ray Data needs beside the actors: for one task that reads


def recommend_dataset(
    dataset: Dataset,
    bundle: str | os.PathLike[str],
    *,
    concurrency: int = 1,
    num_cpus: float = 1,
    sessions_per_call: int = 1_024,
    block_bytes: int | None = 16 << 20,
    k: int = 20,
    session_column: str = "items",
    keep: Iterable[str] = (),
    on_bad: OnBad = "error",
    **options: Unpack[ManyOptions],
) -> Dataset:
    """The results of a dataset of sessions, by :meth:`Dataset.map_batches` with a pool of actors. It is lazy.

    Ray Data keeps the order of rows only where ``execution_options.preserve_order`` of its ``DataContext`` is true.

    Args:
        dataset: has a column of lists of item ids.
        bundle: see :class:`BatchRecommender`; every node must find it there.
        concurrency: actors, each of which loads the bundle once, with one onnxruntime thread.
        num_cpus: CPUs that Ray sets aside for each.
        sessions_per_call: rows of a batch.
        block_bytes: most bytes of a block, set in the context of ``dataset``. Ray's own limit is 128 MiB, and whoever
            iterates over a dataset holds several blocks for each actor. None leaves it as it is.
        k, session_column, keep, on_bad: see :class:`BatchRecommender`, which also says what the results are.
        **options: as there.

    Raises:
        InvalidOptionError: an argument is out of its range; or the actors would take so many of the cluster's CPUs
            that nothing could read, for which Ray would wait for ever.
        BundleError: as :class:`BatchRecommender`.
    """
    ray: Any = import_module("ray")
    recommend = BatchRecommender(
        bundle, k=k, session_column=session_column, keep=keep, on_bad=on_bad, **options
    )
    if not is_integer(concurrency, 1):
        raise InvalidOptionError(f"concurrency must be an integer ≥ 1, got {shown(concurrency)}")
    if not is_integer(sessions_per_call, 1):
        raise InvalidBatchSizeError(
            f"sessions_per_call must be an integer ≥ 1, got {shown(sessions_per_call)}"
        )
    if not ray.is_initialized():
        ray.init()
    cpus, taken = ray.cluster_resources().get("CPU", 0), concurrency * num_cpus
    if taken + _READING > cpus:
        raise InvalidOptionError(
            f"concurrency={concurrency} and num_cpus={num_cpus:g} take {taken:g} of the cluster's {cpus:g} CPUs, but "
            "one must be left for what reads the data: give fewer of either"
        )
    found = dataset.map_batches(
        _Actor,
        fn_constructor_args=(recommend,),
        compute=ray.data.ActorPoolStrategy(size=concurrency),
        num_cpus=num_cpus,
        batch_size=sessions_per_call,
        batch_format="pyarrow",
    )
    if block_bytes is not None:
        found.context.target_max_block_size = block_bytes
    return found


class _Actor:
    """What Ray makes once in each process of the pool."""

    def __init__(self, recommend: BatchRecommender) -> None:
        self._recommend = recommend

    def __call__(self, batch: pyarrow.Table) -> Any:
        return self._recommend(batch)
