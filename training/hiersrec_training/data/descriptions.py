"""What a log says about its items, for logs without an item table: the newest value of every column."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from hiersrec_training.data.clicks import Keys

_AT: Final = "__at"
_KEY: Final = "__key"
_MANY: Final = 4_000_000  # rows after which older values are given up


class LatestDescriptions:
    """The newest value of each column for every item, by time, or by row where there are no times.

    Args:
        columns: of the log.
        items: turns keys back into ids.
        missing: texts that stand for a missing value.
    """

    def __init__(self, columns: Sequence[str], items: Keys, missing: Sequence[str]) -> None:
        self._columns, self._items, self._missing = list(columns), items, [*missing, ""]
        self._parts: list[pl.DataFrame] = []

    def add(
        self,
        items: NDArray[np.int64],
        times: NDArray[np.int64] | None,
        rows: NDArray[np.int64],
        frame: pl.DataFrame,
    ) -> None:
        """Add the values in ``frame`` for the items with these keys."""
        values = frame.select(self._value(name, frame[name].dtype) for name in self._columns)
        at = rows if times is None else times
        if times is not None and (np.diff(times) < 0).sum() > (np.diff(times) > 0).sum():
            items, at, values = items[::-1], at[::-1], values.reverse()  # from the newest to the oldest
        part = values.with_columns(pl.Series(_KEY, items), pl.Series(_AT, at))
        part = part.filter(pl.any_horizontal(pl.col(self._columns).is_not_null())).sort(
            _AT, maintain_order=True
        )
        self._parts.append(part.unique([_KEY, *self._columns], keep="last", maintain_order=True))
        if sum(each.height for each in self._parts) > _MANY:
            self._parts = [self._newest()]

    def rows(self) -> tuple[pl.Series, pl.DataFrame]:
        """The ids of the items, and a row for each."""
        newest = self._newest()
        return self._items.decode(newest[_KEY].to_numpy()), newest.select(self._columns)

    def _value(self, name: str, kind: pl.DataType) -> pl.Expr:
        if isinstance(kind, pl.Categorical | pl.Enum):
            kind = pl.String()
        value = pl.col(name).cast(kind)
        if kind == pl.String:
            return pl.when(~value.str.strip_chars().is_in(self._missing)).then(value).alias(name)
        return value.fill_nan(None) if kind.is_float() else value

    def _newest(self) -> pl.DataFrame:
        if not self._parts:
            return pl.DataFrame(
                schema={_KEY: pl.Int64, _AT: pl.Int64} | dict.fromkeys(self._columns, pl.String)
            )
        together = pl.concat(self._parts, how="vertical_relaxed").sort(_AT, maintain_order=True)
        newest = [pl.col(name).drop_nulls().last() for name in self._columns]
        return together.group_by(_KEY, maintain_order=True).agg(*newest, pl.col(_AT).last())
