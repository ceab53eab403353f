"""Which backends and instruction sets there are, how they are chosen, and what happens without a compiled kernel."""

from __future__ import annotations

import doctest
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import hiersrec_sdk.ranking
from hiersrec_sdk.errors import BackendError, MissingKernelWarning
from hiersrec_sdk.ranking import Table, available_backends, get_backend, instruction_sets, kernel_file
from hiersrec_sdk.ranking.requests import Request
from tests.sdk.bundles import make_shop
from tests.sdk.ranking.cases import ISAS, NAMES, each_instruction_set, kernel, needs_kernel

BACKENDS = [get_backend(name) for name in NAMES]


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


# ---- which there are ----


@needs_kernel
def test_every_backend_is_here() -> None:
    assert available_backends() == ("c", "numba", "numpy")
    assert ISAS[-1] == "scalar"


def test_an_unknown_backend_is_an_error_that_names_the_others() -> None:
    with pytest.raises(BackendError, match=f"'cuda' is not available here; available: {', '.join(NAMES)}"):
        get_backend("cuda")


def test_the_best_backend_is_the_default() -> None:
    best = get_backend()
    assert best.name == NAMES[0]
    assert best is get_backend(NAMES[0])
    assert repr(best) == f"<ranking backend {NAMES[0]!r}>"


def test_a_numba_that_does_not_load_is_an_error_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "hiersrec_sdk.ranking.numba_backend", raising=False)
    monkeypatch.setattr(hiersrec_sdk.ranking, "find_spec", lambda name: object())
    monkeypatch.setitem(sys.modules, "numba", None)
    with pytest.raises(BackendError, match="'numba' cannot be loaded"):
        get_backend("numba")


def test_naming_the_backends_does_not_import_numba() -> None:
    done = python(
        "import sys; from hiersrec_sdk.ranking import available_backends, get_backend; "
        "available_backends(); get_backend('numpy'); assert 'numba' not in sys.modules"
    )
    assert done.returncode == 0, done.stderr


def test_the_example_of_the_docstring_is_true() -> None:
    results = doctest.testmod(hiersrec_sdk.ranking)
    assert results.attempted
    assert not results.failed


# ---- instruction sets ----


@needs_kernel
def test_the_best_instruction_set_is_the_default() -> None:
    done = python("from hiersrec_sdk import _kernel; print(_kernel.isa())")
    assert done.stdout.split() == [ISAS[0]], done.stderr
    assert not kernel.use_isa("mmx")
    assert not kernel.use_isa("")
    for isa in each_instruction_set():
        assert kernel.isa() == isa
        assert instruction_sets() == (isa, *(other for other in ISAS if other != isa))


@needs_kernel
def test_the_environment_forces_an_instruction_set() -> None:
    code = "from hiersrec_sdk.ranking import instruction_sets; print(instruction_sets()[0])"
    for isa in ISAS:
        assert python(code, HIERSREC_ISA=isa).stdout.split() == [isa]
    wrong = python(code, HIERSREC_ISA="mmx")
    assert wrong.returncode == 1
    assert f"HIERSREC_ISA is 'mmx'; this processor has {', '.join(ISAS)}" in wrong.stderr
    assert python(code, HIERSREC_ISA="").stdout.split() == [ISAS[0]]


# ---- without a compiled kernel ----

HIDDEN = "import sys; sys.modules['hiersrec_sdk._kernel'] = None; "


@pytest.fixture
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if no warning had been issued yet."""
    monkeypatch.setattr(hiersrec_sdk.ranking, "_warned", False)


def test_the_file_of_the_kernel() -> None:
    file = kernel_file()
    assert (file is not None) == (kernel is not None)
    assert file is None or file == Path(kernel.__file__)


@pytest.mark.usefixtures("forgetful")
def test_without_the_kernel_the_others_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hiersrec_sdk._kernel", None)
    others = tuple(name for name in NAMES if name != "c")
    assert available_backends() == others
    assert kernel_file() is None
    assert instruction_sets() == ()
    with pytest.warns(MissingKernelWarning, match="it has no compiled kernel"):
        assert get_backend().name == others[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert get_backend().name == others[0]  # said once
    with pytest.raises(BackendError, match=f"'c' is not available here; available: {', '.join(others)}"):
        get_backend("c")


@needs_kernel
@pytest.mark.usefixtures("forgetful")
def test_a_kernel_that_cannot_be_loaded_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "_kernel.so"
    monkeypatch.setattr(hiersrec_sdk.ranking, "_is_available", lambda name: name != "c")
    monkeypatch.setattr(hiersrec_sdk.ranking, "kernel_file", lambda: broken)
    with pytest.warns(MissingKernelWarning) as issued:
        get_backend()
    assert f"its compiled kernel {broken} cannot be loaded here" in str(issued[0].message)


@pytest.mark.slow
def test_an_import_without_the_kernel_warns_once_and_says_what_helps() -> None:
    done = python(HIDDEN + "import hiersrec_sdk; hiersrec_sdk.ranking.get_backend()")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("MissingKernelWarning") == 1
    package = Path(hiersrec_sdk.__file__)
    assert f"hiersrec_sdk was imported from {package}, and it has no compiled kernel" in done.stderr
    assert "pip install -e ." in done.stderr


@needs_kernel
def test_an_import_with_the_kernel_is_silent_and_asking_for_numpy_does_not_load_it() -> None:
    code = (
        "import sys, hiersrec_sdk; from hiersrec_sdk.ranking import get_backend; get_backend('numpy'); "
        "assert 'hiersrec_sdk._kernel' not in sys.modules"
    )
    done = python(code)
    assert done.returncode == 0, done.stderr
    assert not done.stderr


RECOMMEND = """
import json, sys, hiersrec_sdk
from hiersrec_sdk import Recommender
recommender = Recommender.load({folder!r}, backend={backend!r})
results = [recommender.recommend({session!r}, k=9, mode=mode) for mode in ("candidates", "exact")]
print(json.dumps([recommender.backend, [[result.items, result.scores.tolist()] for result in results]]))
assert {backend!r} != "numpy" or not sys.modules.get("hiersrec_sdk._kernel"), "the kernel was loaded"
"""


@pytest.mark.slow
def test_recommendations_without_the_kernel_are_the_same(tmp_path: Path) -> None:
    shop = make_shop(covisitation=True)
    folder = str(shop.write(tmp_path / "bundle"))
    code = {
        backend: RECOMMEND.format(folder=folder, session=shop.ids[:3], backend=backend)
        for backend in (None, "numpy")
    }
    runs = [code[None], code["numpy"], HIDDEN + code[None], HIDDEN + code["numpy"]]
    answers: list[Any] = []
    for done in map(python, runs):
        assert done.returncode == 0, done.stderr
        answers.append(json.loads(done.stdout))
    assert [name for name, _ in answers[1:]] == [
        "numpy",
        next(name for name in NAMES if name != "c"),
        "numpy",
    ]
    assert answers[0][0] == "c" or kernel is None  # hidden from this process alone
    assert all(results == answers[0][1] for _, results in answers)


# ---- the small operations ----

INT64 = st.integers(-(2**63), 2**63 - 1)


def each_the_same(found: list[tuple[NDArray[Any], ...]]) -> Iterator[NDArray[Any]]:
    """The arrays of the first, once the others are known to be the same bits."""
    for first, *others in zip(*found, strict=True):
        for other in others:
            assert other.dtype == first.dtype
            np.testing.assert_array_equal(other.view(f"u{first.itemsize}"), first.view(f"u{first.itemsize}"))
        yield first


@given(ids=st.lists(INT64, unique=True, max_size=30), more=st.lists(INT64, max_size=5), data=st.data())
def test_ids_are_found_or_unknown(ids: list[int], more: list[int], data: st.DataObject) -> None:
    wanted = data.draw(st.lists(st.sampled_from([*ids, *more]), max_size=9)) if ids or more else []
    stored = np.array(ids, np.int64)
    arguments = stored, stored.argsort(), np.array(wanted, np.int64)
    (rows,) = each_the_same([(backend.find_ids(*arguments),) for backend in BACKENDS])
    assert rows.dtype == np.int64
    assert rows.tolist() == [ids.index(one) if one in ids else -1 for one in wanted]


@pytest.mark.parametrize("order", [[0, 9, 1], [0, -1, 1]])
@pytest.mark.parametrize("backend", BACKENDS)
def test_an_order_that_names_rows_outside(backend: Any, order: list[int]) -> None:
    with pytest.raises(IndexError):
        backend.find_ids(np.array([1, 2, 3]), np.array(order), np.array([2]))


@given(
    session=st.lists(st.integers(0, 6), min_size=1, max_size=12),
    logits=st.none() | st.lists(st.floats(width=32, allow_nan=False), min_size=12, max_size=12),
)
def test_the_items_of_a_session_once_each(session: list[int], logits: list[float] | None) -> None:
    values = None if logits is None else np.array(logits, np.float32)
    with np.errstate(all="ignore"):
        rows, sums = each_the_same([backend.session_items(np.array(session), values) for backend in BACKENDS])
    assert rows.tolist() == sorted(set(session))
    if values is None:
        assert sums.tolist() == [0] * len(rows)
        return
    wanted: dict[int, np.float32] = {}
    for row, logit in zip(session, values, strict=False):
        with np.errstate(all="ignore"):
            wanted[row] = wanted[row] + logit if row in wanted else logit
    np.testing.assert_array_equal(sums, [wanted[row] for row in sorted(wanted)])


@needs_kernel
def test_what_is_made_of_a_table_goes_with_it() -> None:
    from hiersrec_sdk.ranking import c_backend

    vectors = np.ones((3, 2), np.float32)
    table = Table(vectors)
    request = Request(np.ones(2, np.float32), np.array([[0, 3]]))
    for _ in range(2):
        c_backend.BACKEND.search(table, [request], 2)
    assert c_backend.prepare(table) is c_backend.prepare(table)
    held = sys.getrefcount(vectors)
    del table
    assert sys.getrefcount(vectors) == held - 2  # the table's and the kernel's
