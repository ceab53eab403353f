"""The targets: what is damaged, and what makes a case of it."""

from __future__ import annotations

from typing import Final

from tests.fuzz import changes, config, graphs, tables, zips
from tests.fuzz.runner import Make

TARGETS: Final[dict[str, Make]] = {
    "tables": tables.make,
    "config": config.make,
    "graphs": graphs.make,
    "changes": changes.make,
    "zips": zips.make,
}
