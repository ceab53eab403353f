"""Installs a wheel where there is neither a compiler nor the checkout, and tries it there."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from release.build import ReleaseError, run
from release.places import Place
from release.wheel import wheel_tag

MOST_BYTES: Final = 200_000_000  # of what pip install hiersrec-sdk[cpu] brings
_EXTRAS: Final = "cpu,numba,serve,redis,fsspec,pandas,polars,arrow"  # which tests import
_FOR_TESTS: Final = ("hypothesis", "httpx2", "onnx", "pytest", "pytest-xdist", "tqdm")
_PLATFORMS: Final = ("manylinux2014", "manylinux_2_17", "manylinux_2_26", "manylinux_2_27", "manylinux_2_28")
_SECONDS: Final = 3600  # for the tests of one environment


class Environment:
    """A fresh environment of a place, with a wheel and ``[cpu]`` in it.

    Attributes:
        size: of what was installed, in bytes.
    """

    def __init__(self, place: Place, wheel: Path, source: Path, folder: Path) -> None:
        self.place, self.wheel, self.folder = place, wheel, folder
        self._path = folder / "environment"
        shutil.copytree(source / "tests", folder / "tests")
        shutil.copy(source / "pyproject.toml", folder)  # the settings of pytest
        shutil.copy(Path(__file__).with_name("golden.py"), folder)
        if place.emulator is None:
            self._checked([place.python, "-m", "venv", self.place.inside(self._path)])
        before = _size(self._path)
        self._install("cpu")
        self.size = _size(self._path) - before

    def answer(self) -> dict[str, Any]:
        """Have the golden bundles answer.

        Raises:
            ReleaseError: the answers are not those of the release, or the environment is not as it must be.
        """
        found: dict[str, Any] = json.loads(
            self._checked([self._python, "-W", "ignore", "-m", "golden"]).splitlines()[-1]
        )
        tags = [line for line in found["wheel"].splitlines() if line.startswith("Tag: ")]
        wrong = {
            f"{found['right']} of {found['total']} golden answers are right": not 0
            < found["right"]
            == found["total"],
            f"hiersrec_sdk was imported from {found['imported']}": self.place.inside(self._path)
            not in found["imported"],
            f"another wheel was installed, that of {tags}": not any(
                line.endswith(wheel_tag(self.wheel)) for line in tags
            ),
            "torch was installed": found["torch"],
            f"there is a compiler, {found['compiler']}": found["compiler"] is not None,
            f"{self.size:,} bytes were installed, more than {MOST_BYTES:,}": self.size > MOST_BYTES,
            f"the kernel knows {found['instruction_sets']}": (wheel_tag(self.wheel) == "any")
            == bool(found["instruction_sets"]),
        }
        if any(wrong.values()):
            raise ReleaseError(
                f"{self.wheel.name} on {self.place}: {'; '.join(what for what in wrong if wrong[what])}"
            )
        return found

    def test(self, tests: list[str]) -> str:
        """Run tests of the SDK; returns the last line of pytest, such as "1,234 passed in 99 s"."""
        self._install(_EXTRAS, *_FOR_TESTS)
        pytest = [self._python, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        command = [*pytest, "-n", "auto", "--dist", "loadfile", *tests]
        return self._checked(command).strip().splitlines()[-1]

    @property
    def _python(self) -> str:
        return self.place.python if self.place.emulator else self.place.inside(self._path / "bin/python")

    def _install(self, extras: str, *more: str) -> None:
        """Install the wheel with ``extras``, from a folder alone: nothing but the wheel could be built there."""
        stored = self.folder / "wheelhouse"
        tags = [f"--platform={name}_{self.place.machine}" for name in _PLATFORMS]
        abis = [f"--abi={abi}" for abi in (f"cp3{self.place.minor}", "abi3", "none")]
        python = [f"--python-version=3.{self.place.minor}", "--implementation=cp", *abis, *tags]
        wanted = [f"{self.wheel}[{extras}]", *more]
        pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
        run([*pip, "download", "--only-binary=:all:", *python, f"--dest={stored}", *wanted])
        if self.place.emulator:
            offline = ["--no-index", f"--find-links={stored}", "--only-binary=:all:", "--upgrade"]
            offline.append(
                "--ignore-requires-python"
            )  # pip asks that of its own Python here; the download has asked
            run([*pip, "install", *offline, *python, f"--target={self._path}", *wanted])
            return
        offline = ["--no-index", f"--find-links={self.place.inside(stored)}"]
        wanted = [f"{self.place.inside(stored / self.wheel.name)}[{extras}]", *more]
        self._checked([self._python, "-m", "pip", "--quiet", "install", *offline, *wanted])

    def _checked(self, command: list[str]) -> str:
        path = "" if self.place.emulator else self.place.inside(self._path / "bin")
        done = self.place.run(command, self.folder, path, _SECONDS)
        if done.returncode:
            raise ReleaseError(
                f"{self.wheel.name} on {self.place}: {' '.join(command)} ended with {done.returncode}:\n{done.stdout}"
            )
        return done.stdout


@contextmanager
def installed(place: Place, wheel: Path, source: Path) -> Iterator[Environment]:
    """An environment with the wheel, outside of the checkout, for as long as it is used."""
    with tempfile.TemporaryDirectory(prefix="hiersrec-wheel-", dir=place.root / "tmp") as folder:
        yield Environment(place, wheel, source, Path(folder))


def _size(folder: Path) -> int:
    return sum(file.lstat().st_size for file in folder.rglob("*")) if folder.is_dir() else 0
