"""Builds the sdist and, from what is in it, the wheels. zig compiles: for any platform, on any machine."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final


class ReleaseError(Exception):
    """What is published cannot be built, or is not as it must be."""


@dataclass(frozen=True)
class Target:
    """What a platform wheel is built for.

    Attributes:
        machine: as ``uname -m`` says it.
        compiler: the target as zig says it, with the oldest glibc to run on.
        tag: of the platform, in the name of the wheel.
    """

    machine: str
    compiler: str
    tag: str


TARGETS: Final = (
    Target("x86_64", "x86_64-linux-gnu.2.17", "manylinux_2_17_x86_64"),
    Target("aarch64", "aarch64-linux-gnu.2.17", "manylinux_2_17_aarch64"),
    Target("x86_64", "x86_64-linux-musl", "musllinux_1_2_x86_64"),
    Target("aarch64", "aarch64-linux-musl", "musllinux_1_2_aarch64"),
)
_PURE: Final = ("wheel.cmake=false", "wheel.platlib=false", "wheel.py-api=py3")


def build_sdist(project: Path, work: Path) -> Path:
    """Build the sdist of a checkout into the folder ``work``."""
    return _build(project, work, "--sdist", (), {})


def unpack_sdist(sdist: Path, work: Path) -> Path:
    """Unpack an sdist below the folder ``work``; returns the folder of its sources."""
    with tarfile.open(sdist) as archive:
        archive.extractall(work, filter="data")
    return work / sdist.name.removesuffix(".tar.gz")


def build_pure_wheel(source: Path, work: Path) -> Path:
    """Build the wheel without a kernel, for platforms that have no wheel of their own."""
    return _build(source, work, "--wheel", _PURE, {})


def build_wheel(source: Path, target: Target, work: Path) -> Path:
    """Build the wheel of a platform, and have auditwheel prove that it runs there, and say so in its name."""
    raw = work / f"raw-{target.tag}"
    raw.mkdir()
    zig = f"{shlex.quote(sys.executable)} -m ziglang"
    compiler = raw / "cc"
    compiler.write_text(f'#!/bin/sh\nexec {zig} cc -target {target.compiler} "$@"\n', "utf-8")
    compiler.chmod(0o755)
    settings = (
        f"cmake.define.CMAKE_C_COMPILER={compiler}",
        "cmake.define.CMAKE_MODULE_LINKER_FLAGS=-s",  # zig strips; the strip of this machine knows its own machine only
        "install.strip=false",
    )
    environment = {"_PYTHON_HOST_PLATFORM": f"linux-{target.machine}"}
    wheel = _build(source, raw, "--wheel", settings, environment)
    if "musl" in target.compiler:
        wheel = _name_musl(wheel, target, raw)
    run(["auditwheel", "repair", "--plat", "auto", "--only-plat", "--wheel-dir", str(work), str(wheel)])
    return _only(work.glob(f"*{target.tag}.whl"))


def _name_musl(wheel: Path, target: Target, work: Path) -> Path:
    """Let the extension name musl as systems with musl do, and auditwheel: zig calls it libc.so, as it calls others."""
    run(["wheel", "unpack", "--dest", str(work / "unpacked"), str(wheel)])
    unpacked = _only((work / "unpacked").iterdir())
    extension = _only(unpacked.rglob("*.so"))
    run(["patchelf", "--replace-needed", "libc.so", f"libc.musl-{target.machine}.so.1", str(extension)])
    wheel.unlink()
    run(["wheel", "pack", "--dest-dir", str(work), str(unpacked)])
    return wheel


def _build(
    source: Path, out: Path, what: str, settings: tuple[str, ...], environment: Mapping[str, str]
) -> Path:
    command = [sys.executable, "-m", "build", what, "--no-isolation", "--outdir", str(out)]
    before = set(out.iterdir())
    run([*command, *(f"-C{setting}" for setting in settings), str(source)], environment)
    return _only(file for file in out.iterdir() if file not in before)


def _only(files: Iterable[Path]) -> Path:
    found = list(files)
    if len(found) != 1:
        raise ReleaseError(f"one file should have been made, not {[file.name for file in found]}")
    return found[0]


def run(command: Sequence[str], environment: Mapping[str, str] = MappingProxyType({})) -> str:
    """Run a command, and return what it printed.

    Raises:
        ReleaseError: it failed; with all that it printed.
    """
    done = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ReleaseError(f"{shlex.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout
