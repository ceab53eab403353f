"""The house: which module may import which, and what no module may hold."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
SDK = ROOT / "hiersrec_sdk"
PACKAGES = {
    "hiersrec_sdk": SDK,
    "hiersrec_training": ROOT / "training/hiersrec_training",
    "hiersrec_export": ROOT / "export/hiersrec_export",
}
# Rooms of hiersrec_sdk: each may import those of its own line and the lines above it.
LAYERS = [
    {
        "errors",
        "atomic",
        "cpus",
        "shown",
        "paths",
        "id_lists",
        "number_lists",
        "arguments",
        "forks",
        "systems",
    },
    {"ranking"},
    {"bundle", "encoders"},
    {"catalog"},
    {"options", "plan", "search", "results", "frames", "pool"},
    {"pipeline", "explain", "hub"},
    {"recommender", "session"},
    {"serve", "integrations"},
    {"cli"},
]
# Packages that only training, exports, tests and examples need; the SDK may import some inside of functions, and
# hiersrec_sdk.serve, which nobody but its command imports, those of its extra.
HEAVY = {
    "torch",
    "onnx",
    "polars",
    "pandas",
    "pyarrow",
    "matplotlib",
    "tqdm",
    "numba",
    "optuna",
    "mlflow",
    "wandb",
    "starlette",
    "uvicorn",
    "msgspec",
    "prometheus_client",
    "ray",
    "pyspark",
}


class Import(NamedTuple):
    """One imported module or name; ``nested``: inside of a function."""

    name: str
    line: int
    nested: bool

    def is_of(self, package: str) -> bool:
        return self.name == package or self.name.startswith(f"{package}.")


def modules(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.py"))


@cache
def imports(file: Path) -> tuple[Import, ...]:
    """The imports of a file when it runs: without those under ``if TYPE_CHECKING``."""
    return tuple(_imports(ast.parse(file.read_text("utf-8")), nested=False))


def _imports(node: ast.AST, nested: bool) -> Iterator[Import]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield Import(alias.name, node.lineno, nested)
    elif isinstance(node, ast.ImportFrom):
        for alias in node.names:
            yield Import(f"{'.' * node.level}{node.module or ''}.{alias.name}", node.lineno, nested)
    elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "import_extra")):
        name = node.args[0]
        if isinstance(name, ast.Constant):
            yield Import(str(name.value), node.lineno, nested)
    is_typing = isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
    inside = nested or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
    for child in () if is_typing else ast.iter_child_nodes(node):
        yield from _imports(child, inside)


def where(file: Path, line: int) -> str:
    return f"{file.relative_to(ROOT)}:{line}"


def room(module: str) -> str:
    """The module or package right below hiersrec_sdk, such as "catalog"; "" for hiersrec_sdk itself."""
    name = module.removeprefix("hiersrec_sdk").strip(".").partition(".")[0]
    return name if (SDK / name).is_dir() or (SDK / f"{name}.py").is_file() else ""


@pytest.mark.parametrize("at", range(len(LAYERS)), ids=lambda at: "+".join(sorted(LAYERS[at])))
def test_a_module_imports_only_its_own_layer_and_those_below(at: int) -> None:
    allowed = set[str]().union(*LAYERS[: at + 1])
    wrong = []
    for file in modules(SDK):
        if room(".".join(file.relative_to(SDK).with_suffix("").parts)) not in LAYERS[at]:
            continue
        for found in imports(file):
            if found.is_of("hiersrec_sdk") and found.name != "hiersrec_sdk._kernel":
                # names of the package itself come from everywhere; its version comes from nowhere
                name = room(found.name) or ("errors" if found.name.endswith(".__version__") else "cli")
                if name not in allowed:
                    wrong.append(f"{where(file, found.line)} imports {found.name}")
    assert not wrong


def test_every_module_has_a_layer() -> None:
    rooms = {room(file.relative_to(SDK).with_suffix("").parts[0]) for file in modules(SDK)}
    assert rooms - {"", "__init__"} <= set[str]().union(*LAYERS)


def test_only_ranking_imports_the_kernel() -> None:
    wrong = [
        where(file, found.line)
        for folder in (*PACKAGES.values(), ROOT / "benchmarks", ROOT / "examples")
        for file in modules(folder)
        if not file.is_relative_to(SDK / "ranking")
        for found in imports(file)
        if found.is_of("hiersrec_sdk._kernel")
    ]
    assert not wrong


def test_one_module_imports_onnxruntime() -> None:
    """It switches the telemetry off before."""
    wrong = [
        where(file, found.line)
        for folder in (*PACKAGES.values(), *(ROOT / name for name in ("benchmarks", "examples", "tests")))
        for file in modules(folder)
        if file != SDK / "encoders/runtime.py"
        for found in imports(file)
        if found.is_of("onnxruntime")
    ]
    assert not wrong


def test_the_sdk_imports_training_and_export_only_inside_of_commands() -> None:
    wrong = [
        f"{where(file, found.line)} imports {found.name}"
        for file in modules(SDK)
        for found in imports(file)
        if any(map(found.is_of, ("torch", "hiersrec_training", "hiersrec_export")))
        and not (found.nested and file.is_relative_to(SDK / "cli") and not found.is_of("torch"))
    ]
    assert not wrong


def test_the_sdk_loads_no_heavy_package() -> None:
    code = "import sys, hiersrec_sdk, hiersrec_sdk.cli.main; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "numpy" in loaded
    assert not loaded & (HEAVY | {"hiersrec_training", "hiersrec_export"})


def test_training_does_not_import_export() -> None:
    wrong = [
        where(file, found.line)
        for file in modules(PACKAGES["hiersrec_training"])
        for found in imports(file)
        if found.is_of("hiersrec_export")
    ]
    assert not wrong


def test_imports_are_absolute() -> None:
    wrong = [
        where(file, found.line)
        for folder in (*PACKAGES.values(), *(ROOT / name for name in ("tests", "benchmarks", "examples")))
        for file in modules(folder)
        for found in imports(file)
        if found.name.startswith(".")
    ]
    assert not wrong


def lines_with(pattern: str, *folders: Path) -> list[str]:
    return [
        where(file, number)
        for folder in folders
        for file in modules(folder)
        for number, line in enumerate(file.read_text("utf-8").splitlines(), 1)
        if re.search(pattern, line)
    ]


def test_frozen_classes_are_frozen() -> None:
    assert not lines_with(r"object\.__setattr__", SDK)


def test_only_the_catalog_knows_whether_there_are_changes() -> None:
    outside = [folder for folder in SDK.iterdir() if folder.is_dir() and folder.name != "catalog"]
    pattern = r"(changes|delta) is (not )?None|ChangedCatalog|isinstance\(.*(Base|Delta)Segment"
    wrong = [*lines_with(pattern, *outside)]
    wrong += [found for found in lines_with(pattern, SDK) if Path(found).parent == Path("hiersrec_sdk")]
    assert not wrong


def test_the_formatter_is_never_switched_off() -> None:
    pattern = "# fmt" + ": "
    assert not lines_with(
        pattern, *PACKAGES.values(), *(ROOT / name for name in ("tests", "benchmarks", "examples"))
    )


def test_files_of_the_sdk_are_short() -> None:
    lengths = {where(file, 0): len(file.read_text("utf-8").splitlines()) for file in modules(SDK)}
    assert not {name: lines for name, lines in lengths.items() if lines > 500}
