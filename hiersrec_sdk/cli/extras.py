"""The optional extras and their packages, as the metadata of the installed SDK names them."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Final

_SDK: Final = "hiersrec-sdk"
_REQUIREMENT: Final = re.compile(
    r"(?P<name>[\w.-]+)\s*(\[(?P<extras>[\w,\s-]*)\])?\s*(>=\s*(?P<least>[\w.]+))?"
)
_EXTRA: Final = re.compile(r"extra\s*==\s*['\"](?P<name>[\w-]+)['\"]")
_PLATFORM: Final = re.compile(r"sys_platform\s*(?P<is>[!=]=)\s*['\"](?P<name>\w+)['\"]")
_INSTEAD: Final = {"onnxruntime": "onnxruntime-gpu"}  # which holds the module of the other one, and more

PURPOSES: Final = {
    "cpu": "recommend, on CPUs",
    "gpu": "run the session encoder on an NVIDIA GPU; in place of cpu",
    "serve": "hiersrec serve: recommendations over HTTP",
    "train": "hiersrec prepare, train, export, evaluate",
    "tune": "hiersrec tune, beside train",
    "numba": "rank faster than NumPy where the C kernel is missing",
    "text": "hiersrec prepare --text-encoder model2vec or onnx",
    "hub": "from_pretrained and push_to_hub, hiersrec push",
    "fsspec": "bundles at URLs and in object stores",
    "redis": "change feeds in Redis",
    "pandas": "results as pandas tables",
    "polars": "results as Polars tables",
    "arrow": "results as Arrow tables; hiersrec recommend --sessions",
    "ray": "many sessions with Ray Data",
    "ray-serve": "the HTTP service on Ray Serve",
    "spark": "many sessions with Spark",
    "tensorboard": "training curves in TensorBoard",
    "mlflow": "training curves in MLflow",
    "wandb": "training curves in Weights & Biases",
}


@dataclass(frozen=True)
class Package:
    """A package that is needed.

    Attributes:
        name: as the package index has it.
        least: the oldest version that will do; "": any.
        installed: the version that is there; None: none is.
    """

    name: str
    least: str
    installed: str | None

    @property
    def fits(self) -> bool:
        """Whether a version that will do is installed."""
        return self.installed is not None and _release(self.installed) >= _release(self.least)

    @property
    def wanted(self) -> str:
        """What to install: the name; where an older version is there, with the oldest one that will do."""
        return self.name if self.installed is None else f"{self.name}>={self.least}"


def packages_of(extra: str = "") -> tuple[Package, ...]:
    """The packages that ``extra`` installs; "": those that the SDK always needs. Empty for an unknown extra.

    Not those of another platform, by ``sys_platform``; other conditions are not looked at.

    >>> [package.name for package in packages_of("cpu")]
    ['onnxruntime']

    Raises:
        PackageNotFoundError: the SDK was not installed, but imported from its source.
    """
    return tuple(_packages(extra, requires(_SDK) or ()))


def lacking(extras: Iterable[str]) -> dict[str, list[str]]:
    """What to install for each of ``extras`` that is not complete, as :attr:`Package.wanted`.

    It is empty where the SDK was not installed: what it needs is not known then.
    """
    try:
        found = {
            extra: [each.wanted for each in packages_of(extra) if not _is_there(each)] for extra in extras
        }
    except PackageNotFoundError:
        return {}
    return {extra: names for extra, names in found.items() if names}


def _is_there(package: Package) -> bool:
    instead = _INSTEAD.get(package.name)
    return package.fits or (instead is not None and _installed(instead) is not None)


def _packages(extra: str, requirements: Iterable[str]) -> Iterator[Package]:
    for requirement in requirements:
        what, _, condition = requirement.partition(";")
        of = _EXTRA.search(condition)
        match = _REQUIREMENT.match(what.strip())
        if match is None or (of["name"] if of else "") != extra or not _is_for(condition, sys.platform):
            continue
        if match["name"] != _SDK:
            yield Package(match["name"], match["least"] or "", _installed(match["name"]))
            continue
        for other in match["extras"].split(","):  # an extra that brings another one
            yield from _packages(other.strip(), requirements)


def _is_for(condition: str, platform: str) -> bool:
    """Whether a requirement with ``condition`` is one of ``platform``, as far as it says so."""
    found = _PLATFORM.search(condition)
    return found is None or (found["name"] == platform) == (found["is"] == "==")


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _release(text: str) -> tuple[int, ...]:
    """The numbers of a version, without zeros at the end: (2, 1) of "2.1.0+cpu"."""
    match = re.match(r"\d+(\.\d+)*", text)
    numbers = [int(number) for number in match[0].split(".")] if match else []
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)
