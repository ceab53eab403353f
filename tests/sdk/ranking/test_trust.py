"""Native code trusts nobody: arguments of a wrong type, length, alignment or value, and tables of any bits.

All of it is memory safe, which ``scripts/check-sanitizers`` proves, and ends in a plain error, or in the result that
NumPy gives.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from hiersrec_sdk.ranking import Codes, CovisitationCounts, CovisitationScorer, Request, Table, get_backend
from hiersrec_sdk.ranking.covisitation import EDGE_COUNTS, FEATURES, POPULARITIES
from tests.sdk.ranking.cases import NAMES, each_instruction_set, kernel, needs_kernel

BACKENDS = [get_backend(name) for name in NAMES]
ERRORS: tuple[type[Exception], ...] = (TypeError, ValueError, IndexError, BufferError)
if "numba" in NAMES:
    from numba.core.errors import NumbaError

    ERRORS += (NumbaError,)  # with 0.61, for an array of a type that it does not know
N, D = 100, 40

Array = NDArray[Any]


def outcome(call: Callable[..., Any], *arguments: Any) -> Any:
    """What a call returns; "an error" where it raises one of those that it may raise."""
    try:
        return call(*arguments)
    except ERRORS:
        return "an error"


def misaligned(array: Array, by: int = 1) -> Array:
    """A copy that begins ``by`` bytes after a multiple of everything."""
    room = np.zeros(array.nbytes + 64 + by, np.uint8)
    start = -room.ctypes.data % 64 + by
    copy = room[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[:] = array
    return copy


def wrong_arrays(array: Array) -> Iterator[tuple[str, Array]]:
    """Arrays that are of another type, shape or layout than ``array``."""
    for form, other in forms(array):
        alike = other.dtype == array.dtype and other.shape == array.shape
        if not (alike and other.flags.c_contiguous and other.flags.aligned):
            yield form, other


def forms(array: Array) -> Iterator[tuple[str, Array]]:
    for dtype in [
        "f4",
        "f8",
        "f2",
        "i8",
        "i4",
        "u8",
        "u2",
        "u1",
        "?",
        "O",
        "S4",
        ">f4",
        ">i8",
        "c8",
        "M8[s]",
    ]:
        if np.dtype(dtype) != array.dtype:
            yield dtype, np.zeros(array.shape, dtype)
    for dtype in ("i4,i4", "f4,f4"):
        yield dtype, np.zeros(array.shape, dtype)
    yield "empty", array[:0]
    yield "shorter", array[:-1].copy()
    yield "longer", np.concatenate([array, array[-1:]])
    yield "one", array[:1].copy()
    yield "one axis more", array[None]
    yield "one axis less", np.zeros(array.shape[1:], array.dtype)
    yield "flat", array.reshape(-1)
    yield "column", array.reshape(-1, 1)
    yield "wider", np.concatenate([array, array], axis=-1)
    yield "narrower", np.ascontiguousarray(array[..., :-1])
    yield "every second", np.repeat(array, 2, axis=0)[::2]
    yield "reversed", array[::-1]
    yield "by columns", np.asfortranarray(np.stack([array, array], axis=-1))[..., 0]
    yield "nowhere to go", np.broadcast_to(array[:1], array.shape)
    if array.itemsize > 1:
        yield "misaligned", misaligned(array)
        yield "misaligned by half", misaligned(array, array.itemsize // 2)


def no_arrays(array: Array) -> Iterator[tuple[str, Any]]:
    yield "None", None
    yield "list", array.tolist()
    yield "text", "text"
    yield "bytes", array.tobytes()
    yield "number", 3
    yield "array of bytes", bytearray(array.tobytes())
    yield "view of bytes", memoryview(array.tobytes())
    yield "a class", np.ndarray
    yield "scalar", array.dtype.type(0)


def each_wrong(arguments: dict[str, Any]) -> Iterator[tuple[str, bool, dict[str, Any]]]:
    """The arguments with one of the arrays wrong: its name and how, whether it is an array, all arguments."""
    for name, right in arguments.items():
        if isinstance(right, np.ndarray):
            for is_array, others in ((True, wrong_arrays(right)), (False, no_arrays(right))):
                for form, wrong in others:
                    yield f"{name}: {form}", is_array, {**arguments, name: wrong}


# ---- tables ----


def vectors_of(seed: int, n: int = N, d: int = D) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)


def kernel_table(vectors: Array, bias: Array | None, codes: Codes) -> dict[str, Any]:
    """Arguments of the kernel's table."""
    padded = None if bias is None else np.concatenate([bias, np.zeros(-len(bias) % 16, np.float32)])
    return {
        "vectors": vectors,
        "bias": padded,
        **{name.removeprefix("codes."): table for name, table in codes.tables().items()},
    }


def asked(**changes: Any) -> Request:
    """A request to N rows that uses everything."""
    random = np.random.default_rng(3)
    request = Request(
        query=random.standard_normal(D).astype(np.float32),
        ranges=np.array([[60, 80], [5, 20]]),
        rest=np.array([[0, 5], [20, 20], [30, 60], [80, N]]),
        bitmap=random.integers(0, 2**64, 2, np.uint64),
        skipped=np.array([7, 31, 99]),
        covisited=np.array([0, 25, 31, 99]),
        offsets=np.array([0.5, -1, 2, 0], np.float32),
    )
    return request._replace(**changes)


@needs_kernel
@pytest.mark.parametrize("stages", [None, [], [8, 16]])
def test_a_table_of_wrong_arrays(stages: list[int] | None) -> None:
    vectors, bias = vectors_of(0), vectors_of(1)[:, 0].copy()
    codes = Codes.of(vectors, stages)
    right = kernel_table(vectors, bias, codes)
    fit = {"vectors: shorter", "vectors: longer", "vectors: narrower", "bias: None"}  # in blocks, so do these
    fit |= {"codes: bytes", "codes: array of bytes", "codes: view of bytes"}  # so many that they are codes
    for what, _, arguments in each_wrong(right):
        table = outcome(kernel.Table, *arguments.values())
        assert (isinstance(table, str)) == (what not in fit), what
        if what in fit:
            n, d = arguments["vectors"].shape
            assert kernel.topk(table, [Request(np.ones(d, np.float32), np.array([[0, n]]))], n)
    plain = {**dict.fromkeys(right), "vectors": vectors, "bias": bias}
    for what, _, arguments in each_wrong(plain):
        table = outcome(kernel.Table, *arguments.values())
        assert (isinstance(table, str)) == (
            what not in ("vectors: narrower", "vectors: wider", "bias: None")
        ), what


@needs_kernel
def test_a_table_without_rows_or_dimensions_or_with_too_many() -> None:
    most = np.zeros((1, 65_536), np.float32)
    kernel.Table(most, *[None] * 7)
    for shape in ((0, 4), (4, 0), (0, 0), (1, 65_537)):
        with pytest.raises(ValueError, match="rows and 1 to 65536 dimensions"):
            kernel.Table(np.zeros(shape, np.float32), *[None] * 7)


@needs_kernel
@pytest.mark.parametrize(
    "ends",
    [
        [],
        [0, 40],
        [40, 40],
        [16, 8, 40],
        [8, 16, 24, 32, 40],
        [12, 40],
        [48],
        [32],
        [-8, 40],
        [8, 48],
        [-(2**63), 40],
        [2**63 - 8, 40],
        [8, 2**62],
    ],
)
def test_stages_that_are_none(ends: list[int]) -> None:
    vectors = vectors_of(0)
    right = kernel_table(vectors, None, Codes.of(vectors))
    stages = {"stage_ends": np.array(ends, np.int64)}
    if len(ends):
        stages["suffix_norms"] = np.zeros((len(ends) - 1, 112), np.uint16)
        stages["quantization_errors"] = np.zeros(1 + len(ends), np.float32)
    with pytest.raises(ValueError, match="stage_ends must be 1 to 4 rising multiples of 8 up to 40"):
        kernel.Table(*{**right, **stages}.values())


@needs_kernel
def test_nobody_makes_a_table_that_has_none() -> None:
    for kind in (kernel.Table, kernel.Covisitation):
        with pytest.raises(TypeError):
            kind.__new__(kind)
    table = kernel.Table(*kernel_table(vectors_of(0), None, Codes.of(vectors_of(0))).values())
    before = kernel.topk(table, [asked()], 5)
    table.__init__(np.zeros((1, 1), np.float32), *[None] * 7)
    np.testing.assert_array_equal(kernel.topk(table, [asked()], 5)[0][1], before[0][1])
    for wrong in (None, 3, Table(vectors_of(0))):
        with pytest.raises(TypeError):
            kernel.topk(wrong, [asked()], 5)
        with pytest.raises(TypeError):
            kernel.integer_dots(wrong, asked().query)
    plain = kernel.Table(vectors_of(0), *[None] * 7)
    with pytest.raises(ValueError, match="must have codes"):
        kernel.integer_dots(plain, asked().query)


def any_bits(random: np.random.Generator, array: Array) -> Array:
    """An array of the same type and shape, of random bits, of special values, or of one value."""
    if not array.size:
        return array
    kind = random.integers(4)
    noise = random.integers(0, 256, array.nbytes, np.uint8).view(array.dtype).reshape(array.shape)
    if kind == 0:
        return noise
    if array.dtype.kind == "f":
        special = np.array([0, -1, 1e30, -1e30, 3e38, 1e-40, np.nan, np.inf, -np.inf], array.dtype)
    else:
        special = np.array([0, 0xFFFF, 0x7F80, 0xFF80, 0x7FC0, 0x7F7F, 1, 128, 255]).astype(array.dtype)
    if kind == 1:
        return np.full_like(array, random.choice(special))
    return np.where(
        random.random(array.shape) < (0.02 if kind == 2 else 0.6), random.choice(special, array.shape), array
    )


@needs_kernel
@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 200) | st.sampled_from([1_100, 2_500]),
    d=st.sampled_from([1, 8, 33, 40, 100]),
    parts=st.sets(
        st.sampled_from(["codes", "scales", "suffix_norms", "quantization_errors", "max_norm"]), min_size=1
    ),
    k=st.integers(1, 20) | st.sampled_from([10_000]),
    count=st.integers(1, 3),
)
def test_tables_of_any_bits_lose_rows_at_worst(
    seed: int, n: int, d: int, parts: set[str], k: int, count: int
) -> None:
    random = np.random.default_rng(seed)
    vectors = vectors_of(seed, n, d)
    bias = any_bits(random, np.zeros(n, np.float32)) if random.random() < 0.5 else None
    arguments = kernel_table(vectors, bias, Codes.of(vectors))
    for name in sorted(parts):
        arguments[name] = any_bits(random, arguments[name])
    cut = int(random.integers(n + 1))
    requests = [
        Request(
            any_bits(random, query) if random.random() < 0.2 else query,
            np.array([[cut, n]]),
            np.array([[0, cut]]) if random.random() < 0.7 else None,
            random.integers(0, 2**64, -(-n // 64), np.uint64) if random.random() < 0.3 else None,
        )
        for query in vectors_of(seed + 1, count, d)
    ]
    with np.errstate(all="ignore"):
        right = get_backend("numpy").search(Table(vectors, bias), requests, n)
    for _ in each_instruction_set():
        table = kernel.Table(*arguments.values())
        for found, all_rows in zip(kernel.topk(table, requests, k), right, strict=True):
            scores, rows = found[:2]
            assert len(rows) <= min(k, n)
            scores_of = dict(zip(all_rows.rows.tolist(), all_rows.scores.tolist(), strict=True))
            assert [
                scores_of[row] for row in rows.tolist()
            ] == scores.tolist()  # each row's own, in order, once
            assert rows.tolist() == sorted(set(rows.tolist()), key=lambda row: (-scores_of[row], row))


@needs_kernel
@pytest.mark.parametrize("code", [0, 1, 127, 128, 255])
@pytest.mark.parametrize("sign", [1, -1])
def test_sums_of_any_codes_fit(code: int, sign: int) -> None:
    d = 65_536
    vectors = np.ones((3, d), np.float32)
    right = kernel_table(vectors, None, Codes.of(vectors, [32, 64, 96]))
    table = kernel.Table(*{**right, "codes": np.full_like(right["codes"], code)}.values())
    # in the first stage a byte is of the leading halves of two codes, or of the trailing halves
    low, high = code & 15, code >> 4
    first = [16 * half + rest - 128 for half, rest in ((low, low), (high, high))]
    query = np.full(d, sign, np.float32)
    for isa in each_instruction_set():
        codes, dots = kernel.integer_dots(table, query)
        assert (codes == sign * 127 * 128).all()
        assert (dots == sign * 127 * 128 * (16 * sum(first) + (d - 32) * (code - 128))).all(), isa
        (found,) = kernel.topk(table, [Request(query, np.array([[0, 3]]))], 3)
        assert len(found[1]) <= 3


@needs_kernel
def test_a_table_keeps_its_stages_when_the_file_changes() -> None:
    vectors = vectors_of(0)
    arguments = kernel_table(vectors, None, Codes.of(vectors))
    table = kernel.Table(*arguments.values())
    before = kernel.topk(table, [asked()], 5)[0][1].tolist()
    arguments["stage_ends"][:] = 2**40
    assert kernel.topk(table, [asked()], 5)[0][1].tolist() == before


@needs_kernel
@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), start=st.integers(-40, 140), stop=st.integers(-40, 140))
def test_codes_of_any_bits_are_checked(seed: int, start: int, stop: int) -> None:
    random, vectors = np.random.default_rng(seed), vectors_of(seed)
    arguments = kernel_table(vectors, None, Codes.of(vectors))
    assert kernel.first_wrong_codes(kernel.Table(*arguments.values()), 0, N) == -1
    for name in ("vectors", "codes", "scales", "suffix_norms", "quantization_errors", "max_norm"):
        if random.random() < 0.5:
            arguments[name] = any_bits(random, arguments[name])
    row = outcome(kernel.first_wrong_codes, kernel.Table(*arguments.values()), start, stop)
    assert isinstance(row, str) == (start < 0 or start % 16 != 0 or stop > N)
    assert isinstance(row, str) or row == -1 or start <= row < stop


@needs_kernel
def test_codes_that_are_checked_where_there_are_none() -> None:
    vectors = vectors_of(0)
    plain, coded = (
        kernel.Table(vectors, *[None] * 7),
        kernel.Table(*kernel_table(vectors, None, Codes.of(vectors)).values()),
    )
    for table, start, stop in (
        (plain, 0, N),
        (None, 0, N),
        (coded, 0, 2**63),
        (coded, -(2**63) - 1, N),
        (coded, -(2**63), N),
        (coded, 0, 2**63 - 1),
        (coded, 2**63 - 16, 2**63 - 1),
        (coded, 0.0, N),
        (coded, "0", N),
        (coded, None, N),
    ):
        assert outcome(kernel.first_wrong_codes, table, start, stop) == "an error"
    assert kernel.first_wrong_codes(coded, 2**62, N) == -1  # no rows


# ---- requests ----


def test_requests_of_wrong_arrays() -> None:
    vectors = vectors_of(0)
    for table in (Table(vectors), Table(vectors, vectors[:, 1].copy(), Codes.of(vectors))):
        for what, is_array, arguments in each_wrong(asked()._asdict()):
            request = Request(**arguments)
            found = [outcome(b.search, table, [asked(), request], 9) for b in BACKENDS]
            failed = [isinstance(one, str) for one in found]
            if is_array:
                assert len(set(failed)) == 1, (what, found)
            if not any(failed):
                for other in found[1:]:
                    np.testing.assert_array_equal(other[1].rows, found[0][1].rows, what)


@pytest.mark.parametrize("backend", BACKENDS)
def test_requests_that_are_none(backend: Any) -> None:
    table = Table(vectors_of(0))
    if backend.name == "c":
        for wrong in ((), asked()[:6], (*asked(), None), None, 3, "1234567"):
            prepared_table = kernel.Table(table.vectors, *[None] * 7)
            assert outcome(kernel.topk, prepared_table, [wrong], 3) == "an error"
    for k in (0, -1, -(2**63), 2.5, "3", None):
        assert outcome(backend.search, table, [asked()], k) == "an error"
    assert backend.search(table, [], 3) == []
    (found,) = backend.search(table, [asked(bitmap=None, skipped=None)], 2**63 - 1)
    assert len(found.rows) == 91


HUGE = st.sampled_from([-(2**63), -(2**62), -1, 0, 1, N - 1, N, N + 1, 2**31, 2**62, 2**63 - 1])
PLACES = HUGE | st.integers(-3, N + 3)


@settings(max_examples=500, deadline=None)
@given(
    ranges=st.lists(st.tuples(PLACES, PLACES), max_size=4),
    rest=st.none() | st.lists(st.tuples(PLACES, PLACES), max_size=4),
    skipped=st.none() | st.lists(PLACES, max_size=5),
    covisited=st.none() | st.lists(PLACES, max_size=5),
    in_order=st.booleans(),
    bias=st.booleans(),
)
def test_requests_of_any_values(
    ranges: list[tuple[int, int]],
    rest: list[tuple[int, int]] | None,
    skipped: list[int] | None,
    covisited: list[int] | None,
    in_order: bool,
    bias: bool,
) -> None:
    def rows(values: list[int] | None) -> Array | None:
        return None if values is None else np.array(sorted(set(values)) if in_order else values, np.int64)

    vectors = vectors_of(5)
    rest_pairs = None if rest is None else np.array(rest, np.int64).reshape(-1, 2)
    always = rows(covisited)
    offsets = None if always is None else np.ones(len(always), np.float32)
    request = asked(
        ranges=np.array(ranges, np.int64).reshape(-1, 2),
        rest=rest_pairs,
        skipped=rows(skipped),
        covisited=always,
        offsets=offsets,
    )
    plain = Table(vectors, vectors[:, 0].copy() if bias else None)
    coded = Table(vectors, plain.bias, Codes.of(vectors))
    found = [outcome(b.search, plain, [request], 9) for b in BACKENDS]
    found += [outcome(BACKENDS[0].search, coded, [request, asked()], 9)]
    assert len({isinstance(one, str) for one in found}) == 1
    try:
        request.checked(plain)
    except ValueError:
        return  # they overlap, so that results may differ
    for other in found:
        np.testing.assert_array_equal(other[0].rows, found[0][0].rows)


# ---- categories ----


def question(**changes: Any) -> dict[str, Any]:
    ranges = np.array([[0, 10], [10, 10], [10, 25], [25, 30], [30, 70]])
    return {
        "logits": np.array([1, 3, 2, 0, 2], np.float32),
        "ranges": ranges,
        "eligible": np.array([4, 0, 9, 5, 11]),
        "first": np.array([3, 1]),
        "rows": 40,
        "least": 20,
        "top_p": 0.5,
        "ordered": 3,
        **changes,
    }


def chosen_by_all(arguments: dict[str, Any], what: str) -> Any:
    found = [outcome(b.choose, *arguments.values()) for b in BACKENDS]
    assert len({isinstance(one, str) for one in found}) == 1, (what, found)
    if not isinstance(found[0], str):
        for other in found[1:]:
            assert other.taken.tolist() == found[0].taken.tolist(), what
            assert other.ranges.tolist() == found[0].ranges.tolist(), what
            assert other.best == found[0].best, what
    return found[0]


def test_a_choice_among_wrong_arrays() -> None:
    for what, is_array, arguments in each_wrong(question()):
        if is_array or what in ("eligible: None", "first: None"):
            chosen_by_all(arguments, what)
        else:
            assert all(outcome(b.choose, *arguments.values()) == "an error" for b in BACKENDS), what
    for wrong in ([5], [-1], [3, 3], [2**63 - 1], [-(2**63)], [0, 1, 2, 3, 4, 0]):
        assert chosen_by_all(question(first=np.array(wrong)), str(wrong)) == "an error"
    for ordered in (-1, -(2**63)):
        assert chosen_by_all(question(ordered=ordered), str(ordered)) == "an error"


LOGITS = st.floats(width=32) | st.sampled_from([np.nan, np.inf, -np.inf, 0.0, 3e38, -3e38, 1.0])
WHOLE = (
    st.integers(-(2**63), 2**63 - 1)
    | st.sampled_from([-(2**63), -1, 0, 1, 2**62, 2**63 - 1])
    | st.integers(0, 99)
)


@settings(max_examples=500, deadline=None)
@given(data=st.data())
@pytest.mark.slow
def test_a_choice_by_any_logits_and_numbers(data: st.DataObject) -> None:
    categories = data.draw(st.integers(1, 40))
    logits = data.draw(st.lists(LOGITS, min_size=categories, max_size=categories))
    ranges = data.draw(st.lists(st.tuples(WHOLE, WHOLE), min_size=categories, max_size=categories))
    eligible = data.draw(st.none() | st.lists(WHOLE, min_size=categories, max_size=categories))
    first = data.draw(st.none() | st.lists(st.integers(0, categories - 1), unique=True, max_size=5))
    found = chosen_by_all(
        {
            "logits": np.array(logits, np.float32),
            "ranges": np.array(ranges, np.int64),
            "eligible": None if eligible is None else np.array(eligible, np.int64),
            "first": None if first is None else np.array(first, np.int64),
            "rows": data.draw(WHOLE),
            "least": data.draw(WHOLE),
            "top_p": data.draw(st.floats() | st.floats(0, 1)),
            "ordered": data.draw(st.integers(0, 9) | st.just(2**63 - 1)),
        },
        "",
    )
    assert len(set(found.taken.tolist())) == len(found.taken) > 0


def test_a_nan_counts_as_the_least() -> None:
    nan, inf = np.float32(np.nan), np.float32(np.inf)
    for logits in (
        [nan, 2, nan, 1, nan],
        [nan, 1, 0, nan, -inf],
        [nan] * 5,
        [inf, nan, inf, 0, 1],
        [-inf] * 5,
    ):
        given = np.array(logits, np.float32)
        as_least = np.where(np.isnan(given), -inf, given)
        first, second = (
            chosen_by_all(question(logits=values, first=None, rows=70, ordered=5), str(logits))
            for values in (given, as_least)
        )
        assert first.taken.tolist() == second.taken.tolist()
        assert [at for at, _ in first.best] == np.argsort(-as_least, kind="stable").tolist()
        assert first.best == second.best


# ---- ids and sessions ----


def test_ids_in_wrong_arrays() -> None:
    ids = np.array([5, 1, 9, 7])
    right = {"ids": ids, "order": ids.argsort(), "wanted": np.array([9, 4, 1])}
    for what, is_array, arguments in each_wrong(right):
        found = [outcome(b.find_ids, *arguments.values()) for b in BACKENDS]
        assert len({isinstance(one, str) for one in found}) == 1 or not is_array, what
        if not any(isinstance(one, str) for one in found):
            for other in found[1:]:
                np.testing.assert_array_equal(other, found[0], what)


@settings(max_examples=300, deadline=None)
@given(
    ids=st.lists(HUGE, min_size=1, max_size=6),
    order=st.lists(HUGE | st.integers(0, 5), max_size=7),
    wanted=st.lists(HUGE, max_size=4),
)
def test_ids_in_any_order(ids: list[int], order: list[int], wanted: list[int]) -> None:
    arrays = [np.array(each, np.int64) for each in (ids, order, wanted)]
    for backend in BACKENDS:
        rows = outcome(backend.find_ids, *arrays)
        if len(order) != len(ids):
            assert isinstance(rows, str)
        elif not isinstance(rows, str):
            for row, one in zip(rows.tolist(), wanted, strict=True):
                assert row == -1 or ids[row] == one


def test_sessions_in_wrong_arrays() -> None:
    right = {"session": np.array([5, 1, 5, 2]), "logits": np.array([1, 2, 3, 4], np.float32)}
    for what, is_array, arguments in each_wrong(right):
        found = [outcome(b.session_items, *arguments.values()) for b in BACKENDS]
        failed = {isinstance(one, str) for one in found}
        assert len(failed) == 1 or not is_array, what
        if what in ("logits: one", "logits: shorter", "logits: empty") or not (
            is_array or what == "logits: None"
        ):
            assert failed == {True}, what


@settings(max_examples=20, deadline=None)
@given(length=st.integers(500, 530) | st.just(5_000), seed=st.integers(0, 99), with_logits=st.booleans())
def test_long_sessions(length: int, seed: int, with_logits: bool) -> None:
    random = np.random.default_rng(seed)
    session = random.integers(0, 2 * length, length)
    logits = random.standard_normal(length).astype(np.float32) if with_logits else None
    first, *others = (backend.session_items(session, logits) for backend in BACKENDS)
    for rows, sums in others:
        np.testing.assert_array_equal(rows, first[0])
        np.testing.assert_array_equal(sums, first[1])


# ---- the co-visitation scorer ----


def scorer_of(seed: int, n: int = 9, edges: int = 20, hidden: int = 3) -> dict[str, Array]:
    random = np.random.default_rng(seed)
    return {
        "popularity": random.random((n, POPULARITIES)).astype(np.float32),
        "offsets": np.sort(random.integers(0, edges + 1, n + 1)),
        "rows": random.integers(0, n, edges).astype(np.int32),
        "counts": random.integers(0, 9, (edges, EDGE_COUNTS)).astype(np.uint16),
        "hidden_weight": random.standard_normal((FEATURES, hidden)).astype(np.float32),
        "hidden_bias": random.standard_normal(hidden).astype(np.float32),
        "weight": random.standard_normal(hidden + 1).astype(np.float32),
    }


def prepared(backend: Any, tables: dict[str, Any]) -> Any:
    popularity, offsets, rows, counts, *network = tables.values()
    return backend.covisitation(
        CovisitationScorer(CovisitationCounts(popularity, offsets, rows, counts), *network)
    )


def scored(backend: Any, tables: dict[str, Any], session: Array) -> Any:
    return prepared(backend, tables)(session)


def test_a_scorer_of_wrong_arrays() -> None:
    session = np.array([1, 8, 0])
    for hidden in (0, 1, 3, 64, 65):
        tables = scorer_of(0, hidden=hidden)
        for what, is_array, wrong in each_wrong(tables):
            found = [outcome(scored, b, wrong, session) for b in BACKENDS]
            assert len({isinstance(one, str) for one in found}) == 1, (hidden, what)
            assert is_array or isinstance(found[0], str), what
    if kernel is not None:
        for hidden in (0, 65):
            with pytest.raises(ValueError, match=f"hidden_bias must have 1 to 64 values, got {hidden}"):
                kernel.Covisitation(*scorer_of(0, hidden=hidden).values())


def test_sessions_that_a_scorer_does_not_know() -> None:
    scorers = [prepared(backend, scorer_of(0)) for backend in BACKENDS]
    for scorer in scorers:
        for wrong in ([], [-1], [9], [0, 2**63 - 1], [-(2**63), 0], [0, 2**32], [3, -9]):
            with pytest.raises(ValueError, match="session"):
                scorer(np.array(wrong, np.int64))
        session, fit = np.array([1, 2]), ("shorter", "longer", "one", "flat", "wider", "narrower")
        for what, wrong_session in (*wrong_arrays(session), *no_arrays(session)):
            found = outcome(scorer, wrong_session)
            assert isinstance(found, str) == (what not in fit), what


@settings(max_examples=300, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    offsets=st.lists(
        st.integers(-2, 23) | st.sampled_from([-(2**63), 2**63 - 1, 2**62, 2**40]), min_size=10, max_size=10
    ),
    rows=st.lists(st.integers(-1, 9) | st.sampled_from([-(2**31), 2**31 - 1]), min_size=20, max_size=20),
    session=st.lists(st.integers(0, 8), min_size=1, max_size=20),
)
def test_offsets_and_neighbors_of_any_value(
    seed: int, offsets: list[int], rows: list[int], session: list[int]
) -> None:
    tables = scorer_of(seed) | {"offsets": np.array(offsets, np.int64), "rows": np.array(rows, np.int32)}
    first, *others = (scored(backend, tables, np.array(session)) for backend in BACKENDS)
    for found in others:
        for have, want in zip(found, first, strict=True):
            np.testing.assert_array_equal(have, want)


@needs_kernel
@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), names=st.sets(st.sampled_from(list(scorer_of(0))), min_size=1))
def test_a_scorer_of_any_bits(seed: int, names: set[str]) -> None:
    random, tables = np.random.default_rng(seed), scorer_of(seed)
    for name in sorted(names):
        noise = random.integers(0, 256, tables[name].nbytes, np.uint8)
        tables[name] = noise.view(tables[name].dtype).reshape(tables[name].shape)
    session = random.integers(0, 9, 12)
    with np.errstate(all="ignore"):
        right, _ = scored(get_backend("numpy"), tables, session)
    rows, offsets = scored(get_backend("c"), tables, session)
    np.testing.assert_array_equal(rows, right)
    assert len(offsets) == len(rows)


@needs_kernel
def test_no_room_is_asked_for_what_cannot_be_covisited() -> None:
    n, edges = 50, 1_000_000
    tables = scorer_of(0, n, edges)
    tables["offsets"] = np.where(np.arange(n + 1) % 2, edges, 0)  # every second row has all edges
    scorer = kernel.Covisitation(*tables.values())
    rows, _ = scorer.score_offsets(np.arange(0, 16, 2))
    assert rows.base is None or len(rows.base) <= n


@needs_kernel
def test_arrays_are_given_back() -> None:
    vectors = vectors_of(0)
    table_arrays = kernel_table(vectors, vectors[:, 0].copy(), Codes.of(vectors))
    table, scorer_arrays = kernel.Table(*table_arrays.values()), scorer_of(0)
    scorer = kernel.Covisitation(*scorer_arrays.values())
    ids = {"ids": np.arange(5), "order": np.arange(5), "wanted": np.array([3])}
    session = {"session": np.array([3, 1]), "logits": np.ones(2, np.float32)}
    calls: list[tuple[Callable[..., Any], dict[str, Any]]] = [
        (kernel.Table, table_arrays),
        (kernel.Covisitation, scorer_arrays),
        (lambda *parts: kernel.topk(table, [parts, parts], 3), asked()._asdict()),
        (kernel.choose, question()),
        (kernel.find_ids, ids),
        (kernel.session_items, session),
        (scorer.score_offsets, {"session": session["session"]}),
        (lambda query: kernel.integer_dots(table, query), {"query": asked().query}),
    ]
    for call, right in calls:
        for what, _, arguments in [("right", True, right), *each_wrong(right)]:
            arrays = [one for one in arguments.values() if isinstance(one, np.ndarray)]
            before = [sys.getrefcount(array) for array in arrays]
            outcome(call, *arguments.values())
            assert [sys.getrefcount(array) for array in arrays] == before, what


# ---- threads ----


@needs_kernel
def test_threads_with_one_table_while_others_are_made() -> None:
    vectors = vectors_of(0, 2_000)
    codes, requests = Codes.of(vectors), [Request(query, np.array([[0, 2_000]])) for query in vectors[:20]]
    shared = kernel.Table(*kernel_table(vectors, None, codes).values())
    right = [found[1].tolist() for found in kernel.topk(shared, requests, 7)]
    stop = threading.Event()

    def rank(table: Any) -> int:
        rounds = 0
        while not stop.is_set():
            assert [found[1].tolist() for found in kernel.topk(table, requests, 7)] == right
            rounds += 1
        return rounds

    def make() -> int:
        made = 0
        while not stop.is_set():
            table = kernel.Table(*kernel_table(vectors.copy(), None, codes).values())
            assert kernel.topk(table, requests[:1], 7)[0][1].tolist() == right[0]
            outcome(kernel.Table, vectors, vectors[0], *[None] * 6)
            made += 1
        return made

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(3) as pool:
            running = [pool.submit(rank, shared), pool.submit(rank, shared), pool.submit(make)]
            threading.Event().wait(0.5)
            stop.set()
            assert all(one.result() for one in running)
    finally:
        sys.setswitchinterval(interval)


@needs_kernel
def test_offsets_that_change_meanwhile() -> None:
    n, edges = 64, 4_096
    tables = scorer_of(0, n, edges)
    offsets = tables["offsets"]
    scorer, stop, session = kernel.Covisitation(*tables.values()), threading.Event(), np.arange(n)
    random = np.random.default_rng(0)

    def change() -> None:
        while not stop.is_set():
            offsets[:] = random.integers(-2, edges + 3, n + 1)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(2_000):
            rows, _ = scorer.score_offsets(session)
            assert rows.tolist() == list(range(n))
    finally:
        stop.set()
        thread.join()


# ---- one session at once ----


def session_ranking(**changes: Any) -> dict[str, Any]:
    """Arguments of what ranks sessions over N rows in 4 categories; it uses everything."""
    tables = scorer_of(2, n=N, edges=300)
    prepared_tables = {
        "table": kernel.Table(*kernel_table(vectors_of(0), None, Codes.of(vectors_of(0))).values()),
        "covisitation": kernel.Covisitation(*tables.values()),
        "leaves": np.array([[0, 5], [5, 30], [30, 30], [30, N]]),
        "eligible": np.array([5, 20, 0, 60]),
        "bitmap": np.full(2, 2**64 - 1, np.uint64),
        "deleted": np.array([3, 40]),
        "extra_offsets": np.array([0, 2, 2, 5, 6]),
        "extra_rows": np.array([7, 31, 1, 2, 99, 0]),
        "rows": 20,
        "top_p": 0.0,
        "exact": False,
        "k": 9,
        "ordered": 3,
    }
    return prepared_tables | changes


def session_asked(**changes: Any) -> dict[str, Any]:
    random = np.random.default_rng(4)
    return {
        "session": np.array([1, 8, N + 2, 8]),
        "known": np.array([1, 8, 3, 8]),
        "repeat_logits": random.standard_normal(4).astype(np.float32),
        "logits": random.standard_normal(4).astype(np.float32),
        "query": random.standard_normal(D).astype(np.float32),
        "first": np.array([2]),
        "skipped": np.array([7, 31, 99]),
        "least": 9,
    } | changes


def ranked_at_once(made: dict[str, Any], wanted: dict[str, Any]) -> Any:
    return outcome(lambda: kernel.SessionRanking(*made.values())(*wanted.values()))


@needs_kernel
def test_one_session_of_wrong_arrays() -> None:
    optional = ("eligible", "bitmap", "deleted", "extra_rows", "repeat_logits", "first", "skipped")
    may_lack = {f"{name}: None" for name in optional}
    for what, is_array, made in each_wrong(session_ranking()):
        found = ranked_at_once(made, session_asked())
        assert is_array or isinstance(found, str) != (what in may_lack), what
    for what, is_array, wanted in each_wrong(session_asked()):
        found = ranked_at_once(session_ranking(), wanted)
        assert is_array or isinstance(found, str) != (what in may_lack), what
    for name, wrong in (("k", 0), ("k", -1), ("ordered", -1), ("rows", "3"), ("top_p", None), ("k", 2.5)):
        assert ranked_at_once(session_ranking(**{name: wrong}), session_asked()) == "an error"
    other = kernel.Covisitation(*scorer_of(2, n=N + 1).values())
    assert ranked_at_once(session_ranking(covisitation=other), session_asked()) == "an error"
    assert ranked_at_once(session_ranking(table=None), session_asked()) == "an error"


@needs_kernel
@settings(max_examples=500, deadline=None)
@given(data=st.data(), exact=st.booleans(), scored=st.booleans())
@pytest.mark.slow
def test_one_session_of_any_values(data: st.DataObject, exact: bool, scored: bool) -> None:
    def numbers(size: int | None) -> Array:
        lists = st.lists(PLACES, min_size=size or 0, max_size=5 if size is None else size)
        return np.array(data.draw(lists), np.int64)

    made = session_ranking(exact=exact)
    if not scored:
        made["covisitation"] = None
    for name, size in (
        ("leaves", 8),
        ("eligible", 4),
        ("deleted", None),
        ("extra_offsets", 5),
        ("extra_rows", 6),
    ):
        if data.draw(st.booleans()):
            made[name] = numbers(size).reshape(-1, 2) if name == "leaves" else numbers(size)
    wanted = session_asked()
    for name, size in (("session", 4), ("known", None), ("first", None), ("skipped", None)):
        if data.draw(st.booleans()):
            wanted[name] = numbers(size)
    found = ranked_at_once(made, wanted)
    if found != "an error":
        assert len(found[0]) == len(found[1]) <= 9
        assert ((found[1] >= 0) & (found[1] < N)).all()


@needs_kernel
def test_a_session_that_is_not_among_the_known_rows() -> None:
    """Only what is known counts, and what lies beyond the table."""
    session = np.array([56, 49, 1, 44])
    made = session_ranking(deleted=np.array([], np.int64))
    found = ranked_at_once(made, session_asked(session=session))
    wanted = ranked_at_once(
        made, session_asked(session=np.array([1]), repeat_logits=session_asked()["repeat_logits"][2:])
    )
    for each, one in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(each, one)


# ---- the same session in rows that were added ----


def added_ranking(**changes: Any) -> dict[str, Any]:
    """Arguments of what ranks N added rows, which come after 50 of the bundle; it uses everything."""
    return {
        "table": kernel.Table(vectors_of(0), *7 * [None]),
        "first_row": 50,
        "placements_of_leaf": {1: [0, 1], 3: [1]},
        "rows_of_placement": [[0, 5, 64], [2, 3, N - 1, N]],
        "live": np.full(2, 2**64 - 1 - 32, np.uint64),
        "bitmap": np.full(2, 2**64 - 1, np.uint64),
        "deleted": np.array([3, 40]),
        "successors": np.array([7, -1]),
        "exact": False,
        "k": 9,
    } | changes


def added_asked(**changes: Any) -> dict[str, Any]:
    random = np.random.default_rng(4)
    return {
        "scores": np.arange(9, 0, -1).astype(np.float32),
        "rows": np.arange(9),
        "taken": np.array([1, 3, 2]),
        "covisited": np.array([1, 2]),
        "offsets": np.ones(2, np.float32),
        "elsewhere": np.array([3, 40, 57, 60]),
        "elsewhere_offsets": random.standard_normal(4).astype(np.float32),
        "query": random.standard_normal(D).astype(np.float32),
        "skipped": np.array([1, 60]),
    } | changes


def ranked_with_added(made: dict[str, Any], asked: dict[str, Any]) -> Any:
    names = ("covisited", "offsets", "elsewhere", "elsewhere_offsets")
    ranked = (
        asked["scores"],
        asked["rows"],
        5,
        6,
        asked["taken"],
        None,
        (),
        *(asked[name] for name in names),
    )
    return outcome(lambda: kernel.AddedRanking(*made.values())(ranked, asked["query"], asked["skipped"]))


@needs_kernel
def test_added_rows_of_wrong_arrays() -> None:
    assert ranked_with_added(added_ranking(), added_asked())[4].tolist() == [
        [row, row + 1] for row in (0, 2, 3, 64, N - 1)
    ]
    may_lack = {f"{name}: None" for name in ("live", "bitmap", "skipped")}
    for what, is_array, made in each_wrong(added_ranking()):
        found = ranked_with_added(made, added_asked())
        assert is_array or isinstance(found, str) != (what in may_lack), what
    for what, is_array, asked in each_wrong(added_asked()):
        found = ranked_with_added(added_ranking(), asked)
        handed_on = what.startswith(("covisited", "offsets"))
        assert is_array or handed_on or isinstance(found, str) != (what in may_lack), what
    cases: tuple[dict[str, Any], ...] = (
        {"k": 0},
        {"k": 2.5},
        {"first_row": -1},
        {"placements_of_leaf": []},
        {"table": None},
    )
    for wrong in cases:
        assert ranked_with_added(added_ranking(**wrong), added_asked()) == "an error"
    for rows in ([[0], (1,)], [["a"], [1]]):
        assert ranked_with_added(added_ranking(rows_of_placement=rows), added_asked()) == "an error"
    assert len(ranked_with_added(added_ranking(rows_of_placement=[[4, 4], [4]]), added_asked())[4]) == 1


@needs_kernel
@settings(max_examples=300, deadline=None)
@given(data=st.data(), exact=st.booleans())
def test_added_rows_of_any_values(data: st.DataObject, exact: bool) -> None:
    def numbers(size: int | None) -> Array:
        lists = st.lists(PLACES, min_size=size or 0, max_size=5 if size is None else size)
        return np.array(data.draw(lists), np.int64)

    made, asked = added_ranking(exact=exact), added_asked()
    for name in ("deleted", "successors"):
        if data.draw(st.booleans()):
            made[name] = numbers(2)
    if data.draw(st.booleans()):
        made["rows_of_placement"] = [numbers(None).tolist(), numbers(None).tolist()]
    for name, size in (("rows", 9), ("taken", None), ("elsewhere", 4), ("skipped", None)):
        if data.draw(st.booleans()):
            asked[name] = numbers(size)
    found = ranked_with_added(made, asked)
    if found != "an error":
        assert len(found[0]) == len(found[1]) <= 9
