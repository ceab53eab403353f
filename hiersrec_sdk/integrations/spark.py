"""Recommendations in Spark: ``mapInArrow`` with one recommender in each Python worker."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Unpack

from hiersrec_sdk.arguments import checked_bool
from hiersrec_sdk.errors import DataError
from hiersrec_sdk.integrations.batch import RESULT_COLUMNS, BatchRecommender, OnBad
from hiersrec_sdk.options import ManyOptions
from hiersrec_sdk.shown import shown

if TYPE_CHECKING:
    import pyarrow
    from pyspark.sql import DataFrame


def recommend_dataframe(
    frame: DataFrame,
    bundle: str | os.PathLike[str],
    *,
    spark_file: bool = False,
    k: int = 20,
    session_column: str = "items",
    keep: Iterable[str] = (),
    on_bad: OnBad = "error",
    **options: Unpack[ManyOptions],
) -> DataFrame:
    """The results of a data frame of sessions, by ``DataFrame.mapInArrow``. It is lazy.

    A Python worker of Spark loads the bundle once, with one onnxruntime thread, and keeps it for its next tasks.

    Args:
        frame: has a column of arrays of item ids.
        bundle: see :class:`BatchRecommender`; the driver and every worker must find it there. With ``spark_file``: the
            name of what ``SparkContext.addFile`` (a zip file of the bundle) or ``addArchive`` has sent to all of them.
        k, session_column, keep, on_bad: see :class:`BatchRecommender`, which also says what the results are.
        **options: as there.

    Raises:
        InvalidOptionError: an argument is out of its range.
        DataError: the column does not hold arrays of ids of the catalog's type.
        BundleError: as :class:`BatchRecommender`.
    """
    from pyspark.sql import types

    recommend = BatchRecommender(
        _on_this_node(os.fspath(bundle)) if checked_bool("spark_file", spark_file) else bundle,
        k=k,
        session_column=session_column,
        keep=keep,
        on_bad=on_bad,
        **options,
    )
    recommend.check_columns(frame.columns)
    is_int = recommend.item_id_type == "int64"
    column = frame.schema[session_column].dataType
    fitting = (
        (types.ByteType, types.ShortType, types.IntegerType, types.LongType) if is_int else types.StringType
    )
    if not (isinstance(column, types.ArrayType) and isinstance(column.elementType, fitting)):
        raise DataError(
            f"the column {shown(session_column)} has the type {column.simpleString()}, and must have arrays of item "
            f"ids: {'integers' if is_int else 'strings'}, as in this catalog"
        )
    item = types.LongType() if is_int else types.StringType()
    result_types = (
        types.ArrayType(item),
        types.ArrayType(types.FloatType()),
        types.StringType(),
        types.IntegerType(),
    )
    schema = types.StructType([frame.schema[name] for name in recommend.keep])
    for name, of_type in zip(RESULT_COLUMNS, result_types, strict=True):
        schema.add(name, of_type)
    # in backticks a dot is part of the name, not a field of a column
    names = dict.fromkeys((session_column, *recommend.keep))
    needed = frame.select(*(f"`{name.replace('`', '``')}`" for name in names))
    return needed.mapInArrow(_Task(recommend, os.fspath(bundle) if spark_file else None), schema)


class _Task:
    """What Spark runs for each partition."""

    def __init__(self, recommend: BatchRecommender, spark_file: str | None) -> None:
        self._recommend, self._spark_file = recommend, spark_file

    def __call__(self, batches: Iterator[pyarrow.RecordBatch]) -> Iterator[Any]:
        name = self._spark_file
        recommend = self._recommend if name is None else self._recommend.at(_on_this_node(name))
        yield from map(recommend, batches)


def _on_this_node(name: str) -> str:
    from pyspark import SparkFiles

    path: str = SparkFiles.get(name)
    return path
