"""Recommendations for every session of a click log: parquet in, parquet out."""

from __future__ import annotations

from pathlib import Path

import click
import polars as pl
from polars.exceptions import PolarsError
from tqdm import tqdm

from hiersrec_sdk import HierSRecError, Recommender
from hiersrec_sdk.atomic import write_file


@click.command(context_settings={"show_default": True})
@click.argument("clicks", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--bundle", envvar="HIERSREC_BUNDLE", required=True, show_envvar=True, help="Folder of the bundle."
)
@click.option(
    "--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="Parquet file to write."
)
@click.option("--session-column", default="session", help="Column of CLICKS with the session's id.")
@click.option("--item-column", default="item", help="Column with the item's id.")
@click.option("--time-column", default="time", help="Column that sorts the clicks of a session.")
@click.option("-k", default=20, type=click.IntRange(1), help="Items per session.")
@click.option(
    "--chunk", default=10_000, type=click.IntRange(1), help="Sessions per batch, which bounds the memory."
)
def main(
    clicks: Path,
    bundle: str,
    out: Path,
    session_column: str,
    item_column: str,
    time_column: str,
    k: int,
    chunk: int,
) -> None:
    """Recommend items for every session of the click log CLICKS, a parquet file.

    The output has the columns session, rank, item, score and, if the bundle has titles, title.
    """
    try:
        sessions = (
            pl.scan_parquet(clicks.absolute(), glob=False)  # the one file of that name
            .sort(time_column, maintain_order=True)  # group_by keeps this order within each session
            .group_by(pl.col(session_column).alias("id"), maintain_order=True)
            .agg(pl.col(item_column).alias("items"))
            .collect()
        )
        if sessions.is_empty():
            raise click.ClickException(f"{clicks} has no rows")
        recommender = Recommender.load(bundle)
        pieces: list[pl.DataFrame] = []
        with tqdm(total=len(sessions), unit="session") as progress:
            for part in sessions.iter_slices(chunk):
                # one row per recommended item; "session" is its position in the list column
                found = recommender.recommend_many(part["items"], k, output="polars")
                pieces.append(found.with_columns(session=part["id"].gather(found["session"])))
                progress.update(len(part))
    except (HierSRecError, PolarsError) as error:
        raise click.ClickException(str(error)) from error
    write_file(
        out.absolute(), pl.concat(pieces).write_parquet
    )  # a failed run leaves no incomplete file behind


if __name__ == "__main__":
    main()
