"""A bundle with a larger catalogue: the trained table grown, the graphs as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.vectors.grow import Grown, grow
from hiersrec_sdk.bundle.folder import Bundle, write_bundle
from hiersrec_sdk.bundle.schema import CATALOG, CONFIG
from hiersrec_sdk.bundle.tables import StringTable
from hiersrec_sdk.catalog.ids import item_id_tables
from hiersrec_sdk.ranking import Codes
from hiersrec_sdk.ranking.covisitation import CovisitationCounts as Links
from hiersrec_sdk.ranking.covisitation import CovisitationScorer as Wide

# Made anew, or left out because nobody looks at them here.
_NOT_COPIED: Final = ("padding.", "codes", "titles.", "item_ids")


def write_grown_bundle(path: Path, bundle: Bundle, rows: int, seed: int = 0) -> None:
    """Write the bundle ``path``: ``bundle`` with its table grown to ``rows`` rows, at least as many as it has.

    Old items keep their ids; new ones have new ids and no clicks. Their input vector, where it is a table of its own,
    their bias and what the wide part knows of them are those of the old item that they lie near.

    Raises:
        BundleError: the path exists or cannot be written.
    """
    tables, config = bundle.tables, bundle.config
    levels = range(len(config["levels"]))
    leaves = tables[f"category_ranges.{levels[-1]}"]
    grown = grow(np.asarray(tables["item_vectors"]), leaves, rows, seed)
    made: dict[str, NDArray[Any]] = {
        name: np.asarray(table) for name, table in tables.items() if not name.startswith(_NOT_COPIED)
    }
    made["item_vectors"] = grown.vectors
    made |= {name: tables[name][grown.source] for name in ("item_bias",) if name in tables}
    wide = Wide.from_tables(tables)
    if wide is not None:
        made |= replace(wide, counts=_grown_links(wide.counts, grown)).tables()
    made["clicks"] = np.zeros(rows, np.int64)
    made["clicks"][grown.kept] = tables["clicks"]
    for level in levels:
        made[f"category_ranges.{level}"] = moved(tables[f"category_ranges.{level}"], leaves, grown.leaves)
    if "extra_rows" in tables:
        made["extra_rows"] = grown.kept[tables["extra_rows"]]
    made |= item_id_tables(_ids(bundle, grown))
    if "codes" in tables:
        made |= Codes.of(grown.vectors).tables()
    files = {
        name: (bundle.path / name).read_bytes() for name in config["files"] if name not in (CATALOG, CONFIG)
    }
    write_bundle(path, {**config, "items": rows}, made, files)


def _grown_links(links: Links, grown: Grown) -> Links:
    """Every row has the neighbours of its source, which are old rows."""
    starts, counts = links.offsets[grown.source], np.diff(links.offsets)[grown.source]
    offsets = np.concatenate([[0], counts.cumsum()])
    edges = np.repeat(starts - offsets[:-1], counts) + np.arange(offsets[-1])
    rows = grown.kept[links.rows[edges]].astype(np.int32)
    return Links(links.popularity[grown.source], offsets, rows, links.counts[edges])


def moved(
    ranges: NDArray[np.int64], leaves: NDArray[np.int64], grown: NDArray[np.int64]
) -> NDArray[np.int64]:
    """``ranges`` int64 [m, 2] of any level, once the leaves' rows ``leaves`` int64 [categories, 2] became ``grown``."""
    edges, later = np.append(0, leaves[:, 1]), np.append(0, grown[:, 1])
    found: NDArray[np.int64] = later[edges.searchsorted(ranges, side="right") - 1]
    return found


def _ids(bundle: Bundle, grown: Grown) -> Sequence[int] | Sequence[str]:
    """The ids of all rows: the old ones where they lie now, new ones between them."""
    rows = len(grown.vectors)
    if bundle.config["item_id_type"] == "int64":
        old = np.asarray(bundle.tables["item_ids"])
        ids = old.max() + 1 + np.arange(rows)
        ids[grown.kept] = old
        whole: list[int] = ids.tolist()
        return whole
    strings = StringTable.from_tables(bundle.tables, "item_ids")
    assert strings is not None
    names = [f"grown-{row}" for row in range(rows)]
    for row, place in enumerate(grown.kept.tolist()):
        names[place] = strings[row]
    return names
