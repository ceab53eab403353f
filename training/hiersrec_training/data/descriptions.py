"""What a log says about its items, for logs without an item table: the newest value of every column.

The levels of its category have the values of one row, the newest in which any of them is set.

Where the test split is cut off the same log, the newest value is that of the training split: what is only said later
would be learned from the future. The cut is known when all clicks are read, so that older values are kept until then.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from hiersrec_sdk.errors import DataError
from hiersrec_training.data.columns import Missing

# of frames whose other columns are called by their position: those of the log may have any name
_AT: Final = "at"
_KEY: Final = "key"
_SPAN: Final = "span"
_MANY: Final = 4_000_000  # rows after which older values are given up
_SPANS: Final = 64  # of the log, each of which keeps values of its own where there are too many


class LatestDescriptions:
    """The newest value of each column for every item, by time, or by row where there are no times.

    Args:
        columns: of the log.
        missing: texts that stand for a missing value.
        together: those of ``columns`` whose values come from one row, such as the levels of a category.
        keeps_older: :meth:`rows` will be asked for the values of an earlier moment.
    """

    def __init__(
        self,
        columns: Sequence[str],
        missing: Sequence[str],
        *,
        together: Collection[str] = (),
        keeps_older: bool,
    ) -> None:
        self._names, self._missing, self._keeps_older = list(columns), Missing(missing), keeps_older
        self._columns = [str(position) for position in range(len(columns))]
        self._unit = [str(position) for position, name in enumerate(columns) if name in together]
        # of each column, a table that has it, and its type
        self._empty: dict[str, tuple[str, pl.Series]] = {}
        self._parts: list[pl.DataFrame] = []
        self._room = _MANY

    def add(
        self,
        items: NDArray[np.int64],
        times: NDArray[np.int64] | None,
        rows: NDArray[np.int64],
        frame: pl.DataFrame,
        table: str,
    ) -> None:
        """Add the values in ``frame``, of ``table``, for the items with these keys.

        Raises:
            DataError: values of another kind than in another table.
        """
        values = pl.DataFrame(
            self._values(frame[name], table).alias(column)
            for name, column in zip(self._names, self._columns, strict=True)
        )
        at = rows if times is None else times
        if times is not None and (np.diff(times) < 0).sum() > (np.diff(times) > 0).sum():
            items, at, values = items[::-1], at[::-1], values.reverse()  # from the newest to the oldest
        part = values.with_columns(pl.Series(_KEY, items), pl.Series(_AT, at))
        part = part.filter(pl.any_horizontal(pl.col(self._columns).is_not_null())).sort(
            _AT, maintain_order=True
        )
        if self._keeps_older:
            part = self._changes(part)
        else:
            part = part.unique([_KEY, *self._columns], keep="last", maintain_order=True)
        self._parts.append(part)
        if sum(each.height for each in self._parts) > self._room:
            self._parts = [self._thinned()]
            self._room = max(_MANY, 2 * self._parts[0].height)

    def rows(
        self, keys: NDArray[np.int64], ids: pl.Series, until: int | None = None
    ) -> tuple[pl.Series, pl.DataFrame, int]:
        """The ids of the items, a row for each, and how many items have other values later.

        Args:
            keys: of all items, in order.
            ids: of each key; keys of one id are one item.
            until: microseconds or row, the last one that counts; None for all.
        """
        together = self._together()
        index = keys.searchsorted(together[_KEY].to_numpy())
        together = together.with_columns(ids.gather(index).alias(_KEY))
        every = self._newest(together, [_KEY])
        if until is None:
            return every[_KEY], self._named(every), 0
        newest = self._newest(together.filter(pl.col(_AT) <= until), [_KEY])
        both = newest.join(every, on=_KEY, how="left", maintain_order="left", suffix="_later")
        same = pl.all_horizontal(pl.col(name).eq_missing(pl.col(f"{name}_later")) for name in self._columns)
        changed = both.height - int(both.select(same.sum()).item())
        return newest[_KEY], self._named(newest), changed

    def _named(self, rows: pl.DataFrame) -> pl.DataFrame:
        """The columns by the names that the log gives them."""
        return rows.select(
            pl.col(column).alias(name) for name, column in zip(self._names, self._columns, strict=True)
        )

    def _values(self, values: pl.Series, table: str) -> pl.Series:
        """The values, null where missing."""
        kind, name = values.dtype, values.name
        other, known = self._empty.get(name, (table, values.clear()))
        if name not in self._empty and kind != pl.Null:
            self._empty[name] = other, known
        try:
            if not _are_alike(kind, known.dtype):
                raise pl.exceptions.InvalidOperationError("Polars would make text of both")
            pl.concat([known.to_frame(), values.clear().to_frame()], how="vertical_relaxed")
        except pl.exceptions.PolarsError:
            raise DataError(
                f"{table}: column {name!r} holds {kind}, and {known.dtype} in {other}: write it in one way in all logs"
            ) from None
        if isinstance(kind, pl.List):
            return values.set(values.list.drop_nulls().list.len() == 0, None)
        return values.set(self._missing.holds(values), None)

    def _together(self) -> pl.DataFrame:
        if not self._parts:
            return pl.DataFrame(
                schema={_KEY: pl.Int64, _AT: pl.Int64} | dict.fromkeys(self._columns, pl.String)
            )
        return pl.concat(self._parts, how="vertical_relaxed").sort(_AT, maintain_order=True)

    def _changes(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Rows in order of time, item by item, without those between two rows of their item that say the same."""
        rows = rows.sort(_KEY, maintain_order=True)
        above = [pl.col(name).eq_missing(pl.col(name).shift()) for name in (_KEY, *self._columns)]
        same = rows.select(same=pl.all_horizontal(above))["same"]
        return rows.filter(~(same & same.shift(-1, fill_value=False)))

    def _thinned(self) -> pl.DataFrame:
        """Fewer rows: the newest values of each item; of each span of the log where older ones are asked for."""
        together = self._together()
        if not self._keeps_older:
            return self._newest(together, [_KEY])
        changes = self._changes(together)
        if changes.height * 2 <= _MANY:
            return changes
        first, last = int(together[_AT][0]), int(together[_AT][-1])
        width = (last - first) // _SPANS + 1
        together = together.with_columns(((pl.col(_AT) - first) // width).alias(_SPAN))
        newest = self._newest(together, [_KEY, _SPAN])
        oldest = together.unique(_KEY, keep="first", maintain_order=True).select(newest.columns)
        return pl.concat([oldest, newest]).sort(_AT, maintain_order=True)

    def _newest(self, rows: pl.DataFrame, by: list[str]) -> pl.DataFrame:
        is_set = {name: pl.col(name).is_not_null() for name in self._columns}
        is_set |= dict.fromkeys(self._unit, pl.any_horizontal(pl.col(self._unit).is_not_null()))
        newest = [pl.col(name).filter(is_set[name]).last() for name in self._columns]
        found = rows.group_by(by, maintain_order=True).agg(*newest, pl.col(_AT).last())
        return found.select(*self._columns, _KEY, _AT)


def _are_alike(kind: Any, other: Any) -> bool:
    """Whether both types are lists of like values, or structs, or neither; nulls are like all."""
    if pl.Null in (kind, other):
        return True
    if isinstance(kind, pl.List | pl.Array) and isinstance(other, pl.List | pl.Array):
        return _are_alike(kind.inner, other.inner)
    if isinstance(kind, pl.Struct) and isinstance(other, pl.Struct):
        return True
    return not (kind.is_nested() or other.is_nested())
