"""A recommender answers alike in threads, in an event loop, after a fork, in a spawned process, and out of a pickle."""

from __future__ import annotations

import asyncio
import multiprocessing
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from hiersrec_sdk import Recommender, errors
from tests.sdk.bundles import make_shop
from tests.waiting import PATIENCE

Answers = list[tuple[int | str, ...]]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shop(covisitation=True).write(tmp_path_factory.mktemp("shop") / "bundle")


@pytest.fixture(scope="module", params=[1, 3], ids=["one thread", "three threads"])
def recommender(request: pytest.FixtureRequest, bundle: Path) -> Recommender:
    return Recommender.load(bundle, threads=request.param)


def sessions(recommender: Recommender) -> list[list[Any]]:
    ids = recommender.catalog.ids
    return [
        list(ids(recommender.catalog.most_clicked(len(recommender.catalog))[at : at + 1 + at % 5]))
        for at in range(40)
    ]


def alone(recommender: Recommender) -> Answers:
    return [recommender.recommend(session, 9).items for session in sessions(recommender)]


def answer_into(recommender: Recommender, queue: Any) -> None:
    many = [result.items for result in recommender.recommend_many(sessions(recommender), 9, threads=2)]
    queue.put((alone(recommender), many))


def in_process(recommender: Recommender, method: str, seconds: float = 120) -> tuple[Answers, Answers]:
    context: Any = multiprocessing.get_context(method)
    queue = context.Queue()
    process = context.Process(target=answer_into, args=(recommender, queue), daemon=True)
    process.start()
    try:
        found: tuple[Answers, Answers] = queue.get(timeout=seconds)
    finally:
        process.join(PATIENCE)
        process.kill()
    return found


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_another_process(recommender: Recommender, method: str) -> None:
    wanted = alone(recommender)
    assert [
        result.items for result in recommender.recommend_many(sessions(recommender), 9, threads=2)
    ] == wanted
    assert in_process(recommender, method) == (wanted, wanted)
    assert alone(recommender) == wanted  # and the parent goes on


def test_threads(recommender: Recommender) -> None:
    wanted = alone(recommender)
    with ThreadPoolExecutor(64) as pool:
        assert all(found == wanted for found in pool.map(lambda _: alone(recommender), range(64)))


def test_an_event_loop_goes_on(recommender: Recommender) -> None:
    async def many() -> tuple[Answers, int]:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0)

        ticking = asyncio.create_task(tick())
        asked = (recommender.arecommend(each, 9, on_unknown="error") for each in sessions(recommender))
        found = await asyncio.gather(*asked)
        ticking.cancel()
        return [result.items for result in found], ticks

    answers, ticks = asyncio.run(many())
    assert answers == alone(recommender)
    assert ticks > 1


def test_a_pickle_reopens_the_bundle(
    recommender: Recommender, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = pickle.dumps(recommender)
    assert len(content) < 1_000
    monkeypatch.chdir(tmp_path)
    found = pickle.loads(content)
    assert alone(found) == alone(recommender)
    assert repr(found) == repr(recommender)
    monkeypatch.chdir(bundle.parent)
    relative = pickle.dumps(Recommender.load(bundle.name))
    monkeypatch.chdir(tmp_path)
    assert alone(pickle.loads(relative)) == alone(recommender)


def test_a_pickle_of_a_bundle_that_was_replaced_says_so(tmp_path: Path) -> None:
    """Workers that load it before and after would answer differently."""
    path = make_shop().write(tmp_path / "bundle")
    recommender = Recommender.load(path)
    content = pickle.dumps(recommender)
    recommender.catalog.remove([0])
    recommender.save(path)
    load: Callable[[bytes], Any] = pickle.loads
    with pytest.raises(
        errors.BundleError, match="is another one than that of the recommender that was pickled"
    ):
        load(content)
    assert len(load(pickle.dumps(recommender)).catalog) == len(recommender.catalog)


def test_a_pickle_without_its_bundle_says_so(tmp_path: Path) -> None:
    path = make_shop().write(tmp_path / "bundle")
    content = pickle.dumps(Recommender.load(path))
    path.rename(tmp_path / "elsewhere")
    load: Callable[[bytes], Any] = pickle.loads
    with pytest.raises(errors.BundleMissingError, match="no such folder"):
        load(content)
