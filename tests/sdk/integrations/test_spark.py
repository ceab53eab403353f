"""Spark answers what `recommend` answers: a real Spark on this machine."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hiersrec_sdk import errors
from hiersrec_sdk.integrations.spark import recommend_dataframe
from tests.sdk.integrations.asked import answers, sessions_of
from tests.sdk.integrations.conftest import Known

TYPES = {"int64": "bigint", "string": "string"}


pytestmark = pytest.mark.filterwarnings("ignore:PySpark does not yet fully support pandas:FutureWarning")


@pytest.fixture(scope="module")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    sql: Any = pytest.importorskip("pyspark.sql", reason="Spark is not installed: pip install pyspark")
    if shutil.which("java") is None:
        pytest.skip("Spark needs Java, and there is none")
    settings = {
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.host": "127.0.0.1",
        "spark.sql.shuffle.partitions": "2",
        "spark.sql.warehouse.dir": str(tmp_path_factory.mktemp("warehouse")),
        "spark.ui.enabled": "false",
    }
    builder = sql.SparkSession.builder.master("local[2]").appName("tests")
    for name, value in settings.items():
        builder = builder.config(name, value)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYSPARK_PYTHON", sys.executable)  # of the workers, else it is python3
        session = builder.getOrCreate()
        session.sparkContext.setLogLevel("OFF")
        yield session
        session.stop()


def frame_of(spark: Any, sessions: list[Any], name: str) -> Any:
    rows = [(at, None if at % 3 else f"day {at}", session) for at, session in enumerate(sessions)]
    return spark.createDataFrame(
        rows, f"visitor bigint, when string, items array<{TYPES[name]}>"
    ).repartition(3)


def columns(frame: Any) -> dict[str, list[Any]]:
    rows = sorted(frame.collect(), key=lambda row: row.visitor)
    return {name: [row[name] for row in rows] for name in frame.columns}


@pytest.mark.parametrize("name", TYPES)
def test_it_answers_what_recommend_answers(name: str, spark: Any, shops: dict[str, Known]) -> None:
    shop, bundle, recommender = shops[name]
    sessions = sessions_of(shop, 200)
    options: dict[str, Any] = {"exclude_seen": True, "mode": "exact"} if name == "string" else {}
    frame = frame_of(spark, sessions, name)
    found = recommend_dataframe(frame, bundle, k=10, keep=["visitor", "when"], **options)
    assert found.schema.simpleString() == (
        f"struct<visitor:bigint,when:string,items:array<{TYPES[name]}>,scores:array<float>,mode:string,unknown_ids:int>"
    )
    when = [None if at % 3 else f"day {at}" for at in range(200)]
    wanted = {"visitor": [*range(200)], "when": when, **answers(recommender, sessions, **options)}
    assert columns(found) == wanted


def test_a_bundle_that_spark_has_sent(spark: Any, shops: dict[str, Known], tmp_path: Path) -> None:
    shop, bundle, recommender = shops["int64"]
    archive = shutil.make_archive(str(tmp_path / "sent"), "zip", bundle)
    spark.sparkContext.addFile(archive)
    spark.sparkContext.addArchive(f"{archive}#unpacked")
    sessions = sessions_of(shop, 20)
    for name in ("sent.zip", "unpacked"):
        found = recommend_dataframe(
            frame_of(spark, sessions, "int64"), name, spark_file=True, k=10, keep=["visitor"]
        )
        assert columns(found)["items"] == answers(recommender, sessions)["items"]


def test_bad_sessions(spark: Any, shops: dict[str, Known]) -> None:
    shop, bundle, recommender = shops["int64"]
    good = [shop.ids[4], shop.ids[9]]
    frame = frame_of(spark, [good, None, [None]], "int64")
    with pytest.raises(Exception, match=r"session must be a list|item id at position 0 is None"):
        recommend_dataframe(frame, bundle).collect()
    found = columns(recommend_dataframe(frame, bundle, k=5, keep=["visitor"], on_bad="skip"))
    assert found["items"] == [[*recommender.recommend(good, 5).items], [], []]
    assert found["mode"][1:] == [None, None]


def test_columns_that_do_not_fit(spark: Any, shops: dict[str, Known]) -> None:
    frame = frame_of(spark, [["shoe-1"]], "string")
    with pytest.raises(
        errors.DataError, match=r"'items' has the type array<string>, .*: integers, as in this"
    ):
        recommend_dataframe(frame, shops["int64"].bundle)
    with pytest.raises(errors.DataError, match="'visitor' has the type bigint"):
        recommend_dataframe(frame, shops["int64"].bundle, session_column="visitor")
    with pytest.raises(errors.MissingColumnError, match="there is none of the name 'day'"):
        recommend_dataframe(frame, shops["string"].bundle, keep=["day"])
    with pytest.raises(errors.InvalidKError):
        recommend_dataframe(frame, shops["string"].bundle, k=0)
