"""Bundles on disk: what is written is read; what is damaged, foreign or half-written is refused, by name and cause."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import hiersrec_sdk.atomic
import hiersrec_sdk.bundle.write
from hiersrec_sdk import Recommender, __version__
from hiersrec_sdk.bundle.folder import open_bundle
from hiersrec_sdk.bundle.tables import write_tables
from hiersrec_sdk.bundle.write import write_bundle
from hiersrec_sdk.errors import BundleCorruptError, BundleError, BundleMissingError, InvalidPathError
from hiersrec_sdk.systems import sync
from tests.sdk.bundles import Shop, forge, make_shop

CHECKED = ["catalog.safetensors", "config.json", "model.onnx"]
FILES = ["README.md", *CHECKED]
Tables = dict[str, NDArray[Any]]


def test_round_trip(shop: Shop, bundle: Path) -> None:
    found = open_bundle(bundle)
    assert found.path == bundle
    assert found.config.items() >= shop.config.items()
    assert found.config["created_by"] == f"hiersrec-sdk {__version__}"
    assert sorted(found.config["files"]) == sorted(set(FILES) - {"config.json"})
    assert found.tables.keys() == shop.tensors.keys()
    assert all(np.array_equal(found.tables[name], table) for name, table in shop.tensors.items())
    assert (bundle / "model.onnx").read_bytes() == shop.files["model.onnx"]
    assert sorted(file.name for file in bundle.parent.iterdir()) == ["bundle"]
    assert sorted(file.name for file in bundle.iterdir()) == FILES


def test_the_checksums_are_what_the_format_says(shop: Shop, bundle: Path, tmp_path: Path) -> None:
    # `forge` computes them on its own.
    forged = forge(tmp_path / "forged", shop.config, shop.tensors, shop.files)
    assert open_bundle(forged).config["files"] == open_bundle(bundle).config["files"]


def test_a_path_with_parents_that_are_missing(shop: Shop, tmp_path: Path) -> None:
    assert open_bundle(shop.write(tmp_path / "a" / "b" / "bundle"))


@pytest.mark.parametrize("kind", ["bundle", "file", "empty folder", "dangling link"])
def test_refuses_to_overwrite(kind: str, shop: Shop, bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "other"
    if kind == "bundle":
        path = bundle
    elif kind == "file":
        path.write_text("mine")
    elif kind == "empty folder":
        path.mkdir()
    else:
        path.symlink_to(tmp_path / "nowhere")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(BundleError, match=f"{path.name} exists already"):
        shop.write(path)
    assert sorted(tmp_path.rglob("*")) == before
    open_bundle(bundle)


def nothing_there(path: Path) -> None:
    pass


def empty_folder(path: Path) -> None:
    path.mkdir()


def a_file(path: Path) -> None:
    path.write_text("{}")


def another_folder(path: Path) -> None:
    path.mkdir()
    (path / "model.onnx").write_bytes(b"x")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (nothing_there, r"x is not a bundle: there is no such folder"),
        (a_file, r"x is a file: a bundle is the folder that holds config\.json"),
        (empty_folder, r"config\.json is missing: .*x is not a bundle"),
        (another_folder, r"config\.json is missing: .*x is not a bundle"),
    ],
)
def test_not_a_bundle(make: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    make(tmp_path / "x")
    with pytest.raises(BundleMissingError, match=message):
        Recommender.load(tmp_path / "x")


@pytest.mark.parametrize("path", [None, 5, [b"bundle"]])
def test_not_a_path(path: Any) -> None:
    with pytest.raises(InvalidPathError, match=r"^path must be a bundle: its folder, a zip file.*, got "):
        Recommender.load(path)


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_missing(name: str, bundle: Path) -> None:
    (bundle / name).unlink()
    for verify in (True, False):
        with pytest.raises(BundleMissingError, match=f"{name} is missing"):
            Recommender.load(bundle, verify=verify)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
@pytest.mark.parametrize("name", CHECKED)
def test_a_file_is_truncated(name: str, share: float, bundle: Path) -> None:
    data = (bundle / name).read_bytes()
    (bundle / name).write_bytes(data[: int(share * len(data))])
    for verify in (True, False):
        with pytest.raises(BundleCorruptError, match=f"{name} is truncated"):
            Recommender.load(bundle, verify=verify)


@pytest.mark.parametrize("name", CHECKED)
def test_a_file_has_grown(name: str, bundle: Path) -> None:
    with (bundle / name).open("ab") as file:
        file.write(b"x")
    with pytest.raises(BundleCorruptError, match=rf"{name} is (altered|truncated or not JSON)"):
        Recommender.load(bundle)


def test_the_model_card_may_be_edited(bundle: Path, tmp_path: Path) -> None:
    card = bundle / "README.md"
    card.write_text("Trained for the winter sale.\n", encoding="utf-8")
    for verify in (True, False):
        recommender = Recommender.load(bundle, verify=verify)
        recommender.save(tmp_path / "saved")
        assert (tmp_path / "saved/README.md").read_text(encoding="utf-8") == "Trained for the winter sale.\n"
        assert len(Recommender.load(tmp_path / "saved", verify=verify).catalog) == len(recommender.catalog)
        shutil.rmtree(tmp_path / "saved")
    recommender.save(bundle)
    assert card.read_text(encoding="utf-8") == "Trained for the winter sale.\n"
    for text in ("In place.\n", "In place, and then once more.\n"):  # after it was loaded, and saved
        card.write_text(text, encoding="utf-8")
        recommender.save(bundle)
        assert card.read_text(encoding="utf-8") == text
    assert open_bundle(bundle).config["files"]["README.md"]["bytes"] == card.stat().st_size


def test_a_card_of_another_model_does_not_stay(bundle: Path, shop: Shop, tmp_path: Path) -> None:
    other = replace(shop, vectors=-shop.vectors).write(tmp_path / "other")
    (other / "README.md").write_text("Of the other one.\n", encoding="utf-8")
    wanted = (bundle / "README.md").read_bytes()
    Recommender.load(bundle).save(other)
    assert (other / "README.md").read_bytes() == wanted


def test_a_card_that_leads_elsewhere_is_not_the_card(bundle: Path, tmp_path: Path) -> None:
    content = (bundle / "README.md").read_bytes()
    (bundle / "README.md").unlink()
    for name, text, works in (("same", content, True), ("secret", b"a secret", False)):
        (tmp_path / name).write_bytes(text)
        (bundle / "README.md").symlink_to(tmp_path / name)
        for verify in (True, False):
            if works:
                Recommender.load(bundle, verify=verify)
            else:
                with pytest.raises(BundleCorruptError, match=r"README\.md is (altered|truncated)"):
                    Recommender.load(bundle, verify=verify)
        (bundle / "README.md").unlink()


def test_a_card_that_is_too_large(bundle: Path) -> None:
    (bundle / "README.md").write_bytes(bytes((16 << 20) + 1))
    with pytest.raises(BundleCorruptError, match=r"README\.md is larger than 16,777,216 bytes"):
        Recommender.load(bundle)


def open_or_error(path: Path, verify: bool = True) -> dict[str, Any] | str:
    """The configuration of the bundle, or the message of the error that refused it."""
    try:
        return open_bundle(path, verify).config
    except BundleError as error:
        return str(error)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(CHECKED), at=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_one_bit_is_flipped(name: str, at: float, bit: int, sound: Path, bundle: Path) -> None:
    shutil.rmtree(bundle)
    shutil.copytree(sound, bundle)
    data = bytearray((bundle / name).read_bytes())
    data[int(at * len(data))] ^= 1 << bit
    (bundle / name).write_bytes(data)
    config = open_or_error(bundle)
    if isinstance(config, str):
        assert name in config or name == "config.json"  # it may now list a file that is not there
    else:
        # Only white space of config.json may differ, which says nothing.
        assert name == "config.json"
        assert config == open_bundle(sound).config


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 2_000), byte=st.integers(0, 255))
def test_without_verification_a_damaged_header_is_no_crash(
    at: int, byte: int, sound: Path, bundle: Path
) -> None:
    data = bytearray((sound / "catalog.safetensors").read_bytes())
    data[at] = byte
    (bundle / "catalog.safetensors").write_bytes(data)
    config = open_or_error(bundle, verify=False)
    assert isinstance(config, dict) or "catalog.safetensors" in config


def test_foreign_files_under_our_names(shop: Shop, tmp_path: Path) -> None:
    tables = {"weight": np.zeros((3, 4), dtype=np.float32)}
    forge(tmp_path / "a", shop.config, tables, shop.files)
    with pytest.raises(BundleCorruptError, match=r"catalog\.safetensors: table 'item_vectors' is missing"):
        Recommender.load(tmp_path / "a")
    forge(tmp_path / "b", shop.config, shop.tensors, {"model.onnx": b"no graph"})
    with pytest.raises(BundleCorruptError, match=r"model\.onnx cannot be loaded"):
        Recommender.load(tmp_path / "b")


def test_without_verification_contents_are_not_read(coded: Shop, tmp_path: Path) -> None:
    path = coded.write(tmp_path / "bundle")
    data = bytearray((path / "catalog.safetensors").read_bytes())
    at = data.index(coded.vectors.tobytes())
    data[at : at + coded.vectors.nbytes] = np.zeros_like(coded.vectors).tobytes()
    (path / "catalog.safetensors").write_bytes(data)
    with pytest.raises(BundleCorruptError, match=r"catalog\.safetensors is altered: its SHA-256"):
        Recommender.load(path)
    recommender = Recommender.load(path, verify=False)
    assert not recommender.catalog.base.table.vectors.any()
    assert len(recommender.recommend(coded.ids[:2], 5)) == 5


def writing_faults(shop: Shop) -> list[tuple[dict[str, Any], Tables, dict[str, bytes], str]]:
    config, tables, files = shop.config, shop.tensors, shop.files
    vectors = tables["item_vectors"].copy()
    vectors[3, 3] = np.nan
    return [
        ({**config, "metrics": {"recall": float("nan")}}, tables, files, "JSON"),
        ({**config, "data": {"x": object()}}, tables, files, "JSON serializable"),
        ({**config, "items": "60"}, tables, files, "'items' must be an integer from 1"),
        (
            config,
            {**tables, "item_vectors": vectors},
            files,
            "'item_vectors' has values that are NaN, infinite or above",
        ),
        (config, tables, {"README.md": b""}, "'files' must be an object of SHA-256 and bytes"),
        (config, tables, {**files, "../outside": b"x"}, "'../outside' cannot be the name of a file in it"),
        (config, tables, {**files, "config.json": b"x"}, "'config.json' cannot be the name of a file in it"),
    ]


@pytest.mark.parametrize("fault", range(7))
def test_what_is_no_bundle_is_not_written(fault: int, shop: Shop, tmp_path: Path) -> None:
    config, tables, files, cause = writing_faults(shop)[fault]
    with pytest.raises(BundleError, match=rf"bundle was not written: .*{cause}"):
        write_bundle(tmp_path / "bundle", config, tables, files)
    assert list(tmp_path.iterdir()) == []


def fail(*args: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("step", ["write_tables", "sync", "_rename"])
def test_the_disk_is_full(step: str, shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = hiersrec_sdk.bundle.write if step == "write_tables" else hiersrec_sdk.atomic
    monkeypatch.setattr(module, step, fail)
    with pytest.raises(BundleError, match=r"bundle was not written: .*No space left on device"):
        shop.write(tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    assert open_bundle(shop.write(tmp_path / "bundle"))


def test_everything_is_on_the_disk_before_the_name(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, bool]] = []

    def record(path: Path) -> None:
        seen.append((path.name, (tmp_path / "bundle").exists()))
        sync(path)

    monkeypatch.setattr(hiersrec_sdk.atomic, "sync", record)
    shop.write(tmp_path / "bundle")
    *before, (last, named) = seen
    assert sorted(name for name, _ in before[:-1]) == FILES
    assert before[-1][0].startswith("bundle.part-")
    assert not any(exists for _, exists in before)
    assert (last, named) == (tmp_path.name, True)


def test_another_writer_was_faster(shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def overtake(path: Path) -> None:
        monkeypatch.undo()
        make_shop("int64").write(tmp_path / "bundle")

    monkeypatch.setattr(hiersrec_sdk.atomic, "sync", overtake)
    with pytest.raises(BundleError, match=r"bundle was not written: .*bundle exists already"):
        shop.write(tmp_path / "bundle")
    assert open_bundle(tmp_path / "bundle").config["item_id_type"] == "int64"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["bundle"]


# Writes the bundle that was forged at argv[1] to argv[2].
WRITER = """
import json, os, resource, sys, time
from pathlib import Path
import hiersrec_sdk.atomic
from hiersrec_sdk.bundle.folder import open_bundle
from hiersrec_sdk.bundle.write import write_bundle
from hiersrec_sdk.errors import BundleError

found = open_bundle(sys.argv[1])
files = {"model.onnx": found.read("model.onnx")}
"""

TOO_LARGE = """
resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, 5_000))
try:
    write_bundle(sys.argv[2], found.config, found.tables, files)
except BundleError as error:
    print(error)
"""

# Stops at the n-th sync, when the files are written, and waits to be killed.
STOP = """
calls = 0
def stop(path):
    global calls
    calls += 1
    if calls == int(sys.argv[3]):
        print("stopped", flush=True)
        time.sleep(60)
hiersrec_sdk.atomic.sync = stop
write_bundle(sys.argv[2], found.config, found.tables, files)
"""


def test_a_write_fails_half_way(sound: Path, tmp_path: Path) -> None:
    # A limit on the size of a file: the system itself stops the write of the tables, after some of it.
    assert (sound / "catalog.safetensors").stat().st_size > 5_000
    command = [sys.executable, "-c", WRITER + TOO_LARGE, str(sound), str(tmp_path / "bundle")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "bundle was not written: [Errno 27] File too large" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("moment", [1, 4])
def test_killed_in_the_middle_of_a_write(moment: int, shop: Shop, sound: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER + STOP, str(sound), str(tmp_path / "bundle"), str(moment)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "stopped\n"
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    assert not (tmp_path / "bundle").exists()
    assert [file.name.startswith("bundle.part-") for file in tmp_path.iterdir()] == [True]
    assert open_bundle(shop.write(tmp_path / "bundle"))  # what was left behind is in nobody's way


def test_tables_are_read_through_a_memory_map(shop: Shop, tmp_path: Path) -> None:
    # A file may be replaced under a loaded bundle, as long as it is not written in place.
    bundle = open_bundle(shop.write(tmp_path / "bundle"))
    replacement = tmp_path / "replacement"
    write_tables(replacement, {"other": np.zeros(3)})
    replacement.rename(tmp_path / "bundle" / "catalog.safetensors")
    assert np.array_equal(bundle.tables["item_vectors"], shop.vectors)
