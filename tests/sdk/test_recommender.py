"""The recommender against a plain re-implementation, and what it makes of every bad input."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from hiersrec_sdk import CategoryHit, Hit, Recommender, Result, errors
from hiersrec_sdk.encoder import OnnxEncoder

from .bundles import (
    DIMENSION,
    ITEMS,
    LEAF_SIZES,
    MAX_LENGTH,
    SIZES,
    Shop,
    category_ranges,
    forge,
    graph,
    make_shop,
)

# Shops by name: with everything optional and without, with ids of both types.
SHOPS = {"full": make_shop("string"), "bare": make_shop("int64", seed=1, full=False)}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Recommender]:
    """Recommenders by shop and ranking backend."""
    folder = tmp_path_factory.mktemp("bundles")
    paths = {name: shop.write(folder / name) for name, shop in SHOPS.items()}
    return {
        (name, backend): Recommender.load(path, backend=backend)
        for name, path in paths.items()
        for backend in ("c", "numpy")
    }


@pytest.fixture(scope="module")
def full(loaded: dict[tuple[str, str], Recommender]) -> Recommender:
    return loaded["full", "c"]


@dataclass(frozen=True)
class Answer:
    """What :func:`expected` says."""

    items: list[Any]
    scores: list[float]
    mode: str
    scored: list[int]
    unknown: int
    path: list[tuple[int, float]]
    leaves: list[tuple[int, float]]


def expected(shop: Shop, session: list[Any], k: int, mode: str, candidates: float | None) -> Answer:
    """What the recommender has to say, in plain Python: every candidate scored and sorted."""
    row_of = {own: row for row, own in enumerate(shop.ids)}
    known = [row_of[own] for own in session if own in row_of]
    unknown = len(session) - len(known)
    rows = known[-MAX_LENGTH:]
    if not rows:
        popular = sorted(range(ITEMS), key=lambda row: (-int(shop.clicks[row]), row))[:k]
        scores = [float(shop.clicks[row]) for row in popular]
        return Answer([shop.ids[row] for row in popular], scores, "popular", [], unknown, [], [])

    inputs = (shop.vectors if shop.inputs is None else shop.inputs).astype(float)
    total = inputs[rows].sum(axis=0)
    logits = [total @ weights.astype(float) for weights in shop.weights]
    order = sorted(range(SIZES[-1]), key=lambda leaf: (-logits[-1][leaf], leaf))
    if mode == "exact":
        scored = set(range(ITEMS))
    else:
        need = max(math.ceil((0.3 if candidates is None else candidates) * ITEMS), min(k, ITEMS))
        scored, held = set(rows), 0
        for leaf in order:
            if held >= need:
                break
            start, stop = category_ranges()[-1][leaf]
            scored |= {*range(start, stop), *shop.extra.get(leaf, [])}
            held += LEAF_SIZES[leaf]

    scores_of = {row: float(8 * total @ shop.vectors[row].astype(float)) for row in scored}
    for row in scored:
        if shop.bias is not None:
            scores_of[row] += float(shop.bias[row])
        if shop.repeats is not None:
            scores_of[row] += rows.count(row) * float(inputs[row] @ shop.repeats.astype(float))
    best = sorted(scored, key=lambda row: (-scores_of[row], row))[:k]

    softmax = [np.exp(level - level.max()) / np.exp(level - level.max()).sum() for level in logits]
    return Answer(
        items=[shop.ids[row] for row in best],
        scores=[scores_of[row] for row in best],
        mode=mode,
        scored=sorted(scored),
        unknown=unknown,
        path=[(int(level.argmax()), float(level.max())) for level in softmax],
        leaves=[(leaf, float(softmax[-1][leaf])) for leaf in order[:5]],
    )


def rows_in(result: Result) -> list[int]:
    ranges = result.ranges
    assert ranges.dtype == np.int64
    assert (ranges[:, 0] < ranges[:, 1]).all()
    assert (ranges[:-1, 1] < ranges[1:, 0]).all()  # sorted, and neighbours that touch are one
    return [row for start, stop in ranges.tolist() for row in range(start, stop)]


def check(shop: Shop, result: Result, want: Answer) -> None:
    assert list(result.items) == want.items
    assert result.scores.dtype == np.float32
    assert result.scores.tolist() == want.scores
    assert result.mode == want.mode
    assert result.unknown == want.unknown
    assert rows_in(result) == want.scored
    assert result.rows_scored == len(want.scored)
    row_bytes = 4 * (DIMENSION + (shop.bias is not None))
    # the C kernel reads the session's own items apart from the ranges that hold them
    assert 0 <= result.bytes_read - len(want.scored) * row_bytes <= MAX_LENGTH * row_bytes
    assert len(result) == len(want.items)
    for hits, right in ((result.category_path, want.path), (result.categories, want.leaves)):
        assert [hit.index for hit in hits] == [index for index, _ in right]
        assert [hit.probability for hit in hits] == pytest.approx([chance for _, chance in right], rel=1e-5)
    assert [hit.level for hit in result.category_path] == list(range(len(want.path)))


def sessions(shop: Shop, max_size: int = MAX_LENGTH + 4) -> st.SearchStrategy[list[Any]]:
    stranger: Any = "stranger" if isinstance(shop.ids[0], str) else 3
    few = st.sampled_from(shop.ids[:4])  # so that items stand in a session more than once
    return st.lists(st.sampled_from(shop.ids) | few | st.just(stranger), max_size=max_size)


names = st.sampled_from(sorted(SHOPS))
ks = st.integers(1, ITEMS + 5)
modes = st.sampled_from(["candidates", "exact"])
shares = st.none() | st.floats(0, 1, exclude_min=True)


@settings(max_examples=400, deadline=None)
@given(data=st.data(), name=names, backend=st.sampled_from(["c", "numpy"]), k=ks, mode=modes, share=shares)
def test_against_a_plain_implementation(
    data: st.DataObject,
    name: str,
    backend: str,
    k: int,
    mode: Any,
    share: float | None,
    loaded: dict[tuple[str, str], Recommender],
) -> None:
    shop = SHOPS[name]
    session = data.draw(sessions(shop))
    result = loaded[name, backend].recommend(session, k, mode=mode, candidates=share)
    check(shop, result, expected(shop, session, k, mode, share))


@settings(max_examples=60, deadline=None)
@given(data=st.data(), name=names, k=ks, mode=modes, share=shares, batch_size=st.integers(1, 9))
def test_many_sessions_are_answered_as_one_by_one(
    data: st.DataObject,
    name: str,
    k: int,
    mode: Any,
    share: float | None,
    batch_size: int,
    loaded: dict[tuple[str, str], Recommender],
) -> None:
    shop = SHOPS[name]
    many = data.draw(st.lists(sessions(shop), max_size=12))
    results = loaded[name, "c"].recommend_many(many, k, mode=mode, candidates=share, batch_size=batch_size)
    assert len(results) == len(many)
    for session, result in zip(many, results, strict=True):
        check(shop, result, expected(shop, session, k, mode, share))


@settings(max_examples=60, deadline=None)
@given(data=st.data(), k=ks, share=st.floats(0, 1, exclude_min=True))
def test_candidates_are_a_part_of_exact(data: st.DataObject, k: int, share: float, full: Recommender) -> None:
    session = data.draw(sessions(SHOPS["full"]))
    some = full.recommend(session, k, candidates=share)
    every = full.recommend(session, ITEMS, mode="exact")
    score_of = dict(zip(every.items, every.scores.tolist(), strict=True))
    assert every.rows_scored in (ITEMS, 0)
    assert len(every) == ITEMS
    assert all(score_of[item] == score for item, score in zip(some.items, some.scores.tolist(), strict=True))
    # Of the rows that were scored, the best are the best of `exact`, in the same order.
    if some.mode == "candidates":
        scored = set(full.catalog.ids(np.array(rows_in(some))))
        assert [item for item in every.items if item in scored][:k] == list(some.items)
        assert len(some) == min(k, ITEMS)


@settings(max_examples=30, deadline=None)
@given(data=st.data(), k=ks)
def test_all_of_the_catalogue_as_candidates_is_exact(data: st.DataObject, k: int, full: Recommender) -> None:
    session = data.draw(sessions(SHOPS["full"]))
    every = full.recommend(session, k, mode="exact")
    some = full.recommend(session, k, candidates=1)
    assert every.items == some.items
    assert every.scores.tolist() == some.scores.tolist()


def test_a_budget_that_is_met_exactly(full: Recommender) -> None:
    # The category that reaches the budget is the last: one more row would take another one.
    session = SHOPS["full"].ids[20:22]
    leaf = full.recommend(session, 1, candidates=1e-9).categories[0]
    start, stop = full.catalog.ranges[-1][leaf.index].tolist()
    just = full.recommend(session, 1, candidates=(stop - start) / ITEMS)
    more = full.recommend(session, 1, candidates=(stop - start + 1) / ITEMS)
    assert just.rows_scored < more.rows_scored


def test_hits_and_categories(full: Recommender) -> None:
    shop = SHOPS["full"]
    assert shop.titles is not None
    result = full.recommend(shop.ids[5:8], 4)
    hits = list(result)
    for hit, item, score in zip(hits, result.items, result.scores, strict=True):
        assert hit == Hit(item, float(score), shop.titles[shop.ids.index(item)] or None)
        assert type(hit.score) is float
    assert {type(hit.title) for hit in full.recommend(shop.ids[5:8], ITEMS)} == {str, type(None)}
    assert [hit.level for hit in result.categories] == [2] * 5
    first = result.categories[0]
    assert first == result.category_path[-1]
    assert first == CategoryHit(
        f"2/{first.index}", first.probability, 2, f"shelf of 2/{first.index}", first.index
    )
    assert result.category_path[0].name is None
    assert "items=" in repr(result)
    assert "catalog" not in repr(result)


def test_a_result_is_indexed_as_a_tuple_of_hits(full: Recommender) -> None:
    result = full.recommend(["0"], 4)
    hits = tuple(result)
    assert [result[at] for at in range(-4, 4)] == [*hits, *hits]
    assert result[np.int64(1)] == hits[1]
    assert type(result[0].score) is float
    for part in (slice(2), slice(1, 99), slice(None, None, -1), slice(4, None)):
        assert result[part] == hits[part]
    for beyond in (4, -5):
        with pytest.raises(IndexError):
            result[beyond]


def test_results_cannot_be_changed(full: Recommender) -> None:
    result: Any = full.recommend(["0"])
    with pytest.raises(AttributeError):
        result.items = ()


def test_defaults(full: Recommender) -> None:
    assert len(full.recommend(["0"])) == 20
    assert full.recommend(["0"]).mode == "candidates"
    default, named = full.recommend(["0"], 1), full.recommend(["0"], 1, candidates=full.config["candidates"])
    assert default.rows_scored == named.rows_scored
    assert full.providers == ("cpu",)
    assert full.backend == "c"
    assert full.config["metrics"] == {"recall@20": 0.5}
    assert repr(full) == "<Recommender: 60 items, 9 categories, providers cpu, backend c>"


def test_only_the_last_known_items_count(full: Recommender) -> None:
    ids = SHOPS["full"].ids
    window = ids[10 : 10 + MAX_LENGTH]
    alone = full.recommend(window, 9)
    for session in (ids[:5] + window, [*ids[:5], "?", *window, "?", "?"], ids[30:] * 40 + window):
        longer = full.recommend(session, 9)
        assert longer.items == alone.items
        assert longer.scores.tolist() == alone.scores.tolist()
        assert longer.unknown == session.count("?")


def test_own_items_are_always_scored(full: Recommender) -> None:
    for own in SHOPS["full"].ids:
        row = full.catalog.rows([own])[0]
        assert row in rows_in(full.recommend([own], 1, candidates=1e-9))


@pytest.mark.parametrize("session", [[], ["?"], ["?", "??"], (), np.array([], dtype=str), iter(())])
def test_popular_items_where_nothing_is_known(session: Any, full: Recommender) -> None:
    result = full.recommend(session, 3)
    assert result.mode == "popular"
    assert len(result) == len(list(result)) == 3
    assert result.rows_scored == result.bytes_read == 0
    assert result.categories == result.category_path == ()
    assert result.ranges.shape == (0, 2)


@pytest.mark.parametrize("k", [ITEMS, ITEMS + 1, 10**20, np.int64(500)])
@pytest.mark.parametrize("session", [["0"], []])
def test_k_above_the_catalogue_gives_the_catalogue(k: int, session: list[str], full: Recommender) -> None:
    assert sorted(full.recommend(session, k).items) == sorted(SHOPS["full"].ids)
    assert sorted(full.recommend(session, k, mode="exact").items) == sorted(SHOPS["full"].ids)


@pytest.mark.parametrize(
    "kind",
    [list, tuple, np.array, iter, lambda ids: np.array(ids, dtype=object), lambda ids: (own for own in ids)],
)
def test_kinds_of_sessions(
    kind: Callable[[list[Any]], Any], loaded: dict[tuple[str, str], Recommender]
) -> None:
    for name, shop in SHOPS.items():
        ids = shop.ids[3:6]
        want = loaded[name, "c"].recommend(ids, 5)
        assert loaded[name, "c"].recommend(kind(ids), 5).items == want.items
        assert loaded[name, "c"].recommend_many(iter([kind(ids)]), 5)[0].items == want.items


BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    (
        {"session": "shoe-17"},
        errors.SessionTypeError,
        "session is 'shoe-17', of type str; it must be a list, tuple",
    ),
    ({"session": b"shoe"}, errors.SessionTypeError, "session is b'shoe', of type bytes; it must be"),
    ({"session": {"a": 1}}, errors.SessionTypeError, "session is {'a': 1}, of type dict; it must be"),
    ({"session": {"a"}}, errors.SessionTypeError, "session is {'a'}, of type set; it must be"),
    (
        {"session": frozenset()},
        errors.SessionTypeError,
        "session is frozenset(), of type frozenset; it must be",
    ),
    ({"session": None}, errors.SessionTypeError, "session is None; it must be"),
    ({"session": 17}, errors.SessionTypeError, "session is 17, of type int; it must be"),
    (
        {"session": np.zeros((2, 2))},
        errors.SessionTypeError,
        "session is an array of shape (2, 2); it must be",
    ),
    ({"session": np.array("a")}, errors.SessionTypeError, "session is an array of shape (); it must be"),
    (
        {"session": ["0", 17]},
        errors.ItemIdTypeError,
        "item id at position 1 is 17, of type int; the ids of this",
    ),
    (
        {"session": ["0", None]},
        errors.ItemIdTypeError,
        "item id at position 1 is None; the ids of this catalogue are",
    ),
    ({"session": [["0"]]}, errors.ItemIdTypeError, "item id at position 0 is ['0'], of type list; the ids"),
    ({"session": [math.nan]}, errors.ItemIdNaNError, "item id at position 0 is NaN, a missing value"),
    (
        {"session": ["0", "hat-1"], "unknown": "error"},
        errors.UnknownItemError,
        "item id 'hat-1' at position 1 is not in the catalogue; unknown='skip' leaves such ids out",
    ),
    ({"k": 0}, errors.KError, "k is 0; it must be a whole number of at least 1"),
    ({"k": -3}, errors.KError, "k is -3; it must be"),
    ({"k": 2.0}, errors.KError, "k is 2.0; it must be"),
    ({"k": True}, errors.KError, "k is True; it must be"),
    ({"k": "5"}, errors.KError, "k is '5'; it must be"),
    ({"k": None}, errors.KError, "k is None; it must be"),
    ({"mode": "fast"}, errors.OptionError, "mode is 'fast'; it must be 'candidates', 'exact' or 'auto'"),
    ({"mode": None}, errors.OptionError, "mode is None; it must be"),
    ({"candidates": 0}, errors.OptionError, "candidates is 0; it must be a number above 0 and up to 1"),
    ({"candidates": 1.01}, errors.OptionError, "candidates is 1.01; it must be"),
    ({"candidates": -0.5}, errors.OptionError, "candidates is -0.5; it must be"),
    ({"candidates": math.nan}, errors.OptionError, "candidates is nan; it must be"),
    ({"candidates": True}, errors.OptionError, "candidates is True; it must be"),
    ({"candidates": "0.04"}, errors.OptionError, "candidates is '0.04'; it must be"),
    ({"unknown": "ignore"}, errors.OptionError, "unknown is 'ignore'; it must be 'skip' or 'error'"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), BAD)
def test_bad_input(
    arguments: dict[str, Any], error: type[Exception], message: str, full: Recommender
) -> None:
    assert issubclass(error, errors.InputError)
    session = arguments.get("session", ["0"])
    options = {name: value for name, value in arguments.items() if name != "session"}
    with pytest.raises(error, match=re.escape(message)) as caught:
        full.recommend(session, **options)
    assert type(caught.value) is error
    assert str(caught.value).startswith(message)
    with pytest.raises(error, match=re.escape(message)):
        full.recommend_many([["0"], session], **options)
    if "session" in arguments:
        with pytest.raises(error, match=f"^session 1: {re.escape(message)}"):
            full.recommend_many([["0"], session], **options)


@pytest.mark.parametrize("sessions", ["shoe-17", b"x", {"a": ["0"]}, None, 5])
def test_no_list_of_sessions(sessions: Any, full: Recommender) -> None:
    with pytest.raises(errors.SessionTypeError, match=r"^sessions is .*; it must be a list of sessions"):
        full.recommend_many(sessions)


@pytest.mark.parametrize("batch_size", [0, -1, 2.0, True, None])
def test_bad_batch_size(batch_size: Any, full: Recommender) -> None:
    with pytest.raises(
        errors.OptionError, match=r"batch_size is .*; it must be a whole number of at least 1"
    ):
        full.recommend_many([["0"]], batch_size=batch_size)


@pytest.mark.parametrize("ids", [["0", "shoe-17"], [17, 40], np.array([17, 40])])
def test_a_flat_list_of_ids_is_no_list_of_sessions(ids: Any, full: Recommender) -> None:
    with pytest.raises(
        errors.SessionTypeError, match=r"^session 0: session is .*of type .*; for one session use recommend\(\)$"
    ):
        full.recommend_many(ids)
    with pytest.raises(errors.SessionTypeError) as caught:  # a list of sessions, one of them no list
        full.recommend_many([["0"], "shoe-17"])
    assert "recommend()" not in str(caught.value)


def test_sixteen_threads(full: Recommender) -> None:
    random = np.random.default_rng(0)
    ids = np.array(SHOPS["full"].ids)
    many = [ids[random.integers(0, ITEMS, random.integers(1, 9))].tolist() for _ in range(400)]
    alone = [full.recommend(session, 9) for session in many]
    full.catalog.__dict__.pop("popular", None)  # computed when it is first asked for
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(16) as pool:
            together = list(pool.map(lambda session: full.recommend(session, 9), many))
            popular = list(pool.map(lambda _: full.recommend([], 9).items, range(16)))
    finally:
        sys.setswitchinterval(interval)
    for one, other in zip(alone, together, strict=True):
        assert one.items == other.items
        assert one.scores.tolist() == other.scores.tolist()
        assert one.ranges.tolist() == other.ranges.tolist()
    assert len(set(popular)) == 1


def test_providers(tmp_path: Path) -> None:
    path = SHOPS["bare"].write(tmp_path / "bundle")
    with pytest.raises(errors.ProviderError, match="provider 'tpu' is unknown; there are 'cpu', 'cuda'"):
        Recommender.load(path, providers=("tpu",))
    with pytest.raises(
        errors.OptionError, match=r"providers is 'cpu'; it must be a list of names such as \('cpu',\)"
    ):
        Recommender.load(path, providers="cpu")
    with pytest.raises(errors.OptionError, match=r"providers is \(\); it must be a list of names"):
        Recommender.load(path, providers=())
    with pytest.raises(errors.BackendError, match="'fortran' is not available"):
        Recommender.load(path, backend="fortran")
    no_counts: list[Any] = [0, 1.5, True]
    for threads in no_counts:
        with pytest.raises(errors.OptionError, match=f"threads is {threads}; it must be a whole number"):
            Recommender.load(path, threads=threads)


def test_a_provider_that_is_asked_for_and_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = SHOPS["bare"].write(tmp_path / "bundle")
    cpu, cuda = "CPUExecutionProvider", "CUDAExecutionProvider"
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [cpu])
    with pytest.raises(
        errors.ProviderError, match=r"'cuda' .*is not in the onnxruntime installed here.*hiersrec-sdk\[gpu\]"
    ):
        Recommender.load(path, providers=("cuda", "cpu"))
    # An onnxruntime that knows CUDA goes on without it, with no more than a warning, where it does not start.
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [cuda, cpu])
    monkeypatch.setattr(onnxruntime, "InferenceSession", partial(on_cpu, onnxruntime.InferenceSession))
    with pytest.raises(errors.ProviderError, match=r"'cuda' .*did not start: its driver or libraries"):
        Recommender.load(path, providers=("cuda",))
    assert Recommender.load(path).providers == ("cpu",)


def on_cpu(session: Any, model: Any, options: Any, providers: list[str]) -> Any:
    return session(model, options, ["CPUExecutionProvider"])


def test_onnxruntime_is_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = SHOPS["bare"].write(tmp_path / "bundle")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(errors.MissingExtraError, match=r"pip install 'hiersrec-sdk\[cpu\]'"):
        Recommender.load(path)
    with pytest.raises(errors.MissingExtraError, match=r"pip install 'hiersrec-sdk\[gpu\]'"):
        Recommender.load(path, providers=("cuda",))


def changed_graph(change: Callable[[onnx.GraphProto], object]) -> bytes:
    model = onnx.load_from_string(graph(SHOPS["bare"].weights, None))
    change(model.graph)
    return bytes(model.SerializeToString())


def narrow_batch(found: onnx.GraphProto) -> None:
    dimension = found.input[0].type.tensor_type.shape.dim[0]
    dimension.ClearField("dim_param")
    dimension.dim_value = 1


def double_query(found: onnx.GraphProto) -> None:
    node = onnx.helper.make_node("Cast", ["item_query"], ["wide"], to=TensorProto.DOUBLE)
    found.node.append(node)
    found.output.pop()
    found.output.append(onnx.helper.make_tensor_value_info("wide", TensorProto.DOUBLE, ["batch", DIMENSION]))


@pytest.mark.parametrize(
    ("model", "cause"),
    [
        (b"", "cannot be loaded"),
        (b"\x80\x04K\x01.", "cannot be loaded"),
        (
            changed_graph(lambda found: found.output.pop(0)),
            "output 'category_logits_0' is missing; the graph has",
        ),
        (changed_graph(lambda found: found.output.pop(2)), "output 'category_logits' is missing"),
        (changed_graph(double_query), "output 'item_query' is missing; .* wide"),
        (graph(SHOPS["bare"].weights[:2], None), "output 'category_logits_1' is missing"),
        (
            graph([*SHOPS["bare"].weights[:2], SHOPS["bare"].weights[2][:, 1:]], None),
            r"output 'category_logits' is tensor\(float\) \['batch', 8\]; it should be tensor\(float\) \['any', 9\]",
        ),
        (
            graph([weights[1:] for weights in SHOPS["bare"].weights], None),
            r"input 'session_vectors' is tensor\(float\) \['batch', 'length', 5\]; it should be .* 6\]",
        ),
        (changed_graph(narrow_batch), r"input 'session_vectors' is tensor\(float\) \[1, "),
    ],
)
def test_a_graph_that_does_not_keep_the_contract(model: bytes, cause: str, tmp_path: Path) -> None:
    shop = SHOPS["bare"]
    path = forge(tmp_path / "bundle", shop.config, shop.tensors, {"model.onnx": model})
    with pytest.raises(errors.BundleCorruptError, match=rf"model\.onnx.*{cause}"):
        Recommender.load(path)


def test_an_encoder_from_bytes() -> None:
    shop = SHOPS["full"]
    encoder = OnnxEncoder(shop.files["model.onnx"], dimension=DIMENSION, categories=SIZES, threads=2)
    vectors = shop.vectors[None, :4]
    encoded = encoder.encode(vectors, np.array([3]))
    total = vectors[0, :3].sum(axis=0)
    assert encoded.item_query.tolist() == [(8 * total).tolist()]
    assert [logits.shape for logits in encoded.category_logits] == [(1, size) for size in SIZES]
    assert encoded.category_logits[-1][0].tolist() == (total @ shop.weights[-1]).tolist()
    assert encoded.repeat_logits is not None
    assert encoded.repeat_logits.shape == (1, 4)
    assert encoded.repeat_logits[0, 3] == 0
