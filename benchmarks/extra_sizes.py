"""What each extra adds to an installation: ``python -m benchmarks.extra_sizes``.

Every extra is installed with ``cpu`` into an environment of its own, by uv, and compared with that of ``cpu`` alone.
The newest versions are taken. It leaves out extras that bring CUDA unless they are named: they download gigabytes.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any, Final

import click

from benchmarks.tables import table

ROOT: Final = Path(__file__).resolve().parent.parent
LARGE: Final = ("gpu", "train", "ray", "ray-serve", "spark")
OF_DEVELOPMENT: Final = ("test", "bench", "examples", "docs", "dev")


def run(*command: str) -> str:
    """The output of a command, which must not fail."""
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout


def installed(uv: str, wheel: Path, extras: str, folder: Path) -> tuple[dict[str, str], int]:
    """Version of each package, and bytes, after ``pip install hiersrec-sdk[extras]`` into ``folder``."""
    run(uv, "venv", "--quiet", "--python", sys.executable, str(folder))
    # as pip does, which compiles what it installs
    install = (uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", str(folder))
    run(*install, f"{wheel}[{extras}]")
    listed: list[dict[str, Any]] = json.loads(
        run(uv, "pip", "list", "--python", str(folder), "--format", "json")
    )
    size = sum(file.stat().st_size for file in (folder / "lib").rglob("*") if file.is_file())
    shutil.rmtree(folder)
    return {each["name"]: each["version"] for each in listed}, size


@click.command(help=__doc__)
@click.argument("extras", nargs=-1)
def main(extras: tuple[str, ...]) -> None:
    """Install each of the extras; by default all but the large ones and those of development."""
    uv = shutil.which("uv") or str(Path(sys.executable).with_name("uv"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    left_out = {"cpu", *LARGE, *OF_DEVELOPMENT}
    wanted = extras or [name for name in project["optional-dependencies"] if name not in left_out]
    with tempfile.TemporaryDirectory() as work:
        run(uv, "build", "--quiet", "--wheel", "--out-dir", work)
        (wheel,) = Path(work).glob("*.whl")
        before, base = installed(uv, wheel, "cpu", Path(work) / "cpu")
        rows = [["cpu", f"{base / 1e6:,.0f} MB", str(len(before)), ", ".join(sorted(before))]]
        for name in wanted:
            after, size = installed(uv, wheel, f"cpu,{name}", Path(work) / name)
            new = sorted(after.keys() - before.keys())
            rows.append([name, f"{(size - base) / 1e6:,.0f} MB", str(len(new)), ", ".join(new)])
            click.echo(f"{name} measured", err=True)
    click.echo(table(["extra", "adds", "packages", "which"], rows))


if __name__ == "__main__":
    main()
