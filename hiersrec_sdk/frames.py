"""Many sessions as a column of lists, and many answers as a table: NumPy, pandas, Polars, Arrow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from hiersrec_sdk.arguments import is_one_of
from hiersrec_sdk.errors import InvalidOutputError, InvalidSessionError, MissingExtraError
from hiersrec_sdk.id_lists import is_column, listed
from hiersrec_sdk.shown import shown

if TYPE_CHECKING:
    from hiersrec_sdk.catalog.snapshot import Catalog
    from hiersrec_sdk.results import Result

Sessions = Iterable[Iterable[int | str]]
Output = Literal["results", "numpy", "pandas", "polars", "arrow"]
Make = Callable[[Sequence["Result"], "Catalog"], Any]

_NULLS: Final = ("NAType", "NaTType")
_NO_ROWS: Final = np.empty(0, dtype=np.int64)
_NO_SCORES: Final = np.empty(0, dtype=np.float32)


def sessions_of(sessions: Any) -> Sequence[Any] | NDArray[Any]:
    """The sessions of a column of lists, a null as an empty one; of anything else what it holds.

    Columns are NumPy object arrays, pandas Series, Polars Series, Arrow arrays. A null within a session stays one,
    which is no item id.

    Raises:
        InvalidSessionError: not a list of sessions, or a table, of which one column is meant.
    """
    found = listed("sessions", sessions, InvalidSessionError, "sessions", dimensions=None)
    has_nulls = is_column(sessions) or (isinstance(found, np.ndarray) and found.dtype == object)
    return [() if _is_null(session) else session for session in found] if has_nulls else found


def _is_null(value: Any) -> bool:
    """Whether a cell of a column is missing: None, NaN, or what pandas writes for one."""
    return value is None or (isinstance(value, float) and value != value) or type(value).__name__ in _NULLS


def maker(output: Any) -> Make:
    """What turns results, all of one snapshot of the catalog, into the ``output`` that is asked for.

    A table has a row for each hit: ``session`` int64, the place of its session; ``rank`` int32 from 1; ``item`` int64
    or strings; ``score`` float32; and ``title``, null for none, where the bundle has titles. "numpy" is these arrays
    by name, strings as objects.

    Raises:
        InvalidOutputError: there is no such output.
        MissingExtraError: its package is not installed.
    """
    if not is_one_of(output, Output):
        raise InvalidOutputError(
            f"output must be one of {', '.join(map(repr, get_args(Output)))}, got {shown(output)}"
        )
    if output == "results":
        return lambda results, _: list(results)
    if output == "numpy":
        return lambda results, catalog: _table(results, catalog, _numpy_strings)
    package = "pyarrow" if output == "arrow" else output
    try:
        module = import_module(package)
    except ImportError as error:
        raise MissingExtraError(output, f"output={output!r}", package) from error
    strings = {"pandas": _pandas_strings, "polars": _polars_strings, "arrow": _arrow_strings}[output]
    finish = module.table if output == "arrow" else module.DataFrame
    return lambda results, catalog: finish(_table(results, catalog, partial(strings, module)))


def _table(
    results: Sequence[Result], catalog: Catalog, strings: Callable[[Sequence[Any], NDArray[np.int64]], Any]
) -> dict[str, Any]:
    """The columns of a table: ``strings`` makes one of some strings and the places of them that the rows have."""
    counts = np.array([len(result.scores) for result in results], dtype=np.int64)
    firsts = np.cumsum(counts) - counts
    rows = np.concatenate([_NO_ROWS, *(result._rows for result in results)])
    rank = np.arange(1, len(rows) + 1) - np.repeat(firsts, counts)
    distinct, places = np.unique(rows, return_inverse=True)  # an id or title is made once for all its hits
    ids = catalog.ids(distinct)
    is_int = catalog.item_id_type == "int64"
    table = {
        "session": np.repeat(np.arange(len(results), dtype=np.int64), counts),
        "rank": rank.astype(np.int32),
        "item": np.array(ids, dtype=np.int64)[places] if is_int else strings(ids, places),
        "score": np.concatenate([_NO_SCORES, *(result.scores for result in results)]),
    }
    if catalog.has_titles:
        table["title"] = strings([catalog.title(row) for row in distinct.tolist()], places)
    return table


def _numpy_strings(values: Sequence[Any], places: NDArray[np.int64]) -> Any:
    return np.array(values, dtype=object)[places]


def _pandas_strings(pandas: Any, values: Sequence[Any], places: NDArray[np.int64]) -> Any:
    return pandas.array(values, dtype="string").take(places)


def _polars_strings(polars: Any, values: Sequence[Any], places: NDArray[np.int64]) -> Any:
    return polars.Series(values, dtype=polars.String).gather(places)


def _arrow_strings(arrow: Any, values: Sequence[Any], places: NDArray[np.int64]) -> Any:
    # large_string, as many hits may have more than 2 GiB of titles
    return arrow.array(values, arrow.large_string()).take(arrow.array(places))
