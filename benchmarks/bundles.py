"""Bundles to measure with: the sessions of a data set that ask, and catalogs that are larger than a bundle's own."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.vectors import Case, grow, predicted_ranges, unit
from hiersrec_sdk import Item, Recommender
from hiersrec_sdk.bundle.folder import Bundle, open_bundle
from hiersrec_sdk.bundle.schema import CATALOG, CONFIG
from hiersrec_sdk.bundle.tables import StringTable
from hiersrec_sdk.bundle.write import write_bundle
from hiersrec_sdk.catalog.ids import item_id_tables
from hiersrec_sdk.ranking import Codes

Tables = Mapping[str, NDArray[Any]]


def examples(
    recommender: Recommender, data: Path, count: int, seed: int, length: int | None = None
) -> list[NDArray[np.int64]]:
    """The rows of ``count`` different examples of the test split, drawn with ``seed``, or as many as there are.

    An example is a session up to any of its clicks but the last, oldest first, here without items that the catalog
    lacks; of more than ``max_length`` clicks the last ones count. With a ``length``, only those of that many clicks.
    """
    from hiersrec_training.data.dataset import Dataset  # no other of these needs PyTorch

    dataset = Dataset.load(data)
    row_of = recommender.catalog.rows(dataset.item_ids.to_list())
    sessions, longest = dataset.test, recommender.config["max_length"]
    every = []
    for at in range(len(sessions)):
        rows = row_of[sessions[at][:-1]]
        rows = rows[rows >= 0]
        stops = range(1, len(rows) + 1) if length is None else [length] * (length <= len(rows))
        every += [rows[:stop] for stop in stops]
    return [every[at][-longest:] for at in np.random.default_rng(seed).permutation(len(every))[:count]]


def random_sessions(recommender: Recommender, length: int, count: int, seed: int) -> list[NDArray[np.int64]]:
    """The rows of ``count`` sessions of ``length`` clicks in one leaf category each, drawn by its size."""
    random, catalog = np.random.default_rng(seed), recommender.catalog
    every = np.arange(len(catalog))
    leaf = catalog.categories_of(every)
    return [random.choice(every[leaf == leaf[row]], length) for row in random.choice(every, count)]


def items_to_upsert(recommender: Recommender, count: int, seed: int = 0, known: bool = False) -> list[Item]:
    """``count`` items, each near a random item of the bundle and in its leaf category.

    They are new; with ``known``, every second one has the id of an item of the bundle, whose row it supersedes.
    """
    random, catalog = np.random.default_rng(seed), recommender.catalog
    rows = np.resize(random.permutation(len(catalog)), count)
    vectors = catalog.vectors(rows)
    vectors = unit(vectors + 0.1 * random.standard_normal(vectors.shape, np.float32))
    strings = recommender.config["item_id_type"] == "string"
    ids: list[Any] = [f"new-{seed}-{at}" if strings else -1 - seed * 1_000_000 - at for at in range(count)]
    if known:
        ids[1::2] = catalog.ids(rows[1::2])
    leaves = [catalog.category(-1, int(leaf)).path for leaf in catalog.categories_of(rows)]
    return [Item(item, leaf, vector=vector) for item, leaf, vector in zip(ids, leaves, vectors, strict=True)]


def leaf_ranges(tables: Tables) -> NDArray[np.int64]:
    """int64 [categories, 2]: the rows of each leaf category of a bundle."""
    last = max(int(name.rpartition(".")[2]) for name in tables if name.startswith("category_ranges."))
    return np.asarray(tables[f"category_ranges.{last}"])


def trained(bundle: Path, data: Path, rows: int, share: float, count: int, seed: int) -> Case:
    """The table of ``bundle`` grown to ``rows`` rows, asked by ``count`` sessions of the test split of ``data``.

    A new row has the item bias of the old one that it lies near. The candidates of a query are its most probable
    categories, up to ``share`` of the rows.

    Raises:
        HierSRecError: the bundle or the data set cannot be read.
    """
    tables, recommender = open_bundle(bundle).tables, Recommender.load(bundle)
    ids = recommender.catalog.ids
    asked = [recommender.trace(ids(session)) for session in examples(recommender, data, count, seed)]
    grown = grow(np.asarray(tables["item_vectors"]), leaf_ranges(tables), rows, seed)
    bias = np.asarray(tables["item_bias"])[grown.source] if "item_bias" in tables else None
    ranges = [
        predicted_ranges(each.category_logits[-1], grown.leaves, math.ceil(share * rows)) for each in asked
    ]
    return Case("bundle", grown.vectors, bias, np.stack([each.item_query for each in asked]), ranges)


@contextmanager
def grown_bundle(bundle: Path, rows: int, seed: int = 0) -> Iterator[Path]:
    """A bundle like ``bundle`` with ``rows`` items, beside it for a while; ``bundle`` where it has as many or more."""
    opened = open_bundle(bundle)
    if rows <= opened.config["items"]:
        yield bundle
        return
    with TemporaryDirectory(dir=bundle.absolute().parent) as folder:
        write_grown_bundle(Path(folder) / "grown", opened, rows, seed)
        yield Path(folder) / "grown"


def write_grown_bundle(path: Path, bundle: Bundle, rows: int, seed: int = 0) -> None:
    """Write the bundle ``path``: ``bundle`` with its table grown to ``rows`` rows, at least as many as it has.

    Items keep their ids; new ones have new ids, no clicks and no co-visited items, and the item bias of the item that
    they lie near. The graphs stay as they are, and titles are left out.

    Raises:
        BundleError: the path exists or cannot be written.
    """
    tables, config = bundle.tables, bundle.config
    leaves = leaf_ranges(tables)
    grown = grow(np.asarray(tables["item_vectors"]), leaves, rows, seed)
    source, kept = grown.source, grown.kept
    left_out = ("padding.", "codes", "titles.", "item_ids")
    made = {name: np.asarray(table) for name, table in tables.items() if not name.startswith(left_out)}
    made["item_vectors"] = grown.vectors
    made["clicks"] = np.zeros(rows, np.int64)
    made["clicks"][kept] = tables["clicks"]
    for name in ("item_bias", "covisitation.popularity"):
        if name in made:
            made[name] = made[name][source]
    if "covisitation.offsets" in made:
        old = made["covisitation.offsets"]
        order = np.argsort(kept)  # the old rows as they follow each other now
        counts = np.zeros(rows, np.int64)
        counts[kept] = np.diff(old)
        edges = np.concatenate([np.arange(old[row], old[row + 1]) for row in order])
        made["covisitation.offsets"] = np.concatenate([[0], counts.cumsum()])
        made["covisitation.rows"] = kept[made["covisitation.rows"][edges]].astype(np.int32)
        made["covisitation.counts"] = made["covisitation.counts"][edges]
    for name in [name for name in made if name.startswith("category_ranges.")]:
        made[name] = moved(made[name], leaves, grown.leaves)
    if "extra_rows" in made:
        made["extra_rows"] = kept[made["extra_rows"]]
    made |= item_id_tables(_item_ids(bundle, kept, rows))
    made |= Codes.of(grown.vectors).tables()
    names = [name for name in config["files"] if name not in (CATALOG, CONFIG)]
    files = {name: bundle.read(name) for name in names}
    write_bundle(path, {**config, "items": rows}, made, files)


def moved(
    ranges: NDArray[np.int64], leaves: NDArray[np.int64], grown: NDArray[np.int64]
) -> NDArray[np.int64]:
    """``ranges`` int64 [m, 2] of any level, once the leaves' rows ``leaves`` int64 [categories, 2] became ``grown``."""
    edges, later = np.append(0, leaves[:, 1]), np.append(0, grown[:, 1])
    found: NDArray[np.int64] = later[edges.searchsorted(ranges, side="right") - 1]
    return found


def _item_ids(bundle: Bundle, kept: NDArray[np.int64], rows: int) -> Sequence[int] | Sequence[str]:
    """The ids of all rows: the old ones where they lie now, new ones between them."""
    if bundle.config["item_id_type"] == "int64":
        old = np.asarray(bundle.tables["item_ids"])
        numbers = old.max() + 1 + np.arange(rows)
        numbers[kept] = old
        return [*map(int, numbers)]
    strings = StringTable.from_tables(bundle.tables, "item_ids")
    assert strings is not None
    names = [f"grown-{row}" for row in range(rows)]
    for row, place in enumerate(kept.tolist()):
        names[place] = strings[row]
    return names
