"""The cache of text vectors: what was added is found, what is damaged is not, commands show and empty it."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hiersrec_sdk.encoders.text_cache import TextCache, prune_texts, text_entries
from hiersrec_sdk.errors import BundleError
from tests.sdk.cli.run import passed

ONE, OTHER = "1" * 64, "2" * 64


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder."""
    monkeypatch.setenv("HIERSREC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@given(parts=st.lists(st.dictionaries(st.text(max_size=3), st.integers(-9, 9), max_size=6), max_size=4))
def test_what_was_added_is_found(parts: list[dict[str, int]]) -> None:
    added: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("HIERSREC_CACHE", folder)
        texts = TextCache(ONE, 2)
        for part in parts:
            new = {text: value for text, value in part.items() if text not in added}
            texts.add(list(new), np.array([[value, 1] for value in new.values()], np.float32).reshape(-1, 2))
            added |= new
        found = TextCache(ONE, 2).find([*added, "never added"])
        assert {text: vector.tolist() for text, vector in found.items()} == {
            text: [value, 1] for text, value in added.items()
        }
        assert not TextCache(OTHER, 2).find(added)
        assert not TextCache(ONE, 3).find(added)


@pytest.mark.parametrize("damage", ["cut", "empty", "foreign", "not finite", "folder", "unreadable"])
def test_a_damaged_file_counts_as_none(damage: str, cache: Path) -> None:
    texts = TextCache(ONE, 2)
    vectors = np.ones((1, 2), np.float32)
    texts.add(["kept"], vectors)
    (kept,) = (cache / "texts" / ONE).iterdir()
    texts.add(["lost"], vectors * (np.nan if damage == "not finite" else 1))
    (lost,) = set((cache / "texts" / ONE).iterdir()) - {kept}
    if damage in ("folder", "unreadable"):
        lost.unlink()
    if damage == "folder":
        lost.mkdir()
    elif damage == "unreadable":
        lost.symlink_to(cache / "nowhere")
    elif damage != "not finite":
        lost.write_bytes({"cut": lost.read_bytes()[:-1], "empty": b"", "foreign": b"PK\x03\x04"}[damage])
    assert list(texts.find(["kept", "lost"])) == ["kept"]


def test_a_file_is_not_kept_open(cache: Path) -> None:
    texts = TextCache(ONE, 2)
    texts.add(["a"], np.ones((1, 2), np.float32))
    before = len([*Path("/proc/self/fd").iterdir()])
    found = texts.find(["a"])
    assert len([*Path("/proc/self/fd").iterdir()]) == before
    assert found["a"].flags.owndata


def test_commands_show_and_remove_the_vectors(cache: Path) -> None:
    for digest in (ONE, OTHER):
        TextCache(digest, 2).add(["a"], np.ones((1, 2), np.float32))
    (cache / "texts" / "something else").mkdir()
    old = time.time() - 3 * 86_400
    os.utime(cache / "texts" / ONE, (old, old))
    assert [entry.path.name for entry in text_entries()] == [OTHER, ONE]

    shown = passed("cache", "list")
    assert f"{ONE}      0.0 MB  used 3.0 days ago  text vectors" in shown
    assert f"0 bundles, 0.0 MB, and the vectors of 2 text encoders, 0.0 MB in {cache}" in shown
    pruned = passed("cache", "prune", "--older-than", "1")
    assert "and the vectors of 1 text encoder, 0.0 MB" in pruned
    assert [entry.path.name for entry in text_entries()] == [OTHER]
    TextCache(OTHER, 2).find([])  # it is used
    passed("cache", "prune")
    assert not text_entries()
    assert (cache / "texts" / "something else").exists()


def test_reading_counts_as_use(cache: Path) -> None:
    texts = TextCache(ONE, 2)
    texts.add(["a"], np.ones((1, 2), np.float32))
    os.utime(cache / "texts" / ONE, (0, 0))
    texts.find(["a"])
    assert not prune_texts(older_than=1)


def test_no_home_folder_is_no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("could not determine home directory")

    for name in ("HIERSREC_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    texts = TextCache(ONE, 2)
    texts.add(["a"], np.ones((1, 2), np.float32))
    assert not texts.find(["a"])
    with pytest.raises(BundleError, match="set HIERSREC_CACHE"):
        text_entries()
