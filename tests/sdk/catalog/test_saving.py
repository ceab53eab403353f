"""Saving: interrupted, killed, forked, by several at once; what it links, whose modes it keeps, what it refuses."""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import os
import pickle
import random
import shutil
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hiersrec_sdk.atomic
import hiersrec_sdk.catalog.saving
from hiersrec_sdk import Item, Recommender, errors, systems
from hiersrec_sdk.atomic import PART, new_folder, remove_parts, write_file
from hiersrec_sdk.bundle import CATALOG, CONFIG, DELTA, Bundle, open_bundle
from hiersrec_sdk.bundle.opened import OpenFile
from hiersrec_sdk.bundle.schema import MODEL
from hiersrec_sdk.catalog.delta_tables import to_tables
from hiersrec_sdk.catalog.saving import Saver
from hiersrec_sdk.catalog.snapshot import Catalog
from hiersrec_sdk.catalog.writer import MutableCatalog
from tests.sdk.bundles import DIMENSION, make_shop
from tests.sdk.interruptions import Interruption, first_visits, lines_of
from tests.waiting import PATIENCE

LONG = bool(os.environ.get("HIERSREC_STRESS"))
FILES = ("saving.py", "write.py", "atomic.py")
SHOP = make_shop("string")
ZEROS = [0.0] * DIMENSION


def no_encoder(*_: Any) -> Any:
    raise AssertionError("all items have vectors")


class Shelf:
    """A bundle on disk, loaded without a session encoder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.bundle: Bundle = open_bundle(path)
        self.catalog = MutableCatalog(Catalog.of(self.bundle), self.bundle, no_encoder)
        self.saver = Saver(self.bundle, self.catalog)

    def add(self, *ids: str) -> None:
        self.catalog.upsert(Item(own, "2/5", vector=ZEROS) for own in ids)

    def save(self, path: Path | None = None) -> None:
        self.saver.save(path or self.path)


def added(path: Path) -> set[Any]:
    """The ids on disk that the shop did not have, every checksum right."""
    catalog = Shelf(path).catalog
    return set(catalog.ids(catalog.live_rows())) - set(SHOP.ids)


def parts(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if PART in path.name]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return SHOP.write(tmp_path / "folder" / "bundle")


@pytest.mark.parametrize("target", ["itself", "new", "other"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, TimeoutError])
@pytest.mark.slow
def test_a_save_that_is_interrupted_at_any_line_leaves_the_old_or_the_new(
    error: type[BaseException], target: str, bundle: Path
) -> None:
    shelf, path = Shelf(bundle), bundle if target == "itself" else bundle.with_name("other")
    if target == "other":
        shelf.save(path)
    shelf.add("start")
    count = lines_of(partial(shelf.save, path), FILES)
    assert count > 100
    before, seen = {"start"}, set()
    step = 1 if LONG else 3 if target == "itself" else 9
    for at in range(1 + [KeyboardInterrupt, MemoryError, TimeoutError].index(error) % step, count + 1, step):
        if target == "new":
            shutil.rmtree(path)
            shelf = Shelf(bundle)
            before = set()
        shelf.add(f"{at}")
        interruption = Interruption(at, error, FILES)
        raised = interruption.during(partial(shelf.save, path))
        there = added(path) if path.exists() else None
        seen.add(there == before | {f"{at}"})
        assert there in (before, before | {f"{at}"}) or (target == "new" and there is None), (
            interruption.where
        )
        if interruption.where is not None:
            assert isinstance(raised, error), interruption.where
        with suppress(errors.CatalogChangeError):  # which says that there are changes that were not saved
            folder, snapshot, _ = shelf.saver.saved
            if snapshot is shelf.catalog.current:
                assert added(folder) == before | {f"{at}"}
        shelf.add(f"{at} after")
        shelf.save(path)
        before = before | {f"{at}", f"{at} after"}
        assert added(path) == before, interruption.where
        assert parts(path.parent) == [], interruption.where
    assert seen == {False, True}


def test_real_signals_while_saving(bundle: Path) -> None:
    class Timeout(BaseException):
        pass

    def interrupt(*_: Any) -> None:
        raise Timeout

    shelf, chance, acknowledged, interrupted = Shelf(bundle), random.Random(0), set(), 0
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for turn in range(500 if LONG else 100):
            try:
                signal.setitimer(signal.ITIMER_REAL, chance.random() * 0.02)
                shelf.add(f"turn {turn}")
                shelf.save()
                signal.setitimer(signal.ITIMER_REAL, 0)
                acknowledged.add(f"turn {turn}")
            except Timeout:
                interrupted += 1
            if turn % 10 == 9:
                assert acknowledged <= added(bundle)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert interrupted > 10
    shelf.save()
    assert acknowledged <= added(bundle)
    assert parts(bundle.parent) == []


def test_a_second_saver_is_told_to_load_again(bundle: Path) -> None:
    first, second = Shelf(bundle), Shelf(bundle)
    first.add("a")
    second.add("b")
    first.save()
    with pytest.raises(errors.BundleError, match="replaced since it was loaded; load it again"):
        second.save()
    assert added(bundle) == {"a"}
    again = Shelf(bundle)
    again.add("b")
    again.save()
    with pytest.raises(errors.BundleError, match="load it again"):
        first.save()
    assert added(bundle) == {"a", "b"}
    assert parts(bundle.parent) == []


def test_elsewhere_too_nobody_is_overwritten(bundle: Path) -> None:
    first, other = Shelf(bundle), bundle.with_name("other")
    first.add("a")
    first.save(other)
    second = Shelf(other)
    second.add("b")
    second.save()
    with pytest.raises(errors.BundleError, match="load it again"):
        first.save(other)
    assert added(other) == {"a", "b"}
    first.save()  # what it was loaded from is as it was
    assert added(bundle) == {"a"}


def test_a_bundle_that_is_gone_is_not_saved_over(bundle: Path) -> None:
    shelf = Shelf(bundle)
    shelf.add("a")
    shutil.rmtree(bundle)
    with pytest.raises(
        errors.BundleError, match=r"the bundle that was in .* is gone: save to another folder"
    ):
        shelf.save()
    shelf.save(bundle.with_name("other"))  # the files that were opened are still there
    assert added(bundle.with_name("other")) == {"a"}


def test_who_replaces_the_bundle_in_the_last_moment_is_not_lost(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deployer knows no lock: it may come between the check and the exchange, and once more before that is undone."""
    shelf, rename = Shelf(bundle), hiersrec_sdk.atomic._rename
    deployed = []
    for name in ("first", "second"):
        other = Shelf(bundle)
        other.add(name)
        other.save(bundle.with_name(name))
        deployed.append(bundle.with_name(name))
    waiting = list(deployed)

    def overtaken(source: Path, target: Path, flag: int) -> None:
        if waiting:
            rename(waiting.pop(0), bundle, hiersrec_sdk.atomic._EXCHANGE)
        rename(source, target, flag)

    monkeypatch.setattr(hiersrec_sdk.atomic, "_rename", overtaken)
    shelf.add("a")
    with pytest.raises(errors.BundleError, match="replaced since it was loaded"):
        shelf.save()
    assert not waiting
    assert added(bundle) == {"second"}
    assert parts(bundle.parent) == []


def test_a_link_that_is_turned_while_it_is_saved(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    current, other = bundle.with_name("current"), bundle.with_name("other")
    shutil.copytree(bundle, other)
    current.symlink_to(bundle)
    shelf, sync = Shelf(current), systems.sync

    def turn(path: Path) -> None:
        monkeypatch.undo()
        current.unlink()
        current.symlink_to(other)
        sync(path)

    shelf.add("a")
    monkeypatch.setattr(hiersrec_sdk.atomic, "sync", turn)
    with pytest.raises(errors.BundleError, match="was not written"):
        shelf.save()
    assert added(bundle) == added(other) == set()


def test_threads_that_save_at_once(bundle: Path) -> None:
    shelf, failed = Shelf(bundle), []

    def save(name: str) -> None:
        for turn in range(10):
            shelf.add(f"{name} {turn}")
            shelf.save()
            if f"{name} {turn}" not in added(bundle):
                failed.append(name)

    threads = [threading.Thread(target=save, args=(f"{at}",)) for at in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert len(added(bundle)) == 30


@pytest.mark.slow
def test_a_save_from_a_signal_handler_inside_a_save(bundle: Path) -> None:
    """At any line: the one inside is done and stays, the one outside is done or refused, later ones are done."""
    shelf = Shelf(bundle)
    shelf.add("start")
    visits = range(1, lines_of(shelf.save, FILES) + 1) if LONG else first_visits(shelf.save, FILES)
    refused = 0

    class Handled(Interruption):
        def handle(self) -> None:
            shelf.add(f"inside {self.at}")
            shelf.save()

    for at in visits:
        shelf.add(f"outside {at}")
        handled = Handled(at, files=FILES)
        refused += isinstance(handled.during(shelf.save), errors.BundleError)
        if handled.where is None:
            continue
        assert {f"inside {at}", f"outside {at}"} <= added(bundle), handled.where
        shelf.save()
        assert {f"inside {at}", f"outside {at}"} <= added(bundle)
    assert refused
    assert parts(bundle.parent) == []


# Writes a part of the bundle in argv[1], says so, and waits to be killed.
STUCK = """
import sys, time
from pathlib import Path
from hiersrec_sdk.atomic import new_folder, write_file

def stuck(path):
    path.write_text("half")
    print("stuck", flush=True)
    time.sleep(600)

if sys.argv[2] == "folder":
    with new_folder(Path(sys.argv[1]), replace=True) as part:
        stuck(part / "file")
else:
    write_file(Path(sys.argv[1]), stuck)
"""


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_parts_of_killed_writers_are_removed_and_those_of_live_ones_stay(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "it[s]*"
    near = [tmp_path / name for name in ("it[s]*.part-2", "it[s]*2.part-1-0123abcd", "its.part-1-0123abcd")]
    for each in near:
        each.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", STUCK, str(path), kind], stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "stuck\n"
        (part,) = (each for each in tmp_path.iterdir() if each not in near)

        def write() -> None:
            if kind == "folder":
                with new_folder(path, replace=True) as folder:
                    (folder / "file").write_text("whole")
            else:
                write_file(path, "whole")

        write()
        assert (part / ("file" if kind == "folder" else path.name)).read_text() == "half"
        writer.kill()
        writer.wait()
    write()
    assert sorted(tmp_path.iterdir()) == sorted([path, *near])


def test_a_part_that_was_just_made_is_not_taken_for_an_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it is locked, another writer may remove it: it is made again."""
    mkdir, times = Path.mkdir, 0

    def overtaken(self: Path, *args: Any, **kwargs: Any) -> None:
        nonlocal times
        mkdir(self, *args, **kwargs)
        if PART in self.name and times < 3:
            times += 1
            remove_parts(tmp_path / "bundle")
            assert not self.exists()

    monkeypatch.setattr(Path, "mkdir", overtaken)
    with new_folder(tmp_path / "bundle") as part:
        (part / "file").write_text("whole")
    assert times == 3
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


@pytest.fixture
def umask() -> Iterator[Callable[[int], int]]:
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


def modes(folder: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in [folder, *folder.iterdir()]}


@pytest.mark.parametrize("mode", [0o750, 0o2775, 0o700, 0o555])
def test_what_is_replaced_gives_its_modes(mode: int, bundle: Path, umask: Callable[[int], int]) -> None:
    files = [CATALOG, CONFIG, "README.md", "model.onnx"]
    for name in files:
        (bundle / name).chmod(mode & 0o666)
    (bundle / CONFIG).chmod(0o600)
    bundle.chmod(mode)
    for mask in (0o077, 0o000, 0o027):
        umask(mask)
        shelf = Shelf(bundle)
        shelf.add(f"{mask}")
        shelf.save()
        every = dict.fromkeys([*files, DELTA], mode & 0o666) | {CONFIG: 0o600, "bundle": mode}
        assert modes(bundle) == every
        shutil.rmtree(bundle.with_name("new"), ignore_errors=True)
        shelf.save(bundle.with_name("new"))
        fresh = dict.fromkeys([*files, DELTA], 0o666 & ~mask) | {"new": 0o777 & ~mask}
        found = modes(bundle.with_name("new"))
        assert {name: bits & 0o777 for name, bits in found.items()} == fresh
    assert parts(bundle.parent) == []


def test_a_file_that_is_replaced_gives_its_mode(tmp_path: Path, umask: Callable[[int], int]) -> None:
    umask(0o027)
    write_file(tmp_path / "file", "one")
    assert modes(tmp_path)["file"] == 0o640
    (tmp_path / "file").chmod(0o604)
    write_file(tmp_path / "file", b"two")
    assert modes(tmp_path)["file"] == 0o604


@pytest.mark.skipif(os.getuid() != 0, reason="needs root")
def test_what_is_replaced_gives_its_owner(bundle: Path) -> None:
    for path in [bundle, *bundle.iterdir()]:
        os.chown(path, 1234, 2345)
    shelf = Shelf(bundle)
    shelf.add("a")
    shelf.save()
    for path in [bundle, *bundle.iterdir()]:
        assert (path.stat().st_uid, path.stat().st_gid) == (1234, 2345), path.name


def test_no_two_bundles_share_a_file(bundle: Path) -> None:
    shelf = Shelf(bundle)
    inode = (bundle / CATALOG).stat().st_ino
    shelf.add("a")
    shelf.save()
    assert (bundle / CATALOG).stat().st_ino == inode  # of the one that went away
    shelf.save(bundle.with_name("other"))
    copied = (bundle.with_name("other") / CATALOG).stat()
    assert copied.st_ino != inode
    shelf.add("b")
    shelf.save(bundle.with_name("other"))
    assert (bundle.with_name("other") / CATALOG).stat().st_ino == copied.st_ino
    for path in [*bundle.iterdir(), *bundle.with_name("other").iterdir()]:
        assert path.stat().st_nlink == 1, path
    shutil.copyfile(make_shop("string", seed=1).write(bundle.with_name("third")) / CATALOG, bundle / CATALOG)
    assert added(bundle.with_name("other")) == {"a", "b"}


def test_a_link_to_a_file_elsewhere_becomes_a_copy(bundle: Path) -> None:
    """As in the cache of the Hugging Face Hub, whose files others read too."""
    blob = bundle.with_name("blob")
    (bundle / CATALOG).rename(blob)
    (bundle / CATALOG).symlink_to(blob)
    shelf = Shelf(bundle)
    shelf.add("a")
    shelf.save()
    assert blob.stat().st_nlink == 1
    assert not (bundle / CATALOG).is_symlink()
    assert added(bundle) == {"a"}


@pytest.mark.parametrize("size", ["same", "another"])
def test_a_file_that_was_damaged_where_it_is_saved_is_replaced(size: str, bundle: Path) -> None:
    shelf, other = Shelf(bundle), bundle.with_name("other")
    shelf.save(other)
    content = (other / MODEL).read_bytes()
    (other / MODEL).write_bytes(b"?" + content[1 if size == "same" else 0 :])
    shelf.add("a")
    shelf.save(other)
    assert (other / MODEL).read_bytes() == content
    assert added(other) == {"a"}


def test_a_file_that_was_replaced_where_it_was_loaded_is_written_as_it_was(bundle: Path) -> None:
    shelf = Shelf(bundle)
    content = (bundle / MODEL).read_bytes()
    bundle.with_name("new").write_bytes(b"?" + content[1:])
    bundle.with_name("new").rename(bundle / MODEL)
    shelf.save(bundle)
    assert (bundle / MODEL).read_bytes() == content


def test_what_nobody_has_verified_is_verified_when_it_is_saved(bundle: Path) -> None:
    """Else a save copies whatever a link leads to."""
    secret = bundle.with_name("secret")
    secret.write_bytes(b"!" * (bundle / MODEL).stat().st_size)
    (bundle / MODEL).unlink()
    (bundle / MODEL).symlink_to(secret)
    opened = open_bundle(bundle, verify=False)
    catalog = MutableCatalog(Catalog.of(opened), opened, no_encoder)
    with pytest.raises(errors.BundleError, match=r"model\.onnx is altered: its SHA-256 is not the one in"):
        Saver(opened, catalog).save(bundle.with_name("other"))
    assert not bundle.with_name("other").exists()


def test_a_save_does_not_read_again_what_it_has_written(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf, other, read = Shelf(bundle), bundle.with_name("other"), list[str]()
    original = OpenFile.sha256

    def sha256(file: OpenFile) -> str:
        read.append(Path(file.label).name)
        return original(file)

    monkeypatch.setattr(OpenFile, "sha256", sha256)
    for _ in range(3):
        shelf.add("a")
        shelf.save(other)
    assert not {CATALOG, MODEL} & set(read)


@pytest.mark.parametrize("fault", ["copy_file_range", "link"])
def test_where_the_file_system_can_neither_link_nor_reflink(
    fault: str, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cannot(*_: Any, **__: Any) -> Any:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, fault, cannot)
    shelf = Shelf(bundle)
    shelf.add("a")
    shelf.save()
    shelf.save(bundle.with_name("other"))
    assert added(bundle) == added(bundle.with_name("other")) == {"a"}


def test_where_the_file_system_has_no_locks(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cannot(*_: Any) -> None:
        raise OSError(9, "Bad file descriptor")  # of NFS

    monkeypatch.setattr(fcntl, "flock", cannot)
    left = bundle.with_name(f"bundle{PART}1-0123abcd")
    left.mkdir()
    shelf = Shelf(bundle)
    shelf.add("a")
    shelf.save()
    assert added(bundle) == {"a"}
    assert left.exists()  # nobody knows whether somebody writes it


def test_what_load_would_refuse_replaces_nothing(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = Shelf(bundle)
    shelf.add("a")

    def damaged(catalog: Catalog) -> Any:
        tables = to_tables(catalog)
        tables["user_bias"][0] = np.nan  # as no method of the catalog does
        return tables

    monkeypatch.setattr(hiersrec_sdk.catalog.saving, "to_tables", damaged)
    with pytest.raises(errors.BundleError, match=r"was not written: .*finite"):
        shelf.save()
    assert added(bundle) == set()
    assert parts(bundle.parent) == []
    monkeypatch.undo()
    shelf.save()
    assert added(bundle) == {"a"}


def test_vectors_that_are_not_finite_are_no_items(bundle: Path) -> None:
    opened = open_bundle(bundle)

    def encode(items: Any, paths: Any) -> Any:
        vectors = np.zeros((len(items), DIMENSION), dtype=np.float32)
        vectors[-1, 2] = np.inf
        return vectors

    catalog = MutableCatalog(Catalog.of(opened), opened, encode)
    before = catalog.current
    with pytest.raises(errors.CatalogChangeError, match=r"item 'b': its vector .* not finite"):
        catalog.upsert([Item("a", "2/5", "words"), Item("b", "2/5", "words")])
    assert catalog.current is before


def test_a_pickle_follows_the_folder_whatever_the_present_one_is(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(bundle.parent)
    recommender = Recommender.load("bundle")
    recommender.catalog.upsert([Item("a", "2/5", vector=ZEROS)])
    monkeypatch.chdir("/")
    recommender.save(bundle)
    assert pickle.loads(pickle.dumps(recommender)).catalog.rows(["a"])[0] > 0


@pytest.mark.slow
def test_children_that_are_forked_while_others_write_and_save(bundle: Path) -> None:
    """Each finds the catalog whole, and can write and save, whatever other threads of its parent were doing."""
    shelf, stop = Shelf(bundle), threading.Event()
    context = multiprocessing.get_context("fork")

    def write() -> None:
        turn = 0
        while not stop.is_set():
            turn += 1
            shelf.add(*(f"{name} {turn}" for name in "abc"))
            shelf.catalog.remove([f"{name} {turn - 5}" for name in "abc"])

    def save() -> None:
        while not stop.is_set():
            shelf.save()

    def child(at: int) -> None:
        found = set(shelf.catalog.ids(shelf.catalog.live_rows())) - set(SHOP.ids)
        turns = {str(own).split()[1] for own in found}
        assert found == {f"{name} {turn}" for name in "abc" for turn in turns}
        shelf.add("child")
        shelf.save(bundle.parent.with_name(f"child-{at}"))
        assert added(bundle.parent.with_name(f"child-{at}")) == found | {"child"}
        shutil.rmtree(bundle.parent.with_name(f"child-{at}"))
        os._exit(7)

    threads = [threading.Thread(target=write), threading.Thread(target=save)]
    for thread in threads:
        thread.start()
    try:
        for at in range(200 if LONG else 40):
            process = context.Process(target=child, args=(at,), daemon=True)
            process.start()
            process.join(PATIENCE)
            assert process.exitcode == 7, "the child hangs, or its catalog is not whole"
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    shelf.save()
    assert parts(bundle.parent) == []


@pytest.mark.slow
def test_a_fork_from_inside_a_write(bundle: Path) -> None:
    """As from a signal handler, at any line: parent and child both go on."""
    files = ("writer.py", "delta.py")
    count = lines_of(partial(Shelf(bundle).add, "a", "b"), files)

    class Forked(Interruption):
        child = -1

        def handle(self) -> None:
            self.child = os.fork()
            if not self.child:
                signal.alarm(20)

    for at in range(1, count + 1, 1 if LONG else 7):
        shelf, forked = Shelf(bundle), Forked(at, files=files)
        forked.during(partial(shelf.add, "a", "b"))  # the child comes out of here too
        found = set(shelf.catalog.ids(shelf.catalog.live_rows())) - set(SHOP.ids)
        if not forked.child:
            shelf.add("c")
            os._exit(0 if found == {"a", "b"} else 1)
        assert found == {"a", "b"}
        assert os.waitpid(forked.child, 0)[1] == 0


def test_a_fork_while_something_is_computed_once(bundle: Path) -> None:
    """functools.cached_property holds a lock meanwhile, in Python 3.11, which a child would find held for ever."""
    shelf = Shelf(bundle)
    inside, done = threading.Event(), threading.Event()
    tree = shelf.catalog.tree
    compute = type(tree).__dict__["_nodes"]
    original = compute._compute

    def slow(self: Any) -> Any:
        if threading.current_thread() is not threading.main_thread():
            inside.set()
            done.wait(PATIENCE)
        return original(self)

    compute._compute = slow
    try:
        thread = threading.Thread(target=shelf.catalog.find_category, args=("2/5",))
        thread.start()
        inside.wait(PATIENCE)
        process = multiprocessing.get_context("fork").Process(target=shelf.add, args=("a",), daemon=True)
        process.start()
        process.join(PATIENCE)
        assert process.exitcode == 0
    finally:
        compute._compute = original
        done.set()
        thread.join()


def test_the_config_says_what_was_saved(bundle: Path) -> None:
    shelf = Shelf(bundle)
    shelf.add("a")
    shelf.save()
    config = json.loads((bundle / CONFIG).read_text())
    assert config["delta"] == {"items": SHOP.items + 1}
    shelf.catalog.remove(["a"])
    shelf.save()
    assert added(bundle) == set()


CONFIGS = {"other model": '{"model_type": "bert"}', "no json": "{", "list": "[]"}


@pytest.mark.parametrize("config", CONFIGS)
def test_a_folder_of_something_else_is_not_replaced(config: str, tmp_path: Path) -> None:
    recommender = Recommender.load(make_shop().write(tmp_path / "bundle"))
    other = tmp_path / "other"
    other.mkdir()
    (other / CONFIG).write_text(CONFIGS[config])
    (other / "weights.bin").write_bytes(b"precious")
    with pytest.raises(errors.BundleError, match="exists already and is not a bundle"):
        recommender.save(other)
    assert (other / "weights.bin").read_bytes() == b"precious"


@pytest.mark.parametrize("is_own", [True, False])
def test_what_lies_in_a_bundle_beside_its_files_is_not_removed(is_own: bool, tmp_path: Path) -> None:
    bundle, other = (make_shop().write(tmp_path / name) for name in ("bundle", "other"))
    recommender = Recommender.load(bundle)
    at = bundle if is_own else other
    (at / ".git").mkdir()
    (at / "notes.txt").write_text("mine")
    with pytest.raises(errors.BundleError, match=r"more than a bundle, .*: move \.git, notes\.txt elsewhere"):
        recommender.save(at)
    assert (at / "notes.txt").read_text() == "mine"
    (at / ".DS_Store").touch()
    (at / ".git").rmdir()
    (at / "notes.txt").unlink()
    recommender.save(at)
