"""Runs the C kernel's own tests as a wheel's compiler builds them: a static program, for any system."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

from release.build import Target, run
from release.places import emulator_of

_TABLES = "40"  # random ones: a minute under an emulator


def test_kernel(source: Path, target: Target, work: Path) -> str:
    """Build and run them for ``target``, whose C library has to be musl; says what ran.

    Raises:
        ReleaseError: one failed.
    """
    program = work / f"kernel-{target.tag}"
    files = [source / "tests/csrc/kernels.c", *sorted((source / "csrc").glob("*.c"))]
    zig = [sys.executable, "-m", "ziglang", "cc", "-target", target.compiler]
    flags = (source / "csrc/compile_flags.txt").read_text("utf-8").split()
    run([*zig, *flags, "-static", f"-I{source / 'csrc'}", *map(str, files), "-lm", "-o", str(program)])
    emulator = []
    if target.machine != platform.machine():
        found = emulator_of(target.machine)
        if found is None:
            return f"the kernel's tests did NOT run: qemu-{target.machine} is missing (Debian: qemu-user)"
        emulator = [found]
    said = run([*emulator, str(program), _TABLES]).splitlines()
    return f"kernel's tests{', emulated' if emulator else ''}: {said[0].removeprefix('instruction sets: ')}, {said[-1]}"
