"""Rows of an event log that hold the items of a whole session: lists, or text with a separator."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import polars as pl

from hiersrec_sdk.errors import DataError, InvalidOptionError
from hiersrec_training.data.columns import split_cells
from hiersrec_training.data.tables import Batch, Table, unescaped


class ListColumns:
    """The columns of one table that hold lists. Which columns of text do is found out once, and holds for all batches.

    Args:
        table: of the events.
        item: column of the items.
        beside: columns that may hold lists of the same lengths, such as times and categories.
        about: those of ``beside`` whose text is always taken as a list.
        separator: between the values of a cell of text; None where only lists are lists.
    """

    def __init__(
        self, table: Table, item: str, beside: Sequence[str], about: Collection[str], separator: str | None
    ) -> None:
        self._table, self._item, self._beside, self._about = table, item, beside, about
        self._separator = unescaped(separator)
        self._known: dict[str, bool] = {}  # whether a column of text holds lists
        self._single = ""  # a cell without a separator
        self._is_used = False  # any cell has one

    def explode(self, batch: Batch) -> Batch:
        """The rows with one item each; ``batch`` itself where its cells hold one.

        Raises:
            DataError: a list that is longer or shorter than that of the items.
        """
        numbers, frame = batch
        if self._separator is not None:
            frame = self._split(frame, self._separator)
        kinds: dict[str, Any] = dict(frame.schema)
        if not isinstance(kinds[self._item], pl.List | pl.Array):
            return Batch(numbers, frame)
        names = [
            self._item,
            *(name for name in self._beside if isinstance(kinds[name], pl.List | pl.Array)),
        ]
        frame = frame.with_columns(pl.col(name).cast(pl.List(kinds[name].inner)) for name in names)
        length = frame[self._item].list.len().fill_null(0)
        for name in names[1:]:
            unequal = length != frame[name].list.len().fill_null(0)
            if unequal.any():
                row = int(unequal.arg_max() or 0)
                raise DataError(
                    f"{self._table.place(int(numbers[row]))}: {length[row]} values in {self._item!r}, but "
                    f"{frame[name].list.len()[row] or 0} in {name!r}"
                )
        numbers = np.repeat(numbers, length.to_numpy())
        return Batch(numbers, frame.explode(names, empty_as_null=False, keep_nulls=False))

    @property
    def unlike(self) -> str:
        """A cell of items, where none holds the separator; else empty."""
        return "" if self._is_used else self._single

    def _split(self, frame: pl.DataFrame, separator: str) -> pl.DataFrame:
        """The cells of items as lists; and those of other columns that hold as many values in most rows of the file."""
        if frame[self._item].dtype != pl.String:
            raise InvalidOptionError(
                f"--list-separator is for text: column {self._item!r} of {self._table.name} holds "
                f"{frame[self._item].dtype}"
            )
        items = split_cells(frame[self._item], separator)
        self._is_used |= frame[self._item].str.contains(separator, literal=True).any()
        self._single = self._single or next(filter(None, frame[self._item]), "")
        found = {self._item: items}
        for name in self._beside:
            if frame[name].dtype == pl.String:
                values = split_cells(frame[name], separator)
                if self._holds_lists(name, items, values):
                    found[name] = values
        return frame.with_columns(values.alias(name) for name, values in found.items())

    def _holds_lists(self, name: str, items: pl.Series, values: pl.Series) -> bool:
        if name in self._about:
            return True
        if name not in self._known:
            found = _are_lists(items.list.len(), values.list.len())
            if found is None:
                return True
            self._known[name] = found
        return self._known[name]


def _are_lists(items: pl.Series, values: pl.Series) -> bool | None:
    """Whether the cells of a column are lists beside the items, by how many values each has; None: no row tells."""
    counts = pl.DataFrame({"items": items, "values": values}).drop_nulls()
    counts = counts.filter(pl.max_horizontal("items", "values") > 1)
    if counts.is_empty():
        return None
    if counts["values"].n_unique() == 1 < counts["items"].n_unique():
        return False  # one value of one form for the whole row, such as a date with a blank in it
    return int((counts["items"] == counts["values"]).sum()) * 2 > counts.height
