"""Search for items by their titles: for the page, where somebody looks for one to begin a session with."""

from __future__ import annotations

import threading
import time
from typing import Final, NamedTuple
from weakref import ReferenceType, WeakKeyDictionary, ref

from hiersrec_sdk.arguments import integer_of
from hiersrec_sdk.catalog.snapshot import Catalog
from hiersrec_sdk.errors import InvalidArgumentError
from hiersrec_sdk.ranking.backend import UNKNOWN
from hiersrec_sdk.recommender import Recommender
from hiersrec_sdk.serve.requests import Title

MOST_FOUND: Final = 50  # items of a search
LONGEST_SEARCH: Final = 200  # characters
_SEARCHED: Final = 100_000  # items, the most clicked ones; a pass over more would hold others up
_KEPT: Final = 10.0  # seconds before changes of the catalog are read


class _Read(NamedTuple):
    """What was read of a catalog: its items by what is searched. The catalog itself may go."""

    catalog: ReferenceType[Catalog]
    since: float
    titles: list[tuple[str, Title]]


class TitleSearch:
    """Finds items whose title, or id, holds all words of a text."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # by recommender: that of a new bundle is read at once, and what was read of the old one goes with it
        self._read: WeakKeyDictionary[Recommender, _Read] = WeakKeyDictionary()

    def find(self, recommender: Recommender, text: str, most: int) -> list[Title]:
        """Up to ``most`` items: the one whose id it is, then those that were clicked most."""
        found = self._by_id(recommender, text)
        words = text.lower().split()
        for searched, title in self._titles(recommender):
            if len(found) == most:
                break
            if all(word in searched for word in words) and title not in found:
                found.append(title)
        return found

    def _by_id(self, recommender: Recommender, text: str) -> list[Title]:
        catalog = recommender.catalog.current
        item_id = text.strip() if catalog.item_id_type == "string" else integer_of(text.strip())
        if item_id in (None, ""):
            return []
        try:
            row = int(catalog.rows([item_id])[0])
        except InvalidArgumentError:  # beyond 64 bits
            return []
        return [] if row == UNKNOWN else [Title(item_id, catalog.title(row))]

    def _titles(self, recommender: Recommender) -> list[tuple[str, Title]]:
        with self._lock:
            read = self._read.get(recommender)
            catalog, now = recommender.catalog.current, time.monotonic()
            if read is None or (read.catalog() is not catalog and now - read.since > _KEPT):
                read = self._read[recommender] = _Read(ref(catalog), now, _titles_of(catalog))
            return read.titles


def _titles_of(catalog: Catalog) -> list[tuple[str, Title]]:
    rows = catalog.most_clicked(_SEARCHED)[:_SEARCHED]
    titles = []
    for item_id, row in zip(catalog.ids(rows), rows.tolist(), strict=True):
        title = catalog.title(row) or None
        titles.append((f"{item_id} {title or ''}".lower(), Title(item_id, title)))
    return titles
