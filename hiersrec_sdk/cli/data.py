"""Commands that make data: ``prepare`` a dataset folder from click logs, ``simulate`` a shop and its log."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hiersrec_sdk.cli.common import PATH, import_extra
from hiersrec_sdk.errors import InvalidOptionError


@click.command()
@click.argument("logs", nargs=-1, required=True, type=PATH)
@click.option("--out", required=True, type=PATH, help="Dataset folder to write; it must not exist.")
@click.option("--test-log", type=PATH, help="A later log to use as the test split.")
@click.option(
    "--format",
    "log_format",
    type=click.Choice(["auto", "events", "sessions"]),
    default="auto",
    show_default=True,
    help="events: one click per row (csv, csv.gz, tsv, parquet); sessions: one session per line, oldest first; "
    "auto: sessions for .txt, else events.",
)
@click.option(
    "--separator",
    help="Separator of the log's fields.  [default: comma in csv, tab in tsv, white space in txt]",
)
@click.option("--session-column", help='Log: column of the session.  [default: "session" if there is one]')
@click.option(
    "--user-column",
    help="Log: column of the user, whose clicks are cut into sessions at gaps.  [default: user]",
)
@click.option("--item-column", default="item", show_default=True, help="Log: column of the item.")
@click.option(
    "--time-column",
    default="time",
    show_default=True,
    help='Log: column of the time; "" for a log that is in order.',
)
@click.option(
    "--time-unit",
    type=click.Choice(["auto", "s", "ms", "us", "ns"]),
    default="auto",
    show_default=True,
    help="Log: unit of numeric times; auto: by their size.",
)
@click.option("--event-column", help="Log: column of the event type.")
@click.option(
    "--event",
    "events",
    multiple=True,
    help="Log: event type to keep, e.g. view; repeatable.  [default: all]",
)
@click.option(
    "--session-gap",
    type=float,
    default=30,
    show_default=True,
    help="Minutes without a click that end a session of a user.",
)
@click.option(
    "--log-category-column", help="Log: column of the item's category, where there is no item table."
)
@click.option("--items", type=PATH, help="Item table: csv, tsv or parquet; one row per item and category.")
@click.option(
    "--item-separator", help="Separator of the item table's fields.  [default: comma in csv, tab in tsv]"
)
@click.option(
    "--item-columns", help="Names of the item table's columns, separated by commas, where it has no header."
)
@click.option(
    "--item-id-column", default="item", show_default=True, help="Item table: column of the item id."
)
@click.option(
    "--category-column",
    "category_columns",
    multiple=True,
    help="Item table: column of the category; repeatable for the levels of a tree, from the top.",
)
@click.option(
    "--category-path-separator",
    help='Separator of the levels where the category column holds a path, e.g. "." for a.b.c.',
)
@click.option("--category-tree", type=PATH, help="Table of categories and their parents, empty at the top.")
@click.option("--tree-child-column", help="Category tree: column of the category.  [default: the first]")
@click.option("--tree-parent-column", help="Category tree: column of the parent.  [default: the second]")
@click.option(
    "--text-column",
    "text_columns",
    multiple=True,
    help="Item table: column of text to learn from; repeatable.",
)
@click.option(
    "--text-encoder",
    default="hashed",
    show_default=True,
    metavar="NAME",
    help="Turns an item's text into a vector. hashed: word embeddings, learned with the model; model2vec:FOLDER: a "
    "local model; MODULE:CALLABLE: your own.",
)
@click.option(
    "--item-vectors",
    type=PATH,
    metavar="FILE.npy",
    help="Your own item vectors: floats [rows, width], a row for each row of the item table; all NaN where an item "
    "has none.",
)
@click.option(
    "--title-column", help="Item table: column of the title to show to people; it may be the item id column."
)
@click.option(
    "--number-column",
    "number_columns",
    multiple=True,
    help="Item table: column of numbers, e.g. the price; repeatable.",
)
@click.option("--url-decode", is_flag=True, help='Titles and texts are URL-encoded words joined by "_".')
@click.option(
    "--all-items", is_flag=True, help="Keep items of the table that have no clicks in the training split."
)
@click.option(
    "--min-item-support",
    type=int,
    default=1,
    show_default=True,
    help="Fewest clicks of an item in the training split.",
)
@click.option(
    "--min-session-length", type=int, default=2, show_default=True, help="Fewest clicks of a session."
)
@click.option("--test-days", type=float, help="Test split: sessions that end in the last so many days.")
@click.option("--test-fraction", type=float, help="Test split: this fraction of the sessions, the newest.")
@click.option(
    "--validation-fraction",
    type=float,
    default=0.1,
    show_default=True,
    help="Validation split: this fraction of the sessions before the test split, the newest.",
)
@click.option(
    "--shuffle-seed", type=int, help="Shuffle sessions before they are split, for logs that have no order."
)
def prepare(out: Path, logs: tuple[Path, ...], item_columns: str | None, **options: Any) -> None:
    """Read click LOGS and an item table, filter and split them, and write a dataset folder."""
    prepare_options = import_extra("hiersrec_training.data.options", "prepare").PrepareOptions
    prepare_data = import_extra("hiersrec_training.data.prepare", "prepare").prepare
    if out.exists():
        raise InvalidOptionError(f"{out} exists already; choose another folder or remove it")
    names = tuple(name.strip() for name in item_columns.split(",")) if item_columns else ()
    prepare_data(prepare_options(logs=logs, item_columns=names, **options), click.echo).save(out)
    click.echo(f"written to {out}")


@click.command()
@click.option("--out", required=True, type=PATH, help="Folder to write; it must not exist.")
@click.option("--items", type=int, default=2000, show_default=True, help="Number of items.")
@click.option("--sessions", type=int, default=20000, show_default=True, help="Number of sessions in the log.")
@click.option(
    "--seed", type=int, default=0, show_default=True, help="Seed; the output depends on nothing else."
)
@click.option("--days", type=int, default=30, show_default=True, help="Days that the log covers.")
def simulate(out: Path, items: int, sessions: int, seed: int, days: int) -> None:
    """Write a SIMULATED shop: an item table with three category levels, prices and names, and a click log."""
    module = import_extra("hiersrec_training.data.simulate", "simulate")
    module.simulate(out, items=items, sessions=sessions, seed=seed, days=days)
    click.echo(f"simulated shop written to {out}; README.txt in it says how to prepare it")
