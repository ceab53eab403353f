"""Sessions of onnxruntime: providers, threads, and whose fault it is when one does not start or fails."""

from __future__ import annotations

import gc
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hiersrec_sdk import Recommender
from hiersrec_sdk.encoders import runtime
from hiersrec_sdk.encoders.runtime import check_starts, checked_providers, import_onnxruntime, open_session
from hiersrec_sdk.encoders.session_encoder import OnnxSessionEncoder
from hiersrec_sdk.errors import (
    BundleCorruptError,
    InvalidProvidersError,
    InvalidThreadsError,
    ProviderError,
)
from tests.sdk.bundles import DIMENSION, SIZES, make_shop
from tests.sdk.encoders.forged import node, with_output

RIGHT = make_shop("int64", seed=1).files["model.onnx"]
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


def test_providers() -> None:
    assert checked_providers(("cpu",)) == ("cpu",)
    assert checked_providers(["cuda", "cpu", "cuda"]) == ("cuda", "cpu")
    assert checked_providers(name for name in ("cpu", "cpu")) == ("cpu",)
    for wrong in (
        5,
        None,
        "cpu",
        b"cpu",
        [],
        (),
        [[]],
        [5],
        [None],
        {"cpu": 1},
        [b"cpu"],
        [("cpu", {})],
        object(),
    ):
        with pytest.raises(InvalidProvidersError, match=r"^providers must be .*, got ") as raised:
            checked_providers(wrong)
        assert len(str(raised.value)) < 300
    for unknown in ("tpu", "CPU", "", "CPUExecutionProvider", "x" * 10_000, "\ud800"):
        with pytest.raises(ProviderError, match=r"is unknown; there are 'cpu', 'cuda'$") as raised_of_name:
            checked_providers(["cpu", unknown])
        assert len(str(raised_of_name.value)) < 300


def test_threads() -> None:
    right: list[Any] = [1, 2, np.int64(2), 256]
    for threads in right:
        before = threading.active_count()
        open_session(RIGHT, "model.onnx", threads=threads)
        assert threading.active_count() == before
    wrong: list[Any] = [0, -1, 257, 10**6, 10**5000, 1.0, True, None, "2", [1]]
    for threads in wrong:
        with pytest.raises(
            InvalidThreadsError, match=r"^threads must be an integer from 1 to 256, or 'auto', got "
        ):
            open_session(RIGHT, "model.onnx", threads=threads)


class _WithCuda:
    """onnxruntime with a CUDA that does as told; what does not concern it goes to the CPU."""

    def __init__(self, session: Any, start: Callable[[], None], run: Callable[[Any], Any]) -> None:
        self._session, self._start, self._run = session, start, run

    def __call__(self, model: bytes, options: Any, providers: list[Any], **settings: Any) -> Any:
        started = self._session(model, options, [CPU], **settings)
        chosen = dict(providers)
        if CUDA not in chosen:
            return started
        assert chosen[CUDA] == {"use_tf32": "0"}  # whose 10 bits of mantissa give other items than the CPU
        self._start()
        run = started.run
        started.run = lambda *arguments: self._run(lambda: run(*arguments))
        started.get_providers = lambda: [CUDA, CPU]
        return started


@pytest.fixture
def with_cuda(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    onnxruntime = import_onnxruntime()

    def pretend(
        start: Callable[[], None] = lambda: None, run: Callable[[Any], Any] = lambda run: run()
    ) -> None:
        monkeypatch.setattr(runtime, "_CUDA", runtime._Cuda())
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
        with_it = _WithCuda(onnxruntime.InferenceSession, start, run)
        monkeypatch.setattr(onnxruntime, "InferenceSession", with_it)

    return pretend


def fail(*_: Any) -> None:
    raise RuntimeError(
        f"[ONNXRuntimeError] : 1 : FAIL : /onnxruntime_src/cuda_call.cc:154 std::conditional_t<{'T' * 500}> [with bool "
        "THRW = true] CUDA failure 100: no CUDA-capable device is detected ; GPU=0 ; hostname=x ; expr=cudaSetDevice();"
    )


def encoder(model: bytes) -> OnnxSessionEncoder:
    return OnnxSessionEncoder(model, dimension=DIMENSION, categories=SIZES, providers=("cuda", "cpu"))


def test_cuda_that_does_not_start(with_cuda: Callable[..., None]) -> None:
    with_cuda(start=fail)
    with pytest.raises(ProviderError, match="no CUDA-capable device"):
        check_starts("cuda")
    with pytest.raises(
        ProviderError,
        match=r"did not start: CUDA failure 100: no CUDA-capable device is detected; .*providers=\('cpu',\)$",
    ):
        encoder(RIGHT)
    with pytest.raises(BundleCorruptError, match=r"^model\.onnx cannot be loaded"):
        encoder(RIGHT[:-100])


def test_cuda_can_be_tried(with_cuda: Callable[..., None]) -> None:
    (found,) = open_session(runtime._IDENTITY, "a test").run(None, {"x": np.full(1, 7, np.float32)})
    assert found == [7]
    check_starts("cpu")
    with_cuda()
    check_starts("cuda")


def test_cuda_without_its_libraries(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """onnxruntime goes on without it, and only prints what is missing."""
    onnxruntime = import_onnxruntime()
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: sys.stdout.write("Failed to load libcudart"))
    monkeypatch.setattr(runtime, "_CUDA", runtime._Cuda())
    session, library = onnxruntime.InferenceSession, "libonnxruntime_providers_cuda.so"
    monkeypatch.setattr(
        onnxruntime,
        "InferenceSession",
        lambda model, options, _, **more: session(model, options, [CPU], **more),
    )
    monkeypatch.setattr(runtime, "_missing", lambda _: f"{library}: cannot open shared object file")
    with pytest.raises(
        ProviderError,
        match=r"^provider 'cuda' did not start: .*libonnxruntime_providers_cuda\.so.*providers=\('cpu'",
    ):
        encoder(RIGHT)
    assert capfd.readouterr().out == ""


def test_threads_that_start_cuda_at_once(
    with_cuda: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What onnxruntime prints is kept to itself, and nothing else is from then on."""
    printed = list[str]()

    def preload() -> None:
        printed.append("once")
        time.sleep(0.05)

    before = sys.stdout
    with_cuda()
    monkeypatch.setattr(import_onnxruntime(), "preload_dlls", preload)
    with ThreadPoolExecutor(4) as pool:
        for _ in pool.map(encoder, [RIGHT] * 4):
            pass
    assert sys.stdout is before
    assert printed == ["once"]


def test_cuda_in_a_process_that_was_forked(with_cuda: Callable[..., None]) -> None:
    with_cuda()
    encoder(RIGHT)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            encoder(RIGHT)
        except ProviderError as error:
            status = 0 if "forked" in str(error) else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_cuda_that_fails(with_cuda: Callable[..., None]) -> None:
    with_cuda(run=fail)
    with pytest.raises(
        ProviderError, match=r"^the graph of a test failed to run on 'cuda': CUDA failure 100"
    ):
        check_starts("cuda")
    loaded = encoder(RIGHT)
    with pytest.raises(
        ProviderError, match=r"^model\.onnx failed to run on 'cuda', 'cpu': CUDA failure 100"
    ) as raised:
        loaded.encode(np.ones((1, 2, DIMENSION), np.float32), np.array([2]))
    assert len(str(raised.value)) < 400
    hopeless = with_output(
        RIGHT,
        "item_query",
        [node("Reshape", ["right", "seven"], ["item_query"])],
        {"seven": np.array([1, 7])},
    )
    loaded = encoder(hopeless)
    with pytest.raises(BundleCorruptError, match=r"^model\.onnx failed to run: "):
        loaded.encode(np.ones((1, 2, DIMENSION), np.float32), np.array([2]))


def test_what_cuda_gives_is_checked_too(with_cuda: Callable[..., None]) -> None:
    with_cuda()

    class Table:
        def vectors(self, rows: Any) -> Any:
            return np.ones((len(rows), DIMENSION), np.float32)

        vectors_into: Any = None  # buffers are for the CPU alone

    assert encoder(RIGHT).encode_one(Table(), np.arange(3)).item_query.shape == (1, DIMENSION)
    narrow = with_output(
        RIGHT,
        "item_query",
        [node("Expand", ["x", "two"], ["item_query"])],
        {"x": np.float32(1), "two": np.array([1, 2])},
    )
    loaded = encoder(narrow)
    for _ in range(2):
        with pytest.raises(BundleCorruptError, match=r"output 'item_query' is float32 \[1, 2\]"):
            loaded.encode_one(Table(), np.arange(3))
    wrong = with_output(
        RIGHT, "item_query", [node("Add", ["right", "nan"], ["item_query"])], {"nan": np.float32(np.nan)}
    )
    with pytest.raises(BundleCorruptError, match="output 'item_query' is not finite"):
        encoder(wrong).encode_one(Table(), np.arange(3))


def test_numbers_that_cuda_alone_spoils_are_no_damage_of_the_bundle(with_cuda: Callable[..., None]) -> None:
    with_cuda(run=lambda run: [np.full_like(value, np.nan) for value in run()])
    with pytest.raises(ProviderError, match=r"is not finite on 'cuda', 'cpu', and is where the CPU"):
        encoder(RIGHT).encode(np.ones((1, 2, DIMENSION), np.float32), np.array([2]))


def test_a_file_of_nonsense_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    """onnxruntime by itself prints to stdout when it falls back to other providers, and its errors to stderr."""
    with pytest.raises(BundleCorruptError):
        open_session(b"nonsense", "model.onnx")
    failing = with_output(
        RIGHT,
        "item_query",
        [node("Reshape", ["right", "seven"], ["item_query"])],
        {"seven": np.array([1, 7])},
    )
    loaded = OnnxSessionEncoder(failing, dimension=DIMENSION, categories=SIZES)
    with pytest.raises(BundleCorruptError, match=r"^model\.onnx failed to run: "):
        loaded.encode(np.ones((1, 2, DIMENSION), np.float32), np.array([2]))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", [TimeoutError, type("OutOfTime", (Exception,), {})])
def test_what_a_signal_handler_raises_is_no_fault_of_the_graph(kind: type[Exception], tmp_path: Path) -> None:
    """Such as the time limit of a task queue."""

    fired, raised, chance = 0, 0, random.Random(0)

    def out_of_time(*_: Any) -> None:
        nonlocal fired
        fired += 1
        raise kind

    shop = make_shop("string")
    recommender = Recommender.load(shop.write(tmp_path / "bundle"))
    recommender.recommend(shop.ids[3:6], 5)
    before = signal.signal(signal.SIGALRM, out_of_time)
    gc.disable()  # what is raised in a callback of the collector, as Hypothesis has one, is only printed
    try:
        for _ in range(300):
            try:
                signal.setitimer(signal.ITIMER_REAL, 1e-6 + chance.random() * 5e-4)
                for _ in range(1_000):
                    recommender.recommend(shop.ids[3:6], 5)
            except kind:
                raised += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        gc.enable()
    assert raised == fired == 300
