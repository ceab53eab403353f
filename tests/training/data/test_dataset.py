"""The dataset folder: what is saved is what is loaded, and a folder is whole or not there."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from hiersrec_sdk.errors import DataError
from hiersrec_training.data.dataset import CategoryTree, Dataset, Sessions

MakeDataset = Callable[..., Dataset]


def sessions_of(lists: list[list[int]], time: list[int] | None = None) -> Sessions:
    lengths = [len(clicks) for clicks in lists]
    return Sessions(
        np.array([item for clicks in lists for item in clicks], np.int32),
        np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64),
        None if time is None else np.array(time, np.int64),
    )


def as_lists(sessions: Sessions) -> list[list[int]]:
    return [sessions[index].tolist() for index in range(len(sessions))]


lists_of_clicks = st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=6), max_size=8)


@given(lists_of_clicks)
def test_sessions_survive_a_frame(lists: list[list[int]]) -> None:
    again = Sessions.from_frame(sessions_of(lists).to_frame())
    assert as_lists(again) == lists
    assert again.items.dtype == np.int32
    assert again.offsets.dtype == np.int64


@given(lists_of_clicks, lists_of_clicks)
def test_then_is_concatenation(first: list[list[int]], second: list[list[int]]) -> None:
    together = sessions_of(first).then(sessions_of(second))
    assert as_lists(together) == first + second
    assert together.example_count == sum(len(clicks) - 1 for clicks in first + second)


def test_time_survives_and_joins() -> None:
    early, late = sessions_of([[1, 2]], [50]), sessions_of([[3, 4], [5, 6]], [60, 70])
    again = Sessions.from_frame(early.then(late).to_frame())
    assert again.time is not None
    assert again.time.tolist() == [50, 60, 70]
    assert early.then(sessions_of([[1, 2]])).time is None


@pytest.mark.parametrize("string_ids", [True, False])
def test_what_is_saved_is_loaded(tmp_path: Path, make_dataset: MakeDataset, string_ids: bool) -> None:
    data = make_dataset(string_ids=string_ids)
    data = replace(data, settings={"levels": ["side", "leaf"], "äöü": 1})
    data.save(tmp_path / "data")
    again = Dataset.load(tmp_path / "data")

    assert again.item_ids.to_list() == data.item_ids.to_list()
    assert again.item_ids.dtype == (pl.String if string_ids else pl.Int64)
    np.testing.assert_array_equal(again.category, data.category)
    np.testing.assert_array_equal(again.clicks, data.clicks)
    np.testing.assert_array_equal(again.numbers["price"], data.numbers["price"])
    assert again.extra_categories == data.extra_categories
    assert again.title.to_list() == data.title.to_list()
    assert again.text.to_list() == data.text.to_list()
    assert again.tree.ids == data.tree.ids
    for ours, theirs in zip(again.tree.parents, data.tree.parents, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for split in ("train", "validation", "test"):
        assert as_lists(getattr(again, split)) == as_lists(getattr(data, split))
    assert again.counts == data.counts
    assert again.settings == data.settings
    assert len(again.fingerprint) == 64


@given(
    arrays(
        np.float32, st.tuples(st.just(48), st.integers(1, 5)), elements=st.floats(-(2**99), 2**99, width=32)
    )
)
@settings(max_examples=20, deadline=None)
def test_vectors_are_a_column_and_part_of_the_fingerprint(
    make_dataset: MakeDataset, vectors: NDArray[np.float32]
) -> None:
    data = make_dataset()
    with tempfile.TemporaryDirectory() as folder:
        for name, given in (("without", None), ("with", vectors), ("other", vectors + 1)):
            replace(data, vectors=given).save(Path(folder, name))
        without, again, other = (Dataset.load(Path(folder, name)) for name in ("without", "with", "other"))
    assert without.vectors is None
    assert again.vectors is not None
    assert again.vectors.dtype == np.float32
    np.testing.assert_array_equal(again.vectors, vectors)
    assert without.fingerprint != again.fingerprint
    assert (again.fingerprint == other.fingerprint) == np.array_equal(vectors, vectors + 1)


def test_int_category_ids_survive(tmp_path: Path, make_dataset: MakeDataset) -> None:
    data = make_dataset()
    tree = replace(data.tree, ids=[[7, -1], [*range(70, 74), *range(70, 74)]])
    replace(data, tree=tree).save(tmp_path / "data")
    assert Dataset.load(tmp_path / "data").tree.ids == tree.ids


def test_the_same_data_has_the_same_fingerprint(tmp_path: Path, make_dataset: MakeDataset) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        make_dataset(seed=seed).save(tmp_path / name)
    prints = [Dataset.load(tmp_path / name).fingerprint for name in "abc"]
    assert prints[0] == prints[1] != prints[2]


def test_an_existing_folder_is_left_alone(tmp_path: Path, make_dataset: MakeDataset) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.txt").write_text("keep")
    with pytest.raises(DataError, match="exists already"):
        make_dataset().save(tmp_path / "data")
    assert (tmp_path / "data" / "mine.txt").read_text() == "keep"


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), pl.exceptions.ComputeError("disk full")]
)
def test_a_full_disk_leaves_nothing(
    tmp_path: Path, make_dataset: MakeDataset, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    data = make_dataset()
    write = pl.DataFrame.write_parquet

    def fill_up(frame: pl.DataFrame, file: Path, **options: Any) -> None:
        if file.name == "validation.parquet":
            file.write_bytes(b"PAR1 half")
            raise error
        write(frame, file, **options)

    monkeypatch.setattr(pl.DataFrame, "write_parquet", fill_up)
    with pytest.raises(DataError, match=r"data could not be written: .*(No space left|disk full)"):
        data.save(tmp_path / "data")
    assert list(tmp_path.iterdir()) == []


def test_a_kill_before_the_end_leaves_nothing_under_the_name(
    tmp_path: Path, make_dataset: MakeDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_dataset()

    def kill(self: Path, *args: Any, **options: Any) -> int:
        assert self.name == "dataset.json"
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_text", kill)
    with pytest.raises(KeyboardInterrupt):
        data.save(tmp_path / "data")
    assert list(tmp_path.iterdir()) == []


def test_no_dataset_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"it has no dataset\.json"):
        Dataset.load(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read"),
        ("[]", "does not describe"),
        ('{"format": "other"}', "does not describe"),
        ('{"format": "hiersrec-dataset", "schema_version": 1}', "lacks category_id_type"),
    ],
)
def test_a_dataset_json_that_is_none(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(DataError, match=rf"dataset\.json.* {message}"):
        Dataset.load(tmp_path)


@pytest.mark.parametrize(
    ("version", "hint"), [(4, "upgrade"), (2, "make a new dataset with hiersrec prepare LOGS --out DATA")]
)
def test_another_schema(tmp_path: Path, make_dataset: MakeDataset, version: int, hint: str) -> None:
    make_dataset().save(tmp_path / "data")
    file = tmp_path / "data" / "dataset.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"schema_version": version}))
    with pytest.raises(DataError, match=f"schema version {version}, this version reads 3: {hint}"):
        Dataset.load(tmp_path / "data")


def test_a_missing_and_an_altered_table(tmp_path: Path, make_dataset: MakeDataset) -> None:
    make_dataset().save(tmp_path / "data")
    table = tmp_path / "data" / "train.parquet"
    content = bytearray(table.read_bytes())
    content[len(content) // 2] ^= 1
    table.write_bytes(content)
    with pytest.raises(DataError, match=r"not those that dataset\.json describes"):
        Dataset.load(tmp_path / "data")
    table.unlink()
    with pytest.raises(DataError, match=r"lacks train\.parquet"):
        Dataset.load(tmp_path / "data")


def test_paths_of_a_tree() -> None:
    tree = CategoryTree(
        [["a", "b"], ["a1", "a2", "b1"], ["a1x", "a2x", "a2y", "b1x"]],
        [np.array([-1, -1], np.int32), np.array([0, 0, 1], np.int32), np.array([0, 1, 1, 2], np.int32)],
    )
    tree.check()
    assert tree.paths().tolist() == [[0, 0, 0], [0, 1, 1], [0, 1, 2], [1, 2, 3]]


@pytest.mark.parametrize("parents", [[1, 0], [0, 2], [-1, 0], [0]])
def test_a_tree_out_of_order_is_not_saved(
    tmp_path: Path, make_dataset: MakeDataset, parents: list[int]
) -> None:
    tree = CategoryTree([["a", "b"], ["c", "d"]], [np.array([-1, -1], np.int32), np.array(parents, np.int32)])
    with pytest.raises(DataError, match="category level 1"):
        replace(make_dataset(), tree=tree).save(tmp_path / "data")
    assert list(tmp_path.iterdir()) == []
