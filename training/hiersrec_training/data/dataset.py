"""The dataset folder: written by ``prepare``, read by ``train`` and ``evaluate``.

    dataset.json        schema version, id types, levels, settings, counts, fingerprint of the tables
    items.parquet       one row an item: id, category, extra_categories, clicks, title, text, number:<name>…, vector
    categories.parquet  one row a category: level, index, parent, id
    train.parquet       one row a session, in order of time: items (indices into items.parquet), time
    validation.parquet  the sessions after them
    test.parquet        the sessions after those

A category tree is padded to one depth L (an item on an inner node gets a leaf that repeats the node), so that every
level divides the whole catalog. The index of a category within its level follows a depth-first walk, so
that a category of any level covers one contiguous range of leaf indices.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from hiersrec_sdk.arguments import is_utf8
from hiersrec_sdk.atomic import new_folder
from hiersrec_sdk.errors import DataError
from hiersrec_sdk.shown import shortened, shown
from hiersrec_training.json_files import read_json

SCHEMA_VERSION = 3
SPLITS = ("train", "validation", "test")
NUMBER_PREFIX = "number:"
VECTOR = "vector"
_ABOUT_KEYS = ("schema_version", "category_id_type", "numbers", "counts", "settings", "fingerprint")
_ABOUT_KINDS = {
    "numbers": list,
    "counts": dict,
    "settings": dict,
    "fingerprint": str,
    "category_id_type": str,
}
# Of reading tables that dataset.json does not describe, though it says that it does.
_FOREIGN_TABLES = (pl.exceptions.PolarsError, LookupError, TypeError, ValueError, ArithmeticError)


@dataclass(frozen=True)
class Sessions:
    """Sessions of item indices, end to end.

    ``items`` int32 [clicks], ``offsets`` int64 [sessions + 1], ``time`` int64 [sessions] (seconds, of the last click)
    or None where the log has no time.
    """

    items: NDArray[np.int32]
    offsets: NDArray[np.int64]
    time: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> NDArray[np.int32]:
        return self.items[self.offsets[index] : self.offsets[index + 1]]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """int64 [sessions]: clicks of each session."""
        return np.diff(self.offsets)

    @property
    def example_count(self) -> int:
        """How many prefixes have a next item: the examples of training and evaluation."""
        return int(np.maximum(self.lengths - 1, 0).sum())

    def part(self, start: int, stop: int) -> Sessions:
        """The sessions ``[start, stop)``."""
        offsets = self.offsets[start : stop + 1]
        time = None if self.time is None else self.time[start:stop]
        return Sessions(self.items[offsets[0] : offsets[-1]], offsets - offsets[0], time)

    def newest(self, count: int) -> Sessions:
        """The last ``count`` sessions, or all."""
        return self.part(max(0, len(self) - count), len(self))

    def then(self, later: Sessions) -> Sessions:
        """These sessions followed by ``later``."""
        time = None
        if self.time is not None and later.time is not None:
            time = np.concatenate([self.time, later.time])
        return Sessions(
            np.concatenate([self.items, later.items]),
            np.concatenate([self.offsets, later.offsets[1:] + self.offsets[-1]]),
            time,
        )

    @classmethod
    def from_frame(cls, frame: pl.DataFrame) -> Sessions:
        """The sessions of a frame with a list column ``items`` and a column ``time``."""
        lengths = frame["items"].list.len().to_numpy()
        items = frame["items"].explode(empty_as_null=False).cast(pl.Int32).to_numpy()
        time = None if frame["time"].null_count() else frame["time"].to_numpy().astype(np.int64)
        return cls(items, np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]), time)

    def to_frame(self) -> pl.DataFrame:
        """The inverse of :meth:`from_frame`."""
        block = 1 << 20  # sessions, as grouping takes memory
        parts = [self._lists(start, min(start + block, len(self))) for start in range(0, len(self), block)]
        items = pl.concat(parts) if parts else pl.Series("items", [], dtype=pl.List(pl.Int32))
        time = pl.Series("time", self.time if self.time is not None else [None] * len(self), dtype=pl.Int64)
        return pl.DataFrame([items, time])

    def _lists(self, start: int, stop: int) -> pl.Series:
        offsets = self.offsets[start : stop + 1]
        clicks = pl.DataFrame(
            {
                "session": np.repeat(np.arange(start, stop), np.diff(offsets)),
                "items": self.items[offsets[0] : offsets[-1]],
            }
        )
        return clicks.group_by("session", maintain_order=True).agg("items")["items"]


@dataclass(frozen=True)
class CategoryTree:
    """A tree of equal depth. Lists run over the levels, the top level first.

    ``ids[l]``: external ids (all ints or all strings) of the categories of level l, which may repeat below different
    parents; ``parents[l]`` int32: index in level l - 1 (-1 at the top).
    """

    ids: list[list[int | str]]
    parents: list[NDArray[np.int32]]

    @property
    def sizes(self) -> list[int]:
        """Categories of each level."""
        return [len(level) for level in self.ids]

    @property
    def depth(self) -> int:
        return len(self.ids)

    def paths(self) -> NDArray[np.int32]:
        """int32 [leaves, depth]: the index of each leaf's ancestor at every level."""
        path = np.arange(self.sizes[-1], dtype=np.int32)
        columns = [path]
        for parents in reversed(self.parents[1:]):
            path = parents[path]
            columns.append(path)
        return np.stack(columns[::-1], axis=1).astype(np.int32)

    def check(self) -> None:
        """Raise :class:`DataError` where the depth-first order does not hold."""
        for level, parents in enumerate(self.parents):
            if len(parents) != len(self.ids[level]):
                raise DataError(f"category level {level}: {len(self.ids[level])} ids, {len(parents)} parents")
            if level and (
                np.any(np.diff(parents) < 0) or parents[0] < 0 or parents[-1] >= self.sizes[level - 1]
            ):
                raise DataError(f"category level {level} is not in depth-first order")


@dataclass(frozen=True)
class Dataset:
    """A prepared data set. Item index = row of every item array.

    Attributes:
        item_ids: external ids, int64 or string [items].
        category: int32 [items], leaf index.
        extra_categories: for each item the other leaf indices it is listed in.
        clicks: int64 [items], clicks in the training and validation splits.
        title: string [items] with nulls, to show to people.
        text: string [items] with nulls, to learn from.
        numbers: float64 [items] by name, NaN where missing.
        tree: the category tree.
        train, validation, test: the splits, in order of time.
        vectors: float32 [items, m], made by a text encoder or given, zeros where an item has none; None where no item
            has one.
        settings: of ``prepare``, and its report.
        fingerprint: SHA-256 of the tables, once they are written.
    """

    item_ids: pl.Series
    category: NDArray[np.int32]
    extra_categories: list[list[int]]
    clicks: NDArray[np.int64]
    title: pl.Series
    text: pl.Series
    numbers: dict[str, NDArray[np.float64]]
    tree: CategoryTree
    train: Sessions
    validation: Sessions
    test: Sessions
    vectors: NDArray[np.float32] | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    fingerprint: str = ""

    @property
    def items(self) -> int:
        """Number of items."""
        return len(self.category)

    @property
    def counts(self) -> dict[str, Any]:
        """Sizes of catalog and splits, to compare with the literature."""
        return {
            "items": self.items,
            "categories": self.tree.sizes,
            "train_sessions": len(self.train),
            "validation_sessions": len(self.validation),
            "test_sessions": len(self.test),
            "train_examples": self.train.example_count,
            "validation_examples": self.validation.example_count,
            "test_examples": self.test.example_count,
        }

    def save(self, path: Path) -> None:
        """Write the folder ``path``, all or nothing.

        Raises:
            DataError: the path exists, or it cannot be written.
        """
        self.tree.check()
        check_name(path)
        try:
            with new_folder(path) as part:
                self._write(part)
        except (OSError, pl.exceptions.PolarsError) as error:
            raise DataError(f"{path} could not be written: {error}") from error

    def _write(self, folder: Path) -> None:
        frames = {"items": self._item_frame(), "categories": self._category_frame()}
        frames |= {name: getattr(self, name).to_frame() for name in SPLITS}
        for name, frame in frames.items():
            # absolute: Polars takes a leading ~ for a home folder
            frame.write_parquet(folder.absolute() / f"{name}.parquet")
        strings = {str: "string", int: "int64"}
        about = {
            "format": "hiersrec-dataset",
            "schema_version": SCHEMA_VERSION,
            "item_id_type": "string" if self.item_ids.dtype == pl.String else "int64",
            "category_id_type": strings[type(self.tree.ids[-1][0])],
            "numbers": list(self.numbers),
            "counts": self.counts,
            "settings": self.settings,
            "fingerprint": _fingerprint(folder, list(frames)),
        }
        (folder / "dataset.json").write_text(json.dumps(about, indent=2, default=str) + "\n", "utf-8")

    def _item_frame(self) -> pl.DataFrame:
        columns: dict[str, Any] = {
            "id": self.item_ids,
            "category": self.category,
            "extra_categories": pl.Series(self.extra_categories, dtype=pl.List(pl.Int32)),
            "clicks": self.clicks,
            "title": self.title.cast(pl.String),
            "text": self.text.cast(pl.String),
        }
        for name, values in self.numbers.items():
            columns[NUMBER_PREFIX + name] = pl.Series(values).fill_nan(None)
        if self.vectors is not None:
            columns[VECTOR] = self.vectors
        return pl.DataFrame(columns)

    def _category_frame(self) -> pl.DataFrame:
        rows = []
        for level, ids in enumerate(self.tree.ids):
            for index, (category_id, parent) in enumerate(zip(ids, self.tree.parents[level], strict=True)):
                rows.append((level, index, int(parent), str(category_id)))
        schema = {"level": pl.Int32, "index": pl.Int32, "parent": pl.Int32, "id": pl.String}
        return pl.DataFrame(rows, schema=schema, orient="row")

    @classmethod
    def load(cls, path: Path) -> Dataset:
        """Read the folder ``path``.

        Raises:
            DataError: not a dataset, one of another schema version, or a missing or altered file.
        """
        path = Path(path)
        about = read_about(path)
        names = ["items", "categories", *SPLITS]
        missing = [name for name in names if not (path / f"{name}.parquet").is_file()]
        if missing:
            raise DataError(f"{path} lacks {', '.join(name + '.parquet' for name in missing)}")
        if _fingerprint(path, names) != about["fingerprint"]:
            raise DataError(f"{path}: the tables are not those that dataset.json describes; prepare it again")
        try:
            return cls._read(path, names, about)
        except _FOREIGN_TABLES as error:
            raise DataError(
                f"{path}: the tables are not as this version writes them: {shortened(error)}; prepare it again"
            ) from error

    @classmethod
    def _read(cls, path: Path, names: list[str], about: dict[str, Any]) -> Dataset:
        """The dataset in the tables ``names`` of the folder ``path``."""
        # as one absolute path and no glob: Polars takes [ * ? for patterns and a leading ~ for a home folder
        tables = {
            name: pl.read_parquet(path.absolute() / f"{name}.parquet", glob=False, hive_partitioning=False)
            for name in names
        }
        items = tables["items"]
        return cls(
            item_ids=items["id"],
            category=items["category"].to_numpy().astype(np.int32),
            extra_categories=items["extra_categories"].to_list(),
            clicks=items["clicks"].to_numpy().astype(np.int64),
            title=items["title"],
            text=items["text"],
            numbers={
                name: items[NUMBER_PREFIX + name].cast(pl.Float64).fill_null(float("nan")).to_numpy()
                for name in about["numbers"]
            },
            tree=_read_tree(tables["categories"], about["category_id_type"]),
            train=Sessions.from_frame(tables["train"]),
            validation=Sessions.from_frame(tables["validation"]),
            test=Sessions.from_frame(tables["test"]),
            vectors=items[VECTOR].to_numpy(writable=True) if VECTOR in items.columns else None,
            settings=about["settings"],
            fingerprint=about["fingerprint"],
        )


def check_name(path: Path) -> None:
    """Raise :class:`DataError` where a folder cannot hold tables: Polars writes to no path that is not UTF-8."""
    if not is_utf8(str(path.absolute())):
        raise DataError(f"{shown(str(path))}: the path of a table must be UTF-8")


def read_about(path: Path) -> dict[str, Any]:
    """The ``dataset.json`` of the folder ``path``, its format and schema version checked.

    Raises:
        DataError: there is no dataset, or one of another version.
    """
    try:
        about = read_json(path / "dataset.json")
    except FileNotFoundError:
        raise DataError(
            f"{path} is not a dataset: it has no dataset.json (hiersrec prepare writes one)"
        ) from None
    except NotADirectoryError:
        raise DataError(
            f"{path} is a file, not the folder of a dataset: hiersrec prepare makes one of a log"
        ) from None
    except (OSError, ValueError) as error:
        raise DataError(f"{shortened(path / 'dataset.json')} cannot be read: {shortened(error)}") from error
    if not isinstance(about, dict) or about.get("format") != "hiersrec-dataset":
        raise DataError(f"{path / 'dataset.json'} does not describe a HierSRec dataset")
    missing = [key for key in _ABOUT_KEYS if key not in about]
    if missing:
        raise DataError(f"{path / 'dataset.json'} lacks {', '.join(missing)}")
    version = about["schema_version"]
    if version != SCHEMA_VERSION:
        older = type(version) is int and version < SCHEMA_VERSION
        hint = "make a new dataset with hiersrec prepare LOGS --out DATA" if older else "upgrade hiersrec-sdk"
        raise DataError(
            f"{path} has schema version {shown(version)}, this version reads {SCHEMA_VERSION}: {hint}"
        )
    for key, kind in _ABOUT_KINDS.items():
        if not isinstance(about[key], kind):
            raise DataError(
                f"{path / 'dataset.json'}: {key} must be a {kind.__name__}, got {shown(about[key])}"
            )
    if not all(isinstance(name, str) for name in about["numbers"]):
        raise DataError(f"{path / 'dataset.json'}: numbers must be names, got {shown(about['numbers'])}")
    return about


def _read_tree(frame: pl.DataFrame, id_type: str) -> CategoryTree:
    ids: list[list[int | str]] = []
    parents = []
    for level in range(frame["level"].n_unique()):
        rows = frame.filter(pl.col("level") == level).sort("index")
        level_ids = rows["id"].to_list()
        ids.append([int(text) for text in level_ids] if id_type == "int64" else level_ids)
        parents.append(rows["parent"].to_numpy().astype(np.int32))
    return CategoryTree(ids, parents)


def _fingerprint(path: Path, names: list[str]) -> str:
    digest = hashlib.sha256()
    for name in sorted(names):
        digest.update(name.encode())
        digest.update(hashlib.sha256((path / f"{name}.parquet").read_bytes()).digest())
    return digest.hexdigest()
