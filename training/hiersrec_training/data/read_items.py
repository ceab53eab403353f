"""The item table: ids, categories, titles, texts and numbers. Beside it, a file of vectors and a category tree."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

import numpy as np
import polars as pl
from numpy.typing import NDArray

from hiersrec_sdk.errors import DataError, InvalidOptionError
from hiersrec_sdk.ranking.requests import MAX_DIMENSION
from hiersrec_training.data.columns import Column, split_cells, unify_ids
from hiersrec_training.data.files import existing, reading
from hiersrec_training.data.options import LIST_SEPARATOR, PrepareOptions
from hiersrec_training.data.report import PrepareReport
from hiersrec_training.data.tables import Origin, open_table, text_format, unescaped

CATEGORY = "category:"
NUMBER = "number:"


class Descriptions(NamedTuple):
    """Descriptions of items, row by row: fields of :class:`~hiersrec_training.data.dataset.Dataset`."""

    title: pl.Series
    text: pl.Series
    numbers: dict[str, NDArray[np.float64]]
    vectors: NDArray[np.float32] | None


def read_items(options: PrepareOptions, report: PrepareReport, work: Path) -> pl.DataFrame:
    """The rows of the item table, see :func:`item_rows`. An item may have several rows.

    Raises:
        MissingColumnError: the table lacks a column that was named.
        DataError: no such file, damaged, or without rows; columns of a wrong type; vectors that do not fit.
    """
    separator = unescaped(options.item_separator)
    origin = Origin("the item table", separator, "--item-separator", options.item_columns, "--item-columns")
    table = open_table(options.items, text_format(options, report.warn, is_log=False), work, origin)
    wanted = options.item_description_columns | {options.item_id_column: "--item-id-column"}
    table.require(wanted)
    numbers, rows = table.read(list(wanted))
    report.line("read", rows.height, f"rows of {Path(table.name).name}")
    report.skipped(Path(table.name).name, table.skipped, rows.height)
    id_column = Column(
        options.item_id_column, "item ids", "--item-id-column", table.name, options.missing_texts
    )
    ids = id_column.ids(rows[options.item_id_column])
    report.column(id_column, Path(table.name).name, unquotes=table.unquotes)
    items = item_rows(ids, rows, table.name, options, report, unquotes=table.unquotes)
    nameless = items["item"].is_null()
    if nameless.any():
        example = table.place(int(numbers[int(nameless.arg_max() or 0)]))
        report.note("dropped", int(nameless.sum()), f"rows of {Path(table.name).name}: no item id", example)
        items = items.filter(~nameless)
    if items.is_empty():
        raise DataError(f"{table.name} has no items")
    return items


def item_rows(
    ids: pl.Series,
    rows: pl.DataFrame,
    name: str,
    options: PrepareOptions,
    report: PrepareReport,
    *,
    unquotes: bool = False,
) -> pl.DataFrame:
    """The rows of an item table by role: ``item`` and ``category:0``, … as ids, ``title`` and ``text`` as strings,
    ``number:<name>`` float64, ``vector`` float32 [m] where a file of them is given; null where missing. A row with
    several categories in one cell becomes several rows.

    Args:
        ids: of the items, a row each.
        rows: the columns of the table.
        name: of the table, for messages.
        options: which column has which role.
        report: takes counts.
        unquotes: quotes around fields were taken off.
    """

    def column(name_: str, role: str, option: str) -> Column:
        return Column(name_, role, option, name, options.missing_texts)

    read: list[Column] = []
    found: dict[str, pl.Series] = {"item": ids}
    texts = []
    for text in options.text_columns:
        read.append(column(text, f"texts in {text}", "--text-column"))
        texts.append(_decoded(read[-1].texts(rows[text]), options.url_decode))
    found["text"] = _joined(texts, len(ids))
    found["title"] = pl.Series([None] * len(ids), dtype=pl.String)
    if options.title_column is not None:
        read.append(column(options.title_column, "titles", "--title-column"))
        found["title"] = _decoded(read[-1].texts(rows[options.title_column]), options.url_decode)
    for number in options.number_columns:
        read.append(column(number, f"numbers in {number}", "--number-column"))
        values, lost = read[-1].numbers(rows[number], options.decimal)
        found[NUMBER + number] = values
        example = repr(rows[number].filter(lost)[0]) if lost.any() else ""
        report.note("unreadable", int(lost.sum()), f"values of {number}, taken as missing", example)
        _warn_of_numbers(rows[number], values, lost, number, options, report)
    if options.item_vectors is not None:
        found["vector"] = read_vectors(Path(options.item_vectors), len(ids))
    items = pl.DataFrame(found)
    names = list(options.category_columns)
    columns = [column(each, f"categories in {each}", "--category-column") for each in names]
    if options.fallback_category_column is not None:
        columns.append(column(options.fallback_category_column, "categories", "--fallback-category-column"))
    items = _with_categories(items, rows, columns, options, report)
    for each in (*read, *columns):
        report.column(each, Path(name).name, unquotes=unquotes)
    return items


def _warn_of_numbers(
    texts: pl.Series,
    values: pl.Series,
    lost: pl.Series,
    name: str,
    options: PrepareOptions,
    report: PrepareReport,
) -> None:
    """Warn where most numbers cannot be read, or points seem to separate thousands."""
    known = len(values) - values.null_count()
    if int(lost.sum()) * 10 > known + int(lost.sum()):
        example = texts.filter(lost)[0]
        report.warn(
            f"{int(lost.sum()):,} of {known + int(lost.sum()):,} values of {name} cannot be read as numbers, such as "
            f"{example!r}; --decimal , is for numbers such as 1.249,50"
        )
    if options.decimal == "." and texts.dtype == pl.String:
        pointed = texts.filter(texts.str.contains(".", literal=True).fill_null(False))
        if len(pointed) > 2 and pointed.str.contains(r"^ *[0-9]{1,3}\.[0-9]{3} *$").all():
            report.warn(
                f"all values of {name} with a point have three digits after it, such as {pointed[0]!r}: --decimal , "
                "takes the point for one of thousands"
            )


def _with_categories(
    items: pl.DataFrame,
    rows: pl.DataFrame,
    columns: list[Column],
    options: PrepareOptions,
    report: PrepareReport,
) -> pl.DataFrame:
    """``items`` with the columns ``category:0`` and so on, a row for each category of an item."""
    levels = len(options.category_columns)
    if levels == 1:
        listed, *others = [_listed(rows, column, options, report) for column in columns]
        if others:
            # for items without any category, in none of their rows
            known = listed.filter(_has_parts(listed["category"], options))
            has_one = items["item"].is_in(items["item"].gather(known["row"]).implode()).fill_null(False)
            other = others[0].filter(~has_one.gather(others[0]["row"]))
            listed = listed.filter(~listed["row"].is_in(other["row"].implode()))
            first, second = unify_ids([listed["category"], other["category"]])
            listed = pl.concat([listed.with_columns(category=first), other.with_columns(category=second)])
        every = pl.DataFrame({"row": np.arange(rows.height, dtype=np.uint32)})
        listed = every.join(listed, on="row", how="left", maintain_order="left_right")
        return items[listed["row"]].with_columns(listed["category"].alias(f"{CATEGORY}0"))
    found = [
        column.ids(rows[column.name]).alias(f"{CATEGORY}{level}")
        for level, column in enumerate(columns[:levels])
    ]
    if levels and len(columns) > levels:
        found = _or_fallback(found, columns[levels].ids(rows[columns[levels].name]))
    return items.with_columns(found)


def _listed(
    rows: pl.DataFrame, column: Column, options: PrepareOptions, report: PrepareReport
) -> pl.DataFrame:
    """``row`` and ``category`` for each category that a cell holds."""
    values, row = rows[column.name], np.arange(rows.height, dtype=np.uint32)
    separator, between = unescaped(options.category_separator), unescaped(options.category_path_separator)
    if separator is not None and values.dtype == pl.String:
        _warn_of_separator(values, separator, "--category-separator", column, report)
        values = split_cells(values, separator)
    elif isinstance(values.dtype, pl.List | pl.Array):
        values = values.cast(pl.List(_inner(values.dtype)))
        if options.category_list_is_path:
            return _list_paths(values, row, column)
        several = int((values.list.len() > 1).sum())
        what = f"lists in {column.name} taken as several categories each; --category-list-is-path takes them as paths"
        report.note("lists", several, what)
    elif options.category_list_is_path and values.dtype != pl.Null:
        raise InvalidOptionError(
            f"{column.table}: column {column.name!r} holds {values.dtype}: --category-list-is-path is for lists"
        )
    cells = pl.DataFrame({"row": row, "category": values})
    if isinstance(values.dtype, pl.List):
        cells = cells.explode("category")
    if between is None:
        ids = column.ids(cells["category"])
    else:
        ids = column.paths(cells["category"], between)
        _warn_of_separator(ids, between, "--category-path-separator", column, report)
    return cells.with_columns(ids.alias("category")).drop_nulls("category")


def _list_paths(lists: pl.Series, row: NDArray[np.uint32], column: Column) -> pl.DataFrame:
    """``row`` and ``category`` for each path, where lists are paths, and lists of lists are several."""
    paths = pl.DataFrame({"row": row, "category": lists}).drop_nulls()
    if isinstance(_inner(lists.dtype), pl.List | pl.Array):
        paths = paths.explode("category", empty_as_null=False, keep_nulls=False)
    parts = paths.with_row_index("path").explode("category", empty_as_null=False)
    parts = parts.with_columns(category=column.texts(parts["category"]).fill_null(""))
    joined = parts.group_by("path", "row", maintain_order=True).agg(
        pl.col("category").str.join(LIST_SEPARATOR)
    )
    return joined.select("row", "category")


def _inner(kind: Any) -> Any:
    return kind.inner


def _has_parts(paths: pl.Series, options: PrepareOptions) -> pl.Series:
    """bool: whether there is more than separators in a path; all, where categories are no paths."""
    separator = unescaped(options.path_separator)
    if separator is None:
        return pl.repeat(True, len(paths), eager=True)
    return paths.str.replace_all(separator, "", literal=True).str.strip_chars() != ""


def _warn_of_separator(
    values: pl.Series, separator: str, option: str, column: Column, report: PrepareReport
) -> None:
    """Warn of a separator that no value of the category column holds; the fall-back column may have none."""
    values = values.drop_nulls()
    if (
        column.option == "--category-column"
        and len(values)
        and not values.str.contains(separator, literal=True).any()
    ):
        odd = values.filter(values.str.contains(r"[^\w ]"))
        example = odd[0] if len(odd) else values[0]
        report.warn(f"{option} {separator!r} is in none of the {column.role}, such as {example!r}")


def _or_fallback(levels: list[pl.Series], fallback: pl.Series) -> list[pl.Series]:
    """The levels, with the fall-back category in the top one where all are missing."""
    top, fallback = unify_ids([levels[0], fallback])
    nothing = pl.DataFrame(levels).select(pl.all_horizontal(pl.all().is_null()).alias("nothing"))["nothing"]
    return [top.zip_with(~nothing, fallback).alias(levels[0].name), *levels[1:]]


def read_vectors(path: Path, rows: int) -> pl.Series:
    """The given vectors in the .npy file ``path``: float32 [m] for each row of the item table, null where NaN.

    Raises:
        DataError: the file is missing, not a .npy file or not numbers [rows, m]; it is too wide; or a row is neither
            finite nor all NaN.
    """
    existing(path)
    try:
        with reading(path):
            array = np.load(path, allow_pickle=False)
    except ValueError as error:
        raise DataError(f"{path} is not a .npy file of numbers: {error}") from error
    if not isinstance(array, np.ndarray):
        raise DataError(f"{path} is not a .npy file: it holds several arrays; save one")
    if array.ndim != 2 or not array.shape[1] or array.dtype.kind not in "iuf":
        raise DataError(f"{path} must hold numbers [rows, width], got {array.dtype} {list(array.shape)}")
    if array.shape[1] > MAX_DIMENSION:
        raise DataError(
            f"{path} holds vectors of {array.shape[1]:,} numbers, of which a model reads {MAX_DIMENSION:,} at most: "
            "make them shorter, such as by a random projection"
        )
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


def read_parents(options: PrepareOptions, report: PrepareReport, work: Path) -> pl.DataFrame:
    """The rows of the category tree: ``child`` and ``parent``, ids; null at the top.

    Raises:
        MissingColumnError, DataError: as :func:`read_items`.
    """
    origin = Origin("the category tree", unescaped(options.tree_separator), "--tree-separator")
    table = open_table(options.category_tree, text_format(options, report.warn, is_log=False), work, origin)
    named = options.tree_child_column, options.tree_parent_column
    if len(table.columns) < 2:
        hint = table.hint() or "a category tree has a category and its parent"
        raise DataError(f"{table.name} has only the columns {table.columns}: {hint}")
    if len(table.columns) > 2 and None in named:
        raise DataError(
            f"{table.name} has {len(table.columns)} columns, {', '.join(table.columns)}: name the category's with "
            "--tree-child-column and its parent's with --tree-parent-column"
        )
    child = options.tree_child_column or table.columns[0]
    parent = options.tree_parent_column or table.columns[1]
    table.require({child: "--tree-child-column", parent: "--tree-parent-column"})
    _, rows = table.read(list(dict.fromkeys([child, parent])))
    report.skipped(Path(table.name).name, table.skipped, rows.height)
    found = {}
    for name, role, option in (
        (child, "child", "--tree-child-column"),
        (parent, "parent", "--tree-parent-column"),
    ):
        column = Column(name, f"{role} categories", option, table.name, options.missing_texts)
        found[role] = column.ids(rows[name])
        report.column(column, Path(table.name).name, unquotes=table.unquotes)
    return pl.DataFrame(found)


def describe_items(
    rows: pl.DataFrame, items: pl.Series, numbers: tuple[str, ...], report: PrepareReport
) -> Descriptions:
    """Descriptions of ``items``, in their order. Of several rows of an item, the first that has the value counts."""
    rows = rows.filter(rows["item"].is_in(items.implode()))
    about = ["title", "text", *(NUMBER + name for name in numbers)]
    about += ["vector"] if "vector" in rows.columns else []
    if rows["item"].is_duplicated().any():
        _report_unlike(rows, about, report)
        firsts = [pl.col(name).drop_nulls().first() for name in about]
        rows = rows.group_by("item", maintain_order=True).agg(firsts)
    joined = items.alias("item").to_frame().join(rows, on="item", how="left", maintain_order="left")
    values = {name: joined[NUMBER + name].fill_null(float("nan")).to_numpy() for name in numbers}
    return Descriptions(joined["title"], joined["text"], values, _filled_vectors(joined))


def _report_unlike(rows: pl.DataFrame, about: list[str], report: PrepareReport) -> None:
    """Say where several rows of an item describe it differently. Several categories of an item are no contradiction."""
    several = rows.filter(rows["item"].is_duplicated()).group_by("item", maintain_order=True)
    unlike = several.agg(pl.col(name).drop_nulls().n_unique() > 1 for name in about)
    names = [name for name in about if unlike[name].any()]
    if names:
        unlike = unlike.filter(pl.any_horizontal(names))
        shown = ", ".join(name.removeprefix(NUMBER) for name in names)
        what = f"items have several rows that differ in {shown}: the first value counts"
        report.note("differing", unlike.height, what, str(unlike["item"][0]))


def _filled_vectors(items: pl.DataFrame) -> NDArray[np.float32] | None:
    """The vectors float32 [items, m], zeros where there is none."""
    if "vector" not in items.columns:
        return None
    known = items["vector"].drop_nulls().to_numpy()
    vectors = np.zeros((items.height, known.shape[1]), dtype=np.float32)
    vectors[items["vector"].is_not_null().to_numpy()] = known
    return vectors


def _decoded(words: pl.Series, url_decode: bool) -> pl.Series:
    if not url_decode:
        return words
    plain = words.map_elements(lambda text: unquote(text).replace("_", " ").strip(), return_dtype=pl.String)
    return plain.set(plain == "", None)


def _joined(texts: list[pl.Series], rows: int) -> pl.Series:
    """The texts of each row joined by a space, null where there is none."""
    if not texts:
        return pl.Series([None] * rows, dtype=pl.String)
    frame = pl.DataFrame({str(at): text for at, text in enumerate(texts)})
    joined = frame.select(text=pl.concat_str(pl.all(), separator=" ", ignore_nulls=True))["text"]
    return joined.set(joined == "", None)
