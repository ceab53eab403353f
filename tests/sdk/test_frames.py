"""Columns of lists in, tables out: the same answers as for lists of lists; and results that are pickled."""

from __future__ import annotations

import copy
import pickle
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hiersrec_sdk import Item, Recommender, Result, errors
from tests.sdk.bundles import Shop, make_shop

Lists = list[list[Any] | None]


def objects(values: Sequence[Any]) -> Any:
    """A NumPy array of them, whatever they are."""
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


@pytest.fixture(scope="module")
def shops(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Shop, Recommender]]:
    """By type of id; that of strings has titles, and its catalog has changed."""
    made = {"int64": make_shop(full=False), "string": make_shop("string", covisitation=True)}
    folder = tmp_path_factory.mktemp("shops")
    loaded = {name: (shop, Recommender.load(shop.write(folder / name))) for name, shop in made.items()}
    shop, recommender = loaded["string"]
    recommender.catalog.upsert(
        [Item("new", vector=shop.vectors[8], category=shop.category_ids[-1][2], title="New")]
    )
    recommender.catalog.remove(shop.ids[20:25])
    return loaded


def arrow_type(lists: Lists) -> Any:
    texts = any(isinstance(own, str) for each in lists for own in each or ())
    return pa.string() if texts else pa.int64()


def chunked(lists: Lists) -> Any:
    kind = pa.list_(arrow_type(lists))
    return pa.chunked_array([pa.array(lists[:2], kind), pa.array(lists[2:], kind)])


COLUMNS: dict[str, Callable[[Lists], Any]] = {
    "numpy": objects,
    "numpy of arrays": lambda lists: objects([each if each is None else objects(each) for each in lists]),
    "numpy of NaN": lambda lists: objects([float("nan") if each is None else each for each in lists]),
    "pandas": lambda lists: pd.Series(objects(lists), index=range(5, 5 + len(lists))),
    "pandas of Arrow": lambda lists: pd.Series(
        pa.array(lists, pa.list_(arrow_type(lists))), dtype=pd.ArrowDtype(pa.list_(arrow_type(lists)))
    ),
    "polars": lambda lists: pl.Series(
        lists, dtype=pl.List(pl.String if arrow_type(lists) == pa.string() else pl.Int64)
    ),
    "arrow": lambda lists: pa.array(lists, pa.list_(arrow_type(lists))),
    "large arrow": lambda lists: pa.array(lists, pa.large_list(arrow_type(lists))),
    "arrow in chunks": chunked,
}


def said(results: Sequence[Result]) -> list[Any]:
    return [(result.mode, result.unknown_ids, list(result)) for result in results]


@settings(deadline=None, max_examples=25)
@given(data=st.data(), name=st.sampled_from(["int64", "string"]))
def test_every_kind_of_column_answers_alike(
    data: st.DataObject, name: str, shops: dict[str, tuple[Shop, Recommender]]
) -> None:
    shop, recommender = shops[name]
    own = st.sampled_from([*shop.ids, shop.stranger])
    lists = data.draw(st.lists(st.none() | st.lists(own, max_size=5), max_size=6))
    wanted = said(recommender.recommend_many([each or [] for each in lists], 7))
    for kind, make in COLUMNS.items():
        assert said(recommender.recommend_many(make(lists), 7)) == wanted, kind


@pytest.mark.parametrize("name", ["int64", "string"])
def test_two_dimensions(name: str, shops: dict[str, tuple[Shop, Recommender]]) -> None:
    shop, recommender = shops[name]
    square = [shop.ids[at : at + 3] for at in range(4)]
    wanted = said(recommender.recommend_many(square, 7))
    for array in (np.array(square), np.array(square, dtype=object)):
        assert said(recommender.recommend_many(array, 7)) == wanted
    fixed = pl.Series(square, dtype=pl.Array(pl.String if name == "string" else pl.Int64, 3))
    assert said(recommender.recommend_many(fixed, 7)) == wanted


@settings(deadline=None, max_examples=25)
@given(data=st.data(), name=st.sampled_from(["int64", "string"]), k=st.integers(1, 70))
def test_a_table_has_the_hits_of_the_results(
    data: st.DataObject, name: str, k: int, shops: dict[str, tuple[Shop, Recommender]]
) -> None:
    shop, recommender = shops[name]
    lists = data.draw(st.lists(st.lists(st.sampled_from([*shop.ids, shop.stranger]), max_size=4), max_size=5))
    results = recommender.recommend_many(lists, k, exclude_seen=True)
    hits = [(at, place, hit) for at, found in enumerate(results) for place, hit in enumerate(found, 1)]
    names = ["session", "rank", "item", "score"]
    rows: list[tuple[Any, ...]] = [(at, place, hit.item, np.float32(hit.score)) for at, place, hit in hits]
    if name == "string":
        names, rows = (
            [*names, "title"],
            [(*row, hit.title) for row, (_, _, hit) in zip(rows, hits, strict=True)],
        )

    arrays = recommender.recommend_many(lists, k, exclude_seen=True, output="numpy")
    assert [*arrays] == names
    assert [*zip(*(column.tolist() for column in arrays.values()), strict=True)] == rows
    text: Any = np.dtype(object) if name == "string" else np.dtype(np.int64)
    assert [column.dtype for column in arrays.values()][:4] == [np.int64, np.int32, text, np.float32]

    frame = recommender.recommend_many(lists, k, exclude_seen=True, output="pandas")
    assert [*frame.columns] == names
    assert [*frame.astype(object).where(frame.notna(), None).itertuples(index=False, name=None)] == rows
    text = pd.StringDtype() if name == "string" else np.dtype(np.int64)
    assert [*frame.dtypes][:4] == [np.int64, np.int32, text, np.float32]

    polars = recommender.recommend_many(lists, k, exclude_seen=True, output="polars")
    assert polars.columns == names
    assert polars.rows() == rows
    assert polars.dtypes[:4] == [pl.Int64, pl.Int32, pl.String if name == "string" else pl.Int64, pl.Float32]

    table = recommender.recommend_many(lists, k, exclude_seen=True, output="arrow")
    assert table.column_names == names
    assert [*zip(*table.to_pydict().values(), strict=True)] == rows
    text = pa.large_string() if name == "string" else pa.int64()
    assert table.schema.types[:4] == [pa.int64(), pa.int32(), text, pa.float32()]


@pytest.mark.parametrize("kind", [*COLUMNS])
@pytest.mark.parametrize("name", ["int64", "string"])
def test_a_null_item_names_its_session(
    kind: str, name: str, shops: dict[str, tuple[Shop, Recommender]]
) -> None:
    shop, recommender = shops[name]
    column = COLUMNS[kind]([shop.ids[:2], None, [shop.ids[3], None], [shop.ids[4]]])
    with pytest.raises(errors.InvalidItemIdError, match=r"^session 2: item id at position 1 is None"):
        recommender.recommend_many(column)


@pytest.mark.parametrize(
    ("sessions", "message"),
    [
        (pd.DataFrame({"clicks": [["a"]]}), "sessions is a table, DataFrame; give the column"),
        (pl.DataFrame({"clicks": [["a"]]}), "sessions is a table, DataFrame; give the column"),
        (pa.table({"clicks": [["a"]]}), "sessions is a table, Table; give the column"),
        (
            pl.Series(["a", "b"]),
            "session 0: session must be .*'a', of type str.* for one session use recommend",
        ),
        (pa.array([5, 6]), "session 0: session must be .*5, of type int.* for one session use recommend"),
        (np.array(5), r"sessions must be a list of sessions, got an array of int64 \[\]"),
        (np.zeros((2, 2, 2)), "session 0: session must be .*an array of float64"),
    ],
)
def test_no_column_of_lists(sessions: Any, message: str, shops: dict[str, tuple[Shop, Recommender]]) -> None:
    with pytest.raises(errors.InvalidSessionError, match=message):
        shops["string"][1].recommend_many(sessions)


@pytest.mark.parametrize("name", ["pandas", "polars", "pyarrow"])
def test_while_another_thread_imports_a_package(
    name: str, shops: dict[str, tuple[Shop, Recommender]], monkeypatch: pytest.MonkeyPatch
) -> None:
    shop, recommender = next(iter(shops.values()))
    wanted = recommender.recommend_many([shop.ids[:2]], 3)[0].items
    monkeypatch.setitem(sys.modules, name, ModuleType(name))  # it has none of its classes yet
    assert recommender.recommend_many([shop.ids[:2]], 3)[0].items == wanted


def test_no_such_output(shops: dict[str, tuple[Shop, Recommender]], monkeypatch: pytest.MonkeyPatch) -> None:
    recommender = shops["string"][1]
    for output in ("excel", None, 5):
        call: Any = recommender.recommend_many
        with pytest.raises(
            errors.InvalidOptionError, match="output must be one of 'results', 'numpy', 'pandas'"
        ):
            call([], output=output)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(errors.MissingExtraError, match=r"output='arrow' needs .*'hiersrec-sdk\[arrow\]'"):
        recommender.recommend_many([], output="arrow")


@pytest.mark.parametrize("mode", ["candidates", "exact"])
@pytest.mark.parametrize("name", ["int64", "string"])
def test_a_pickled_result(name: str, mode: Any, shops: dict[str, tuple[Shop, Recommender]]) -> None:
    shop, recommender = shops[name]
    for session in (shop.ids[5:8], [shop.ids[9], shop.stranger], []):
        result = recommender.recommend(session, 9, mode=mode)
        for found in (pickle.loads(pickle.dumps(result)), copy.deepcopy(result)):
            again = pickle.loads(pickle.dumps(found))
            for one in (found, again):
                assert list(one) == list(result)
                assert (one[0], one[-1], one[2:4], len(one)) == (
                    result[0],
                    result[-1],
                    result[2:4],
                    len(result),
                )
                assert (one.categories, one.category_path) == (result.categories, result.category_path)
                assert one.ranges.tolist() == result.ranges.tolist()
                assert one.scores.dtype == np.float32
                assert repr(one) == repr(result)
                assert (one.mode, one.rows_scored, one.bytes_read, one.unknown_ids) == (
                    result.mode,
                    result.rows_scored,
                    result.bytes_read,
                    result.unknown_ids,
                )


def test_a_pickled_result_is_small(tmp_path: Path) -> None:
    sizes = []
    for times in (1, 100):
        shop = make_shop(times=times)
        recommender = Recommender.load(shop.write(tmp_path / str(times)))
        sizes.append(len(pickle.dumps(recommender.recommend(shop.ids[5:8], 9))))
    assert max(sizes) < 4_000
