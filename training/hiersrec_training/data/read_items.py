"""The item table: ids, categories, titles, texts and numbers. Beside it, a file of vectors and a category tree."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

import numpy as np
import polars as pl
from numpy.typing import NDArray

from hiersrec_sdk.errors import DataError
from hiersrec_training.data.options import PrepareOptions
from hiersrec_training.data.read_table import existing, open_table, reading
from hiersrec_training.data.report import PrepareReport

CATEGORY = "category:"
NUMBER = "number:"


class Descriptions(NamedTuple):
    """Descriptions of items, row by row: fields of :class:`~hiersrec_training.data.dataset.Dataset`."""

    title: pl.Series
    text: pl.Series
    numbers: dict[str, NDArray[np.float64]]
    vectors: NDArray[np.float32] | None


def read_items(options: PrepareOptions, report: PrepareReport) -> pl.DataFrame:
    """The rows of the item table: ``item`` and ``category:0``, … as read, ``title`` and ``text`` as strings (null
    where empty), ``number:<name>`` float64 (null where missing), ``vector`` float32 [m] where a file of them is given
    (null where missing). An item may have several rows.

    Raises:
        MissingColumnError: the table lacks a column that was named.
        DataError: no such file, damaged, or without rows; vectors that do not fit.
    """
    assert options.items is not None
    table = open_table(options.items, options.item_separator, names=options.item_columns, comments=True)
    wanted = {options.item_id_column: "--item-id-column"}
    wanted |= dict.fromkeys(options.category_columns, "--category-column")
    wanted |= dict.fromkeys(options.text_columns, "--text-column")
    wanted |= dict.fromkeys(options.number_columns, "--number-column")
    if options.title_column is not None:
        wanted.setdefault(options.title_column, "--title-column")
    rows = table.read(wanted, whole=options.item_vectors is not None)  # else rows and vectors could shift
    report.line("read", rows.height, f"rows of {options.items.name}")

    columns = [pl.col(options.item_id_column).alias("item")]
    columns += [
        pl.col(name).alias(f"{CATEGORY}{level}") for level, name in enumerate(options.category_columns)
    ]
    texts = [_words(name, options.url_decode) for name in options.text_columns]
    text = pl.concat_str(texts, separator=" ", ignore_nulls=True) if texts else pl.lit(None, pl.String)
    columns.append(_filled(text).alias("text"))
    title = pl.lit(None, pl.String)
    if options.title_column is not None:
        title = _filled(_words(options.title_column, options.url_decode))
    columns.append(title.alias("title"))
    for name in options.number_columns:
        number = pl.col(name).cast(pl.Float64, strict=False)
        columns.append(pl.when(number.is_finite()).then(number).alias(NUMBER + name))
    items = rows.select(columns)
    for name in options.number_columns:
        lost = items[NUMBER + name].null_count() - int(_blank(rows[name]).sum())
        if lost:
            report.line("unreadable", lost, f"values of {name}, taken as missing")
    if options.item_vectors is not None:
        items = items.with_columns(read_vectors(options.item_vectors, items.height))

    nameless = _blank(items["item"])
    if nameless.any():
        report.line("dropped", int(nameless.sum()), f"rows of {options.items.name}: no item id")
        items = items.filter(~nameless)
    if items.is_empty():
        raise DataError(f"{options.items} has no items")
    return items


def read_vectors(path: Path, rows: int) -> pl.Series:
    """The given vectors in the .npy file ``path``: float32 [m] for each row of the item table, null where NaN.

    Raises:
        DataError: the file is missing, not a .npy file or not floats [rows, m]; or a row is neither finite nor all NaN.
    """
    existing(path)
    try:
        with reading(path):
            array = np.load(path, allow_pickle=False)
    except ValueError as error:
        raise DataError(f"{path} is not a .npy file of numbers: {error}") from error
    if not isinstance(array, np.ndarray):
        raise DataError(f"{path} is not a .npy file: it holds several arrays; save one")
    if array.ndim != 2 or not array.shape[1] or not np.issubdtype(array.dtype, np.floating):
        raise DataError(f"{path} must hold floats [rows, width], got {array.dtype} {list(array.shape)}")
    if len(array) != rows:
        raise DataError(
            f"{path} must have one vector for each row of the item table, {rows:,}, in its order; got {len(array):,}"
        )
    with np.errstate(over="ignore"):  # it would not be finite then
        vectors = array.astype(np.float32, copy=False)
    known = np.isfinite(vectors).all(axis=1)
    broken = ~known & ~np.isnan(vectors).all(axis=1)
    if broken.any():
        raise DataError(
            f"{path}: row {int(broken.argmax())} (counted from 0) holds values that are not finite; the row of an item "
            "without a vector must be all NaN"
        )
    vectors[~known] = 0
    frame = pl.DataFrame({"vector": vectors, "known": known})
    return frame.select(pl.when("known").then("vector").alias("vector"))["vector"]


def read_parents(options: PrepareOptions) -> pl.DataFrame:
    """The rows of the category tree: ``child`` and ``parent`` as read (null at the top).

    Raises:
        MissingColumnError, DataError: as :func:`read_items`.
    """
    assert options.category_tree is not None
    table = open_table(options.category_tree, comments=True)
    if len(table.columns) < 2:
        raise DataError(
            f"{options.category_tree} has one column: a category tree has a category and its parent"
        )
    child = options.tree_child_column or table.columns[0]
    parent = options.tree_parent_column or table.columns[1]
    rows = table.read({child: "--tree-child-column", parent: "--tree-parent-column"})
    return rows.select(pl.col(child).alias("child"), pl.col(parent).alias("parent"))


def describe_items(rows: pl.DataFrame, items: pl.Series, numbers: tuple[str, ...]) -> Descriptions:
    """Descriptions of ``items``, in their order. Of several rows of an item, the first that has the value counts."""
    about = ["title", "text", *(NUMBER + name for name in numbers)]
    about += ["vector"] if "vector" in rows.columns else []
    if rows["item"].is_duplicated().any():
        firsts = [pl.col(name).drop_nulls().first() for name in about]
        rows = rows.group_by("item", maintain_order=True).agg(firsts)
    joined = items.alias("item").to_frame().join(rows, on="item", how="left", maintain_order="left")
    values = {name: joined[NUMBER + name].fill_null(float("nan")).to_numpy() for name in numbers}
    return Descriptions(joined["title"], joined["text"], values, _filled_vectors(joined))


def _filled_vectors(items: pl.DataFrame) -> NDArray[np.float32] | None:
    """The vectors float32 [items, m], zeros where there is none."""
    if "vector" not in items.columns:
        return None
    known = items["vector"].drop_nulls().to_numpy()
    vectors = np.zeros((items.height, known.shape[1]), dtype=np.float32)
    vectors[items["vector"].is_not_null().to_numpy()] = known
    return vectors


def _words(column: str, url_decode: bool) -> pl.Expr:
    words = pl.col(column).cast(pl.String)
    if not url_decode:
        return words
    return words.map_elements(lambda text: unquote(text).replace("_", " "), return_dtype=pl.String)


def _filled(text: pl.Expr) -> pl.Expr:
    """The text with null instead of an empty string."""
    text = text.str.strip_chars()
    return pl.when(text != "").then(text)


def _blank(values: pl.Series) -> pl.Series:
    """Which are null, NaN or empty."""
    return values.cast(pl.String).str.strip_chars().is_in(["", "NaN"]).fill_null(True)
