"""Recommender.push_to_hub and hiersrec push, against a stand-in of the Hub."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from hiersrec_sdk import Recommender, errors
from tests.sdk.bundle.stand_in import MAIN, WritableHub, asked_in_a_process, served
from tests.sdk.bundles import make_shop
from tests.sdk.cli.run import failed

pytest.importorskip("huggingface_hub")

SHOP = make_shop(covisitation=True)
SESSION = SHOP.ids[5:9]
OTHER = {"config.json": b'{"model_type": "bert"}', "pytorch_model.bin": b"x"}

# Each line of stdin: changes of the catalog, the arguments of a push, or those of a load.
CLIENT = f"""
import json, pickle, sys
from hiersrec_sdk import Recommender
from tests.sdk.cli.run import hiersrec
recommender = None
for line in sys.stdin:
    call = json.loads(line)
    try:
        if "open" in call:
            recommender = Recommender.load(call["open"])
            answer = ""
        elif "remove" in call:
            recommender.catalog.remove(call["remove"])
            answer = list(recommender.recommend({SESSION!r}, 9).items)
        elif "save" in call:
            recommender.save(call["save"])
            answer = list(pickle.loads(pickle.dumps(recommender)).recommend({SESSION!r}, 9).items)
        elif "command" in call:
            result = hiersrec(*call["command"])
            answer = [result.exit_code, result.stdout]
        elif "load" in call:
            found = Recommender.from_pretrained(**call["load"])
            answer = list(found.recommend({SESSION!r}, 9).items)
        else:
            answer = recommender.push_to_hub(**call)
    except Exception as error:
        answer = [type(error).__name__, str(error)]
    print(json.dumps(answer))
"""


@pytest.fixture
def hub() -> Iterator[tuple[str, type[WritableHub]]]:
    class ThisHub(WritableHub):
        repositories: ClassVar[dict[str, dict[str, dict[str, bytes]]]] = {"shop/bert": {MAIN: dict(OTHER)}}
        heads: ClassVar[dict[tuple[str, str], str]] = {("shop/bert", "main"): MAIN}
        asked: ClassVar[list[str]] = []
        visibility: ClassVar[dict[str, str]] = {}
        blobs: ClassVar[dict[str, bytes]] = {}
        commits: ClassVar[list[dict[str, Any]]] = []

    with served(ThisHub) as endpoint:
        yield endpoint, ThisHub


def client(endpoint: str, home: Path, *calls: dict[str, Any], token: str = "hf_write") -> list[Any]:
    """What came of each call."""
    variables = {"HF_TOKEN": token, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    return asked_in_a_process(CLIENT, endpoint, home, *calls, **variables)


def test_what_is_pushed_is_loaded_with_its_changes(
    hub: tuple[str, type[WritableHub]], tmp_path: Path
) -> None:
    endpoint, this = hub
    folder = SHOP.write(tmp_path / "bundle")
    first, gone = list(Recommender.load(folder).recommend(SESSION, 9).items), SHOP.ids[20]
    _, pushed, loaded, changed, again, then, old, branch, of_branch, saved = client(
        endpoint,
        tmp_path / "home",
        {"open": str(folder)},
        {"repo": "shop/model"},
        {"load": {"repo": "shop/model"}},
        {"remove": [first[0], gone]},
        {"repo": "shop/model", "exist_ok": True, "commit_message": "Without two items"},
        {"load": {"repo": "shop/model"}},
        {"repo": "shop/model"},
        {"repo": "shop/model", "exist_ok": True, "revision": "v2", "private": False},
        {"load": {"repo": "shop/model", "revision": "v2"}},
        {"save": str(tmp_path / "saved")},
    )
    assert pushed.startswith(f"{endpoint}/shop/model/commit/")
    assert loaded == first
    assert first[0] not in changed
    assert then == changed == of_branch == saved
    assert pushed != again == branch  # the branch began as the main one: nothing changed
    assert old[0] == "BundleError"
    assert "exists on the Hub already" in old[1]
    assert "exist_ok=True" in old[1]
    assert this.visibility == {"shop/model": "private"}
    assert this.commits[0] == {
        "repo": "shop/model",
        "revision": "main",
        "message": "Upload a bundle of HierSRec SDK",
    }
    assert this.commits[1]["message"] == "Without two items"
    files = {file.name: file.read_bytes() for file in (tmp_path / "saved").iterdir()}
    assert {**files, ".gitattributes": b""} == this.repositories["shop/model"][again.rsplit("/", 1)[-1]]
    assert "delta.safetensors" in files


def test_only_files_of_the_bundle_are_replaced(hub: tuple[str, type[WritableHub]], tmp_path: Path) -> None:
    endpoint, this = hub
    folder = SHOP.write(tmp_path / "bundle")
    opened, changed = {"open": str(folder)}, {"remove": SHOP.ids[:1]}
    client(endpoint, tmp_path / "home", opened, changed, {"repo": "shop/model"})
    head = this.repositories["shop/model"][this.heads["shop/model", "main"]]
    assert "delta.safetensors" in head
    head["LICENSE"] = b"theirs"
    command = ["push", str(folder), "shop/model"]
    again, over = client(
        endpoint,
        tmp_path / "home",
        {"command": command},
        {"command": [*command, "--exist-ok", "--message", "From the start"]},
    )
    assert again == [1, ""]
    assert over == [0, f"pushed to {endpoint}/shop/model/commit/{this.heads['shop/model', 'main']}\n"]
    assert [commit["message"] for commit in this.commits[1:]] == ["From the start"]
    head = this.repositories["shop/model"][this.heads["shop/model", "main"]]
    assert set(head) == {file.name for file in folder.iterdir()} | {"LICENSE", ".gitattributes"}


def test_another_model_is_never_replaced(hub: tuple[str, type[WritableHub]], tmp_path: Path) -> None:
    endpoint, this = hub
    folder = SHOP.write(tmp_path / "bundle")
    _, refused = client(
        endpoint, tmp_path / "home", {"open": str(folder)}, {"repo": "shop/bert", "exist_ok": True}
    )
    assert refused[0] == "BundleError"
    assert "shop/bert on the Hub holds another model" in refused[1]
    assert this.repositories["shop/bert"] == {MAIN: OTHER}
    assert not this.commits


def test_nor_is_one_without_a_config(hub: tuple[str, type[WritableHub]], tmp_path: Path) -> None:
    endpoint, this = hub
    folder = SHOP.write(tmp_path / "bundle")
    other = {"README.md": b"of another model", "model.onnx": b"another model"}
    this.repositories["shop/bert"] = {MAIN: other}
    _, refused = client(
        endpoint, tmp_path / "home", {"open": str(folder)}, {"repo": "shop/bert", "exist_ok": True}
    )
    assert refused[0] == "BundleError"
    assert "shop/bert on the Hub holds another model: it has model.onnx without a config.json" in refused[1]
    assert this.repositories["shop/bert"] == {MAIN: other}


def test_errors(hub: tuple[str, type[WritableHub]], tmp_path: Path) -> None:
    endpoint, this = hub
    folder = SHOP.write(tmp_path / "bundle")
    opened = {"open": str(folder)}
    _, named, refused = client(
        endpoint,
        tmp_path / "home",
        opened,
        {"repo": "a/b/c"},
        {"repo": "shop/model", "token": "hf_wrong"},
    )
    assert named[0] == "InvalidRepoError"
    assert "must be a name such as 'org/name', got 'a/b/c'" in named[1]
    assert refused[0] == "BundleError"
    assert "hf auth login" in refused[1]
    assert "hf_wrong" not in refused[1]
    _, down = client("http://127.0.0.1:9", tmp_path / "home", opened, {"repo": "shop/model"})
    assert down[0] == "BundleError"
    assert "shop/model on the Hub cannot be written" in down[1]
    assert "shop/model" not in this.repositories
    recommender = Recommender.load(folder)
    for wrong in ({"private": 1}, {"exist_ok": "yes"}, {"revision": 5}, {"commit_message": 5}, {"token": 5}):
        with pytest.raises(errors.InvalidOptionError):
            recommender.push_to_hub("shop/model", **wrong)
    no_name: Any = 5
    with pytest.raises(errors.InvalidRepoError):
        recommender.push_to_hub(no_name)
    assert "not a bundle" in failed("push", tmp_path, "shop/model")


def test_huggingface_hub_is_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    recommender = Recommender.load(SHOP.write(tmp_path / "bundle"))
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(errors.MissingExtraError, match=r"pip install 'hiersrec-sdk\[hub\]'"):
        recommender.push_to_hub("shop/model")
