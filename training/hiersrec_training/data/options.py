"""Options of ``prepare``: one field for each option of the command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from hiersrec_sdk.arguments import is_utf8
from hiersrec_sdk.errors import InvalidOptionError
from hiersrec_sdk.shown import shown
from hiersrec_training.data.kinds import is_delimited
from hiersrec_training.data.text_encoders import HASHED, without_folders
from hiersrec_training.data.time_formats import checked_format
from hiersrec_training.data.times import checked_zone, parse_moment

LOG_FORMATS = ("auto", "events", "sessions")
TIME_UNITS = ("auto", "s", "ms", "us", "ns")
MISSING_TEXTS = (
    *("NULL", "Null", "null", "None", "NaN", "nan", "NAN", "NaT", "NA", "N/A", "n/a", "#N/A", "<NA>", r"\N"),
    "undefined",
)
LIST_SEPARATOR = "\x1f"  # between the parts of a path that was a list

# Options that only event logs have, and those that only session files have.
_EVENT_OPTIONS = (
    *(
        "session_column",
        "user_column",
        "item_column",
        "time_column",
        "order_column",
        "event_column",
        "events",
    ),
    *("time_unit", "time_format", "time_zone", "since", "until", "session_gap", "session_per_file"),
    *("log_columns", "list_separator", "drop_repeats"),
)
_SESSION_OPTIONS = ("line_id",)
# Options that say something about items, and those of text with columns: session files have neither.
_ABOUT_ITEMS = (
    "category_columns",
    "fallback_category_column",
    "text_columns",
    "title_column",
    "number_columns",
)
_TEXT_TABLES = ("quote", "multiline", "skip_malformed")
# Options about times, for logs that have some.
_TIME_OPTIONS = ("since", "until", "time_format", "time_unit", "time_zone", "drop_repeats")
_MOST = 1e6  # minutes or days
# What a field of an annotation may be, and how that is called.
_KINDS: dict[str, tuple[Any, str]] = {
    "int": (int | np.integer, "an integer"),
    "float": (int | float | np.number, "a number"),
    "str": (str, "a text"),
    "Sequence[str]": (list | tuple, "a list"),
}


@dataclass(frozen=True)
class PrepareOptions:
    """The arguments of ``hiersrec prepare`` but ``--out``, each a field that is named like it, with ``_`` for ``-``.

    Named otherwise are ``log_format`` (``--format``), ``events`` (``--event``), ``category_columns``, ``text_columns``
    and ``number_columns`` (``--category-column`` and so on); ``default_missing=False`` is ``--no-default-missing``, and
    ``session_per_file=False`` is ``--session-across-files``.

    A log, the item table and the category tree may be the path of a file or a frame: a Polars, pandas or Arrow table.
    """

    #: Click logs of the training split: csv, tsv, parquet, jsonl (one event a row), txt (one session a line).
    logs: Sequence[Any]
    #: A later log, as the test split; the default takes it from the end of the logs, or leaves it empty.
    test_log: Any = None
    #: Logs are patterns such as ``logs/*.csv``; without this every path is taken literally.
    glob: bool = False

    #: events (one click a row), sessions (one session a line), or auto: sessions for .txt, else events.
    log_format: str = "auto"
    #: Names of the log's columns, for a log without a header.
    log_columns: Sequence[str] = ()
    #: Separator of the fields of a log; default: comma for csv, tab for tsv, white space in session files.
    separator: str | None = None
    #: Character around fields that hold separators, or "none"; default: " but none where the separator is a tab.
    quote: str | None = None
    #: Lines that begin with this text are comments; default: there are no comments.
    comment: str | None = None
    #: Quoted fields may span lines, and hold what looks like rows; the default takes that for a stray quote.
    multiline: bool = False
    #: Encoding of text files.
    encoding: str = "utf-8"
    #: More texts that stand for a missing value, in every column, beside the defaults: NULL, Null, null, None, NaN,
    #: nan, NAN, NaT, NA, N/A, n/a, #N/A, <NA>, ``\N`` and undefined.
    missing: Sequence[str] = ()
    #: The default texts stand for a missing value; otherwise those of ``missing`` alone do.
    default_missing: bool = True
    #: Leave out rows with too many or too few fields, counted; the default is an error.
    skip_malformed: bool = False
    #: Session file: the first field of each line is an id of the session or user, not an item.
    line_id: bool = False

    #: Event log: column of the session; default: "session" where there is one, else sessions are cut by user; "" where
    #: each row is a session, with a list of items.
    session_column: str | None = None
    #: Event log: column of the user, whose clicks are cut into sessions at a gap; default: "user". Beside a session
    #: column: session ids begin anew for each user.
    user_column: str | None = None
    #: Event log: column of the item; default: "item".
    item_column: str | None = None
    #: Event log: column of the time, or of date and time of day; default: "time"; "" for a log without, in order.
    time_column: str | Sequence[str] | None = None
    #: Event log: column of numbers that order the clicks of a session with equal times; or all, without a time column.
    order_column: str | None = None
    #: Event log: column of the type of event.
    event_column: str | None = None
    #: Event log: types of event to keep (default: all), e.g. view.
    events: Sequence[str] = ()
    #: Event log: separator of the items where one cell holds a whole session.
    list_separator: str | None = None

    #: Event log: unit of numeric times: s, ms, us, ns, or auto: found file by file, where it is beyond doubt.
    time_unit: str | None = None
    #: Event log: format of times, such as "%d.%m.%Y %H:%M"; or excel, ticks (.NET), filetime (Windows).
    time_format: str | None = None
    #: Event log: time zone of times without one, such as Europe/Berlin; default: UTC.
    time_zone: str | None = None
    #: Event log: leave out clicks before this date or time.
    since: str | date | None = None
    #: Event log: leave out clicks at this date or time and later ones.
    until: str | date | None = None

    #: Event log: minutes without an event after which a user's next event begins a new session; default: 30.
    session_gap: float | None = None
    #: Event log: whether a session id in several logs is a new session in each; default: an error where it is in doubt.
    session_per_file: bool | None = None
    #: Event log: leave out exact repeats of an event: the same session, item, time and type.
    drop_repeats: bool = False
    #: A longer session keeps its newest so many clicks.
    max_session_length: int = 200

    #: The item table: csv, tsv, parquet or jsonl, one row an item (several for several categories); default: the log.
    items: Any = None
    #: Separator of the fields of the item table; default: comma for csv, tab for tsv.
    item_separator: str | None = None
    #: Encoding of the item table and the category tree; default: that of the logs.
    item_encoding: str | None = None
    #: Names of the item table's columns, for a table without a header.
    item_columns: Sequence[str] = ()
    #: Item table: column of the item id.
    item_id_column: str = "item"
    #: Column of the category; several are the levels of a tree, the top one first. Without item table: of the log.
    category_columns: Sequence[str] = ()
    #: Column of a category for items whose category column is empty.
    fallback_category_column: str | None = None
    #: Separator where a cell holds several categories, the main one first, e.g. "|" for Action|Comedy.
    category_separator: str | None = None
    #: Separator of the levels where one category column holds a whole path, e.g. "." for a.b.c.
    category_path_separator: str | None = None
    #: A list in the category column is a path, from the top down; default: it holds several categories.
    category_list_is_path: bool = False
    #: A table of category and parent category (empty at the top) for the ids of the category column.
    category_tree: Any = None
    #: Category tree: the id above all categories, such as 0 or -1, which is none itself; default: they have no parent.
    tree_root: str | None = None
    #: Separator of the fields of the category tree; default: comma for csv, tab for tsv.
    tree_separator: str | None = None
    #: Category tree: column of the category; default: the first of two columns.
    tree_child_column: str | None = None
    #: Category tree: column of the parent; default: the second of two columns.
    tree_parent_column: str | None = None
    #: Columns of words to learn from (title, brand, description), joined by a space. Without item table: of the log.
    text_columns: Sequence[str] = ()
    #: Encoder of an item's text: hashed (learnt by the model), model2vec:FOLDER, onnx:FOLDER or MODULE:CALLABLE.
    text_encoder: str = HASHED
    #: A .npy file of vectors, float [rows, m] for the item table's rows; a row of NaN where there is none.
    item_vectors: Path | None = None
    #: Column of the title to show to people; it may be the item id column. Without item table: of the log.
    title_column: str | None = None
    #: Columns of numbers, e.g. the price. Without item table: of the log.
    number_columns: Sequence[str] = ()
    #: Character before the decimals of numbers: "." or ",".
    decimal: str = "."
    #: Titles and texts are URL-encoded words joined by "_": decode them.
    url_decode: bool = False
    #: Keep every item of the item table in the catalog (default: only those clicked in the training split).
    all_items: bool = False

    #: Fewest clicks an item must have, counted in the training split only; rarer items are dropped.
    min_item_support: int = 1
    #: Fewest clicks a session must have, in every part; repeated with the item support until neither drops anything.
    min_session_length: int = 2
    #: The test split is the sessions that end in the last so many days of the logs.
    test_days: float | None = None
    #: The test split is this last fraction of the sessions.
    test_fraction: float | None = None
    #: The validation split is this last fraction of the training split's sessions.
    validation_fraction: float = 0.1
    #: Shuffle the sessions by this seed before they are split: for logs without times or order.
    shuffle_seed: int | None = None
    #: Accept test sessions that are in the training split too, click by click, as in a funnel of few pages.
    allow_copies: bool = False

    def check(self) -> None:
        """Raise :class:`InvalidOptionError` where an option is out of its range, or two do not go together."""

        def need(holds: bool, message: str) -> None:
            if not holds:
                raise InvalidOptionError(message)

        def at_most_one(*names: str) -> None:
            given = [flag(name) for name in names if self.given(name)]
            need(len(given) < 2, f"{' and '.join(given)} do not go together: give one of them")

        self._check_types()
        need(len(self.logs) > 0, "no log was given")
        for name, allowed in (
            ("log_format", LOG_FORMATS),
            ("decimal", (".", ",")),
            ("time_unit", (*TIME_UNITS, None)),
        ):
            value = getattr(self, name)
            choices = ", ".join(choice for choice in allowed if choice is not None)
            need(value in allowed, f"{flag(name)} must be one of {choices}, got {value!r}")
        for name, least in (("min_item_support", 1), ("min_session_length", 2), ("max_session_length", 2)):
            value = getattr(self, name)
            need(value >= least, f"{flag(name)} must be an integer ≥ {least}, got {value}")
        for name, unit in (("session_gap", "minutes"), ("test_days", "a number")):
            value = getattr(self, name)
            need(
                value is None or 0 < value < _MOST,
                f"{flag(name)} must be {unit} > 0 and below {_MOST:,}, got {value}",
            )
        need(
            self.shuffle_seed is None or self.shuffle_seed >= 0,
            f"--shuffle-seed must be an integer ≥ 0, got {self.shuffle_seed}",
        )
        need(
            self.min_session_length <= self.max_session_length,
            f"--min-session-length {self.min_session_length} is above --max-session-length {self.max_session_length}",
        )
        need(
            0 <= self.validation_fraction < 1,
            f"--validation-fraction must be in [0, 1), got {self.validation_fraction}",
        )
        if self.test_fraction is not None:
            need(0 < self.test_fraction < 1, f"--test-fraction must be in (0, 1), got {self.test_fraction}")
        for name in (
            *("comment", "separator", "item_separator", "tree_separator", "list_separator"),
            *("category_separator", "category_path_separator"),
        ):
            need(getattr(self, name) != "", f"{flag(name)} must be a text, got an empty one")
        checked_zone(self.time_zone)
        checked_format(self.time_format)
        since = parse_moment(self.since, "--since", self.time_zone)
        until = parse_moment(self.until, "--until", self.time_zone)
        need(
            since is None or until is None or since < until,
            f"--since {self.since} is not before --until {self.until}",
        )
        at_most_one("test_log", "test_days", "test_fraction")
        at_most_one("category_path_separator", "category_tree", "category_list_is_path")
        at_most_one("category_separator", "category_list_is_path")
        at_most_one("time_unit", "time_format")
        for name in (
            *("category_path_separator", "category_tree", "category_separator"),
            "category_list_is_path",
        ):
            need(
                len(self.category_columns) < 2 or not self.given(name),
                f"{flag(name)} goes with one --category-column, not with several",
            )
            need(
                not self.given(name) or bool(self.category_columns),
                f"{flag(name)} needs a --category-column",
            )
        need(
            self.category_separator is None or self.category_separator != self.category_path_separator,
            "--category-separator and --category-path-separator must differ",
        )
        need(
            self.fallback_category_column is None or bool(self.category_columns),
            "--fallback-category-column needs a --category-column",
        )
        need(not self.events or self.event_column is not None, "--event needs an --event-column")
        need(
            self.session_column != "" or self.user_column is None,
            "--session-column '' makes each row a session: it does not go with --user-column",
        )
        for name in ("item_vectors", "all_items", "item_columns", "item_separator"):
            need(not self.given(name) or self.items is not None, f"{flag(name)} needs an item table: --items")
        need(
            self.item_id_column == "item" or self.items is not None,
            "--item-id-column needs an item table: --items",
        )
        need(
            self.item_encoding is None or self.items is not None or self.category_tree is not None,
            "--item-encoding needs an item table or a category tree",
        )
        for name in ("tree_child_column", "tree_parent_column", "tree_separator", "tree_root"):
            need(
                not self.given(name) or self.category_tree is not None,
                f"{flag(name)} needs a --category-tree",
            )
        need(
            not self.url_decode or bool(self.text_columns) or self.title_column is not None,
            "--url-decode needs a --text-column or a --title-column",
        )
        if not self.time_columns:
            given = [flag(name) for name in _TIME_OPTIONS if self.given(name)]
            need(not given, f"{', '.join(given)}: the log has no times, as --time-column is ''")
        encoded = self.text_encoder != HASHED
        need(not encoded or len(self.text_columns) > 0, "--text-encoder needs a --text-column")
        need(
            not encoded or self.item_vectors is None,
            "--text-encoder and --item-vectors do not go together: an item has one vector",
        )

    def _check_types(self) -> None:
        """Refuse what Python passes and the command line cannot: a text for a list, a text for a number."""

        def need(value: Any, kinds: Any, what: str, name: str) -> None:
            if not isinstance(value, kinds) or isinstance(value, bool):
                raise InvalidOptionError(f"{name} must be {what}, got {type(value).__name__}")

        need(self.logs, list | tuple, "a list of paths or tables", "logs")
        need(self.item_vectors, str | Path | None, "a path", flag("item_vectors"))
        for entry in fields(self):
            value, kind = getattr(self, entry.name), str(entry.type)
            if value is None and kind.endswith(" | None"):
                continue
            kinds, what = _KINDS.get(kind.removesuffix(" | None"), (object, ""))
            if what:
                need(value, kinds, what, flag(entry.name))
            if isinstance(value, list | tuple) and entry.name != "logs":
                for each in value:
                    need(each, str, "texts", flag(entry.name))
            for each in value if isinstance(value, list | tuple) else [value]:
                if isinstance(each, str) and entry.name != "logs" and not is_utf8(each):
                    raise InvalidOptionError(f"{flag(entry.name)} must be UTF-8 text, got {shown(each)}")

    def given(self, name: str) -> bool:
        """Whether an option was given."""
        value = getattr(self, name)
        is_empty = isinstance(value, list | tuple | str) and not value
        return value is not None and value is not False and not is_empty

    def given_for(self, log_format: str) -> list[str]:
        """The options that were given although logs of ``log_format``, events or sessions, do not have them."""
        if log_format == "events":
            names: tuple[str, ...] = _SESSION_OPTIONS
        else:
            names = _EVENT_OPTIONS
            if self.items is None:
                names += _ABOUT_ITEMS
            if not is_delimited(self.items) and not is_delimited(self.category_tree):
                names += _TEXT_TABLES
        return [flag(name) for name in names if self.given(name)]

    @property
    def missing_texts(self) -> tuple[str, ...]:
        """All texts that stand for a missing value."""
        return (*(MISSING_TEXTS if self.default_missing else ()), *self.missing)

    @property
    def path_separator(self) -> str | None:
        """Between the parts of a category's path, as typed; None where there are no paths."""
        return LIST_SEPARATOR if self.category_list_is_path else self.category_path_separator

    @property
    def gap(self) -> float:
        """Minutes without an event that end a session of a user."""
        return 30.0 if self.session_gap is None else self.session_gap

    @property
    def time_columns(self) -> list[str]:
        """The columns of the time; none for a log without."""
        if self.time_column is None:
            return ["time"]
        columns = [self.time_column] if isinstance(self.time_column, str) else list(self.time_column)
        return [column for column in columns if column]

    @property
    def cuts_test_split(self) -> bool:
        """Whether the test split is the newer part of the logs."""
        return self.test_days is not None or self.test_fraction is not None

    @property
    def item_description_columns(self) -> dict[str, str]:
        """The columns that describe items, each with the option that names it."""
        named = {
            "--category-column": self.category_columns,
            "--fallback-category-column": [self.fallback_category_column],
            "--text-column": self.text_columns,
            "--number-column": self.number_columns,
            "--title-column": [self.title_column],
        }
        wanted: dict[str, str] = {}
        for option, columns in named.items():
            for column in columns:
                if column is not None:
                    wanted.setdefault(column, option)
        return wanted

    def as_settings(self) -> dict[str, Any]:
        """The options for the dataset's settings: paths as file names, sequences as lists."""

        def plain(value: Any) -> Any:
            if isinstance(value, np.generic):
                return value.item()
            if isinstance(value, Path):
                return value.name
            if isinstance(value, list | tuple):
                return [plain(v) for v in value]
            if isinstance(value, date):
                return value.isoformat()
            return value if value is None or isinstance(value, str | int | float) else "frame"

        settings = {entry.name: plain(getattr(self, entry.name)) for entry in fields(self)}
        return settings | {"text_encoder": without_folders(self.text_encoder), "session_gap": self.gap}


_FLAGS = {
    "log_format": "--format",
    "events": "--event",
    "category_columns": "--category-column",
    "text_columns": "--text-column",
    "number_columns": "--number-column",
    "session_per_file": "--session-per-file",
    "default_missing": "--no-default-missing",
    "logs": "LOGS",
}


def flag(name: str) -> str:
    """The command-line option of a field."""
    return _FLAGS.get(name, f"--{name.replace('_', '-')}")
