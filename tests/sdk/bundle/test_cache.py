"""The cache of unpacked bundles: what it costs at most, who holds an entry, and how it is emptied."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import pytest

from hiersrec_sdk import Recommender, errors
from hiersrec_sdk.bundle import cache as caches
from hiersrec_sdk.bundle.cache import entries, prune
from hiersrec_sdk.bundle.opened import OpenFolder
from hiersrec_sdk.bundle.schema import config_digest
from tests.sdk.bundles import make_shop
from tests.sdk.cli.run import failed, passed
from tests.waiting import PATIENCE

SHOP = make_shop()
SESSION = SHOP.ids[5:9]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return zipped(SHOP.write(tmp_path_factory.mktemp("shop") / "bundle"))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HIERSREC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "bundles"


def zipped(bundle: Path, change: Callable[[dict[str, Any]], None] | None = None) -> bytes:
    """The files of a bundle; with its config changed, the SHA-256 of which is right."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for file in bundle.iterdir():
            content = file.read_bytes()
            if change is not None and file.name == "config.json":
                config = json.loads(content)
                change(config)
                content = json.dumps(config | {"sha256": config_digest(config)}).encode()
            archive.writestr(file.name, content)
    return buffer.getvalue()


def names(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir())


@pytest.fixture
def huge(tmp_path: Path) -> bytes:
    def declare(config: dict[str, Any]) -> None:
        config["files"]["big"] = {"sha256": "0" * 64, "bytes": 10**12}

    return zipped(SHOP.write(tmp_path / "huge"), declare)


def test_what_is_declared_too_large_is_not_unpacked(
    huge: bytes, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        errors.BundleError,
        match=r"would have 1,000,000,\d+,\d+ bytes .* 64,000,000,000: HIERSREC_LARGEST_BUNDLE",
    ):
        Recommender.load(huge)
    assert not cache.exists()
    monkeypatch.setenv("HIERSREC_LARGEST_BUNDLE", str(10**15))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10**11))
    with pytest.raises(
        errors.BundleError, match=r"has 100,000,000,000 free: free some, as by hiersrec cache prune"
    ):
        Recommender.load(huge)
    assert not cache.exists()


@pytest.mark.parametrize("text", ["64 GB", "-1", "1e9", "٣", "9" * 30, "0x10"])
def test_a_limit_that_is_no_number(text: str, packed: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIERSREC_LARGEST_BUNDLE", text)
    with pytest.raises(
        errors.BundleError, match="HIERSREC_LARGEST_BUNDLE must be a number of bytes, such as 64"
    ):
        Recommender.load(packed)


def test_a_limit_of_ones_own(packed: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIERSREC_LARGEST_BUNDLE", "1000")
    with pytest.raises(errors.BundleError, match=r"bytes when unpacked, and the limit is 1,000"):
        Recommender.load(packed)
    monkeypatch.setenv("HIERSREC_LARGEST_BUNDLE", "100000")
    assert len(Recommender.load(packed).recommend(SESSION, 3)) == 3


def test_a_stream_without_end_is_not_copied_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    class Endless(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def read(self, size: int = -1) -> bytes:
            return bytes(size)

        def seekable(self) -> bool:
            return False

    filesystem = fsspec.filesystem("memory")
    filesystem.pipe("/endless.zip", b"PK")
    monkeypatch.setattr(type(filesystem), "open", lambda *_, **__: Endless())
    monkeypatch.setenv("HIERSREC_LARGEST_BUNDLE", "10000000")
    with pytest.raises(
        errors.BundleError, match="more than 10,000,000 bytes; HIERSREC_LARGEST_BUNDLE sets another"
    ):
        Recommender.load("memory://endless.zip")
    filesystem.store.clear()


@pytest.mark.parametrize("name", ["README.md", "config.json", "/etc/passwd", "../x"])
def test_a_name_twice(name: str, packed: bytes, cache: Path) -> None:
    buffer = io.BytesIO(packed)
    with zipfile.ZipFile(buffer, "a") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile's own, of the name
        archive.writestr(name, b"one")
        archive.writestr(name, b"two")
    with pytest.raises(errors.BundleCorruptError, match=r"has the file '.*' twice"):
        Recommender.load(buffer.getvalue())
    assert not cache.exists()


def test_a_name_with_nul_is_what_comes_before_it(packed: bytes) -> None:
    before, name, after = packed.rpartition(b"README.md")  # in the central directory
    hidden = before + name.replace(b".", b"\0") + after
    with pytest.raises(errors.BundleMissingError, match=r"README\.md is missing: config\.json lists it"):
        Recommender.load(hidden)


def test_pruning_keeps_what_is_loaded(packed: bytes, cache: Path) -> None:
    recommender = Recommender.load(packed)
    (entry,) = entries()
    assert (entry.in_use, entry.whole, entry.size) == (
        True,
        True,
        sum(f.stat().st_size for f in entry.path.iterdir()),
    )
    assert "in use" in passed("cache", "list")
    assert passed("cache", "prune") == f"removed 0 bundles, 0.0 MB from {cache.parent}\n"
    assert entry.path.exists()
    wanted = recommender.recommend(SESSION, 5).items
    assert passed("cache", "prune", "--in-use").startswith("removed 1 bundle, ")
    assert names(cache) == []
    assert recommender.recommend(SESSION, 5).items == wanted  # which has all files open
    del recommender
    again = Recommender.load(packed)
    assert again.recommend(SESSION, 5).items == wanted
    del again
    (entry,) = entries()
    assert not entry.in_use
    assert passed("cache", "prune").startswith("removed 1 bundle, ")
    assert (names(cache), entries(), prune()) == ([], [], [])


HOLD = """
import sys
from hiersrec_sdk import Recommender
recommender = Recommender.load(sys.argv[1])
print("loaded", flush=True)
sys.stdin.readline()
print(*recommender.recommend([1000], 3).items, flush=True)
"""


def test_pruning_keeps_what_another_process_has_loaded(packed: bytes, tmp_path: Path, cache: Path) -> None:
    (tmp_path / "bundle.zip").write_bytes(packed)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "bundle.zip")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "loaded\n"
    assert [entry.in_use for entry in entries()] == [True]
    assert prune() == []
    assert len(prune(in_use=True)) == 1
    said, _ = holder.communicate("\n", timeout=PATIENCE)
    assert len(said.split()) == 3
    assert names(cache) == []


def test_what_was_not_used_for_days(packed: bytes, cache: Path) -> None:
    Recommender.load(packed)
    (entry,) = entries()
    os.utime(entry.path, (time.time() - 10 * 86_400,) * 2)
    assert "used 10.0 days ago" in passed("cache", "list")
    assert prune(older_than=11) == []
    Recommender.load(packed)  # which is a use
    assert prune(older_than=9) == []
    os.utime(entry.path, (time.time() - 10 * 86_400,) * 2)
    assert [each.path for each in prune(older_than=9)] == [entry.path]


@contextmanager
def unpacking(entry: Path) -> Iterator[None]:
    """Another thread is unpacking the entry meanwhile."""
    holds, done = threading.Event(), threading.Event()

    def hold() -> None:
        with caches.locked(entry) as is_ours:
            assert is_ours
            holds.set()
            done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    holds.wait()
    try:
        yield
    finally:
        done.set()
        thread.join()


def test_what_killed_processes_left(packed: bytes, cache: Path) -> None:
    Recommender.load(packed)
    (entry,) = entries()
    left = entry.path.with_name(f"{entry.path.name}.part-fresh.part-1-x")
    left.mkdir()
    (left / "catalog.safetensors").write_bytes(bytes(1_000))
    other = cache / f"{'0' * 64}.part-fresh.part-1-x"
    other.mkdir()
    assert passed("cache", "list").count("left by a killed process") == 2
    with unpacking(entry.path):
        left.mkdir(exist_ok=True)
        assert [each.path for each in prune(older_than=1)] == [other]
    left.mkdir(exist_ok=True)
    assert [each.path for each in prune(older_than=1)] == [left]
    assert [each.path for each in entries()] == [entry.path]


def test_what_is_not_of_the_cache_is_left_alone(cache: Path) -> None:
    cache.mkdir(parents=True)
    for name in ("notes.txt", "0" * 63, "0" * 64 + "x", "G" * 64):
        (cache / name).write_text("mine")
    before = names(cache)
    assert prune(in_use=True) == []
    assert names(cache) == before
    assert entries() == []


def test_loading_and_pruning_at_once(packed: bytes) -> None:
    """Whoever loads gets a bundle, however often the cache is emptied."""
    stop = threading.Event()
    failed: list[BaseException] = []

    def empty() -> None:
        while not stop.is_set():
            try:
                prune(in_use=True)
                entries()
            except BaseException as error:
                failed.append(error)

    pruner = threading.Thread(target=empty)
    pruner.start()
    try:
        for _ in range(30):
            assert len(Recommender.load(packed, verify=False).recommend(SESSION, 3)) == 3
    finally:
        stop.set()
        pruner.join()
    assert failed == []


def test_a_cache_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("HIERSREC_CACHE", str(tmp_path / "file"))
    for name in ("list", "prune"):
        assert "cannot be read" in failed("cache", name)


def test_looking_at_the_cache_does_not_take_a_lock_away(
    packed: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever lists it locks each entry for a moment, in which another may load it."""
    Recommender.load(packed)
    (entry,) = entries()
    probes = [OpenFolder(entry.path)]
    assert probes[0].lock(exclusive=True)
    monkeypatch.setattr(time, "sleep", lambda seconds: probes.clear())
    recommender = Recommender.load(packed)
    assert [each.in_use for each in entries()] == [True]
    assert prune() == []
    del recommender
    assert [each.path for each in prune()] == [entry.path]
