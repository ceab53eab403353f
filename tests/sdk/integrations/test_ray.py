"""Ray Data answers what `recommend` answers: a real Ray on this machine."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hiersrec_sdk import errors
from hiersrec_sdk.integrations.ray import recommend_dataset
from tests.sdk.integrations.asked import answers, sessions_of, table_of
from tests.sdk.integrations.conftest import Known

CPUS = 3

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    module: Any = pytest.importorskip("ray", reason="Ray is not installed: pip install 'ray[data]'")
    module.init(
        num_cpus=CPUS,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=100 << 20,
    )
    context = module.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    yield module
    module.shutdown()


def test_it_answers_what_recommend_answers(ray: Any, shops: dict[str, Known], tmp_path: Path) -> None:
    for at, (name, actors) in enumerate((("string", 2), ("int64", 1))):
        shop, bundle, recommender = shops[name]
        sessions = sessions_of(shop, 200)
        options: dict[str, Any] = {"exclude_seen": True, "mode": "exact"} if at else {}
        table = table_of(sessions, shop)
        dataset = ray.data.from_arrow([table.slice(50 * part, 50) for part in range(4)])
        if actors == 1:
            pq.write_table(table, tmp_path / "sessions.parquet")
            dataset = ray.data.read_parquet(str(tmp_path / "sessions.parquet"))
        found = recommend_dataset(
            dataset,
            bundle,
            concurrency=actors,
            sessions_per_call=32,
            k=10,
            keep=["visitor", "when"],
            **options,
        )
        assert found.context.target_max_block_size == 16 << 20
        rows = found.take_all()
        wanted = {**table.to_pydict(), **answers(recommender, sessions, **options)}
        assert {column: [row[column] for row in rows] for column in wanted} == wanted
        assert {row["mode"] for row in rows} == {"exact" if at else "candidates", "popular"}


def test_bad_sessions(ray: Any, shops: dict[str, Known]) -> None:
    shop, bundle, recommender = shops["int64"]
    good = [shop.ids[4], shop.ids[9]]
    dataset = ray.data.from_arrow(pa.table({"items": pa.array([good, None], pa.list_(pa.int64()))}))
    with pytest.raises(Exception, match="row 1: session must be a list"):
        recommend_dataset(dataset, bundle).take_all()
    skipped = recommend_dataset(dataset, bundle, k=5, on_bad="skip", block_bytes=None).take_all()
    assert skipped[0]["items"] == [*recommender.recommend(good, 5).items]
    assert (skipped[1]["items"], skipped[1]["mode"]) == ([], None)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            {"concurrency": CPUS},
            f"concurrency={CPUS} and num_cpus=1 take {CPUS} of the cluster's {CPUS} CPUs",
        ),
        ({"concurrency": 2, "num_cpus": 1.2}, "one must be left for what reads the data"),
        ({"concurrency": 0}, "concurrency must be an integer ≥ 1, got 0"),
        ({"sessions_per_call": 0}, "sessions_per_call must be an integer ≥ 1, got 0"),
        ({"k": 0}, "k must be an integer ≥ 1, got 0"),
    ],
)
def test_what_would_wait_for_ever_is_refused(
    arguments: dict[str, Any], says: str, ray: Any, shops: dict[str, Known]
) -> None:
    with pytest.raises(errors.InvalidOptionError, match=says):
        recommend_dataset(ray.data.range(10), shops["int64"].bundle, **arguments)
