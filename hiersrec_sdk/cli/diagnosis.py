"""What ``hiersrec doctor`` finds out: about this Python, this machine, the extras, and a bundle."""

from __future__ import annotations

import math
import os
import platform
import re
import statistics
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any, Final

import click
import numpy as np

from hiersrec_sdk import Recommender, __version__, available_backends
from hiersrec_sdk.bundle.cache import largest
from hiersrec_sdk.cli.extras import PURPOSES, lacking, packages_of
from hiersrec_sdk.cli.serve import serve
from hiersrec_sdk.cpus import MOST_THREADS, available_cpus, cpu_quota, cpus_of_process
from hiersrec_sdk.encoders.runtime import available_providers, check_starts, described, import_onnxruntime
from hiersrec_sdk.errors import HierSRecError
from hiersrec_sdk.ranking import SLOWER_THAN_C, Table, get_backend, instruction_sets, kernel_file
from hiersrec_sdk.shown import shortened

Facts = dict[str, Any]

# Variables that are read, beside those of the options of hiersrec serve; and whether the value may be shown.
_VARIABLES: Final = {
    "HIERSREC_ISA": True,
    "HIERSREC_LARGEST_BUNDLE": True,
    "HIERSREC_CACHE": False,
    "HIERSREC_BUNDLE": False,
    "HIERSREC_TOKEN": False,
    "XDG_CACHE_HOME": False,
    "HF_HOME": False,
    "ORT_DISABLE_TELEMETRY": True,
    "OMP_NUM_THREADS": True,
    "OMP_WAIT_POLICY": True,
    "CUDA_VISIBLE_DEVICES": True,
    "MLFLOW_TRACKING_URI": False,
    "MLFLOW_EXPERIMENT_NAME": False,
    "WANDB_MODE": True,
    "WANDB_PROJECT": False,
    "WANDB_DIR": False,
}
_CLICKS: Final = 5  # of the session that is timed
_CALLS: Final = 500
_SECONDS: Final = 1.0  # that the calls of one mode may take


class Diagnosis:
    """Findings, and what is wrong.

    Attributes:
        facts: what was found, as JSON has it.
        problems: what is broken: something that is there does not work, or nothing works without it.
        notes: what could be better.
    """

    def __init__(self, bundle: Path | None = None) -> None:
        """Look at everything; ``bundle`` is opened, checked and asked."""
        self.facts: Facts = {}
        self.problems: list[str] = []
        self.notes: list[str] = []
        self._find_versions()
        self.facts["processor"] = {"model": _processor(), "architecture": platform.machine()}
        self.facts["cpus"] = _cpus()
        self._find_backends()
        self._find_providers()
        self._find_extras()
        self._find_variables()
        if bundle is not None:
            self.facts["bundle"] = self._examined(bundle)

    def as_json(self) -> Facts:
        """All of it, with ``~`` for the home folder."""
        found: Facts = _without_home({**self.facts, "problems": self.problems, "notes": self.notes})
        return found

    def _find_versions(self) -> None:
        libc = " ".join(platform.libc_ver()).strip()
        self.facts["sdk"] = __version__
        self.facts["python"] = f"{platform.python_version()} ({platform.python_implementation()})"
        self.facts["platform"] = f"{platform.system()} {platform.release()}{f', {libc}' if libc else ''}"
        try:
            needed = packages_of()
        except PackageNotFoundError:
            self.notes.append("hiersrec-sdk is imported from its source, not installed: extras are not known")
            needed = ()
        self.facts["packages"] = {package.name: package.installed for package in needed}
        for package in needed:
            if not package.fits:
                self.problems.append(
                    f"{package.name} {package.installed or 'is missing'}: hiersrec-sdk needs {package.least} or newer; "
                    f"pip install --upgrade {package.name}"
                )

    def _find_backends(self) -> None:
        """The backends, the best one asked; and the instruction sets of the kernel."""
        available = available_backends()
        sets: tuple[str, ...] = ()
        try:
            sets = instruction_sets()
            best = get_backend(available[0])
            self._compare(best)
        except HierSRecError as error:
            self.problems.append(str(error))
        self.facts["instruction_sets"] = {"used": sets[0] if sets else None, "available": sorted(sets)}
        self.facts["backends"] = [
            {
                "name": name,
                "available": name in available,
                "used": name == available[0],
                "times_slower": SLOWER_THAN_C.get(name, (1, 1))[0],
                "times_slower_exact": SLOWER_THAN_C.get(name, (1, 1))[1],
            }
            for name in ("c", *SLOWER_THAN_C)
        ]
        if "c" in available:
            return
        slower, slower_exact = SLOWER_THAN_C[available[0]]
        cost = f"{available[0]} ranks instead: a call takes about {slower} times as long, {slower_exact} in mode exact"
        if kernel_file() is None:
            self.notes.append(f"there is no compiled kernel here; {cost}")
        else:
            self.problems.append(f"the compiled kernel cannot be loaded; {cost}")
        if "numba" not in available:
            self.notes.append("pip install 'hiersrec-sdk[numba]' brings a backend that is faster than NumPy")

    def _compare(self, backend: Any) -> None:
        """Rank a table with ``backend`` and with NumPy, which says what is right."""
        rng = np.random.default_rng(0)
        table, query = (
            Table(rng.standard_normal((2_000, 24), np.float32)),
            rng.standard_normal(24, np.float32),
        )
        found, right = (
            each.topk(table, query, np.array([[5, 1_900]]), 20).rows.tolist()
            for each in (backend, get_backend("numpy"))
        )
        if found != right:
            self.problems.append(
                f"the backend {backend.name} ranks wrongly on this processor: set HIERSREC_ISA=scalar, and report it"
            )

    def _find_providers(self) -> None:
        try:
            self.facts["onnxruntime"] = str(import_onnxruntime().__version__)
            self.facts["providers"] = list(available_providers())
        except Exception as error:  # whatever keeps a native library from being loaded
            self.facts |= {"onnxruntime": None, "providers": []}
            self.problems.append(f"no bundle can be loaded: {described(error)}")
        for provider in self.facts["providers"][:]:
            try:
                check_starts(provider)
            except Exception as error:  # here too
                self.facts["providers"].remove(provider)
                self.problems.append(
                    str(error) if isinstance(error, HierSRecError) else f"{provider}: {described(error)}"
                )

    def _find_extras(self) -> None:
        self.facts["extras"] = {}
        if not self.facts["packages"]:
            return
        for extra, purpose in PURPOSES.items():
            packages = {package.name: package.installed for package in packages_of(extra)}
            lacks = lacking([extra]).get(extra, [])
            self.facts["extras"][extra] = {"for": purpose, "lacks": lacks, "packages": packages}
        gpu, cpu = (
            {package.name: package.installed for package in packages_of(name)} for name in ("gpu", "cpu")
        )
        if gpu.get("onnxruntime-gpu") and cpu.get("onnxruntime"):
            self.notes.append(
                "onnxruntime and onnxruntime-gpu are both installed, and are one module: uninstall both, then install "
                "the extra cpu or gpu"
            )

    def _find_variables(self) -> None:
        """Environment variables that are set and read, checked; those that look like one and are none."""
        options = {option.envvar: option for option in serve.params if isinstance(option.envvar, str)}
        found: dict[str, str | None] = {}
        for name, value in sorted(os.environ.items()):
            option = options.get(name)
            if name in _VARIABLES or option is not None:
                is_text = option is not None and isinstance(option.type, click.types.StringParamType)
                found[name] = shortened(value, 100) if _VARIABLES.get(name, not is_text) else None
            elif name.startswith("HIERSREC_"):
                self.notes.append(f"{name} is set, but nothing reads a variable of that name")
            if option is not None and value:
                self._check(name, partial(_converted, option, value))
        if os.environ.get("HIERSREC_TOKEN") == "":
            self.problems.append("HIERSREC_TOKEN is empty: unset it, or set it to a secret")
        self._check("HIERSREC_LARGEST_BUNDLE", largest)
        self.facts["environment"] = found

    def _check(self, name: str, use: Callable[[], object]) -> None:
        try:
            use()
        except HierSRecError as error:
            self.problems.append(str(error) if name in str(error) else f"{name}: {error}")
        except click.UsageError as error:
            self.problems.append(f"{name}: {error.message}")

    def _examined(self, path: Path) -> Facts:
        """The bundle: that every file is as it was written, and how long a call takes."""
        about: Facts = {"name": path.absolute().name}
        began = time.perf_counter()
        try:
            recommender = Recommender.load(path, verify=True)
            about["load_seconds"] = round(time.perf_counter() - began, 3)
            config = recommender.config
            about |= {
                "schema": config["schema_version"],
                "created_by": config["created_by"],
                "items": len(recommender.catalog),
                "dimensions": config["dimension"],
                "backend": recommender.backend,
                "calls": {mode: _timed(recommender, mode) for mode in ("candidates", "exact")},
            }
        except (HierSRecError, OSError) as error:
            self.problems.append(f"the bundle cannot be used: {error}")
        return about


def _timed(recommender: Recommender, mode: Any) -> Facts:
    """Milliseconds of ``recommend`` for one session of five items, after calls that warm up."""
    catalog = recommender.catalog
    session = list(catalog.ids(catalog.most_clicked(_CLICKS)))
    times: list[float] = []
    for _ in range(20):
        recommender.recommend(session, mode=mode)
    end = time.perf_counter() + _SECONDS
    while len(times) < _CALLS and time.perf_counter() < end:
        began = time.perf_counter()
        recommender.recommend(session, mode=mode)
        times.append(1_000 * (time.perf_counter() - began))
    times.sort()
    return {
        "count": len(times),
        "median_ms": round(statistics.median(times), 3),
        "p99_ms": round(times[math.ceil(0.99 * len(times)) - 1], 3),
    }


def _processor() -> str:
    """The name of the processor, as the system has it."""
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8", "replace")
    except OSError:  # not Linux
        text = ""
    match = re.search(r"^(model name|Model)\s*:\s*(.*\S)", text, re.M)
    return match[2] if match else platform.processor() or "unknown"


def _cpus() -> Facts:
    quota = cpu_quota()
    return {
        "machine": os.cpu_count(),
        "affinity": cpus_of_process(),
        "quota": None if math.isinf(quota) else quota,
        "used_by_auto": min(available_cpus(), MOST_THREADS),
    }


def _converted(option: click.Parameter, text: str) -> None:
    """Check the value of a variable of ``hiersrec serve``: its type, and its range where that extra is installed."""
    with click.Context(serve) as context:
        value = option.type_cast_value(context, text)
    if not lacking(["serve"]):
        from hiersrec_sdk.serve.settings import Settings

        Settings().updated({str(option.name): value})


def _without_home(value: Any) -> Any:
    """``value`` with ``~`` for the home folder in all of its texts."""
    if isinstance(value, dict):
        return {name: _without_home(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_without_home(each) for each in value]
    if not isinstance(value, str):
        return value
    try:
        home = str(Path.home()).rstrip("/")
    except RuntimeError:  # there is none
        return value
    return re.sub(rf"(?<![\w.-]){re.escape(home)}(?!\.?[\w-])", "~", value) if home else value
