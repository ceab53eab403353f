"""The ground of the figures: the test split cannot reach a bundle or another answer, and ids carry no information."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from hiersrec_export.export import export
from hiersrec_sdk import Recommender
from hiersrec_sdk.bundle.folder import open_bundle
from hiersrec_training.config import Config
from hiersrec_training.data.dataset import Dataset, Sessions
from hiersrec_training.evaluate import evaluate
from hiersrec_training.run import load_model
from hiersrec_training.train import train
from tests.conftest import Exported, quiet


def bundle_of(data: Dataset, config: Config, folder: Path) -> Path:
    """Both trainings and the export, as the README does them."""
    data.save(folder / "data")
    for name, final in (("run", None), ("final", folder / "run")):
        train(
            folder / "data",
            folder / name,
            config,
            final=final is not None,
            validated_by=final,
            device="cpu",
            progress=False,
            report=quiet,
        )
    export(folder / "final", folder / "bundle", calibrate_with=folder / "run", report=quiet)
    return folder / "bundle"


def test_the_test_split_cannot_reach_the_bundle(
    make_dataset: Callable[..., Dataset], tiny_config: Config, tiny_final_export: Exported, tmp_path: Path
) -> None:
    data = make_dataset()  # that of the tiny runs
    shuffled = np.random.default_rng(5).permutation(data.test.items)
    again = bundle_of(replace(data, test=replace(data.test, items=shuffled)), tiny_config, tmp_path)
    sums, calibrations = [], []
    for bundle in (tiny_final_export.bundle, again):
        config = open_bundle(bundle).config
        calibrations.append(config["calibration"])
        sums.append(
            {file: config["files"][file]["sha256"] for file in config["files"] if file != "README.md"}
        )
    assert load_model(tmp_path / "final")[0].covisitation.fitted
    assert sums[0] == sums[1]
    assert {"model.onnx", "item_encoder.onnx", "catalog.safetensors", "calibration.png"} <= set(sums[0])
    assert calibrations[0] == calibrations[1]


def test_test_sessions_do_not_see_each_other(
    make_dataset: Callable[..., Dataset], tiny_final_export: Exported
) -> None:
    """A batch of neighboring test sessions could give away what is asked next. Here none knows of another one."""
    data, recommender = make_dataset(), Recommender.load(tiny_final_export.bundle)
    order = np.random.default_rng(6).permutation(len(data.test))
    shuffled = Sessions(
        np.concatenate([data.test[at] for at in order]),
        np.concatenate([[0], data.test.lengths[order].cumsum()]),
    )
    found = []
    for test in (data.test, shuffled):
        metrics = evaluate(recommender, replace(data, test=test), "test", mode="exact")
        found.append({name: value for name, value in metrics.items() if name not in ("mode", "bytes_read")})
        del found[-1]["sessions_per_second"]
    assert found[0] == pytest.approx(found[1], rel=1e-9)


def relabelled(data: Dataset, seed: int) -> Dataset:
    """The shop with other numbers and ids for its items."""
    random = np.random.default_rng(seed)
    order = random.permutation(data.items)  # new index to old
    new = np.argsort(order).astype(np.int32)

    def moved(sessions: Sessions) -> Sessions:
        return replace(sessions, items=new[sessions.items])

    return replace(
        data,
        item_ids=pl.Series("id", [f"other-{index:03}" for index in range(data.items)]),
        category=data.category[order],
        extra_categories=[data.extra_categories[item] for item in order],
        clicks=data.clicks[order],
        title=data.title.gather(order),
        text=data.text.gather(order),
        numbers={name: values[order] for name, values in data.numbers.items()},
        train=moved(data.train),
        validation=moved(data.validation),
        test=moved(data.test),
    )


@pytest.mark.slow
def test_ids_carry_no_information(
    make_dataset: Callable[..., Dataset], tiny_config: Config, tmp_path: Path
) -> None:
    data = make_dataset(items=96, sessions=700)
    recalls = []
    for name, each in (("as it is", data), ("relabelled", relabelled(data, 3))):
        bundle = bundle_of(each, replace(tiny_config, epochs=3), tmp_path / name)
        recalls.append(evaluate(Recommender.load(bundle), each, "test", mode="exact")["recall@5"])
    assert recalls[0] > 0.3
    assert abs(recalls[0] - recalls[1]) < 0.08
