"""A progress bar over batches of rows."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")


def progress(
    batches: Iterable[T], total: Callable[[], int], name: str, size: Callable[[T], int], *, unit: str = "rows"
) -> Iterator[T]:
    """The batches, with a progress bar on a terminal.

    Args:
        batches: of rows.
        total: counts the rows; 0 where that is not known. Asked on a terminal alone, as it may read a whole file.
        name: of what is done.
        size: how many rows a batch has.
        unit: what is counted.
    """
    with tqdm(
        total=(total() or None) if sys.stderr.isatty() else None,
        desc=name,
        unit=f" {unit}",
        unit_scale=True,
        disable=None,
        leave=False,
    ) as bar:
        for batch in batches:
            yield batch
            bar.update(size(batch))
