"""The public data sets of the studies: how each is prepared, and what is trained on it with which settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import polars as pl

from hiersrec_training.data.prepare import PrepareOptions, prepare


@dataclass(frozen=True)
class DataSet:
    """``logs``: the file that tells whether it is there; ``settings``: of the training, over the defaults;
    ``neural_epochs``: at most, of the neural baselines, which settle later where there are fewer sessions;
    ``reduced``: newest sessions and epochs of the studies with many trainings, None for all.
    """

    logs: str
    options: Callable[[Path], PrepareOptions]
    neural_epochs: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    reduced: tuple[int | None, int | None] = (None, None)


def _diginetica(folder: Path) -> PrepareOptions:
    # names, prices and raw ids are left out: which items have them says when they were clicked (docs/results/trials.md)
    return PrepareOptions(
        logs=[folder / "train_sessions.txt"],
        test_log=folder / "test_sessions.txt",
        items=folder / "items.csv",
        item_id_column="item",
        category_columns=["category"],
    )


def _retailrocket(folder: Path) -> PrepareOptions:
    return PrepareOptions(
        logs=[folder / "events_2015-09-10_to_18.csv.gz"],
        user_column="UserId",
        item_column="ItemId",
        time_column="Time",
        event_column="Type",
        events=["view"],
        category_columns=["CatId"],
        category_tree=folder / "category_tree.csv",
        test_days=1,
    )


def _wikispeedia(folder: Path) -> PrepareOptions:
    return PrepareOptions(
        logs=[folder / "paths_finished.tsv"],
        log_format="sessions",
        separator=";",
        comment="#",
        items=folder / "categories.tsv",
        item_columns=["article", "category"],
        item_id_column="article",
        category_columns=["category"],
        category_path_separator=".",
        title_column="article",
        text_columns=["article"],
        url_decode=True,
        shuffle_seed=1,
        test_fraction=0.1,
    )


def _movielens(folder: Path) -> PrepareOptions:
    # an item is in all its genres: a row for each
    items = pl.read_csv(folder / "ml-100k.item", separator="\t", quote_char=None, infer_schema_length=None)
    return PrepareOptions(
        logs=[pl.read_csv(folder / "ml-100k.inter", separator="\t")],
        user_column="user_id:token",
        item_column="item_id:token",
        time_column="timestamp:float",
        items=items.with_columns(pl.col("class:token_seq").str.split(" ")).explode("class:token_seq"),
        item_id_column="item_id:token",
        category_columns=["class:token_seq"],
        title_column="movie_title:token_seq",
        text_columns=["movie_title:token_seq"],
        test_fraction=0.3,
    )


DATA_SETS: Mapping[str, DataSet] = {
    "diginetica": DataSet("train_sessions.txt", _diginetica, 3, reduced=(40_000, 2)),
    "retailrocket": DataSet("events_2015-09-10_to_18.csv.gz", _retailrocket, 6),
    # no dates, so no age; few, reliable links between articles, so less dropout and more epochs: chosen on the
    # validation split
    "wikispeedia": DataSet(
        "paths_finished.tsv",
        _wikispeedia,
        5,
        {"age_decay": 0.0, "epochs": 6, "dropout": 0.1, "temperature": 0.05},
        reduced=(20_000, 3),
    ),
    # ratings of films, in the form of the package recbole; on the validation split it settles in four epochs
    "ml-100k": DataSet("ml-100k.inter", _movielens, 20, {"age_decay": 0.0, "epochs": 4}),
}


def prepared(name: str, source: Path, work: Path) -> Path | None:
    """The dataset folder ``work/name/data``, made from ``source/name`` where it is not there yet.

    None, with a line that says so, where ``source`` lacks the data set.
    """
    folder = work / name / "data"
    if folder.exists():
        return folder
    if not (source / name / DATA_SETS[name].logs).is_file():
        click.echo(f"{name} is skipped: it is not in {source}", err=True)
        return None
    prepare(DATA_SETS[name].options(source / name), lambda line: None).save(folder)
    return folder
