"""How many CPUs this process may use: by its affinity, and by the quota of its control groups, as containers have."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Literal

Threads = int | Literal["auto"]


def available_cpus(root: Path = Path("/")) -> int:
    """CPUs that this process may use, a fraction as a whole one; at least 1.

    Quotas are those of its own control group and all groups above it that are in sight, of cgroup v2 (``cpu.max``) or
    v1 (``cpu.cfs_quota_us``).

    Args:
        root: the folder that has ``proc`` and what is mounted.
    """
    return max(1, math.ceil(min([len(os.sched_getaffinity(0)), *_quotas(root)])))


def resolved(threads: Any) -> Any:
    """``threads`` as a number where it is "auto": the CPUs there were when this process first asked."""
    return _available_cpus() if isinstance(threads, str) and threads == "auto" else threads


@cache
def _available_cpus() -> int:
    return available_cpus()


def _quotas(root: Path) -> Iterator[float]:
    """CPUs that each group allows, of those that limit them."""
    own: dict[str, str] = {}  # the process's group, by controller; "" is that of v2
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, group = line.split(":", 2)
        own |= dict.fromkeys(controllers.split(","), group)
    for line in _lines(root / "proc/self/mountinfo"):
        mount, _, filesystem = line.partition(" - ")
        kind, _, options = filesystem.split(" ", 2)
        is_v2 = kind == "cgroup2"
        group = own.get("" if is_v2 else "cpu", "/")
        if not is_v2 and (kind != "cgroup" or "cpu" not in options.split(",")):
            continue
        top, place = (
            re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), field) for field in mount.split(" ")[3:5]
        )
        # of a group outside what is mounted, as seen from within a container, the top is all there is to see
        within = Path(group).relative_to(top) if Path(group).is_relative_to(top) else Path()
        folder = root / place.lstrip("/")
        for above in (within, *within.parents):
            quota = _quota(folder / above, is_v2)
            if quota is not None:
                yield quota


def _quota(folder: Path, is_v2: bool) -> float | None:
    try:
        if is_v2:
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        cpus = int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):  # "max" among them: no limit
        return None
    return cpus if cpus > 0 else None


def _lines(file: Path) -> list[str]:
    try:
        # paths are bytes, of which the kernel escapes only some: nothing but a newline ends a line
        return [line for line in os.fsdecode(file.read_bytes()).split("\n") if line]
    except OSError:  # no Linux, or no /proc
        return []
