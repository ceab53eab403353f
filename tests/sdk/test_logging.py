"""What is logged, and when; and that a folder is loaded without the network."""

from __future__ import annotations

import io
import logging
import subprocess
import zipfile
from pathlib import Path

import pytest

from hiersrec_sdk import Item, Recommender
from tests.sdk.bundles import make_shop
from tests.sdk.quiet_python import QUIET_PYTHON

SHOP = make_shop(covisitation=True)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return SHOP.write(tmp_path / "bundle")


def logged(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str, str]]:
    found = [(record.levelname, record.name, record.getMessage()) for record in caplog.records]
    caplog.clear()
    return [each for each in found if each[1].startswith("hiersrec_sdk")]


def only(caplog: pytest.LogCaptureFixture) -> tuple[str, str, str]:
    (record,) = logged(caplog)
    return record


def test_what_is_logged(bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "hiersrec_sdk")
    recommender = Recommender.load(bundle, backend="numpy")
    level, name, message = only(caplog)
    assert (level, name) == ("INFO", "hiersrec_sdk.recommender")
    assert message.startswith(f"loaded {bundle}: 60 items, backend numpy, providers cpu, in ")
    recommender.recommend(SHOP.ids[5:9])
    recommender.recommend_many([SHOP.ids[5:9]])
    assert logged(caplog) == []  # nothing on the way of an answer

    recommender.catalog.upsert([Item(SHOP.stranger, vector=SHOP.vectors[3])])
    assert only(caplog) == ("DEBUG", "hiersrec_sdk.catalog.writer", "upserted 1 items")
    recommender.catalog.remove(SHOP.ids[:3])
    assert only(caplog) == ("DEBUG", "hiersrec_sdk.catalog.writer", "removed 3 items")
    recommender.catalog.set_bias(SHOP.ids[5:7], 1.0)
    assert only(caplog) == ("DEBUG", "hiersrec_sdk.catalog.writer", "set the bias of 2 items")
    recommender.save(tmp_path / "saved")
    level, _, message = only(caplog)
    assert level == "INFO"
    assert message.startswith(f"saved 58 items to {tmp_path / 'saved'} in ")


def test_compaction_is_logged(bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    catalog = Recommender.load(bundle).catalog
    caplog.set_level(logging.INFO, "hiersrec_sdk")
    items = [Item(own, vector=SHOP.vectors[3]) for own in SHOP.ids[:40]]
    for _ in range(100):
        catalog.upsert(items)
    records = logged(caplog)
    assert records
    assert all(message.startswith("compacted the delta segment: 40 of ") for _, _, message in records)


def test_unpacking_is_logged(
    bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HIERSREC_CACHE", str(tmp_path / "cache"))
    caplog.set_level(logging.INFO, "hiersrec_sdk")
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for file in bundle.iterdir():
            archive.write(file, file.name)
    Recommender.load(packed.getvalue())
    (unpacked, loaded) = logged(caplog)
    assert unpacked[:2] == ("INFO", "hiersrec_sdk.bundle.sources")
    assert unpacked[2].startswith(f"unpacked the zip file given as bytes to {tmp_path / 'cache' / 'bundles'}")
    assert loaded[1] == "hiersrec_sdk.recommender"
    entry = next(path for path in (tmp_path / "cache/bundles").iterdir() if path.is_dir())
    (entry / "model.onnx").write_bytes(b"x")
    Recommender.load(packed.getvalue())
    warning, unpacked, _ = logged(caplog)
    assert warning[0] == "WARNING"
    assert "unpacking again: the cache is damaged" in warning[2]


# Fails where the process looks up a name, opens a connection or listens.
OFFLINE = """
import sys

def refuse(event, arguments):
    if event.startswith("socket.") and event not in ("socket.__new__", "socket.gethostname"):
        raise RuntimeError(f"{event} {arguments}")

sys.addaudithook(refuse)
import socket
try:
    socket.create_connection(("127.0.0.1", 9))
except RuntimeError:
    pass
else:
    raise SystemExit("the network is not watched")

from hiersrec_sdk import Recommender
recommender = Recommender.load(sys.argv[1])
assert len(recommender.recommend(ITEMS, k=5)) == 5
"""


def test_nothing_asks_the_network_or_prints(bundle: Path) -> None:
    code = OFFLINE.replace("ITEMS", repr(SHOP.ids[5:9]))
    done = subprocess.run([*QUIET_PYTHON, "-c", code, str(bundle)], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
