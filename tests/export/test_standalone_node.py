"""The example in Node.js answers as the recommender does. It is installed from the registry into a temporary folder."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hiersrec_export.standalone import export_standalone
from hiersrec_sdk import Recommender
from tests.sdk.bundles import Shop, make_shop

EXAMPLE = Path(__file__).resolve().parents[2] / "examples/node"
# Errors of npm where there is no way to a registry, or none that has the packages.
UNREACHABLE = (
    r"ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ETIMEDOUT|EHOSTUNREACH|ENETUNREACH|E40[134]|E5\d\d"
)
SHOPS = {
    "int64": make_shop(seed=3, wide=True),
    "string": make_shop("string", wide=True),
}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The example with its packages."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed: the example in Node.js was not run")
    folder = tmp_path_factory.mktemp("example") / "node"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("node_modules"))
    done = subprocess.run(
        ["npm", "install", "--no-audit", "--no-fund", "--fetch-retries=0", "--fetch-timeout=60000"],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    if done.returncode and re.search(UNREACHABLE, done.stderr):
        pytest.skip(
            f"the registry of npm cannot be reached: the example in Node.js was not run: {done.stderr[:300]}"
        )
    assert done.returncode == 0, done.stderr
    yield folder
    shutil.rmtree(folder)  # some hundred megabytes


def answers(example: Path, *arguments: Any) -> tuple[list[str], list[float]]:
    done = subprocess.run(
        ["node", "recommend.mjs", *map(str, arguments)], cwd=example, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    items, scores = zip(*(line.rsplit("\t", 1) for line in done.stdout.splitlines()), strict=True)
    return list(items), [float(score) for score in scores]


def test_nothing_is_installed_but_what_the_cpu_needs(installed: Path) -> None:
    assert not (installed / "package-lock.json").exists()
    assert not list((installed / "node_modules").rglob("*providers_cuda*"))


@pytest.mark.parametrize("shop", SHOPS.values(), ids=SHOPS)
def test_it_prints_the_answers_of_the_recommender(installed: Path, tmp_path: Path, shop: Shop) -> None:
    bundle = shop.write(tmp_path / "bundle")
    export_standalone(bundle, tmp_path / "model.onnx", report=lambda line: None)
    recommender = Recommender.load(bundle)
    for session in ([*shop.ids[3:9], shop.stranger], [shop.ids[2], shop.ids[0], shop.ids[2]], []):
        items, scores = answers(installed, "-k", 12, tmp_path / "model.onnx", "--", *session)
        result = recommender.recommend(session, 12, mode="exact")
        assert items == [str(item) for item in result.items]
        assert scores == result.scores.tolist()


def test_a_trained_model_answers_as_the_recommender(
    installed: Path, tmp_path: Path, tiny_bundle: Path
) -> None:
    export_standalone(tiny_bundle, tmp_path / "model.onnx", report=lambda line: None)
    session = ["item-3", "item-11", "item-19", "item-3"]
    items, scores = answers(installed, tmp_path / "model.onnx", *session)
    result = Recommender.load(tiny_bundle).recommend(session, mode="exact")
    np.testing.assert_allclose(scores, result.scores, atol=1e-4)
    wanted = dict(zip(result.items, result.scores.tolist(), strict=True))
    assert all(
        abs(score - wanted.get(item, scores[-1])) < 1e-4 for item, score in zip(items, scores, strict=True)
    )


def test_errors_say_what_is_wrong(installed: Path, tmp_path: Path) -> None:
    make_shop().write(tmp_path / "bundle")
    export_standalone(tmp_path / "bundle", tmp_path / "model.onnx", report=lambda line: None)
    for arguments, message in (
        ([tmp_path / "model.onnx", "shoe"], "item ids of this model are integers, got shoe"),
        (["-k", "0", tmp_path / "model.onnx"], "-k must be an integer ≥ 1, got 0"),
        ([tmp_path / "nothing.onnx"], "nothing.onnx"),
        ([], "name the model"),
    ):
        done = subprocess.run(
            ["node", "recommend.mjs", *map(str, arguments)], cwd=installed, capture_output=True, text=True
        )
        assert done.returncode == 1
        assert message in done.stderr
        assert not done.stdout
