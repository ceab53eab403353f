"""The page on installing: its table has every extra and what it brings, and the licenses are those of the packages."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import PackageNotFoundError, distribution

import pytest

from tests.docs.blocks import ROOT

PAGE = (ROOT / "docs/how-to/installing.md").read_text("utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
OF_DEVELOPMENT = {"test", "bench", "examples", "docs", "dev"}
NAME = re.compile(r"[\w.-]+")


def rows(heading: str) -> list[list[str]]:
    """The cells of the first table below a heading."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_every_extra_is_there_with_packages_of_its_own() -> None:
    table = {name.strip("`"): brings for name, _, brings, _ in rows("Extras")}
    extras = PROJECT["optional-dependencies"]
    assert table.keys() == extras.keys() - OF_DEVELOPMENT
    for name, brings in table.items():
        named = {word for word in NAME.findall(brings) if len(word) > 2} - {
            "with",
            "CUDA",
            "and",
            "what",
            "brings",
        }
        required = {match[0] for each in extras[name] if (match := NAME.match(each))} | {"serve"}
        assert named
        assert named <= required, name


def needed(name: str, extra: str = "") -> set[str]:
    """The package and all that it requires, installed here."""
    try:
        requires = distribution(name).requires or []
    except PackageNotFoundError:
        return set()
    found = {name}
    for each in requires:
        wanted, _, marker = each.partition(";")
        match = NAME.match(wanted)
        if match and ("extra" not in marker or f'extra == "{extra}"' in marker.replace("'", '"')):
            found |= needed(match[0])
    return found


def license_of(name: str) -> str:
    """As pip-licenses finds it: the classifier, else the expression or the text."""
    about = distribution(name).metadata
    classifiers = [
        each.split(" :: ")[-1] for each in about.get_all("Classifier") or [] if "License ::" in each
    ]
    written = [about[key] for key in ("License-Expression", "License") if key in about]
    return "; ".join(classifiers) or written[0]


def test_licenses_are_those_of_the_packages() -> None:
    table = dict(rows("Licenses"))
    here = needed("hiersrec-sdk", "cpu") - {"hiersrec-sdk"}
    if "onnxruntime" not in here:
        pytest.skip("needs the extra cpu")
    assert table == {name: license_of(name) for name in here}
