"""Ours beside its peers: ``python -m benchmarks.ranking --help``.

One process, one thread. The contestants of a work take turns, each round with another query. Every call starts with
nothing of its table in the processor's caches, as on a server whose table does not fit them, but with its own code
there: 128 MB are read, then a twin of the contestant ranks a table of 256 rows (``--warm`` leaves out the reading).
Medians. Afterwards the ids of every query timed are compared with those of a float32 scan by the C kernel.

    candidates   the rows of the predicted categories, ``--share`` of the table; who can't do that ranks all rows
    exact        all rows
    batch        all rows, for 64 queries at once

The plain read is a sum over the int8 bytes that a work covers (``peers/plain_read.py``): those of the candidates; of
the whole table; for a batch, of the whole table once.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, get_args

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks.one_thread import ensure_one_thread
from benchmarks.peers import OURS, PEERS, READ, SLOW, Answer, Peer, Work, build
from benchmarks.race import flush_caches, race
from benchmarks.rows import Row, as_table, compared, row_of
from benchmarks.truth import FloatScan, check
from benchmarks.vectors import Case, clustered, isotropic, trained
from hiersrec_sdk.errors import HierSRecError

ROUNDS: Final = {"candidates": 200, "exact": 60, "batch": 10}
BATCH: Final = 64
TINY: Final = 256  # rows of a table that warms the code of a call up
TINY_RANGES: Final = np.array([[0, TINY // 2]])
WORKS: Final[tuple[Work, ...]] = get_args(Work)


@dataclass(frozen=True, eq=False)
class Round:
    """What is asked at once: ``queries`` float32 [b, d], and for each the ranges of its candidates."""

    queries: NDArray[np.float32]
    ranges: list[NDArray[np.int64]]


def run(
    case: Case,
    works: Sequence[Work],
    peers: Sequence[Peer],
    twins: Sequence[Peer],
    k: int,
    rounds: int | None = None,
    warm: bool = False,
) -> list[Row]:
    """The rows of every one of ``peers`` at every one of ``works``; ``twins`` are the same peers over a tiny table."""
    found: list[Row] = []
    ours = [peer.name for peer in peers if peer.ours]
    flush = (lambda: None) if warm else flush_caches()
    twin_of = {twin.name: twin for twin in twins}
    scan = FloatScan(case, k)
    for work in works:
        asked = _rounds(case, work, rounds or ROUNDS[work])
        tiny = [Round(own.queries, [TINY_RANGES] * len(own.queries)) for own in asked[:1]]

        def before(name: str, work: Work = work, tiny: Sequence[Round] = tiny) -> None:
            flush()
            _ask(twin_of[name], work, tiny, 0)

        entered = [peer for peer in peers if work in peer.works]
        laps = race(
            {peer.name: partial(_ask, peer, work, asked) for peer in entered}, len(asked), before=before
        )
        exact = [scan(own.queries) for own in asked]
        near = [scan(own.queries, own.ranges) for own in asked] if work == "candidates" else exact
        rows = []
        for peer in entered:
            truth = near if peer.ranks_candidates else exact
            rows.append(row_of(work, peer, *laps[peer.name], truth, exact, len(asked[0].queries)))
        found += compared(rows, ours)
    return found


def _rounds(case: Case, work: Work, rounds: int) -> list[Round]:
    each = BATCH if work == "batch" else 1
    places = np.arange(rounds * each).reshape(rounds, each) % len(case.queries)
    return [Round(case.queries[own], [case.ranges[place] for place in own.tolist()]) for own in places]


def _ask(peer: Peer, work: Work, rounds: Sequence[Round], at: int) -> Answer:
    asked = rounds[at]
    if work == "batch":
        return peer.batch(asked.queries, asked.ranges)
    answer = peer.candidates if work == "candidates" else peer.exact
    return answer(asked.queries[0], asked.ranges[0])


def _case(vectors: str, data: Path | None, rows: int, dim: int, share: float, count: int, seed: int) -> Case:
    if vectors == "clustered":
        return clustered(rows, dim, share, count, seed)
    if vectors == "isotropic":
        return isotropic(rows, dim, share, count, seed)
    bundle = vectors.removeprefix("bundle:")
    if bundle == vectors:
        raise click.BadParameter(
            f"{vectors!r} is none of bundle:PATH, clustered, isotropic", param_hint="--vectors"
        )
    if data is None:
        raise click.UsageError("--vectors bundle:PATH needs --data, the data set whose sessions are to ask")
    try:
        return trained(Path(bundle), data, rows, share, count, seed)
    except (HierSRecError, ValueError) as error:
        raise click.ClickException(str(error)) from error


def _names(context: click.Context, option: click.Parameter, value: str, *, known: Sequence[str]) -> list[str]:
    names = [name for name in value.split(",") if name]
    for name in names:
        if name not in known:
            raise click.BadParameter(f"{name!r} is none of {', '.join(known)}", context, option)
    return names


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option(
    "--rows", type=click.IntRange(1_000), default=1_000_000, show_default=True, help="Rows of the table."
)
@click.option(
    "--dim", type=click.IntRange(1), default=128, show_default=True, help="Dimensions; a bundle has its own."
)
@click.option(
    "--share",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.04,
    show_default=True,
    help="Part of the rows that are candidates.",
)
@click.option(
    "--vectors",
    default="clustered",
    show_default=True,
    help="bundle:PATH (its table, grown, asked by real sessions), clustered (like it, made up), isotropic.",
)
@click.option(
    "--data", type=click.Path(path_type=Path), help="Data set whose test sessions ask, for bundle:PATH."
)
@click.option("--works", default=",".join(WORKS), show_default=True, callback=partial(_names, known=WORKS))
@click.option(
    "--peers",
    default=",".join(name for name in PEERS if name not in SLOW),
    show_default=True,
    callback=partial(_names, known=PEERS),
    help=f"Beside ours and the plain read. {', '.join(SLOW)} takes minutes to build.",
)
@click.option(
    "--cache", type=click.Path(path_type=Path), help="Folder that keeps faiss's indexes, once built."
)
@click.option("--rounds", type=click.IntRange(1), help=f"Rounds of each work.  [default: {ROUNDS}]")
@click.option("--seed", default=0, show_default=True)
@click.option("--k", type=click.IntRange(1, TINY // 2), default=20, show_default=True)
@click.option("--warm", is_flag=True, help="Leave the processor's caches as the call before left them.")
@click.option(
    "--check",
    "checked",
    default=0,
    show_default=True,
    help="Compare our ids of so many queries with those of a float32 scan, after the timing.",
)
@click.option("--json", "as_json", is_flag=True, help="The rows as a list of objects.")
def main(
    rows: int,
    dim: int,
    share: float,
    vectors: str,
    data: Path | None,
    works: list[Work],
    peers: list[str],
    cache: Path | None,
    rounds: int | None,
    seed: int,
    k: int,
    warm: bool,
    checked: int,
    as_json: bool,
) -> None:
    """Ranking on one thread: ours, its peers, and a plain read of the same bytes.

    Needs what scripts/setup installs, and for the peers: pip install -c constraints.txt -e '.[bench]'
    """
    say = partial(click.echo, err=True)
    count = max([checked, *((rounds or ROUNDS[work]) * (BATCH if work == "batch" else 1) for work in works)])
    case = _case(vectors, data, rows, dim, share, count, seed)
    for line in case.notes:
        say(line)
    names = [READ, OURS, *peers]
    entered = build(names, case.vectors, k, cache, say)
    twins = build(names, case.vectors[:TINY], k, None, lambda line: None)
    found = run(case, works, entered, twins, k, rounds, warm)
    about = {"rows": rows, "dim": case.dimension, "share": share, "vectors": case.name, "k": k, "seed": seed}
    del entered  # and what they hold
    if checked:
        checked = min(checked, len(case.queries))
        for work, equal in check(case, k, checked).items():
            say(f"{work}: the ids of {equal:,} of {checked:,} queries are those of a float32 scan")
            about[f"{work}_checked"], about[f"{work}_checked_equal"] = checked, equal
    if as_json:
        click.echo(json.dumps([row.as_dict() | about for row in found], indent=2))
    else:
        click.echo(as_table(found))


if __name__ == "__main__":
    ensure_one_thread()
    main()
