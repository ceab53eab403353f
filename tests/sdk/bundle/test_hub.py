"""Recommender.from_pretrained against a stand-in that speaks what huggingface_hub asks of the hub."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from hiersrec_sdk import Recommender, errors
from tests.sdk.bundle.stand_in import MAIN, OLD, Hub, asked_in_a_process, served
from tests.sdk.bundles import make_shop

pytest.importorskip("huggingface_hub")

SHOP = make_shop(covisitation=True)
SESSION = SHOP.ids[5:9]

# Loads by each line of arguments, and says what came of it.
CLIENT = """
import json, sys
from hiersrec_sdk import Recommender
for line in sys.stdin:
    try:
        found = Recommender.from_pretrained(**json.loads(line))
        answer = [list(found.recommend(SESSION, 9).items), str(found._bundle.path)]
    except Exception as error:
        answer = [type(error).__name__, str(error)]
    print(json.dumps(answer))
"""


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = SHOP.write(tmp_path_factory.mktemp("shop") / "bundle")
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture(scope="module")
def hub(content: dict[str, bytes]) -> Iterator[tuple[str, list[str]]]:
    altered = content | {"model.onnx": content["model.onnx"][:-1] + b"x"}
    edited = content | {"README.md": content["README.md"] + b"Trained for the winter sale.\n"}
    without = {name: data for name, data in content.items() if name != "model.onnx"}
    beside = {"pytorch_model.bin": b"x" * 1_000, "folder/notes.txt": b"x"}

    class ThisHub(Hub):
        repositories: ClassVar[dict[str, dict[str, dict[str, bytes]]]] = {
            "shop/model": {MAIN: content | beside, OLD: content},
            "private/model": {MAIN: content},
            "shop/altered": {MAIN: altered},
            "shop/edited": {MAIN: edited},
            "shop/without": {MAIN: without},
            "shop/other": {MAIN: {"config.json": b'{"model_type": "bert"}'}},
            "shop/empty": {MAIN: {"notes.txt": b"x"}},
        }
        asked: ClassVar[list[str]] = []

    with served(ThisHub) as endpoint:
        yield endpoint, ThisHub.asked


def load(endpoint: str, home: Path, *calls: dict[str, Any], **environment: str) -> list[Any]:
    """What came of each call, in one process of its own."""
    return asked_in_a_process(CLIENT.replace("SESSION", repr(SESSION)), endpoint, home, *calls, **environment)


@pytest.mark.slow
def test_a_bundle_of_the_hub(hub: tuple[str, list[str]], content: dict[str, bytes], tmp_path: Path) -> None:
    endpoint, asked = hub
    asked.clear()
    cache = str(tmp_path / "own")
    found, old, offline, elsewhere = load(
        endpoint,
        tmp_path / "home",
        {"repo": "shop/model"},
        {"repo": "shop/model", "revision": "v1"},
        {"repo": "shop/model", "local_files_only": True},
        {"repo": "shop/model", "revision": OLD, "cache_dir": cache},
    )
    snapshot = Path(found[1])
    local = Recommender.load(snapshot)
    assert found[0] == old[0] == elsewhere[0] == list(local.recommend(SESSION, 9).items)
    assert offline == found
    assert (snapshot.name, Path(old[1]).name) == (MAIN, OLD)
    assert elsewhere[1].startswith(cache)
    assert {file.name: file.read_bytes() for file in snapshot.iterdir()} == content
    assert all(file.is_symlink() for file in snapshot.iterdir())
    assert not any("pytorch_model" in path or "notes" in path for path in asked)  # not part of the bundle

    asked.clear()
    again = load(endpoint, tmp_path / "home", {"repo": "shop/model", "local_files_only": True})
    without_network = load(endpoint, tmp_path / "home", {"repo": "shop/model"}, HF_HUB_OFFLINE="1")
    down = load("http://127.0.0.1:9", tmp_path / "home", {"repo": "shop/model"})
    assert again == without_network == down == [found]
    assert asked == []

    local.catalog.remove(SESSION[:1])
    local.save(tmp_path / "saved")
    assert pickle.loads(pickle.dumps(local)).recommend(SESSION, 9).items == local.recommend(SESSION, 9).items
    snapshot.rename(snapshot.with_name("elsewhere"))
    assert not any(file.is_symlink() for file in (tmp_path / "saved").iterdir())
    assert (
        Recommender.load(tmp_path / "saved").recommend(SESSION, 9).items == local.recommend(SESSION, 9).items
    )


def test_errors(hub: tuple[str, list[str]], tmp_path: Path) -> None:
    wanted: list[tuple[dict[str, Any], str, str]] = [
        ({"repo": "shop/nothing"}, "BundleMissingError", "shop/nothing on the Hub cannot be found"),
        ({"repo": "shop/model", "revision": "v9"}, "BundleMissingError", "at v9, cannot be found"),
        ({"repo": "shop/model", "local_files_only": True}, "BundleMissingError", "cannot be found"),
        (
            {"repo": "shop/empty"},
            "BundleMissingError",
            "shop/empty on the Hub is not a bundle: it has no config.json",
        ),
        ({"repo": "shop/without"}, "BundleMissingError", "model.onnx is missing: config.json lists it"),
        (
            {"repo": "shop/other"},
            "BundleCorruptError",
            "config.json does not describe a HierSRec bundle",
        ),
        ({"repo": "shop/altered"}, "BundleCorruptError", "model.onnx is altered: its SHA-256"),
        ({"repo": "shop/edited"}, "", ""),
        ({"repo": "private/model"}, "BundleMissingError", "private/model on the Hub cannot be found"),
        ({"repo": "private/model", "token": "hf_secret"}, "", ""),
        ({"repo": "a/b/c"}, "InvalidRepoError", "repo must be a name such as 'org/name', got 'a/b/c'"),
        ({"repo": 5}, "InvalidRepoError", "repo must be a name such as 'org/name', got 5"),
    ]
    found = load(hub[0], tmp_path / "home", *(call for call, _, _ in wanted))
    for (call, name, message), (have, text) in zip(wanted, found, strict=True):
        if name:
            assert (have, message in text) == (name, True), (call, have, text)
        else:
            assert len(have) == 9
    (down,) = load("http://127.0.0.1:9", tmp_path / "other", {"repo": "shop/model"})
    assert down[0] == "BundleMissingError"
    assert "cannot be found" in down[1]


def test_huggingface_hub_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(errors.MissingExtraError, match=r"pip install 'hiersrec-sdk\[hub\]'"):
        Recommender.from_pretrained("shop/model")
