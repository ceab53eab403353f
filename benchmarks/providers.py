"""The session encoder on a GPU beside the CPU: ``python -m benchmarks.providers BUNDLE --data DATA``.

The test sessions of the data set DATA ask. First, whether each provider that starts here gives the answers of the CPU;
then sessions a second of ``recommend_many`` by batch size, in turns. Without a GPU it measures the CPU alone, and says
so.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np

from benchmarks.tables import table
from benchmarks.timing import race
from hiersrec_sdk import HierSRecError, Recommender, Result
from hiersrec_sdk.encoders.runtime import available_providers, check_starts
from hiersrec_training.data.dataset import Dataset
from hiersrec_training.examples import Examples

Session = list[int | str]


class Difference(NamedTuple):
    """``others``: sessions with other items, or in another order; ``score``: the largest difference, relative."""

    others: int
    score: float


def compared(wanted: Sequence[Result], found: Sequence[Result]) -> Difference:
    """How the results of two providers differ."""
    others, score = 0, 0.0
    for want, have in zip(wanted, found, strict=True):
        if want.items != have.items:
            others += 1
        elif len(want.items):
            largest = float(np.abs(want.scores - have.scores).max() / np.abs(want.scores).max())
            score = max(score, largest)
    return Difference(others, score)


def started() -> list[str]:
    """The providers that start here, the CPU first. Of another one that is installed, a line says why it does not."""
    found = []
    for provider in available_providers():
        try:
            check_starts(provider)
            found.append(provider)
        except HierSRecError as error:
            click.echo(f"left out: {error}", err=True)
    return found


@click.command(help=__doc__)
@click.argument("bundle", metavar="BUNDLE", type=click.Path(path_type=Path, exists=True))
@click.option("--data", "path", required=True, type=click.Path(path_type=Path, exists=True), help="Data set.")
@click.option("--sessions", default=8192, show_default=True, help="Sessions a round.")
@click.option(
    "--compared", "count", default=1000, show_default=True, help="Sessions whose answers are compared."
)
@click.option("--batches", default="64,256,1024", show_default=True, help="Batch sizes.")
@click.option("--threads", default="1,2", show_default=True, help="Batches that are worked on at once.")
@click.option(
    "--rounds", default=5, show_default=True, help="Of each provider, batch size and number of threads."
)
def main(
    bundle: Path, path: Path, sessions: int, count: int, batches: str, threads: str, rounds: int
) -> None:
    data, providers = Dataset.load(path), started()
    ids = data.item_ids.to_list()
    examples = Examples.of(data.test).sample(sessions)
    every: list[Session] = [[ids[item] for item in prefix] for prefix, _ in examples]
    loaded = {provider: Recommender.load(bundle, providers=(provider,)) for provider in providers}
    wanted = [loaded["cpu"].recommend(session) for session in every[:count]]
    for provider in providers[1:]:
        found = compared(wanted, [loaded[provider].recommend(session) for session in every[:count]])
        click.echo(
            f"{provider}: {found.others} of {len(wanted):,} sessions have other items than on the CPU, scores differ "
            f"by {found.score:.1e} at most (relative)\n"
        )
    if len(providers) == 1:
        click.echo("no provider but the CPU starts here\n")
    settings = [(int(size), int(number)) for number in threads.split(",") for size in batches.split(",")]

    def answer(provider: str, size: int, number: int, at: int) -> None:
        loaded[provider].recommend_many(every, batch_size=size, threads=number)

    laps = race(
        {
            str((provider, *setting)): partial(answer, provider, *setting)
            for provider in providers
            for setting in settings
        },
        rounds,
    )
    rows = []
    for size, number in settings:
        medians = [laps[str((provider, size, number))].median_us for provider in providers]
        rows.append([f"{number}", f"{size}", *(f"{1e6 * len(every) / median:,.0f}" for median in medians)])
    click.echo(
        f"Sessions a second, {len(loaded['cpu'].catalog):,} items, medians of {rounds} rounds in turns:\n"
    )
    click.echo(table(["threads", "batch", *providers], rows, text=2))


if __name__ == "__main__":
    main()
