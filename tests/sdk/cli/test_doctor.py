"""``hiersrec doctor``: what it reports, when it fails, and what it keeps to itself."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import subprocess
import sys
from importlib.metadata import metadata, version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hiersrec_sdk import __version__, available_backends
from hiersrec_sdk.cli import diagnosis, extras
from hiersrec_sdk.cli.diagnosis import _without_home
from hiersrec_sdk.cli.extras import PURPOSES, Package, lacking, packages_of
from hiersrec_sdk.encoders.runtime import import_onnxruntime
from hiersrec_sdk.errors import ProviderError
from hiersrec_sdk.ranking import get_backend
from tests.sdk.cli.run import hiersrec, passed
from tests.sdk.ranking.cases import needs_kernel

DEVELOPMENT = {"test", "bench", "examples", "docs", "dev"}


def report(*arguments: str | Path) -> dict[str, Any]:
    """What it finds, as JSON; its exit code must say whether something is broken."""
    result = hiersrec("doctor", "--json", *arguments)
    found: dict[str, Any] = json.loads(result.stdout)
    assert result.exit_code == (1 if found["problems"] else 0), result.output
    return found


def test_it_says_what_is_here() -> None:
    found = report()
    assert found["sdk"] == __version__
    assert platform.python_version() in found["python"]
    assert found["packages"]["numpy"] == np.__version__
    assert found["onnxruntime"] == import_onnxruntime().__version__
    assert "cpu" in found["providers"]
    assert tuple(each["name"] for each in found["backends"] if each["available"]) == available_backends()
    assert [each["name"] for each in found["backends"] if each["used"]] == [available_backends()[0]]
    assert 1 <= found["cpus"]["used_by_auto"] <= found["cpus"]["affinity"] <= found["cpus"]["machine"]
    if importlib.util.find_spec("torch") is not None:
        assert found["extras"]["train"]["packages"]["torch"] == version("torch")
        assert found["extras"]["train"]["lacks"] == []
    assert not found["problems"]
    printed = passed("doctor")
    for text in (__version__, np.__version__, "ranking backends", "nothing is broken", *PURPOSES):
        assert text in printed
    assert max(map(len, printed.splitlines())) <= 110


def test_a_provider_that_does_not_start_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(provider: str) -> None:
        if provider == "cuda":
            raise ProviderError("provider 'cuda' did not start: there is no driver")

    monkeypatch.setattr(diagnosis, "available_providers", lambda: ("cpu", "cuda"))
    monkeypatch.setattr(diagnosis, "check_starts", start)
    found = report()
    assert (found["providers"], found["problems"]) == (
        ["cpu"],
        ["provider 'cuda' did not start: there is no driver"],
    )


@pytest.mark.slow
def test_a_bundle_is_checked_and_timed(shop: Path) -> None:
    about = report(shop / "bundle")["bundle"]
    assert about["items"] > 0
    for times in about["calls"].values():
        assert times["count"] > 0
        assert 0 < times["median_ms"] <= times["p99_ms"]
    assert "99th percentile" in passed("doctor", shop / "bundle")


def test_a_bundle_that_cannot_be_used_is_a_problem(tmp_path: Path) -> None:
    assert "the bundle cannot be used" in report(tmp_path / "none")["problems"][0]
    result = hiersrec("doctor", tmp_path / "none")
    assert result.exit_code == 1
    assert "nothing is broken" not in result.stdout


def test_variables_are_checked_and_secrets_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIERSREC_TOKEN", "a-secret")
    monkeypatch.setenv("HIERSREC_FEED", "redis://:password@host/0")
    monkeypatch.setenv("HIERSREC_CACHE", "/somewhere/of/mine")
    monkeypatch.setenv("HIERSREC_MAX_K", "50")
    monkeypatch.setenv("HIERSREC_MAXK", "50")
    found, printed = report(), passed("doctor")
    assert found["environment"]["HIERSREC_MAX_K"] == "50"
    assert found["environment"]["HIERSREC_TOKEN"] is None
    assert any("HIERSREC_MAXK is set, but nothing reads" in note for note in found["notes"])
    for secret in ("a-secret", "password", "/somewhere"):
        assert secret not in json.dumps(found) + printed


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("HIERSREC_MAX_K", "many", "HIERSREC_MAX_K: must be an integer, got 'many'"),
        ("HIERSREC_MAX_K", "0", "HIERSREC_MAX_K: max_k must be an integer ≥ 1, got 0"),
        ("HIERSREC_PAGE", "perhaps", "HIERSREC_PAGE"),
        ("HIERSREC_TOKEN", "", "HIERSREC_TOKEN is empty"),
        ("HIERSREC_LARGEST_BUNDLE", "64 GB", "HIERSREC_LARGEST_BUNDLE must be a number of bytes"),
    ],
)
def test_a_wrong_variable_is_a_problem(
    name: str, value: str, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    problems = report()["problems"]
    assert len(problems) == 1
    assert problem in problems[0]


def test_paths_of_the_home_folder_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    found = report(tmp_path / "bundle")
    assert str(tmp_path) not in json.dumps(found)
    assert "~/bundle" in found["problems"][0]


def test_another_folder_that_begins_like_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "al"))
    found = report(tmp_path / "alice/bundle")
    assert str(tmp_path / "alice/bundle") in found["problems"][0]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("denied: '{}'", "denied: '~'"),
        ("({})", "(~)"),
        (r"{}\bundle", r"~\bundle"),
        ("/data{}/x", "/data{}/x"),
        ("{}.", "~."),
    ],
)
def test_the_home_folder_in_a_text(text: str, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/al")
    assert _without_home(text.replace("{}", "/home/al")) == shown.replace("{}", "/home/al")


def test_onnxruntime_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    found = report()
    assert found["onnxruntime"] is None
    assert "no bundle can be loaded" in found["problems"][0]
    assert "hiersrec-sdk[cpu]" in found["problems"][0]


def test_a_backend_that_ranks_wrongly_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    right = get_backend("numpy")

    class Wrong:
        name = "c"

        def topk(self, table: Any, query: Any, ranges: Any, k: int) -> Any:
            return right.topk(table, -query, ranges, k)

    monkeypatch.setattr(diagnosis, "get_backend", lambda name: right if name == "numpy" else Wrong())
    assert "ranks wrongly" in report()["problems"][0]


def doctor_in_a_process(code: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-c",
        f"{code}\nfrom hiersrec_sdk.cli.main import main\nmain()",
    ]
    return subprocess.run(
        [*command, "doctor"], env={**os.environ, **variables}, capture_output=True, text=True
    )


def test_a_missing_kernel_costs_time_and_is_not_broken() -> None:
    code = "import sys\nsys.modules['hiersrec_sdk._kernel'] = sys.modules['numba'] = None"
    done = doctor_in_a_process(code)
    assert done.returncode == 0, done.stdout
    assert "there is no compiled kernel here; numpy ranks instead: a call takes about 10 times" in " ".join(
        done.stdout.split()
    )
    assert "'hiersrec-sdk[numba]'" in done.stdout


@needs_kernel
def test_an_instruction_set_that_is_not_there_is_a_problem() -> None:
    done = doctor_in_a_process(HIERSREC_ISA="abacus")
    assert done.returncode == 1
    assert "HIERSREC_ISA is 'abacus'; this processor has" in done.stdout
    assert "Traceback" not in done.stderr


def test_every_extra_for_users_is_reported() -> None:
    names = metadata("hiersrec-sdk").get_all("Provides-Extra", [])
    assert set(PURPOSES) == set(names) - DEVELOPMENT
    for name in PURPOSES:
        assert packages_of(name), name


def test_an_extra_brings_those_of_another_one() -> None:
    names = {package.name for package in packages_of("ray-serve")}
    assert {package.name for package in packages_of("serve")} | {"ray"} == names
    assert packages_of("no-such-extra") == ()


@pytest.mark.parametrize(("platform", "has_it"), [("linux", True), ("darwin", True), ("win32", False)])
def test_what_another_platform_needs_is_not_lacking(
    platform: str, has_it: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    assert ("uvloop" in {package.name for package in packages_of("serve")}) is has_it
    assert "onnxruntime" in {package.name for package in packages_of("cpu")}


def test_what_is_too_old_is_lacking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "_installed", {"numba": "0.60.9", "onnxruntime-gpu": "1.30"}.get)
    assert lacking(["numba", "cpu", "hub", "gpu"]) == {"numba": ["numba>=0.61"], "hub": ["huggingface-hub"]}


@given(
    st.lists(st.integers(0, 30), min_size=1, max_size=4), st.lists(st.integers(0, 30), min_size=1, max_size=4)
)
def test_versions_compare_by_their_numbers(least: list[int], installed: list[int]) -> None:
    package = Package("some", ".".join(map(str, least)), ".".join(map(str, installed)) + "+cpu")
    length = max(len(least), len(installed))
    padded = [numbers + [0] * (length - len(numbers)) for numbers in (least, installed)]
    assert package.fits == (padded[0] <= padded[1])
