"""One opened version: what is loaded stays what it was, whatever is at the path by now, or an error says why not."""

from __future__ import annotations

import gc
import os
import pickle
import shutil
import socket
import subprocess
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hiersrec_sdk.atomic
import hiersrec_sdk.bundle.folder
import hiersrec_sdk.bundle.opened
from hiersrec_sdk import Recommender
from hiersrec_sdk.bundle import open_bundle
from hiersrec_sdk.bundle.opened import OpenFile, OpenFolder
from hiersrec_sdk.errors import BundleCorruptError, BundleError, BundleMissingError, InvalidPathError
from tests.sdk.bundles import Shop, make_shop
from tests.sdk.quiet_python import QUIET_PYTHON

CATALOG = "catalog.safetensors"


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another version: the same shop with other vectors, clicks and weights."""
    return make_shop("string", seed=1).write(tmp_path_factory.mktemp("other") / "bundle")


def replace(path: Path, other: Path) -> None:
    """Put a copy of ``other`` at ``path``, and remove what was there."""
    fresh, old = path.with_name("fresh"), path.with_name("old")
    shutil.copytree(other, fresh)
    path.rename(old)
    fresh.rename(path)
    shutil.rmtree(old)


def test_files_are_those_of_the_version_that_was_opened(shop: Shop, bundle: Path, other: Path) -> None:
    opened = open_bundle(bundle)
    replace(bundle, other)
    for name, content in shop.files.items():
        assert opened.read(name) == content
        assert opened.files[name].read() == content
        assert opened.files[name].size == len(content)
    assert np.array_equal(opened.tables["item_vectors"], shop.vectors)
    opened.check_unchanged()
    shutil.rmtree(bundle)
    assert opened.read("README.md") == shop.files["README.md"]


@pytest.mark.parametrize("moment", ["config.json", CATALOG, "model.onnx", "README.md"])
def test_a_bundle_that_is_replaced_while_it_is_opened(
    moment: str, bundle: Path, other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = {path: Recommender.load(path).recommend(["0"], 9).items for path in (bundle, other)}
    plain = OpenFolder.open

    def open_after_exchange(folder: OpenFolder, name: str) -> OpenFile:
        if name == moment:
            monkeypatch.setattr(OpenFolder, "open", plain)
            replace(bundle, other)
        return plain(folder, name)

    monkeypatch.setattr(OpenFolder, "open", open_after_exchange)
    found = Recommender.load(bundle)
    assert found.config["files"] == open_bundle(other).config["files"]
    assert found.recommend(["0"], 9).items == wanted[other]


def test_a_bundle_that_is_replaced_at_every_attempt(
    bundle: Path, other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = 0

    def remove(folder: OpenFolder, name: str) -> OpenFile:
        nonlocal attempts
        attempts += 1
        replace(bundle, other)
        raise BundleMissingError(f"{name} is missing")

    monkeypatch.setattr(hiersrec_sdk.bundle.folder, "_ATTEMPTS", 5)
    monkeypatch.setattr(OpenFolder, "open", remove)
    with pytest.raises(BundleMissingError, match=r"config\.json is missing"):
        open_bundle(bundle)
    assert attempts == 5


def test_versions_are_never_mixed(bundle: Path, other: Path, tmp_path: Path) -> None:
    """While bundles are exchanged all the time, each load is one of the two, whole."""
    right = {open_bundle(path).config["sha256"]: path for path in (bundle, other)}
    versions = {digest: open_bundle(path) for digest, path in right.items()}
    current = tmp_path / "current"
    shutil.copytree(bundle, current)
    stop = threading.Event()

    def deploy() -> None:
        at = 0
        while not stop.is_set():
            at += 1
            fresh = tmp_path / f"fresh-{at}"
            shutil.copytree((other, bundle)[at % 2], fresh)
            hiersrec_sdk.atomic._rename(fresh, current, hiersrec_sdk.atomic._EXCHANGE)
            shutil.rmtree(fresh)

    deployer = threading.Thread(target=deploy)
    deployer.start()
    try:
        for at in range(60):
            found = open_bundle(current, verify=at % 2 == 0)
            like = versions[found.config["sha256"]]
            for name in found.config["files"]:
                assert found.read(name) == like.read(name)
            assert all(np.array_equal(table, like.tables[name]) for name, table in found.tables.items())
    finally:
        stop.set()
        deployer.join()


def pipe(path: Path) -> None:
    os.mkfifo(path)


def unix_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        here = Path.cwd()
        os.chdir(path.parent)  # the name of a socket is short
        try:
            made.bind(path.name)
        finally:
            os.chdir(here)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def folder(path: Path) -> None:
    path.mkdir()


def loop(path: Path) -> None:
    path.symlink_to(path.name)


def dangling(path: Path) -> None:
    path.symlink_to("nowhere")


MAKERS = [pipe, unix_socket, device, folder, loop, dangling]


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("name", ["config.json", CATALOG, "model.onnx", "README.md"])
def test_what_is_no_file(name: str, make: Callable[[Path], None], bundle: Path) -> None:
    (bundle / name).unlink()
    make(bundle / name)
    for verify in (True, False):
        with pytest.raises(BundleError, match=rf"{name} (is no regular file|is missing|cannot be opened)"):
            Recommender.load(bundle, verify=verify)


@pytest.mark.parametrize("make", [pipe, unix_socket, device, loop, dangling])
def test_what_is_no_folder(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / "bundle")
    for path in (tmp_path / "bundle", f"file://{tmp_path}/bundle"):
        with pytest.raises(BundleError, match=r"bundle (is a file|is not a bundle|cannot be opened)"):
            Recommender.load(path)


@pytest.mark.parametrize("path", ["a\0b", "bundle\ud800", "", b"".decode() + "\0"])
def test_what_cannot_be_a_path(path: str) -> None:
    with pytest.raises(InvalidPathError, match=r"path must be a path, without NUL and not empty, got "):
        Recommender.load(path)


@pytest.mark.parametrize("url", ["file:///a\0b", "file:///\ud800", "memory://a\0b", "file://" + "x" * 5_000])
def test_what_cannot_be_a_url(url: str) -> None:
    with pytest.raises((BundleError, InvalidPathError)):
        Recommender.load(url)


def test_links_in_a_bundle_are_followed(shop: Shop, bundle: Path) -> None:
    blobs = bundle.parent / "blobs"
    blobs.mkdir()
    for at, file in enumerate(sorted(bundle.iterdir())):
        file.rename(blobs / str(at))
        file.symlink_to(f"../blobs/{at}")
    (bundle.parent / "current").symlink_to("bundle")
    found = open_bundle(bundle.parent / "current")
    assert found.read("model.onnx") == shop.files["model.onnx"]


def write_in_place(path: Path, at: int, change: Callable[[int], int] = lambda byte: byte ^ 1) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([change(byte)]))
    os.utime(
        path, ns=(time.time_ns(), time.time_ns() + 10**9)
    )  # the clock of a file system may be a coarse one


def calls(recommender: Recommender, shop: Shop, path: Path) -> list[Callable[[], Any]]:
    ids = shop.ids[5:8]
    growing = recommender.session(ids)
    return [
        lambda: growing.add(ids[0]),
        lambda: growing.recommend(3),
        lambda: recommender.recommend(ids, 3),
        lambda: recommender.recommend([], 3),
        lambda: recommender.recommend_many([ids], 3),
        lambda: recommender.session(ids).recommend(3),
        lambda: recommender.filter(allow=ids),
        lambda: recommender.explain(ids, ids[0]),
        lambda: recommender.categories(ids),
        lambda: recommender.similar_items(ids[0]),
        lambda: recommender.trace(ids),
        lambda: recommender.catalog.rows(ids),
        lambda: recommender.catalog.title(0),
        lambda: recommender.catalog.upsert([{"id": ids[0], "title": "x"}]),
        lambda: recommender.catalog.remove(ids),
        lambda: recommender.catalog.move(ids[0], shop.category_paths[0, 0]),
        lambda: recommender.catalog.set_bias(ids, 1.0),
        lambda: recommender.save(path),
    ]


@pytest.mark.parametrize("verify", [True, False])
def test_tables_that_are_written_to(verify: bool, shop: Shop, bundle: Path, tmp_path: Path) -> None:
    recommender = Recommender.load(bundle, verify=verify)
    every = calls(recommender, shop, tmp_path / "saved")
    write_in_place(bundle / CATALOG, -1 % (bundle / CATALOG).stat().st_size)
    for call in every:
        with pytest.raises(
            BundleCorruptError, match=rf"{CATALOG} was written to since it was loaded: deploy"
        ):
            call()
    assert not (tmp_path / "saved").exists()


CUT = """
import os, sys
from hiersrec_sdk import Recommender
from hiersrec_sdk.errors import BundleCorruptError
recommender = Recommender.load(sys.argv[1])
os.truncate(sys.argv[1] + "/catalog.safetensors", int(sys.argv[2]))
try:
    recommender.recommend(["0"], 3)
except BundleCorruptError as error:
    print(error)
"""


@pytest.mark.parametrize("size", [0, 5_000])
def test_tables_that_are_cut_short(size: int, bundle: Path) -> None:
    done = subprocess.run([*QUIET_PYTHON, "-c", CUT, str(bundle), str(size)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{CATALOG} was written to since it was loaded" in done.stdout


def test_tables_that_have_grown(shop: Shop, bundle: Path) -> None:
    recommender = Recommender.load(bundle)
    with (bundle / CATALOG).open("ab") as file:
        file.write(b"x")
    with pytest.raises(BundleCorruptError, match="was written to"):
        recommender.recommend(["0"], 3)


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[OpenFile]:
    """The files whose SHA-256 is computed from now on, which takes a while."""
    reads, plain = [], OpenFile.sha256

    def sha256(file: OpenFile) -> str:
        reads.append(file)
        time.sleep(0.1)
        return plain(file)

    monkeypatch.setattr(OpenFile, "sha256", sha256)
    return reads


def test_the_same_content_is_read_once_and_goes_on(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recommender, wanted = Recommender.load(bundle), Recommender.load(bundle).recommend(["0"], 5).items
    reads = count_reads(monkeypatch)
    for at in range(1, 4):
        os.utime(bundle / CATALOG, ns=(0, at))
        threads = [threading.Thread(target=recommender.recommend, args=(["0"], 5)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(reads) == at
    assert recommender.recommend(["0"], 5).items == wanted


def test_wrong_content_is_read_once(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recommender = Recommender.load(bundle)
    write_in_place(bundle / CATALOG, 5_000)
    reads = count_reads(monkeypatch)
    for _ in range(5):
        with pytest.raises(BundleCorruptError):
            recommender.recommend(["0"], 3)
    assert len(reads) == 1
    write_in_place(bundle / CATALOG, 5_000)  # back to what it was
    os.utime(bundle / CATALOG, ns=(0, 5))
    assert len(recommender.recommend(["0"], 3)) == 3


def test_links_to_a_file_and_its_removal_are_no_change(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recommender = Recommender.load(bundle)
    monkeypatch.setattr(OpenFile, "sha256", None)
    os.link(bundle / CATALOG, bundle.parent / "link")
    recommender.recommend(["0"], 3)
    (bundle / CATALOG).chmod(0o400)
    shutil.rmtree(bundle)
    recommender.recommend(["0"], 3)
    (bundle.parent / "link").unlink()
    recommender.recommend(["0"], 3)


@pytest.mark.parametrize("name", ["model.onnx", "README.md"])
def test_a_file_that_is_written_to_is_not_read(name: str, bundle: Path) -> None:
    opened = open_bundle(bundle)
    write_in_place(bundle / name, 3)
    with pytest.raises(BundleCorruptError, match=rf"{name} is altered: its SHA-256"):
        opened.read(name)
    os.truncate(bundle / name, 3)
    with pytest.raises(BundleCorruptError, match=rf"{name} was written to since it was loaded"):
        opened.read(name)


def test_a_forked_child_reads_the_same_version(bundle: Path, other: Path) -> None:
    opened = open_bundle(bundle)
    recommender = Recommender.load(bundle)
    wanted = opened.read("model.onnx"), recommender.recommend(["0"], 5).items
    replace(bundle, other)
    held = hiersrec_sdk.bundle.opened._hashing
    with held:  # by a thread that the child does not have
        os.utime(opened.files[CATALOG].fileno(), ns=(0, 7))
        child = os.fork()
        if not child:
            found = opened.read("model.onnx"), recommender.recommend(["0"], 5).items
            os._exit(0 if found == wanted else 1)
        assert os.waitpid(child, 0)[1] == 0
    assert (opened.read("model.onnx"), recommender.recommend(["0"], 5).items) == wanted


def test_a_pickle_opens_the_bundle_again(shop: Shop, bundle: Path) -> None:
    content = pickle.dumps(open_bundle(bundle))
    assert len(content) < 1_000
    found = pickle.loads(content)
    assert np.array_equal(found.tables["item_vectors"], shop.vectors)


def test_descriptors_that_somebody_closed(bundle: Path, tmp_path: Path) -> None:
    """As a process does that becomes a daemon. The maps stay, and what has the numbers now is left alone."""
    recommender = Recommender.load(bundle)
    wanted = recommender.recommend(["0"], 5).items
    opened = recommender._bundle
    numbers = [file.fileno() for file in opened.files.values()]
    for number in numbers:
        os.close(number)
    assert recommender.recommend(["0"], 5).items == wanted
    others = [os.open(tmp_path, os.O_RDONLY) for _ in numbers]
    assert set(others) & set(numbers)
    assert recommender.recommend(["0"], 5).items == wanted
    with pytest.raises(BundleError, match=r"model\.onnx cannot be read: its descriptor was closed"):
        opened.read("model.onnx")
    del recommender, opened
    gc.collect()
    for other in others:
        os.close(other)  # still ours


def test_a_bundle_is_closed_with_its_recommender(bundle: Path) -> None:
    """At once, and not only when the garbage collector comes by."""
    gc.collect()
    gc.disable()
    try:
        recommender = Recommender.load(bundle)
        recommender.recommend(["0"], 3)
        recommender.catalog.remove(["0"])
        opened = weakref.ref(recommender._bundle)
        del recommender
        assert opened() is None
    finally:
        gc.enable()


def test_descriptors_are_closed_with_the_bundle(bundle: Path) -> None:
    def descriptors() -> int:
        gc.collect()
        return len([*Path("/proc/self/fd").iterdir()])

    before = descriptors()
    for _ in range(20):
        Recommender.load(bundle).recommend(["0"], 3)
    (bundle / "model.onnx").write_bytes(b"")
    for _ in range(20):
        with pytest.raises(BundleCorruptError):
            open_bundle(bundle)
    assert descriptors() <= before + 1
