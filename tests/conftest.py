"""Fixtures of several test folders."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import pytest
from hypothesis import settings

from hiersrec_training.config import Config
from hiersrec_training.data.dataset import CategoryTree, Dataset, Sessions

with suppress(ModuleNotFoundError):  # tests of the SDK alone need none
    import torch

    torch.set_num_threads(1)  # the models of the tests are too small for more
settings.register_profile("tests", deadline=None)  # a busy machine takes longer
settings.load_profile("tests")

ROOT = Path(__file__).resolve().parent.parent


def pytest_report_header() -> str:
    try:
        from hiersrec_sdk import _kernel
    except ImportError:
        return "ranking kernel: none, there is no compiled extension here"
    return f"ranking kernel: {_kernel.isa()} (of {', '.join(_kernel.available_isas())})"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with real click logs, beside the project; it is not part of the project."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs the real click logs in ../shared/data")
    return folder


@pytest.fixture(scope="session")
def tiny_config() -> Config:
    """A model that trains in a second."""
    return Config(
        dimension=16,
        heads=2,
        max_length=6,
        text_buckets=32,
        neighbors=3,
        epochs=2,
        batch_sessions=16,
        dropout=0.1,
        learning_rate=1e-2,
        checkpoint_steps=7,
        precision="float32",
        samples=20,
    )


@pytest.fixture(scope="session")
def make_dataset() -> Callable[..., Dataset]:
    """Builds a small data set whose sessions walk from item to neighboring item within a category."""
    return _make_dataset


def _make_dataset(
    items: int = 48, sessions: int = 240, seed: int = 0, string_ids: bool = True, longest: int = 9
) -> Dataset:
    random = np.random.default_rng(seed)
    category = np.sort(np.arange(items) % 8).astype(np.int32)[random.permutation(items)]
    members = [np.flatnonzero(category == leaf) for leaf in range(8)]
    walks = []
    for _ in range(sessions):
        inside = members[random.integers(8)]
        start = random.integers(len(inside))
        walks.append(inside[(start + np.arange(random.integers(2, longest + 1))) % len(inside)])
    parts = []
    first, second = sessions * 7 // 10, sessions * 8 // 10
    for some in (walks[:first], walks[first:second], walks[second:]):
        lengths = [len(walk) for walk in some]
        clicks = np.concatenate(some).astype(np.int32)
        parts.append(Sessions(clicks, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)))
    words = [f"word{item % 5} group{category[item]}" if item % 3 else None for item in range(items)]
    price = np.where(np.arange(items) % 4 == 0, np.nan, np.arange(items, dtype=np.float64))
    top: list[int | str] = ["left", "right"]
    leaves: list[int | str] = [f"{side}.{leaf}" for side in top for leaf in range(4)]
    return Dataset(
        item_ids=pl.Series(
            [f"item-{item}" for item in range(items)] if string_ids else range(100, 100 + items)
        ),
        category=category,
        extra_categories=[[(int(category[item]) + 1) % 8] if item % 10 == 0 else [] for item in range(items)],
        clicks=np.bincount(np.concatenate([parts[0].items, parts[1].items]), minlength=items).astype(
            np.int64
        ),
        title=pl.Series([f"Item {item}" for item in range(items)]),
        text=pl.Series(words, dtype=pl.String),
        numbers={"price": price},
        tree=CategoryTree(
            [top, leaves],
            [np.array([-1, -1], np.int32), np.repeat([0, 1], 4).astype(np.int32)],
        ),
        train=parts[0],
        validation=parts[1],
        test=parts[2],
        settings={},
    )


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset folder."""
    path = tmp_path_factory.mktemp("data") / "data"
    _make_dataset().save(path)
    return path


def quiet(line: str) -> None:
    """Takes a line and prints nothing."""


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory, tiny_data: Path, tiny_config: Config) -> Path:
    """A finished training run on :func:`tiny_data`."""
    pytest.importorskip("torch")
    from hiersrec_training.train import train

    path = tmp_path_factory.mktemp("run") / "run"
    train(tiny_data, path, tiny_config, device="cpu", progress=False, report=quiet)
    return path


@pytest.fixture(scope="session")
def tiny_final_run(
    tmp_path_factory: pytest.TempPathFactory, tiny_data: Path, tiny_run: Path, tiny_config: Config
) -> Path:
    """A finished run on the training and validation splits of :func:`tiny_data`, validated by :func:`tiny_run`."""
    from hiersrec_training.train import train

    path = tmp_path_factory.mktemp("final") / "final"
    train(
        tiny_data,
        path,
        tiny_config,
        final=True,
        validated_by=tiny_run,
        device="cpu",
        progress=False,
        report=quiet,
    )
    return path


class Exported(NamedTuple):
    """A bundle, and the lines and steps that its export reported."""

    bundle: Path
    lines: list[str]
    steps: list[str]


@pytest.fixture(scope="session")
def tiny_export(tmp_path_factory: pytest.TempPathFactory, tiny_run: Path) -> Exported:
    """The export of :func:`tiny_run`."""
    from hiersrec_export.export import export

    found = Exported(tmp_path_factory.mktemp("bundle") / "bundle", [], [])
    export(tiny_run, found.bundle, report=found.lines.append, step=found.steps.append)
    return found


@pytest.fixture(scope="session")
def tiny_final_export(
    tmp_path_factory: pytest.TempPathFactory, tiny_run: Path, tiny_final_run: Path
) -> Exported:
    """The export of :func:`tiny_final_run`, calibrated with :func:`tiny_run`."""
    from hiersrec_export.export import export

    found = Exported(tmp_path_factory.mktemp("final-bundle") / "bundle", [], [])
    export(
        tiny_final_run,
        found.bundle,
        calibrate_with=tiny_run,
        report=found.lines.append,
        step=found.steps.append,
    )
    return found


@pytest.fixture(scope="session")
def tiny_bundle(tiny_export: Exported) -> Path:
    """The bundle of :func:`tiny_run`."""
    return tiny_export.bundle
