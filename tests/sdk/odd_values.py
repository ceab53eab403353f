"""Some 150 odd values that an argument may be, each with the plain value that means the same."""

from __future__ import annotations

import array
import enum
import json
import types
from collections import OrderedDict, UserList, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa


class TheirsError(Exception):
    """What hostile objects raise, and what may pass through."""


class Nothing:
    """The plain value of one that means nothing: it must be refused wherever it is not ignored."""


@dataclass(frozen=True)
class Odd:
    """A value: ``make()`` makes a new one each time, as a generator is used up; ``plain`` is what it means."""

    name: str
    make: Callable[[], Any]
    plain: Any


class Text(str):
    """A string."""


class Number(int):
    """An integer."""


class Several(list[Any]):
    """A list."""


class Row(NamedTuple):
    """A tuple."""

    first: Any


class Color(enum.Enum):
    """An enumeration."""

    RED = "red"


Kind = enum.Enum("Kind", {"EXACT": "exact"}, type=str)  # unlike that of a StrEnum, its str() is not its value


class Size(enum.IntEnum):
    """An enumeration of integers."""

    TWO = 2


def _fail(*_: Any, **__: Any) -> Any:
    raise TheirsError


class BadRepr:
    """It cannot be shown."""

    def __repr__(self) -> str:
        raise ValueError


class BadIter:
    """It cannot be iterated over."""

    __iter__ = _fail


class FailsLater:
    """It fails after its first element."""

    def __iter__(self) -> Iterator[Any]:
        yield 2
        raise ZeroDivisionError


class BadLength(list[Any]):
    """Its length cannot be asked."""

    __len__ = _fail


class LongLength:
    """It says that it is long."""

    def __len__(self) -> int:
        return 2**62

    def __iter__(self) -> Iterator[Any]:
        return iter([2])


class BadEq:
    """It cannot be compared."""

    __eq__ = _fail
    __hash__ = object.__hash__


class BadHash:
    """It cannot be hashed."""

    __hash__ = _fail


class EqualsAll:
    """It equals everything."""

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return hash(20)


class BadIndex:
    """It cannot be an index."""

    __index__ = __int__ = __float__ = _fail


class LikeAnIndex:
    """It is an index, but not an integer."""

    def __index__(self) -> int:
        return 2


class LikeAPath:
    """A path object of a wrong type."""

    def __fspath__(self) -> Any:
        return 5


class SparseMatrix:
    """It looks like one of scipy."""

    def toarray(self) -> Any:
        return np.zeros((2, 2))

    def __iter__(self) -> Iterator[Any]:
        return iter([2])


class Tensor:
    """It looks like one of torch."""

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return np.array([2])

    def __iter__(self) -> Iterator[Any]:
        return iter([2])


class Spy:
    """It says that it is an integer, as mocks do."""

    __class__: Any = int


NO = Nothing()
HUGE = 10**5_000
LONG = "x" * 10**6


def _generated(*values: Any) -> Callable[[], Iterator[Any]]:
    return lambda: (value for value in values)


def _deep(levels: int = 50_000) -> list[Any]:
    deep: list[Any] = []
    for _ in range(levels):
        deep = [deep]
    return deep


def _looped() -> list[Any]:
    loop: list[Any] = []
    loop.append(loop)
    return loop


def _giver(value: Any) -> Callable[[], Any]:
    return lambda: value


def _scalars() -> Iterator[Odd]:
    """Values that mean what they are."""
    plain: list[Any] = []
    plain += [None, True, False, 0, 1, 2, -1, 20, 255, 256, 257, 2**31, 2**32, 2**62, 2**63 - 1, 2**63]
    plain += [-(2**63), -(2**63) - 1, 2**64, 10**30, HUGE, -HUGE, 0.0, -0.0, 0.5, 1.0, 2.0, 1.5, -1.0]
    plain += [1e-320, 1e300, float("nan"), float("inf"), -float("inf"), Decimal("0.5"), Decimal(2)]
    plain += [Decimal("sNaN"), Decimal("Infinity"), Fraction(1, 2), 2 + 0j, 1j, "", "0", "a", "red"]
    plain += ["größe", "1", "1.5", "nan", "auto", "exact", "cpu", "~", "a\0b", "\ud800", "٣", " 5 ", "1_0"]
    plain += ["[", "[]", '["0/0"]', "[" * 50_000, LONG, "x" * 5_000, b"", b"a", b"\xff\0", b"x" * 10**6]
    plain += [bytearray(b"ab"), memoryview(b"ab"), memoryview(bytearray(b"ab")), ..., NotImplemented]
    plain += [Color.RED, Color, Size, int, list[int], object(), print, json, NO, lambda: 2, Path("shop")]
    plain += [PurePosixPath("shop"), types.SimpleNamespace(), date(2024, 1, 1)]
    plain += [datetime(2024, 1, 1, tzinfo=UTC), timedelta(1), slice(2), ValueError("a"), BadRepr(), BadEq()]
    plain += [BadHash(), EqualsAll(), BadIndex(), LikeAnIndex(), LikeAPath(), Spy(), Nothing]
    for at, value in enumerate(plain):
        yield Odd(f"plain {at} {type(value).__name__}", _giver(value), value)


def _equivalents() -> Iterator[Odd]:
    """Values that mean another, plain one."""
    same: list[tuple[Any, Any]] = [
        (Text("exact"), "exact"),
        (Text("a"), "a"),
        (Kind.EXACT, "exact"),
        (Number(2), 2),
    ]
    same += [
        (Size.TWO, 2),
        (np.str_("a"), "a"),
        (np.bool_(True), True),
        (np.bool_(False), False),
        (np.bytes_(b"a"), b"a"),
    ]
    for name in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"):
        same.append((np.dtype(name).type(2), 2))
    same += [(np.uint64(2**64 - 1), 2**64 - 1), (np.int64(-1), -1)]
    same += [(np.dtype(name).type(0.5), 0.5) for name in ("float16", "float32", "float64", "longdouble")]
    same += [(np.float32("nan"), float("nan")), (np.float64(2), 2.0), (np.complex64(2), 2 + 0j)]
    same += [
        (value, NO)
        for value in (np.datetime64("NaT"), np.datetime64("2024"), np.timedelta64(2), pd.NaT, pd.NA)
    ]
    same += [
        (pd.Timestamp("2024"), NO),
        (np.ma.masked, NO),
        (np.void(b"a"), NO),
        (pa.scalar(2), NO),
        (pl.col("a"), NO),
    ]
    same += [
        (value, [*value])
        for value in ((), (2,), ("a",), (2, "a"), Row(2), Row("a"), deque([2]), range(2), range(2, 4))
    ]
    same += [
        (value, [*value])
        for value in (UserList(["a"]), Several([2]), array.array("q", [2]), array.array("d", [2]))
    ]
    same += [(range(10**18, 10**18), []), (BadLength([2]), [2]), (LongLength(), [2]), (Several(["a"]), ["a"])]
    means_itself: list[Any] = []
    means_itself += [[], [2], ["a"], [1, 2], ["0", "a"], [None], [float("nan")], [True], [1.0], ["0", 2]]
    means_itself += [[[]], [["a"]], [[2]], [("a",)], [HUGE], [2**63], [LONG], ["\ud800"], ["a\0"], [b"a"]]
    means_itself += [[{}], [BadRepr()], [BadEq()], [EqualsAll()], [object()], [LikeAnIndex()], [Spy()]]
    means_itself += [[np.array(2)], [np.ma.masked], [2] * 10_000, ["cpu"], ["cpu", "cpu"], [0.5] * 6]
    means_itself += [["0.5"] * 6, [True] * 6, [1j] * 6, [10**400] * 6, [1e300] * 6, set(), {2}, {"a"}]
    means_itself += [frozenset({2}), {"a", "b"}]
    same += [(value, value) for value in means_itself]
    for at, (value, plain) in enumerate(same):
        yield Odd(f"same {at} {type(value).__name__}", _giver(value), plain)
    lists: list[list[Any]] = [[], [2], ["a"], ["0", "a"], [float("nan")]]
    for at, elements in enumerate(lists):
        yield Odd(f"generator {at}", _generated(*elements), elements)
        yield Odd(f"iterator {at}", partial(iter, elements), elements)


def _columns() -> Iterator[Odd]:
    """Arrays, and columns of tables."""
    for dtype in (
        "int8",
        "int32",
        "int64",
        "uint8",
        "uint64",
        "float16",
        "float32",
        "float64",
        "longdouble",
        "bool",
    ):
        for shape in ((), (0,), (1,), (6,), (1, 1), (0, 2), (2, 2, 2)):
            made = np.ones(shape, dtype=dtype)
            yield Odd(f"array {dtype} {list(shape)}", made.copy, made.tolist())
    same: list[tuple[Any, Any]] = []
    same += [(np.array(["a"]), ["a"]), (np.array([b"a"]), [b"a"]), (np.array("a"), NO)]
    same += [(np.array([["a"]]), [["a"]]), (np.array([2, None], dtype=object), [2, None])]
    same += [(np.array(["a", "b"], dtype=object), ["a", "b"]), (np.array([2**63], dtype="u8"), [2**63])]
    same += [(np.array([-1]), [-1]), (np.array([float("nan")]), [float("nan")])]
    same += [(np.array(["a"], dtype=np.dtypes.StringDType()), ["a"]), (np.array([1j]), [1j])]
    same += [(np.arange(9)[::3], [0, 3, 6]), (np.array([2], dtype=">i8"), [2])]
    same += [(np.array([2], dtype=">f4"), [2.0]), (np.array([2, 4]).view(np.recarray), [2, 4])]
    same += [(np.frombuffer(b"\0" * 9, dtype="i1")[1:].view("i8"), [0]), (pd.Series([2]), [2])]
    same += [(pd.Series(["a"]), ["a"]), (pd.Series(["a", None]), NO)]
    same += [(pd.Series([2, None]), [2.0, float("nan")]), (pd.Series([2, None], dtype="Int64"), NO)]
    same += [(pd.Series(["a"], dtype="category"), ["a"]), (pd.Index([2]), [2]), (pd.RangeIndex(2), [0, 1])]
    same += [(pd.array([2]), [2]), (pd.array(["a"]), ["a"]), (pl.Series([2]), [2])]
    same += [(pl.Series(["a"]), ["a"]), (pl.Series(["a", None]), ["a", None])]
    same += [(pl.Series(["a"], dtype=pl.Categorical), ["a"]), (pl.Series([0.5] * 6), [0.5] * 6)]
    same += [(pl.Series([[2]]), [[2]]), (pd.Series([[2]]), [[2]]), (pa.array([2]), [2])]
    same += [(pa.array(["a"]), ["a"]), (pa.array([2, None]), [2, None])]
    same += [(pa.chunked_array([["a"], ["b"]]), ["a", "b"]), (pa.array(["a"]).dictionary_encode(), ["a"])]
    same += [(pa.array([[2]]), [[2]])]
    for at, (value, plain) in enumerate(same):
        yield Odd(f"column {at} {type(value).__name__}", _giver(value), plain)


def _refused() -> Iterator[Odd]:
    """Values that mean nothing anywhere, though some can be iterated over."""
    days = ["2024-01-01"]
    never: list[Any] = []
    never += [{}, {"a": 1}, {2: 1}, OrderedDict(a=1), types.MappingProxyType({"a": 1})]
    never += [pd.DataFrame({"a": [2]}), pd.DataFrame(), pl.DataFrame({"a": [2]})]
    never += [pl.DataFrame({"a": [2]}).lazy(), pa.table({"a": [2]}), pa.record_batch({"a": [2]})]
    never += [np.ma.array([2, 3], mask=[False, True]), np.ma.array(["a"], mask=[False])]
    never += [np.ma.array([0.5] * 6, mask=[True] * 6), np.ma.array([2], mask=[False]), np.ma.zeros((2, 2))]
    never += [np.array(days, dtype="M8[ns]"), np.array(days, dtype="M8[D]"), np.array([2], dtype="m8[ns]")]
    never += [np.zeros(1, dtype=[("a", "i8")]), np.zeros(1, dtype="V8"), np.rec.array([(2,)])]
    never += [pd.to_datetime(pd.Series(days)), pd.to_timedelta(pd.Series([2]))]
    never += [pl.Series([date(2024, 1, 1)]), pl.Series([timedelta(2)]), pa.array([datetime(2024, 1, 1)])]
    never += [pa.array([{"a": 1}]), pd.MultiIndex.from_tuples([(2, "a")]), SparseMatrix(), Tensor()]
    never += [FailsLater(), BadIter(), _looped(), _deep(), "shop"[:0].join, iter, (2, [3]), [2, [3]]]
    never += [{None}, {2.5}, {("a", None)}]
    for at, value in enumerate(never):
        yield Odd(f"refused {at} {type(value).__name__}", partial(_same, value), NO)


def _same(value: Any) -> Any:
    return value


def odd_values() -> list[Odd]:
    """All of them."""
    return [*_scalars(), *_equivalents(), *_columns(), *_refused()]
