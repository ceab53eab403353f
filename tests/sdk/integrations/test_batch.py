"""The callable answers what `recommend` answers, whatever holds the sessions."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hiersrec_sdk import Recommender, errors
from hiersrec_sdk.integrations import BatchRecommender
from hiersrec_sdk.integrations import batch as module
from tests.sdk.bundles import make_shop
from tests.sdk.integrations.asked import answers, sessions_of, table_of
from tests.sdk.integrations.conftest import Known

OPTIONS: list[dict[str, Any]] = [
    {},
    {"mode": "exact", "exclude_seen": True},
    {"candidates": 0.1, "include_session_categories": True, "max_per_category": 2},
    {"batch_size": 3, "threads": 2},
]


@settings(max_examples=40)
@given(data=st.data(), name=st.sampled_from(["int64", "string"]), options=st.sampled_from(OPTIONS))
def test_it_answers_what_recommend_answers(
    data: st.DataObject, name: str, options: dict[str, Any], shops: dict[str, Known]
) -> None:
    shop, bundle, recommender = shops[name]
    ids = st.lists(st.sampled_from([*shop.ids, shop.stranger]), max_size=9)
    sessions: list[list[Any]] = data.draw(st.lists(ids, max_size=12))
    k = data.draw(st.integers(1, 90))
    table = table_of(sessions, shop, "clicks")
    in_chunks: bool = data.draw(st.booleans())
    if sessions and in_chunks:
        table = pa.concat_tables([table.slice(0, 1), table.slice(1)])  # of several chunks
    recommend = BatchRecommender(
        bundle, k=k, session_column="clicks", keep=["when", "visitor", "clicks"], **options
    )
    found = recommend(table)
    plain = {name: value for name, value in options.items() if name != "batch_size"}
    wanted = answers(recommender, sessions, k, **plain)
    assert found.column_names == ["when", "visitor", "clicks", "items", "scores", "mode", "unknown_ids"]
    assert found.schema == recommend.schema(table.schema)
    assert found.select([*wanted]).to_pydict() == wanted
    assert found.select(["when", "visitor", "clicks"]).equals(table.select(["when", "visitor", "clicks"]))
    for batch in table.combine_chunks().to_batches():
        one = recommend(batch)
        assert isinstance(one, pa.RecordBatch)
        assert one.equals(found.combine_chunks().to_batches()[0])
    arrays = {"clicks": np.empty(len(sessions), object), "when": np.arange(len(sessions))}
    for at, session in enumerate(sessions):
        arrays["clicks"][at] = np.array(session, object if name == "string" else np.int64)
    as_arrays = BatchRecommender(bundle, k=k, session_column="clicks", keep=["when"], **options)(arrays)
    assert as_arrays["when"] is arrays["when"]
    assert as_arrays["items"].tolist() == wanted["items"]
    assert [scores.tolist() for scores in as_arrays["scores"]] == wanted["scores"]
    assert as_arrays["mode"].tolist() == wanted["mode"]
    assert as_arrays["unknown_ids"].tolist() == wanted["unknown_ids"]


@pytest.mark.parametrize("chunk", [1, 4, 30])
def test_many_sessions_are_answered_in_chunks(
    chunk: int, known: Known, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions = sessions_of(known.shop, 30)
    table = table_of(sessions, known.shop)
    recommend = BatchRecommender(known.bundle, k=10, keep=["visitor"])
    monkeypatch.setattr(module, "CHUNK", chunk)
    wanted = {"visitor": [*range(30)], **answers(known.recommender, sessions)}
    assert recommend(table).to_pydict() == wanted
    assert recommend(table.to_batches()[0]).to_pydict() == wanted


@pytest.mark.parametrize(
    "column",
    [
        pa.list_(pa.int32()),
        pa.list_(pa.uint64()),
        pa.large_list(pa.int64()),
        pa.list_(pa.int64(), 3),
        pa.list_view(pa.int64()),
        pa.list_(pa.dictionary(pa.int8(), pa.int64())),
    ],
    ids=str,
)
def test_columns_of_other_types_of_lists(column: Any, shops: dict[str, Known]) -> None:
    shop, bundle, recommender = shops["int64"]
    sessions = [[shop.ids[at], shop.ids[at + 1], shop.stranger] for at in range(4, 9)]
    table = pa.table({"items": pa.array(sessions, column)})
    assert BatchRecommender(bundle, k=10)(table).to_pydict() == answers(recommender, sessions)


def test_columns_of_other_strings(shops: dict[str, Known]) -> None:
    shop, bundle, recommender = shops["string"]
    sessions = sessions_of(shop, 6)
    for item in (pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())):
        table = pa.table({"items": pa.array(sessions, pa.list_(item))})
        assert BatchRecommender(bundle, k=10)(table).to_pydict() == answers(recommender, sessions)


@pytest.mark.parametrize(
    "column", [pa.int64(), pa.string(), pa.list_(pa.float64()), pa.list_(pa.binary())], ids=str
)
def test_a_column_of_another_type_is_refused(column: Any, known: Known) -> None:
    table = pa.table({"items": pa.nulls(2, column)})
    with pytest.raises(
        errors.DataError, match=r"the column 'items' has the type .*, and must have lists of item ids"
    ):
        BatchRecommender(known.bundle)(table)


def test_ids_of_the_other_type_are_refused(shops: dict[str, Known]) -> None:
    for own, other in (("int64", "string"), ("string", "int64")):
        table = table_of(sessions_of(shops[other].shop, 5), shops[other].shop)
        with pytest.raises(
            errors.DataError, match=f"{'integers' if own == 'int64' else 'strings'}, as in this"
        ):
            BatchRecommender(shops[own].bundle)(table)


@pytest.mark.parametrize("kind", ["arrow", "numpy"])
def test_bad_sessions_are_named_or_skipped(kind: str, known: Known) -> None:
    shop = known.shop
    sessions: list[Any] = sessions_of(shop, 8)
    sessions[3], sessions[5] = None, [shop.ids[4], None]
    table: Any = table_of(sessions, shop)
    if kind == "numpy":
        table = {"items": np.empty(8, object)}
        for at, session in enumerate(sessions):
            table["items"][at] = session
        table["items"][7] = [3.5]
    with pytest.raises(
        errors.InvalidSessionError, match=r"^row 3: session must be a list .*None.*on_bad='skip'"
    ):
        BatchRecommender(known.bundle, k=10)(table)
    found = BatchRecommender(known.bundle, k=10, on_bad="skip")(table)
    bad = [3, 5, *([7] if kind == "numpy" else [])]
    good = [at for at in range(8) if at not in bad]
    columns = {name: [*found[name]] for name in ("items", "mode")}
    if kind == "arrow":
        columns = {name: found[name].to_pylist() for name in ("items", "mode")}
    wanted = answers(known.recommender, [sessions[at] for at in good])
    assert [columns["items"][at] for at in bad] == [[] for _ in bad]
    assert [columns["mode"][at] for at in bad] == [None for _ in bad]
    for name in ("items", "mode"):
        assert [columns[name][at] for at in good] == wanted[name]


def test_text_that_is_not_utf8_is_bad(shops: dict[str, Known]) -> None:
    shop, bundle, recommender = shops["string"]
    good = [shop.ids[7], shop.ids[9]]
    broken = pa.array([b"\xff", *(each.encode() for each in good)]).view(pa.string())
    table = pa.table({"items": pa.ListArray.from_arrays([0, 1, 3], broken)})
    with pytest.raises(errors.InvalidItemIdError, match=r"row 0: .*b'\\xff'"):
        BatchRecommender(bundle)(table)
    found = BatchRecommender(bundle, k=10, on_bad="skip")(table).to_pydict()
    assert found["mode"][0] is None
    assert found["items"][1] == [*recommender.recommend(good, 10).items]


def test_unknown_ids_may_be_an_error(known: Known) -> None:
    sessions = [[known.shop.ids[3]], [known.shop.ids[3], known.shop.stranger]]
    table = table_of(sessions, known.shop)
    with pytest.raises(errors.UnknownItemError, match=r"row 1: .*is not in the catalog"):
        BatchRecommender(known.bundle, on_unknown="error")(table)
    found = BatchRecommender(known.bundle, on_unknown="error", on_bad="skip")(table)
    assert found["mode"].null_count == 1


def test_restrictions(known: Known) -> None:
    shop, sessions = known.shop, sessions_of(known.shop, 9)
    given: dict[str, Any] = {
        "categories": (name for name in [(shop.category_ids[0][0],), shop.category_ids[1][2]]),
        "exclude": iter(shop.ids[::5]),
        "allow": shop.ids[::2],
    }
    recommend = BatchRecommender(known.bundle, k=10, **given)
    again: dict[str, Any] = {
        "categories": [shop.category_ids[0][0], shop.category_ids[1][2]],
        "exclude": shop.ids[::5],
    }
    wanted = answers(known.recommender, sessions, allow=shop.ids[::2], **again)
    for _ in range(2):
        assert recommend(table_of(sessions, shop)).to_pydict() == wanted
    without = BatchRecommender(known.bundle, k=10, exclude=set(shop.ids[::5]))
    assert without(table_of(sessions, shop)).to_pydict() == answers(
        known.recommender, sessions, exclude=shop.ids[::5]
    )
    with pytest.raises(errors.UnknownCategoryError):
        BatchRecommender(known.bundle, categories=["no such"])(table_of(sessions, shop))


def test_a_pickle_loads_the_bundle_once_a_process(known: Known, monkeypatch: pytest.MonkeyPatch) -> None:
    table = table_of(sessions_of(known.shop, 5), known.shop)
    monkeypatch.chdir(known.bundle.parent)
    recommend = BatchRecommender(known.bundle.name, k=3)
    monkeypatch.chdir("/")
    loads, load = [], Recommender.load

    def counted(*given: Any, **named: Any) -> Recommender:
        loads.append(given)
        return load(*given, **named)

    monkeypatch.setattr(Recommender, "load", counted)
    module._load.cache_clear()
    wanted = recommend(table)
    for _ in range(3):
        assert pickle.loads(pickle.dumps(recommend))(table).equals(wanted)
    assert len(loads) == 1


def test_another_bundle_at_the_same_path_is_refused(known: Known, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(known.bundle, bundle)
    table = table_of(sessions_of(known.shop, 5), known.shop)
    before, content = BatchRecommender(bundle), pickle.dumps(BatchRecommender(bundle))
    before(table)
    shutil.rmtree(bundle)
    make_shop(known.shop.id_type, seed=5).write(bundle)
    BatchRecommender(bundle)(table)
    before(table)  # its process has loaded it, and keeps it
    with pytest.raises(errors.BundleError, match="is not the bundle that this batch was begun with"):
        pickle.loads(content)(table)
    moved = pickle.loads(content).at(known.bundle)
    assert moved(table).equals(before(table))


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"k": 0}, errors.InvalidKError, "k must be"),
        ({"mode": "fast"}, errors.InvalidModeError, "mode"),
        ({"batch_size": 0}, errors.InvalidBatchSizeError, "batch_size must be an integer ≥ 1, got 0"),
        ({"on_bad": "warn"}, errors.InvalidOptionError, "on_bad must be one of 'error', 'skip', got 'warn'"),
        ({"session_column": 3}, errors.InvalidOptionError, "session_column must be a text, got 3"),
        ({"keep": "visitor"}, errors.InvalidOptionError, "keep must be a list of names of columns"),
        ({"keep": ["items"]}, errors.InvalidOptionError, "keep has the column 'items'"),
        ({"keep": ["a", "a"]}, errors.InvalidOptionError, "keep has the column 'a'"),
        ({"filter": 1}, errors.InvalidFilterError, "give allow, exclude, categories"),
        ({"allow": "abc"}, errors.InvalidFilterError, "allow must be a list of item ids"),
        ({"verify": 1}, errors.InvalidOptionError, "verify must be True or False"),
        ({"providers": ["gpu"]}, errors.ProviderError, "gpu"),
    ],
)
def test_wrong_arguments_are_refused_at_once(
    arguments: dict[str, Any], error: type[Exception], says: str, known: Known
) -> None:
    with pytest.raises(error, match=says):
        BatchRecommender(known.bundle, **arguments)


@pytest.mark.parametrize("frame", ["pandas", "polars"])
def test_frames_of_others_are_refused(frame: str, known: Known) -> None:
    sessions = pytest.importorskip(frame).DataFrame({"items": [[known.shop.ids[0]]]})
    with pytest.raises(errors.DataError, match="must be an Arrow table, a record batch, or a dict of arrays"):
        BatchRecommender(known.bundle)(sessions)


def test_columns_that_are_not_there(known: Known) -> None:
    table = table_of(sessions_of(known.shop, 5), known.shop)
    with pytest.raises(
        errors.MissingColumnError, match="there is none of the name 'clicks' among the columns"
    ):
        BatchRecommender(known.bundle, session_column="clicks")(table)
    with pytest.raises(errors.MissingColumnError, match="'day'"):
        BatchRecommender(known.bundle, keep=["day"])({"items": []})
    twice = pa.Table.from_arrays([table["items"], table["items"]], names=["items", "items"])
    with pytest.raises(errors.MissingColumnError, match="there are several of the name 'items'"):
        BatchRecommender(known.bundle)(twice)


def test_there_must_be_a_bundle(tmp_path: Path) -> None:
    with pytest.raises(errors.BundleMissingError):
        BatchRecommender(tmp_path / "none")


def test_it_imports_neither_ray_nor_spark_nor_arrow() -> None:
    code = "import sys, hiersrec_sdk.integrations; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"ray", "pyspark", "pyarrow"} & {*done.stdout.split()}
