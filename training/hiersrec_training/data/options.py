"""Options of ``prepare``: one field for each option of the command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from hiersrec_sdk.errors import InvalidOptionError
from hiersrec_training.data.text_encoders import HASHED, without_folders

LOG_FORMATS = ("auto", "events", "sessions")
TIME_UNITS = ("auto", "s", "ms", "us", "ns")


@dataclass(frozen=True)
class PrepareOptions:
    """The comment above each field is its help text."""

    # Click logs of the training split: csv, tsv, parquet (one event a row) or txt (one session a line); csv.gz too.
    logs: Sequence[Path]
    # A later log, as the test split; the default takes it from the end of the logs, or leaves it empty.
    test_log: Path | None = None
    # events (one click a row), sessions (one session a line), or auto: sessions for .txt, else events.
    log_format: str = "auto"
    # Separator of the fields of a log; default: comma for csv, tab for tsv, white space in session files.
    separator: str | None = None

    # Event log: column of the session; default: "session" where there is one, else sessions are cut by user.
    session_column: str | None = None
    # Event log: column of the user, whose clicks are cut into sessions at a gap; default: "user".
    user_column: str | None = None
    # Event log: column of the item.
    item_column: str = "item"
    # Event log: column of the time (Unix time or ISO date and time); "" for a log without, in order of its rows.
    time_column: str = "time"
    # Event log: unit of numeric times: s, ms, us, ns, or auto by their size.
    time_unit: str = "auto"
    # Event log: column of the type of event.
    event_column: str | None = None
    # Event log: types of event to keep (default: all), e.g. view.
    events: Sequence[str] = ()
    # Event log: minutes without an event after which a user's next event begins a new session.
    session_gap: float = 30.0
    # Event log: column with the category of the clicked item, for logs without an item table.
    log_category_column: str | None = None

    # The item table: csv, tsv or parquet, one row an item (several for several categories); # begins a comment line.
    items: Path | None = None
    # Separator of the fields of the item table; default: comma for csv, tab for tsv.
    item_separator: str | None = None
    # Names of the item table's columns, for a table without a header.
    item_columns: Sequence[str] = ()
    # Item table: column of the item id.
    item_id_column: str = "item"
    # Item table: column of the category; several are the levels of a tree, the top one first.
    category_columns: Sequence[str] = ()
    # Separator of the levels where one category column holds a whole path, e.g. "." for a.b.c.
    category_path_separator: str | None = None
    # A table of category and parent category (empty at the top) for the ids of the category column.
    category_tree: Path | None = None
    # Category tree: column of the category; default: the first column.
    tree_child_column: str | None = None
    # Category tree: column of the parent; default: the second column.
    tree_parent_column: str | None = None
    # Item table: columns of words to learn from (title, brand, description), joined by a space.
    text_columns: Sequence[str] = ()
    # Encoder of an item's text: hashed (learnt by the model), model2vec:FOLDER or MODULE:CALLABLE.
    text_encoder: str = HASHED
    # A .npy file of vectors, float [rows, m] for the item table's rows; a row of NaN where there is none.
    item_vectors: Path | None = None
    # Item table: column of the title to show to people; it may be the item id column.
    title_column: str | None = None
    # Item table: columns of numbers, e.g. the price.
    number_columns: Sequence[str] = ()
    # Titles and texts are URL-encoded words joined by "_": decode them.
    url_decode: bool = False
    # Keep every item of the item table in the catalog (default: only those clicked in the training split).
    all_items: bool = False

    # Fewest clicks an item must have, counted in the training split only; rarer items are dropped.
    min_item_support: int = 1
    # Fewest clicks a session must have, in every part; repeated with the item support until neither drops anything.
    min_session_length: int = 2
    # The test split is the sessions that end in the last so many days of the logs.
    test_days: float | None = None
    # The test split is this last fraction of the sessions.
    test_fraction: float | None = None
    # The validation split is this last fraction of the training split's sessions.
    validation_fraction: float = 0.1
    # Shuffle the sessions by this seed before they are split: for logs without times or order.
    shuffle_seed: int | None = None

    def check(self) -> None:
        """Raise :class:`InvalidOptionError` where an option is out of its range, or two do not go together."""

        def need(holds: bool, message: str) -> None:
            if not holds:
                raise InvalidOptionError(message)

        def at_most_one(*flags: str) -> None:
            given = [flag for flag in flags if self._given(flag)]
            need(len(given) < 2, f"{' and '.join(given)} do not go together: give one of them")

        need(len(self.logs) > 0, "no log was given")
        need(
            self.log_format in LOG_FORMATS,
            f"--format must be one of {', '.join(LOG_FORMATS)}, got {self.log_format!r}",
        )
        need(
            self.time_unit in TIME_UNITS,
            f"--time-unit must be one of {', '.join(TIME_UNITS)}, got {self.time_unit!r}",
        )
        need(self.session_gap > 0, f"--session-gap must be minutes > 0, got {self.session_gap}")
        need(
            self.min_item_support >= 1,
            f"--min-item-support must be an integer ≥ 1, got {self.min_item_support}",
        )
        need(
            self.min_session_length >= 2,
            f"--min-session-length must be an integer ≥ 2, got {self.min_session_length}",
        )
        need(
            0 <= self.validation_fraction < 1,
            f"--validation-fraction must be in [0, 1), got {self.validation_fraction}",
        )
        if self.test_fraction is not None:
            need(0 < self.test_fraction < 1, f"--test-fraction must be in (0, 1), got {self.test_fraction}")
        if self.test_days is not None:
            need(self.test_days > 0, f"--test-days must be a number > 0, got {self.test_days}")
        at_most_one("--test-log", "--test-days", "--test-fraction")
        at_most_one("--session-column", "--user-column")
        at_most_one("--category-column", "--log-category-column")
        at_most_one("--category-path-separator", "--category-tree")
        need(
            len(self.category_columns) < 2 or not (self.category_path_separator or self.category_tree),
            "--category-path-separator and --category-tree go with one --category-column, not with several",
        )
        for flag in ("--category-path-separator", "--category-tree"):
            need(
                not self._given(flag) or bool(self.category_columns or self.log_category_column),
                f"{flag} needs a --category-column or a --log-category-column",
            )
        need(not self.events or self.event_column is not None, "--event needs an --event-column")
        for flag in (
            "--category-column",
            "--text-column",
            "--title-column",
            "--number-column",
            "--item-vectors",
            "--all-items",
        ):
            need(not self._given(flag) or self.items is not None, f"{flag} needs an item table: --items")
        encoded = self.text_encoder != HASHED
        need(not encoded or len(self.text_columns) > 0, "--text-encoder needs a --text-column")
        need(
            not encoded or self.item_vectors is None,
            "--text-encoder and --item-vectors do not go together: an item has one vector",
        )

    def _given(self, flag: str) -> bool:
        name = flag.removeprefix("--").replace("-", "_")
        value = getattr(self, name if hasattr(self, name) else f"{name}s")
        return value not in (None, (), [], False)

    def as_settings(self) -> dict[str, Any]:
        """The options for the dataset's settings: paths as file names, sequences as lists."""

        def plain(value: Any) -> Any:
            if isinstance(value, Path):
                return value.name
            return [plain(v) for v in value] if isinstance(value, list | tuple) else value

        settings = {entry.name: plain(getattr(self, entry.name)) for entry in fields(self)}
        return settings | {"text_encoder": without_folders(self.text_encoder)}
