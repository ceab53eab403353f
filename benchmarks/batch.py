"""Sessions a second of recommendations for many sessions: ``python -m benchmarks.batch --help``.

The sessions of a data set, repeated, are in some Parquet files. ``hiersrec recommend --sessions`` answers them with one
process and with several, then Ray Data and Spark with as many actors or cores, each with one onnxruntime thread. Times
are those of a whole run from files to files: of the command with the start of its processes, of Ray and Spark with that
of their workers, but not of the cluster. All must give the same items.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.bundles import grown_bundle
from benchmarks.tables import table
from benchmarks.timing import ensure_one_thread
from hiersrec_sdk import Recommender
from hiersrec_training.data.dataset import Dataset

COMPARED = 1_000  # sessions whose items are compared
FILES = 8  # that hold the sessions, since Ray hands out no less than a file


def write_sessions(folder: Path, data: Path, count: int) -> None:
    """Write ``count`` sessions to Parquet files in ``folder``: those of all splits of ``data``, again and again."""
    dataset = Dataset.load(data)
    splits = dataset.train, dataset.validation, dataset.test
    rows = np.concatenate([split.items for split in splits])
    lengths = np.concatenate([split.lengths for split in splits])
    offsets = np.concatenate([[0], lengths.cumsum()]).astype(np.int32)
    ids = dataset.item_ids.to_arrow().take(pa.array(rows))
    once = pa.ListArray.from_arrays(pa.array(offsets), ids)
    folder.mkdir()
    for file, visitors in enumerate(np.array_split(np.arange(count), FILES)):
        sessions = once.take(pa.array(visitors % len(once)))
        pq.write_table(pa.table({"visitor": visitors, "items": sessions}), folder / f"{file}.parquet")


def by_command(bundle: Path, sessions: Path, out: Path, processes: int, k: int) -> float:
    """Seconds of the command."""
    given = ["recommend", bundle, "--sessions", sessions, "--out", out, "--keep", "visitor", "-k", k]
    command = [sys.executable, "-m", "hiersrec_sdk.cli", *given, "--processes", processes, "--no-progress"]
    started = time.perf_counter()
    subprocess.run([*map(str, command)], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def by_ray(bundle: Path, sessions: Path, out: Path, processes: int, k: int) -> float:
    """Seconds of Ray Data with so many actors, and one CPU more for what reads and writes."""
    ray: Any = import_module("ray")
    from hiersrec_sdk.integrations.ray import recommend_dataset

    ray.init(num_cpus=processes + 1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        ray.data.DataContext.get_current().enable_progress_bars = False
        started = time.perf_counter()
        dataset = ray.data.read_parquet(str(sessions))
        found = recommend_dataset(dataset, bundle, concurrency=processes, k=k, keep=["visitor"])
        found.write_parquet(str(out))
        return time.perf_counter() - started
    finally:
        ray.shutdown()


def by_spark(bundle: Path, sessions: Path, out: Path, processes: int, k: int) -> float:
    """Seconds of Spark with so many cores."""
    sql: Any = import_module("pyspark.sql")
    from hiersrec_sdk.integrations.spark import recommend_dataframe

    os.environ["PYSPARK_PYTHON"] = sys.executable  # of the workers
    builder = sql.SparkSession.builder.master(f"local[{processes}]").config("spark.ui.enabled", "false")
    for name in ("spark.driver.bindAddress", "spark.driver.host"):
        builder = builder.config(name, "127.0.0.1")
    spark = builder.getOrCreate()
    try:
        spark.sparkContext.setLogLevel("ERROR")
        started = time.perf_counter()
        found = recommend_dataframe(spark.read.parquet(str(sessions)), bundle, k=k, keep=["visitor"])
        found.write.parquet(str(out))
        return time.perf_counter() - started
    finally:
        spark.stop()


def first_items(out: Path) -> list[list[Any]]:
    """The items of the first sessions, by visitor."""
    first = pq.read_table(out, filters=[("visitor", "<", COMPARED)], columns=["visitor", "items"])
    found: list[list[Any]] = first.sort_by("visitor")["items"].to_pylist()
    return found


def measure(
    bundle: Path, sessions: Path, count: int, processes: int, k: int, folder: Path
) -> list[list[str]]:
    """A row for each way: its name, seconds, sessions a second."""
    ways: list[tuple[str, str | None, Callable[..., float], int]] = [
        ("1 process", None, by_command, 1),
        (f"{processes} processes", None, by_command, processes),
        (f"Ray Data, {processes} actors", "ray", by_ray, processes),
        (f"Spark, {processes} cores", "pyspark", by_spark, processes),
    ]
    rows, wanted = [], None
    for at, (name, package, run, width) in enumerate(ways):
        if package is not None and find_spec(package) is None:
            rows.append([name, "not installed", ""])
            continue
        out = folder / f"{len(rows)}-{at}"
        seconds = run(bundle, sessions, out, width, k)
        files = out.glob("*.parquet")
        if sum(pq.read_metadata(file).num_rows for file in files) != count:
            raise click.ClickException(f"{name}: sessions are missing, or there twice")
        wanted = first_items(out) if wanted is None else wanted
        if first_items(out) != wanted:
            raise click.ClickException(f"{name}: other items than with 1 process")
        rows.append([name, f"{seconds:,.1f}", f"{count / seconds:,.0f}"])
    return rows


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.argument("bundle", type=click.Path(path_type=Path, exists=True))
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Data set whose sessions ask.")
@click.option("--sessions", default=1_000_000, show_default=True, help="How many; they are repeated.")
@click.option(
    "--rows", default="0", show_default=True, help="Items to grow the catalog to; several: 0,1000000."
)
@click.option(
    "--processes", default=2, show_default=True, help="Processes, actors or cores beside one process."
)
@click.option("-k", default=20, show_default=True, help="Items a session.")
def main(bundle: Path, data: Path, sessions: int, rows: str, processes: int, k: int) -> None:
    """Sessions a second of the command, of Ray Data and of Spark, from files to files."""
    for size in map(int, rows.split(",")):
        with grown_bundle(bundle, size) as path, TemporaryDirectory(dir=bundle.absolute().parent) as folder:
            asked = Path(folder) / "sessions"
            write_sessions(asked, data, sessions)
            items = len(Recommender.load(path, verify=False).catalog)
            found = measure(path, asked, sessions, processes, k, Path(folder))
            click.echo(f"{items:,} items, {sessions:,} sessions, k {k}\n")
            click.echo(table(["", "seconds", "sessions/s"], found) + "\n")


if __name__ == "__main__":
    ensure_one_thread()
    main()
