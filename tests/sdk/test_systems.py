"""What other systems lack is taken away from this one: loading, recommending and changes in memory go on.

That shows which functions are called, and no more: nothing here was run on Windows or macOS.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.golden.release import FOLDER, Release

RELEASE = Release(FOLDER / "0.1.0")

# Modules of the standard library and of others ask for the system too, so they are imported before it seems to change.
BEFORE = """
import asyncio, builtins, ctypes, fcntl, mmap, multiprocessing, os, pathlib, shutil, stat, subprocess, sys, tempfile
import concurrent.futures, errno, json, platform, secrets, uuid, zipfile
import multiprocessing.connection, multiprocessing.pool
import click, numpy, numpy.random, onnxruntime
from importlib.util import find_spec
if find_spec("numba"):
    import numba
"""
AS_ON_WINDOWS = """
for name in ("pread", "pwrite", "register_at_fork", "fork", "sched_getaffinity", "chown", "copy_file_range",
             "O_CLOEXEC", "O_NONBLOCK", "O_NOCTTY", "O_DIRECTORY", "geteuid", "getuid"):
    delattr(os, name)
os.supports_dir_fd = set()
shutil._use_fd_functions = False
if hasattr(shutil, "_rmtree_impl"):  # from Python 3.14 on
    shutil._rmtree_impl = shutil._rmtree_unsafe
os.O_BINARY = 0
def without_descriptors(call):
    def called(*given, dir_fd=None, src_dir_fd=None, dst_dir_fd=None, **options):
        if not dir_fd is src_dir_fd is dst_dir_fd is None:
            raise NotImplementedError("dir_fd unavailable on this platform")
        return call(*given, **options)
    return called
for name in ("open", "stat", "link", "rename", "unlink", "mkdir"):
    setattr(os, name, without_descriptors(getattr(os, name)))
opened = os.open
def open_file(path, *given, **options):
    if os.path.isdir(path):
        raise PermissionError(13, "Permission denied", path)
    return opened(path, *given, **options)
os.open = open_file
sys.modules["fcntl"] = sys.modules["resource"] = None
sys.platform = "win32"

"""
AS_ON_MACOS = """
for name in ("sched_getaffinity", "copy_file_range"):
    delattr(os, name)
sys.platform = "darwin"
"""
USE = """
bundle, changes, feed, new, top = sys.argv[1:]
from hiersrec_sdk import Recommender
from hiersrec_sdk.catalog.change_file import apply
from hiersrec_sdk.errors import BundleError, FeedError

recommender = Recommender.load(bundle, threads="auto")
assert recommender.recommend(json.loads(top)[0], k=10).items == tuple(json.loads(top)[1])
with open(changes, "rb") as lines:
    apply(recommender.catalog, lines)
recommender.save(new)
assert recommender.recommend(["sku-90001"], k=5).items == Recommender.load(new).recommend(["sku-90001"], k=5).items
"""
DOCTOR = """
from hiersrec_sdk.cli.main import main
main(["doctor"], standalone_mode=False)
"""
WITHOUT_LOCKS = """
for refused in (lambda: recommender.save(new), lambda: recommender.follow(feed)):
    try:
        refused()
    except (BundleError, FeedError) as error:
        print(error)
"""


def run(code: str, folder: Path) -> str:
    answer = RELEASE.answers("bundle")[0]
    top = f"[{answer.session}, {answer.items}]".replace("'", '"')
    arguments = [RELEASE.bundle, RELEASE.changes, RELEASE.feed, folder / "new", top]
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_without_what_windows_lacks(tmp_path: Path) -> None:
    said = run(BEFORE + AS_ON_WINDOWS + USE + DOCTOR + WITHOUT_LOCKS, tmp_path)
    assert "this file system cannot replace a folder in one step" in said
    assert "a change feed in a file needs locks that Windows lacks" in said


def test_without_what_macos_lacks(tmp_path: Path) -> None:
    run(BEFORE + AS_ON_MACOS + USE + DOCTOR, tmp_path)
