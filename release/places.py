"""Pythons to try a wheel with: of this machine, of a folder with another system, and of another processor, emulated."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from elftools.elf.elffile import ELFFile

from release.build import ReleaseError

NEWEST: Final = 14  # Python 3.14
OLDEST: Final = 11
# A chroot with what programs expect, in a namespace of its own: nothing stays mounted, whatever happens.
_ENTER: Final = (
    'mount -t proc proc "$0/proc" && mount --rbind /dev "$0/dev" && cd "$0" && exec chroot "$0" "$@"'
)


@dataclass(frozen=True)
class Place:
    """A Python.

    Attributes:
        python: its path, as seen from ``root``.
        minor: 11 is Python 3.11.
        machine: as ``uname -m`` says it.
        root: the folder that is its ``/``.
        emulator: runs it, if it is of another processor.
    """

    python: str
    minor: int = 0
    machine: str = platform.machine()
    root: Path = Path("/")
    emulator: str | None = None

    def __str__(self) -> str:
        where = "" if self.root == Path("/") else f", {self.root.name}"
        how = "" if self.emulator is None else ", emulated"
        return f"Python 3.{self.minor} {self.machine}{where}{how}"

    def inside(self, path: Path) -> str:
        """A path of this machine, as this Python sees it."""
        return str(path) if self.emulator else f"/{path.relative_to(self.root)}"

    def run(
        self, command: list[str], folder: Path, path: str = "", timeout: float | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command of this place in a folder, with nothing but ``path`` to find programs in."""
        environment = {"PATH": path, "HOME": self.inside(folder), "LANG": "C.UTF-8", "PYTHONNOUSERSITE": "1"}
        if self.emulator:
            environment["PYTHONPATH"] = str(folder / "environment")  # where pip of this machine puts packages
            command = [self.emulator, "-L", str(self.root), f"{self.root}{command[0]}", *command[1:]]
        else:
            pairs = [f"{name}={value}" for name, value in environment.items()]
            command = ["/usr/bin/env", "-i", "-C", self.inside(folder), *pairs, *command]
        if self.root != Path("/") and not self.emulator:
            unshare = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
            command = [*unshare, "sh", "-c", _ENTER, str(self.root), *command]
            environment = dict(os.environ)
        return subprocess.run(
            command,
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            check=False,
        )


def found_pythons(more: tuple[str, ...]) -> list[Place]:
    """The Python that runs this, newer ones of this machine, and ``more``: paths, or names to look for.

    Raises:
        ReleaseError: one of ``more`` is not there, or cannot make environments.
    """
    base = Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}"
    names = [str(base), *more]
    places = {path: _asked(Place(path)) for path in names}
    for minor in range(OLDEST, NEWEST + 1):
        path = shutil.which(f"python3.{minor}")
        if path and minor not in {place.minor for place in places.values()}:
            try:
                places[path] = _asked(Place(path))
            except ReleaseError:
                continue  # such as a shim, or the system's, which cannot make environments
    return list(places.values())


def opened_root(root: Path) -> Place:
    """The Python of a folder with another system, such as debootstrap makes.

    Raises:
        ReleaseError: it has none, or there is nothing here to run it with.
    """
    root = root.resolve()
    pythons = [file for file in (root / "usr/bin").glob("python3.*") if file.name.count(".") == 1]
    pythons = sorted(file for file in pythons if not file.name.endswith("-config"))
    if not pythons:
        raise ReleaseError(f"{root} has no usr/bin/python3.X")
    with pythons[-1].open("rb") as file:
        machine = {"EM_X86_64": "x86_64", "EM_AARCH64": "aarch64"}.get(ELFFile(file)["e_machine"], "other")
    emulator = None
    if machine != platform.machine():
        emulator = emulator_of(machine)
        if emulator is None:
            raise ReleaseError(f"{root} is of {machine}: qemu-{machine} is missing (Debian: qemu-user)")
    elif os.geteuid() != 0:
        raise ReleaseError(f"{root} can only be entered by root")
    return _asked(Place(f"/usr/bin/{pythons[-1].name}", 0, machine, root, emulator))


def emulator_of(machine: str) -> str | None:
    """The program that runs those of another processor; None if it is not installed."""
    return shutil.which(f"qemu-{machine}-static") or shutil.which(f"qemu-{machine}")


def _asked(place: Place) -> Place:
    code = "import sys; print(sys.version_info.minor)"
    if place.emulator is None:
        code = f"import venv, ensurepip; {code}"
    done = place.run([place.python, "-c", code], place.root / "tmp")
    answer = done.stdout.split()
    if done.returncode or not answer or not answer[-1].isdecimal():
        raise ReleaseError(f"{place.python} in {place.root} cannot make environments:\n{done.stdout}")
    return Place(place.python, int(answer[-1]), place.machine, place.root, place.emulator)
