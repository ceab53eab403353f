"""A bundle out of a zip file, its bytes or a URL: unpacked once, and only what its config.json names."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import shutil
import stat
import struct
import subprocess
import sys
import traceback
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.exceptions import FSTimeoutError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hiersrec_sdk import Recommender, errors
from hiersrec_sdk.bundle.cache import cache_folder
from hiersrec_sdk.bundle.schema import config_digest
from hiersrec_sdk.bundle.sources import without_secrets
from tests.sdk.bundles import make_shop
from tests.waiting import PATIENCE

SHOP = make_shop(covisitation=True)
SESSION = SHOP.ids[5:9]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return SHOP.write(tmp_path_factory.mktemp("shop") / "bundle")


@pytest.fixture(scope="module")
def wanted(bundle: Path) -> tuple[int | str, ...]:
    return Recommender.load(bundle).recommend(SESSION, 9).items


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HIERSREC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "bundles"


def files(bundle: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in bundle.iterdir()}


def zipped(content: dict[str, bytes], prefix: str = "", compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in content.items():
            archive.writestr(prefix + name, data)
    return buffer.getvalue()


def with_config(content: dict[str, bytes], change: Callable[[dict[str, Any]], None]) -> dict[str, bytes]:
    """``content`` with a changed config.json, whose own SHA-256 is right."""
    config = json.loads(content["config.json"])
    change(config)
    return content | {"config.json": json.dumps(config | {"sha256": config_digest(config)}).encode()}


def entries(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir() if path.suffix != ".lock") if cache.exists() else []


def one(names: list[str]) -> str:
    (name,) = names
    return name


@pytest.mark.parametrize("prefix", ["", "bundle/"])
@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_file_and_its_bytes(
    prefix: str, compression: int, bundle: Path, wanted: Any, tmp_path: Path, cache: Path
) -> None:
    packed = zipped(files(bundle) | {"notes.txt": b"of the shop"}, prefix, compression)
    (tmp_path / "packed").write_bytes(packed)  # whatever its name
    for source in (
        tmp_path / "packed",
        str(tmp_path / "packed"),
        packed,
        bytearray(packed),
        memoryview(packed),
    ):
        assert Recommender.load(source).recommend(SESSION, 9).items == wanted
    entry = cache / one(entries(cache))  # for all of them
    assert files(entry) == files(bundle)
    assert entry.name == json.loads((bundle / "config.json").read_bytes())["sha256"]


@pytest.fixture
def memory() -> Any:
    filesystem = fsspec.filesystem("memory")
    yield filesystem
    filesystem.store.clear()
    filesystem.pseudo_dirs[:] = [""]


@pytest.mark.parametrize("url", ["memory://shop/bundle.zip", "memory://shop/bundle", "memory://shop/bundle/"])
def test_a_url(url: str, bundle: Path, wanted: Any, memory: Any, cache: Path) -> None:
    if url.endswith(".zip"):
        memory.pipe("/shop/bundle.zip", zipped(files(bundle)))
    else:
        memory.pipe({f"/shop/bundle/{name}": data for name, data in files(bundle).items()})
    for verify in (True, False):
        assert Recommender.load(url, verify=verify).recommend(SESSION, 9).items == wanted
    assert len(entries(cache)) == 1
    memory.rm("/shop", recursive=True)
    with pytest.raises(errors.BundleMissingError, match=r"config\.json is missing: this is not a bundle"):
        Recommender.load(url)


def test_a_url_of_a_local_folder_is_that_folder(bundle: Path, wanted: Any, cache: Path) -> None:
    assert Recommender.load(f"file://{bundle}").recommend(SESSION, 9).items == wanted
    assert entries(cache) == []


def test_a_stream_that_cannot_be_sought(
    bundle: Path, wanted: Any, memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stream(io.BytesIO):
        def seekable(self) -> bool:
            return False

        def seek(self, *_: Any) -> int:
            raise OSError("cannot seek")

    packed = zipped(files(bundle))
    memory.pipe("/bundle.zip", packed)
    monkeypatch.setattr(type(memory), "open", lambda *_, **__: Stream(packed))
    assert Recommender.load("memory://bundle.zip").recommend(SESSION, 9).items == wanted


def test_a_url_that_cannot_be_read(memory: Any) -> None:
    with pytest.raises(errors.BundleError, match=r"nope://shop cannot be read: Protocol not known: nope"):
        Recommender.load("nope://shop")


def test_fsspec_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(errors.MissingExtraError, match=r"pip install 'hiersrec-sdk\[fsspec\]'"):
        Recommender.load("memory://bundle.zip")


def test_the_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HIERSREC_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache_folder() == Path("/x/hiersrec")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # which the standard says to ignore
    monkeypatch.setenv("HOME", "/h")
    assert cache_folder() == Path("/h/.cache/hiersrec")
    monkeypatch.setenv("HIERSREC_CACHE", "~/c")
    assert cache_folder() == Path("/h/c")


def test_a_cache_that_cannot_be_written(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    for cache in (tmp_path / "file", tmp_path / ("long" * 100)):
        monkeypatch.setenv("HIERSREC_CACHE", str(cache))
        with pytest.raises(
            errors.BundleError, match=r"cannot be unpacked to .*set HIERSREC_CACHE to another folder"
        ):
            Recommender.load(zipped(files(bundle)))


# Waits for a word, so that all begin at once.
LOADS = """
import sys
from hiersrec_sdk import Recommender
sys.stdin.readline()
print(*Recommender.load(sys.argv[1]).recommend(SESSION, 9).items)
"""


@pytest.mark.parametrize("damaged", [False, True])
@pytest.mark.slow
def test_eight_processes_at_once(
    damaged: bool, bundle: Path, wanted: Any, tmp_path: Path, cache: Path
) -> None:
    (tmp_path / "bundle.zip").write_bytes(zipped(files(bundle)))
    if damaged:
        Recommender.load(tmp_path / "bundle.zip")
        damage(cache / one(entries(cache)) / "catalog.safetensors")
    command = [sys.executable, "-c", LOADS.replace("SESSION", repr(SESSION)), str(tmp_path / "bundle.zip")]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(8)
    ]
    for process in processes:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate(timeout=PATIENCE)[0].split() for process in processes]
    assert said == [[str(item_id) for item_id in wanted]] * 8
    assert files(cache / one(entries(cache))) == files(bundle)


def damage(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1_000] ^= 1
    file.write_bytes(content)


def test_a_damaged_entry_is_unpacked_anew(bundle: Path, cache: Path) -> None:
    packed = zipped(files(bundle))
    Recommender.load(packed)
    entry = cache / one(entries(cache))
    damage(entry / "catalog.safetensors")
    Recommender.load(packed, verify=False)
    assert files(entry) != files(bundle)  # which nobody has looked at
    Recommender.load(packed)
    assert files(entry) == files(bundle)
    (entry / "model.onnx").unlink()
    Recommender.load(packed, verify=False)
    assert files(entry) == files(bundle)
    assert entries(cache) == [entry.name]


def test_what_a_killed_process_left_is_cleared_away(bundle: Path, cache: Path) -> None:
    packed = zipped(files(bundle))
    Recommender.load(packed)
    name = one(entries(cache))
    (cache / name).rename(cache / f"{name}.part-1-x")
    Recommender.load(packed)
    assert entries(cache) == [name]


def test_changes_are_not_saved_into_the_cache(bundle: Path, wanted: Any, cache: Path) -> None:
    packed = zipped(files(bundle))
    recommender = Recommender.load(packed)
    recommender.catalog.remove(wanted[:3])
    for name in (one(entries(cache)), "other"):
        with pytest.raises(errors.BundleError, match="save it elsewhere"):
            recommender.save(cache / name)
    assert Recommender.load(packed).recommend(SESSION, 9).items == wanted


def test_a_name_that_is_too_long() -> None:
    with pytest.raises(errors.BundleError, match="cannot be opened: File name too long"):
        Recommender.load("x" * 5_000)


def test_changes_are_saved_elsewhere(bundle: Path, wanted: Any, tmp_path: Path, cache: Path) -> None:
    recommender = Recommender.load(zipped(files(bundle)))
    recommender.catalog.remove(wanted[:3])
    recommender.save(tmp_path / "saved")
    found = Recommender.load(tmp_path / "saved").recommend(SESSION, 9).items
    assert found == recommender.recommend(SESSION, 9).items
    assert not {*wanted[:3]} & {*found}
    assert files(cache / one(entries(cache))) == files(bundle)


def test_a_pickle_reopens_the_cache(bundle: Path, wanted: Any) -> None:
    content = pickle.dumps(Recommender.load(zipped(files(bundle))))
    assert len(content) < 1_000
    assert pickle.loads(content).recommend(SESSION, 9).items == wanted


def fails(source: Any, error: type[Exception], message: str, cache: Path) -> None:
    """Neither with nor without verification anything is left, in the cache or outside."""
    for verify in (True, False):
        with pytest.raises(error, match=message):
            Recommender.load(source, verify=verify)
        assert entries(cache) == []
    assert not list(cache.parent.parent.rglob("*evil*"))


@pytest.mark.parametrize("name", ["../evil", "/tmp/evil", "..", "", ".", "a/evil", "evil\0"])
def test_names_that_lead_out(name: str, bundle: Path, cache: Path) -> None:
    content = with_config(
        files(bundle), lambda config: config["files"].update({name: {"sha256": "0" * 64, "bytes": 3}})
    )
    fails(
        zipped(content),
        errors.BundleCorruptError,
        "'files' must be an object of SHA-256 and bytes by file name",
        cache,
    )


def test_what_the_config_does_not_name_is_not_read(bundle: Path, wanted: Any, cache: Path) -> None:
    packed = zipped(
        files(bundle) | {"../evil": b"x", "/tmp/evil": b"x", "evil.py": b"x", "a/b/config.json": b"x"}
    )
    assert Recommender.load(packed).recommend(SESSION, 9).items == wanted
    assert files(cache / one(entries(cache))) == files(bundle)
    assert not list(cache.parent.parent.rglob("*evil*"))


def test_a_link_is_what_it_says_not_where_it_leads(bundle: Path, cache: Path) -> None:
    (cache.parent.parent / "target").write_bytes((bundle / "model.onnx").read_bytes())
    link = zipfile.ZipInfo("model.onnx")
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files(bundle).items():
            if name != "model.onnx":
                archive.writestr(name, data)
        archive.writestr(link, os.fspath(cache.parent.parent / "target"))
    fails(buffer.getvalue(), errors.BundleCorruptError, r"model\.onnx is (altered|truncated)", cache)


def test_a_bomb_goes_no_further_than_its_size(bundle: Path, cache: Path) -> None:
    packed = zipped(files(bundle) | {"model.onnx": bytes(64 << 20)})
    assert len(packed) < 1 << 20
    size = (bundle / "model.onnx").stat().st_size
    fails(packed, errors.BundleCorruptError, rf"model\.onnx is altered: it has {size + 1} bytes", cache)


def test_a_config_that_is_a_bomb(bundle: Path, cache: Path) -> None:
    packed = zipped(files(bundle) | {"config.json": b" " * (17 << 20)})
    fails(packed, errors.BundleCorruptError, r"config\.json is larger than 16,777,216 bytes", cache)


def test_not_a_bundle(bundle: Path, cache: Path) -> None:
    content = files(bundle)
    fails(zipped({"a": b""}), errors.BundleMissingError, "neither it nor a folder in it has one", cache)
    two = zipped({"a/config.json": b"", "b/config.json": b""})
    fails(two, errors.BundleMissingError, "2 of its folders have one", cache)
    fails(b"bundle", errors.BundleCorruptError, "is truncated or not a zip file", cache)
    fails(zipped(content)[:-40], errors.BundleCorruptError, "is truncated or not a zip file", cache)
    del content["model.onnx"]
    fails(zipped(content), errors.BundleMissingError, r"model\.onnx is missing: config\.json lists it", cache)


def test_an_edited_model_card(bundle: Path, wanted: Any, cache: Path) -> None:
    card = files(bundle)["README.md"] + b"Trained for the winter sale.\n"
    assert Recommender.load(zipped(files(bundle) | {"README.md": card})).recommend(SESSION, 9).items == wanted
    assert files(cache / one(entries(cache)))["README.md"] == card


def test_a_card_that_is_a_bomb(bundle: Path, cache: Path) -> None:
    packed = zipped(files(bundle) | {"README.md": bytes(64 << 20)})
    fails(packed, errors.BundleCorruptError, r"README\.md is larger than 16,777,216 bytes", cache)


def test_altered_files(bundle: Path, cache: Path) -> None:
    content = files(bundle)
    altered = content | {"model.onnx": content["model.onnx"][:-1] + b"x"}
    fails(zipped(altered), errors.BundleCorruptError, r"bytes: model\.onnx is altered: its SHA-256", cache)
    altered = content | {"config.json": content["config.json"].replace(b"made up", b"made-up")}
    fails(zipped(altered), errors.BundleCorruptError, "does not match its own SHA-256", cache)
    packed = zipped(content, compression=zipfile.ZIP_STORED)
    at = packed.index(b"# A made-up shop")
    fails(packed[:at] + b"#A" + packed[at + 2 :], errors.BundleCorruptError, "Bad CRC-32", cache)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.data(), compression=st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
)
def test_a_damaged_zip_is_an_error_of_ours_or_does_no_harm(
    data: st.DataObject, compression: int, bundle: Path, wanted: Any, cache: Path
) -> None:
    shutil.rmtree(cache, ignore_errors=True)
    packed = bytearray(zipped(files(bundle), compression=compression))
    near_the_end = st.integers(max(0, len(packed) - 400), len(packed) - 1)  # where the names and sizes are
    for at in data.draw(st.lists(near_the_end | st.integers(0, len(packed) - 1), min_size=1, max_size=4)):
        packed[at] = data.draw(st.integers(0, 255))
    try:
        found = Recommender.load(packed)
    except errors.BundleError:
        assert entries(cache) == []
    else:
        assert found.recommend(SESSION, 9).items == wanted
        assert files(cache / one(entries(cache))) == files(bundle)


def test_bytes_that_are_none(bundle: Path) -> None:
    packed = zipped(files(bundle))
    released = memoryview(packed)
    released.release()
    for source in (memoryview(packed)[::2], released):
        with pytest.raises(
            errors.InvalidPathError, match="path must be the bytes of a zip file, one after the other"
        ):
            Recommender.load(source)


def test_a_truncated_zip_file(tmp_path: Path, bundle: Path) -> None:
    (tmp_path / "bundle.zip").write_bytes(zipped(files(bundle))[:-40])
    with pytest.raises(errors.BundleMissingError, match="or a complete zip file of it"):
        Recommender.load(tmp_path / "bundle.zip")


def test_an_end_that_no_zip_file_can_have(tmp_path: Path, bundle: Path, cache: Path) -> None:
    content = zipped(files(bundle))
    end = content.rindex(b"PK\5\6")
    several_disks = struct.pack("<4sLQL", b"PK\x06\x07", 0, 0, 2)
    path = tmp_path / "bundle.zip"
    path.write_bytes(content[:end] + several_disks + content[end:])
    fails(path, errors.BundleError, ".", cache)  # from Python 3.14 on it is no zip file at all
    fails(path.read_bytes(), errors.BundleCorruptError, "not a zip file: zipfiles that span", cache)


@pytest.mark.parametrize(
    ("url", "label"),
    [
        ("http://me:s3cret@host:80/b.zip?sig=s3cret", "http://host:80/b.zip?…"),
        ("https://host/b.zip?role=arn:aws:iam::1&sig=s3cret", "https://host/b.zip?…"),
        ("s3://KEY:s3/cret@bucket/b", "s3://bucket/b"),
        ("filecache::http://me:s3cret@[::1]/b", "filecache::http://[::1]/b"),
        ("zip://b::s3://KEY:s3cret@bucket/b.zip", "zip://bucket/b.zip"),
        ("http://host:80/name@1.2/b.zip", "http://host:80/name@1.2/b.zip"),
        ("s3://bucket/name@1.2/b.zip", "s3://bucket/name@1.2/b.zip"),
    ],
)
def test_a_url_without_its_secrets(url: str, label: str) -> None:
    assert without_secrets(url) == label


SECRET = "memory://me:s3cret@host/b?Credential=AKIA%2Fus&Signature=s3cret"


@pytest.mark.parametrize("where", ["isfile", "open", "read"])
def test_secrets_of_a_url_are_told_to_nobody(
    where: str, memory: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither as they are, nor as a library writes them."""

    says = "403, url='http://host/b?Credential=AKIA/us&Signature=s3cret/config.json'"

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(says)

    class File(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise OSError(says)

    monkeypatch.setattr(type(memory), "isfile", fail if where == "isfile" else lambda *_: False)
    monkeypatch.setattr(type(memory), "open", fail if where == "open" else lambda *_, **__: File())
    with caplog.at_level("DEBUG"), pytest.raises(errors.BundleError) as caught:
        Recommender.load(SECRET)
    assert str(caught.value).startswith("memory://host/b?…")
    assert "cannot be read" in str(caught.value)
    told = "".join(traceback.format_exception(caught.value)) + caplog.text
    assert not re.search("s3cret|AKIA|me:", told)


class SoftTimeLimitError(Exception):  # of Celery, there called SoftTimeLimitExceeded
    __module__ = "billiard.exceptions"


def fail_with(error: Exception, memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(type(memory), "isfile", fail)


def test_a_time_limit_while_a_url_is_read(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = SoftTimeLimitError("over")
    fail_with(limit, memory, monkeypatch)
    with pytest.raises(SoftTimeLimitError) as caught:
        Recommender.load("memory://bundle")
    assert caught.value is limit


@pytest.mark.parametrize("error", [FSTimeoutError(), TimeoutError("timed out")])
def test_a_server_that_does_not_answer(
    error: Exception, memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_with(error, memory, monkeypatch)
    says = re.escape(str(error)) or "FSTimeoutError"
    with pytest.raises(errors.BundleError, match=f"^memory://bundle cannot be read: {says}$"):
        Recommender.load("memory://bundle")
