"""Pictures of the ranking benchmarks: ``python -m benchmarks.pictures --help``.

    ranking-size.png     time against catalogue size
    ranking-recall.png   time against recall, exact and approximate, at one size

Each size is a run of ``benchmarks.ranking``, whose rows are kept as JSON in a folder: a run that is there already is
not repeated. Where the tables of all peers would not fit the memory together, the peers run in groups.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import click

from benchmarks.draw import recall_picture, size_picture
from benchmarks.peers import PEERS, SLOW

SIZES: Final = (10_000, 31_623, 100_000, 316_228, 1_000_000, 3_162_278, 10_000_000)
# What a peer holds beside the table that all share, as a multiple of it.
_HOLDS: Final = {"onnxruntime": 2.0, "faiss-flat": 1.25, "faiss-ivf": 1.1, "faiss-hnsw": 1.6}
_OURS_HOLD: Final = 0.6  # the codes, and the bytes of the plain read


def groups(peers: Sequence[str], table: float, memory: float) -> list[list[str]]:
    """``peers`` in runs that fit into ``memory`` bytes beside the ``table``, of so many bytes, and ours.

    In as few as it takes, those that hold least first. One that does not fit even alone is left out.
    """
    most = memory - (1 + _OURS_HOLD) * table
    found: list[list[str]] = []
    room = -1.0
    for name in sorted(peers, key=lambda name: _HOLDS.get(name, 0.0)):
        holds = _HOLDS.get(name, 0.0) * table
        if holds > most:
            continue
        if holds > room:
            found.append([])
            room = most
        found[-1].append(name)
        room -= holds
    return found


def merged(runs: Sequence[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The rows of several runs; of ours and the plain read, which are in every run, those of the first."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for rows in runs:
        for row in rows:
            found.setdefault((row["work"], row["by"]), row)
    return list(found.values())


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for the pictures.")
@click.option(
    "--runs", "folder", type=click.Path(path_type=Path), required=True, help="Folder for the runs' JSON."
)
@click.option("--vectors", default="clustered", show_default=True, help="As of benchmarks.ranking.")
@click.option("--data", type=click.Path(path_type=Path), help="As of benchmarks.ranking.")
@click.option("--cache", type=click.Path(path_type=Path), help="As of benchmarks.ranking.")
@click.option("--dim", default=128, show_default=True)
@click.option("--sizes", default=",".join(map(str, SIZES)), show_default=True, help="Rows of the catalogues.")
@click.option("--at", default=1_000_000, show_default=True, help=f"Rows for recall, with {', '.join(SLOW)}.")
@click.option("--peers", default=",".join(PEERS), show_default=True)
@click.option("--rounds", default=30, show_default=True)
@click.option("--memory", default=16.0, show_default=True, help="GB that a run may take.")
def main(
    out: Path,
    folder: Path,
    vectors: str,
    data: Path | None,
    cache: Path | None,
    dim: int,
    sizes: str,
    at: int,
    peers: str,
    rounds: int,
    memory: float,
) -> None:
    """Draw time against catalogue size and against recall, from runs of benchmarks.ranking."""
    options = [
        "--vectors",
        vectors,
        "--dim",
        str(dim),
        "--rounds",
        str(rounds),
        "--works",
        "exact,candidates",
    ]
    options += ["--data", str(data)] if data else []
    options += ["--cache", str(cache)] if cache else []
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for rows in sorted({at, *map(int, sizes.split(","))}):
        entered = [name for name in peers.split(",") if name not in SLOW or rows == at]
        runs = groups(entered, 4.0 * rows * dim, memory * 1e9)
        found[rows] = merged([_run(folder, rows, some, options) for some in runs])
    out.mkdir(parents=True, exist_ok=True)
    for name, picture in (
        (
            "ranking-size.png",
            size_picture({rows: own for rows, own in found.items() if str(rows) in sizes.split(",")}),
        ),
        ("ranking-recall.png", recall_picture(found[at], at)),
    ):
        (out / name).write_bytes(picture)
        click.echo(out / name)


def _run(folder: Path, rows: int, peers: Sequence[str], options: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of one run, from ``folder`` where they lie there."""
    file = folder / f"{rows}-{'-'.join(peers)}.json"
    if not file.exists():
        command = [
            sys.executable,
            "-m",
            "benchmarks.ranking",
            "--rows",
            str(rows),
            "--peers",
            ",".join(peers),
        ]
        command += options
        click.echo(" ".join(command), err=True)
        done = subprocess.run([*command, "--json"], stdout=subprocess.PIPE, check=True)
        part = file.with_suffix(".part")
        part.write_bytes(done.stdout)
        part.rename(file)
    found: list[dict[str, Any]] = json.loads(file.read_bytes())
    return found


if __name__ == "__main__":
    main()
