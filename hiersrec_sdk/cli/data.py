"""Commands that make data: ``prepare`` a dataset folder from click logs, ``simulate`` a shop and its log."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click

from hiersrec_sdk.cli.common import INTEGER, NUMBER, PATH, SectionCommand, SectionOption, import_extra
from hiersrec_sdk.errors import InvalidOptionError

_FILES = partial(click.option, cls=SectionOption, section="Files and formats")
_COLUMNS = partial(click.option, cls=SectionOption, section="Columns of an event log")
_TIMES = partial(click.option, cls=SectionOption, section="Times")
_SESSIONS = partial(click.option, cls=SectionOption, section="Sessions")
_ITEMS = partial(
    click.option, cls=SectionOption, section="Items (of the log itself where there is no item table)"
)
_CATEGORIES = partial(click.option, cls=SectionOption, section="Categories")
_SPLITS = partial(click.option, cls=SectionOption, section="Filters and splits")


@click.command(cls=SectionCommand)
@click.argument("logs", nargs=-1, required=True, type=PATH)
@_FILES("--out", required=True, type=PATH, help="Dataset folder to write; it must not exist.")
@_FILES("--test-log", type=PATH, help="A later log to use as the test split.")
@_FILES(
    "--format",
    "log_format",
    type=click.Choice(["auto", "events", "sessions"]),
    default="auto",
    show_default=True,
    help="events: one click per row (csv, tsv, parquet, jsonl; text also .gz, .zst, .bz2, .xz, .zip); sessions: one "
    "session per line, oldest click first; auto: sessions for .txt, else events.",
)
@_FILES(
    "--glob", is_flag=True, help="LOGS are patterns such as 'logs/*.csv'; otherwise every path is literal."
)
@_FILES(
    "--separator",
    metavar="TEXT",
    help="Separator of the log's fields, e.g. ';', '\\t' or '::'.  [default: comma in csv, tab in tsv, white "
    "space in txt]",
)
@_FILES(
    "--quote",
    metavar="CHAR|none",
    help='Character around fields that hold separators.  [default: ", but none where the separator is a tab]',
)
@_FILES("--multiline", is_flag=True, help="Quoted fields may span lines, and hold what looks like rows.")
@_FILES(
    "--comment",
    metavar="TEXT",
    help="Lines that begin with this are comments, e.g. '#'.  [default: no comments]",
)
@_FILES("--encoding", default="utf-8", show_default=True, help="Encoding of text files, e.g. cp1252.")
@_FILES(
    "--missing",
    multiple=True,
    metavar="TEXT",
    help="Text that stands for a missing value, in every column; repeatable. It adds to NULL, Null, null, None, NaN, "
    "nan, NAN, NaT, NA, N/A, n/a, #N/A, <NA>, \\N and undefined.",
)
@_FILES(
    "--no-default-missing",
    "default_missing",
    is_flag=True,
    flag_value=False,
    default=True,
    help="Only the texts of --missing stand for a missing value.",
)
@_FILES(
    "--skip-malformed",
    is_flag=True,
    help="Leave out rows with too many or too few fields, instead of stopping.",
)
@_FILES(
    "--log-columns",
    metavar="NAMES",
    help="Names of the log's columns, separated by commas, if it has no header.",
)
@_COLUMNS(
    "--session-column",
    help='Column of the session; "" where each row is one, with a list of items.  [default: "session" if there is one]',
)
@_COLUMNS(
    "--user-column",
    help="Column of the user, whose clicks are cut into sessions at gaps; beside a --session-column, for session ids "
    "that begin anew for each user.  [default: user]",
)
@_COLUMNS(
    "--item-column",
    help="Column of the item; its cells may be lists, with a session a row.  [default: item]",
)
@_COLUMNS(
    "--list-separator", metavar="TEXT", help="Separator of the items where one cell holds a whole session."
)
@_COLUMNS(
    "--time-column",
    multiple=True,
    help='Column of the time; twice for date and time of day; "" for a log that is in order.  [default: time]',
)
@_COLUMNS(
    "--order-column",
    help="Column of integers that order the clicks of a session with equal times; or all clicks, without a time "
    "column.",
)
@_COLUMNS("--event-column", help="Column of the event type.")
@_COLUMNS(
    "--event", "events", multiple=True, help="Event type to keep, e.g. view; repeatable.  [default: all]"
)
@_TIMES(
    "--time-unit",
    type=click.Choice(["auto", "s", "ms", "us", "ns"]),
    help="Unit of Unix times; auto: told by their size, file by file, for times since 1995.  [default: auto]",
)
@_TIMES(
    "--time-format",
    metavar="FORMAT",
    help="Format of other times, such as '%d.%m.%Y %H:%M' or '%Y%m%d'; or excel, ticks (.NET), filetime (Windows). "
    "Without it, times are Unix times or ISO 8601: 2024-01-31, 2024/01/31, 2024-01-31 23:59, 2024-01-31T23:59:58.123Z, "
    "2024-01-31T23:59:58+01:00.",
)
@_TIMES("--time-zone", metavar="NAME", help="Zone of times without one, e.g. Europe/Berlin.  [default: UTC]")
@_TIMES("--since", metavar="TIME", help="Leave out clicks before this date or time.")
@_TIMES(
    "--until",
    metavar="TIME",
    help="Leave out clicks at this date or time, and later ones.  [default: clicks in the future are an error]",
)
@_SESSIONS(
    "--session-gap",
    type=NUMBER,
    help="Minutes without a click that end a session of a user.  [default: 30]",
)
@_SESSIONS(
    "--session-per-file/--session-across-files",
    default=None,
    help="Whether an id in several logs is a new session in each, or one.  [default: an error where it is in doubt]",
)
@_SESSIONS("--drop-repeats", is_flag=True, help="Leave out repeats: same session, item, time and event type.")
@_SESSIONS(
    "--max-session-length",
    type=INTEGER,
    default=200,
    show_default=True,
    help="Most clicks of a session, the newest; a longer one is mostly a bot.",
)
@_SESSIONS("--line-id", is_flag=True, help="Session files: each line begins with an id of session or user.")
@_ITEMS("--items", type=PATH, help="Item table: csv, tsv, parquet or jsonl; one row per item and category.")
@_ITEMS(
    "--item-separator",
    metavar="TEXT",
    help="Separator of the item table's fields.  [default: comma in csv, tab in tsv]",
)
@_ITEMS("--item-encoding", help="Encoding of item table and category tree.  [default: that of the logs]")
@_ITEMS(
    "--item-columns",
    metavar="NAMES",
    help="Names of the item table's columns, separated by commas, if it has no header.",
)
@_ITEMS("--item-id-column", default="item", show_default=True, help="Item table: column of the item id.")
@_ITEMS(
    "--text-column",
    "text_columns",
    multiple=True,
    help="Column of text to learn from, e.g. title or brand; repeatable.",
)
@_ITEMS(
    "--text-encoder",
    default="hashed",
    show_default=True,
    metavar="NAME",
    help="Turns an item's text into a vector. hashed: word embeddings, learned with the model; model2vec:FOLDER: a "
    "static model; onnx:FOLDER: a sentence encoder, with model.onnx and tokenizer.json, whose vectors are kept in the "
    "cache (hiersrec cache --help says where, hiersrec cache prune empties it); MODULE:CALLABLE: your own.",
)
@_ITEMS(
    "--item-vectors",
    type=PATH,
    metavar="FILE.npy",
    help="Your own item vectors: floats [rows, width], a row for each row of the item table; all NaN where an item "
    "has none.",
)
@_ITEMS("--title-column", help="Column of the title to show to people; it may be the item id column.")
@_ITEMS(
    "--number-column", "number_columns", multiple=True, help="Column of numbers, e.g. the price; repeatable."
)
@_ITEMS(
    "--decimal",
    type=click.Choice([".", ","]),
    default=".",
    show_default=True,
    help="Character before the decimals of numbers; the other one may separate thousands.",
)
@_ITEMS("--url-decode", is_flag=True, help='Titles and texts are URL-encoded words joined by "_".')
@_ITEMS(
    "--all-items", is_flag=True, help="Keep items of the table that have no clicks in the training split."
)
@_CATEGORIES(
    "--category-column",
    "category_columns",
    multiple=True,
    help="Column of the category; repeatable for the levels of a tree, from the top.",
)
@_CATEGORIES("--fallback-category-column", help="Column of a category for items without one in the other.")
@_CATEGORIES(
    "--category-separator",
    metavar="TEXT",
    help='Separator where a cell holds several categories, the main one first, e.g. "|".',
)
@_CATEGORIES(
    "--category-path-separator",
    metavar="TEXT",
    help='Separator of the levels where the category column holds a path, e.g. "." for a.b.c.',
)
@_CATEGORIES(
    "--category-list-is-path",
    is_flag=True,
    help="A list in the category column is a path, from the top down.  [default: it holds several categories]",
)
@_CATEGORIES("--category-tree", type=PATH, help="Table of categories and their parents, empty at the top.")
@_CATEGORIES(
    "--tree-separator",
    metavar="TEXT",
    help="Category tree: separator of its fields.  [default: comma in csv, tab in tsv]",
)
@_CATEGORIES(
    "--tree-child-column", help="Category tree: column of the category.  [default: the first of two]"
)
@_CATEGORIES(
    "--tree-parent-column", help="Category tree: column of the parent.  [default: the second of two]"
)
@_CATEGORIES(
    "--tree-root",
    metavar="ID",
    help="Category tree: the id above all categories, such as 0 or -1, which is none itself.",
)
@_SPLITS(
    "--min-item-support",
    type=INTEGER,
    default=1,
    show_default=True,
    help="Fewest clicks of an item in the training split.",
)
@_SPLITS(
    "--min-session-length", type=INTEGER, default=2, show_default=True, help="Fewest clicks of a session."
)
@_SPLITS("--test-days", type=NUMBER, help="Test split: sessions that end in the last so many days.")
@_SPLITS("--test-fraction", type=NUMBER, help="Test split: this fraction of the sessions, the newest.")
@_SPLITS(
    "--validation-fraction",
    type=NUMBER,
    default=0.1,
    show_default=True,
    help="Validation split: this fraction of the sessions before the test split, the newest.",
)
@_SPLITS(
    "--shuffle-seed",
    type=INTEGER,
    help="Shuffle sessions before they are split, for logs that have no order.",
)
@_SPLITS(
    "--allow-copies",
    is_flag=True,
    help="Accept that most test sessions are in the training split too, as in a funnel of few pages.",
)
def prepare(
    out: Path, logs: tuple[Path, ...], item_columns: str | None, log_columns: str | None, **options: Any
) -> None:
    """Read click LOGS and an item table, filter and split them, and write a dataset folder.

    Nothing is guessed: what can be read in two ways is an error that names the option which decides. The prepare report
    says what was read of each file and what was set aside. The page docs/how-to/log_formats.md has the options for many
    kinds of logs.
    """
    prepare_options = import_extra("hiersrec_training.data.options", "prepare").PrepareOptions
    prepare_data = import_extra("hiersrec_training.data.prepare", "prepare").prepare
    import_extra("hiersrec_training.data.dataset", "prepare").check_name(out)
    if out.exists():
        raise InvalidOptionError(f"{out} exists already; choose another folder or remove it")
    if not options["time_column"]:
        del options["time_column"]  # the default of PrepareOptions
    options |= {"item_columns": _names(item_columns), "log_columns": _names(log_columns)}
    prepare_data(prepare_options(logs=logs, **options), click.echo).save(out)
    click.echo(f"written to {out}")


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",")) if text else ()


@click.command()
@click.option("--out", required=True, type=PATH, help="Folder to write; it must not exist.")
@click.option("--items", type=INTEGER, default=2000, show_default=True, help="Number of items.")
@click.option(
    "--sessions", type=INTEGER, default=20000, show_default=True, help="Number of sessions in the log."
)
@click.option(
    "--seed", type=INTEGER, default=0, show_default=True, help="Seed; the output depends on nothing else."
)
@click.option("--days", type=INTEGER, default=30, show_default=True, help="Days that the log covers.")
def simulate(out: Path, items: int, sessions: int, seed: int, days: int) -> None:
    """Write a SIMULATED shop: an item table with three category levels, prices and names, and a click log."""
    module = import_extra("hiersrec_training.data.simulate", "simulate")
    module.simulate(out, items=items, sessions=sessions, seed=seed, days=days)
    click.echo(f"simulated shop written to {out}; README.txt in it says how to prepare it")
