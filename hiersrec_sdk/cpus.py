"""Number of CPUs that this process may use: by its affinity, and by the quotas of its control groups (containers)."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal

Threads = int | Literal["auto"]
MOST_THREADS: Final = 256  # that one call, or one graph, may work with


def available_cpus(root: Path = Path("/")) -> int:
    """Number of CPUs that this process may use, rounded up; at least 1.

    Args:
        root: the folder with ``proc`` and the mounted control groups.
    """
    return max(1, math.ceil(min(cpus_of_process(), cpu_quota(root))))


def cpu_quota(root: Path = Path("/")) -> float:
    """CPUs that the control groups of this process allow; infinite if none has a quota.

    It is the smallest quota of its control group and of all groups above it that it can see, of cgroup v2
    (``cpu.max``) or v1 (``cpu.cfs_quota_us``).

    Args:
        root: the folder with ``proc`` and the mounted control groups.
    """
    return min(_quotas(root), default=math.inf)


def cpus_of_process() -> int:
    """Number of CPUs that the affinity of this process allows; of the machine, where the system has no such thing."""
    affinity = getattr(os, "sched_getaffinity", None)  # of Linux
    return os.cpu_count() or 1 if affinity is None else len(affinity(0))


def resolved(threads: Any) -> Any:
    """``threads``, with "auto" replaced by the CPUs that were available when this process first asked, up to
    ``MOST_THREADS``."""
    return _available_cpus() if isinstance(threads, str) and threads == "auto" else threads


@cache
def _available_cpus() -> int:
    return min(available_cpus(), MOST_THREADS)


def _quotas(root: Path) -> Iterator[float]:
    """CPUs that each limited group allows."""
    groups: dict[str, str] = {}  # the group of this process by controller; "" for v2
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, group = line.split(":", 2)
        groups |= dict.fromkeys(controllers.split(","), group)
    for line in _lines(root / "proc/self/mountinfo"):
        mount, _, filesystem = line.partition(" - ")
        name, _, options = filesystem.split(" ", 2)
        is_v2 = name == "cgroup2"
        group = groups.get("" if is_v2 else "cpu", "/")
        if not is_v2 and (name != "cgroup" or "cpu" not in options.split(",")):
            continue
        top, point = (
            re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), field) for field in mount.split(" ")[3:5]
        )
        # a group outside of the mount, as in some containers: only the mount's top is visible
        within = Path(group).relative_to(top) if Path(group).is_relative_to(top) else Path()
        folder = root / point.lstrip("/")
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
    except (OSError, ValueError, ZeroDivisionError):  # "max" means no limit
        return None
    return cpus if cpus > 0 else None


def _lines(file: Path) -> list[str]:
    try:
        # paths are bytes, and the kernel escapes only some: nothing but a newline ends a line
        return [line for line in os.fsdecode(file.read_bytes()).split("\n") if line]
    except OSError:  # not Linux, or no /proc
        return []
