"""The session encoder on a GPU beside the CPU.

Skipped where CUDA does not start; test_runtime.py has what happens then.
"""

from __future__ import annotations

import numpy as np
import pytest

from hiersrec_sdk import Recommender, Result
from hiersrec_sdk.encoders.runtime import check_starts
from hiersrec_sdk.errors import HierSRecError
from tests.sdk.bundles import make_shop

PROVIDER = "cuda"
SESSIONS = 1_000


def why_not() -> str:
    """Why the provider cannot be used here; empty where it can."""
    try:
        check_starts(PROVIDER)
    except HierSRecError as error:
        return str(error)
    return ""


REASON = why_not()
pytestmark = pytest.mark.skipif(bool(REASON), reason=REASON)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recommender, Recommender]:
    """A shop on the CPU and on the GPU."""
    path = make_shop(covisitation=True).write(tmp_path_factory.mktemp("shop") / "bundle")
    return Recommender.load(path), Recommender.load(path, providers=(PROVIDER,))


def asked(recommender: Recommender) -> list[list[int | str]]:
    random = np.random.default_rng(0)
    rows = [random.integers(0, len(recommender.catalog), random.integers(1, 12)) for _ in range(SESSIONS)]
    return [list(recommender.catalog.ids(each)) for each in rows]


def assert_alike(wanted: list[Result], found: list[Result]) -> None:
    for want, have in zip(wanted, found, strict=True):
        assert want.items == have.items
        np.testing.assert_allclose(have.scores, want.scores, rtol=1e-5, atol=1e-5)


def test_items_and_scores_are_those_of_the_cpu(both: tuple[Recommender, Recommender]) -> None:
    cpu, gpu = both
    sessions = asked(cpu)
    assert_alike([cpu.recommend(each) for each in sessions], [gpu.recommend(each) for each in sessions])


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("batch_size", [64, 1024])
def test_many_sessions_too(batch_size: int, threads: int, both: tuple[Recommender, Recommender]) -> None:
    cpu, gpu = (each.recommend_many(asked(each), batch_size=batch_size, threads=threads) for each in both)
    assert_alike(cpu, gpu)
