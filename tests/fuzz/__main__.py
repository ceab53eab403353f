"""Fuzzes the SDK with damaged bundles and change files: ``python -m tests.fuzz``.

Each case is one integer. ``--target tables --seed 123`` repeats one, and says what was damaged.
"""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime
from importlib import import_module

import click

if "SANITIZED_KERNEL" in os.environ:
    import_module("tests.sanitized")  # before anything imports the other kernel

from tests.fuzz import runner
from tests.fuzz.targets import TARGETS
from tests.fuzz.warm import warm_up


@click.command(help=__doc__)
@click.option(
    "--target",
    "names",
    multiple=True,
    type=click.Choice([*TARGETS]),
    help="What to damage; repeatable. [all]",
)
@click.option("--seed", type=int, help="Run this case alone, in this process.")
@click.option("--first", type=int, help="The first seed. [by the date]")
@click.option("--cases", type=int, help="Cases of each target. [as many as there is time for]")
@click.option("--minutes", type=float, help="How long. [1, if --cases is not given]")
@click.option("--processes", type=int, default=1, show_default=True)
@click.option(
    "--hang", type=float, default=runner.HANG, show_default=True, help="Seconds after which a case hangs."
)
def main(
    names: tuple[str, ...],
    seed: int | None,
    first: int | None,
    cases: int | None,
    minutes: float | None,
    processes: int,
    hang: float,
) -> None:
    """Run what the command line asks for; exit with 1 after a finding."""
    targets = {name: TARGETS[name] for name in names or TARGETS}
    if seed is not None:
        found = [runner.run_one(targets, name, seed, click.echo) for name in targets]
        sys.exit(any(found))
    if first is None:
        first = int(datetime.now(UTC).strftime("%Y%m%d%H%M")) * 1_000
    if minutes is None and cases is None:
        minutes = 1.0
    click.echo(f"first seed {first}, kernel {runner.kernel_file()}")
    warm_up(numba=cases is None)
    report = runner.run(
        targets,
        first=first,
        cases=cases,
        seconds=None if minutes is None else 60 * minutes,
        processes=processes,
        hang=hang,
        found=lambda found: click.echo(f"{found.seed} {found.title}"),
    )
    click.echo(f"\n{report}")
    sys.exit(bool(report.findings))


main()
