"""Ranking alone, ours beside its peers: ``python -m benchmarks.ranking --help``.

One thread. The contestants of a work take turns, each round with another query. Every call starts with nothing of its
table in the processor's caches, as on a server whose table does not fit them, but with its own code there: 128 MB are
read, then a twin of the contestant ranks a table of 256 rows (``--warm`` leaves out the reading). Medians. Afterwards
the ids of every query timed are compared with those of a float32 scan by the C kernel.

    candidates   the rows of the predicted categories, ``--share`` of the table; who can't do that ranks all rows
    exact        all rows
    batch        all rows, for 64 queries at once

The plain read is a sum over the int8 codes that a work covers: those of the candidates; of the whole table; for a
batch, of the whole table once. Above a GiB of vectors every peer races alone with ours and the read, in a process of
its own that gives its memory back.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from multiprocessing import Pipe, get_context
from pathlib import Path
from typing import Any, Final, get_args

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks.bundles import trained
from benchmarks.peers import OURS, PEERS, READ, SLOW, Answer, Peer, Setup, Work, build
from benchmarks.tables import table
from benchmarks.timing import ensure_one_thread, flush_caches, race
from benchmarks.vectors import Case, isotropic
from hiersrec_sdk.errors import HierSRecError
from hiersrec_sdk.ranking import Request, Table, get_backend

ROUNDS: Final = {"candidates": 200, "exact": 60, "batch": 10}
BATCH: Final = 64
TOGETHER: Final = 1 << 30  # bytes of vectors, of which all peers can hold their copies at the same time
TINY: Final = 256  # rows of a table that warms the code of a call up
WORKS: Final[tuple[Work, ...]] = get_args(Work)
Ids = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One peer at one work.

    Attributes:
        work, by: what, and who.
        median_us: microseconds a query; ``spread``: from the 10th to the 90th percentile, as a part of it.
        bytes_read: mean a query; of peers at least.
        by_read, by_ours: the median by that of the plain read, and by that of our kernel; None without them.
        recall: of the ids of a float32 scan of the rows that it ranks, mean; ``recall_exact``: of a scan of all rows.
        ranks: "candidates" or "all": which rows it ranks in this work.
        ids_equal: whether the ids are those of the float32 scan, in its order, for every query timed.
        bias: "added" or "a dimension": how it adds the item bias; None where there is none.
        queries: how many were timed.
    """

    work: Work
    by: str
    median_us: float
    spread: float
    bytes_read: float
    by_read: float | None = None
    by_ours: float | None = None
    recall: float | None = None
    recall_exact: float | None = None
    ranks: str = "all"
    ids_equal: bool | None = None
    bias: str | None = None
    queries: int = 0


class FloatScan:
    """The ids that are right: those of the C kernel without codes, which scores every row that is asked for."""

    def __init__(self, case: Case, k: int) -> None:
        self._table, self._k = Table(case.vectors, case.bias), k
        self._whole = np.array([[0, len(case.vectors)]])

    def __call__(self, queries: NDArray[np.float32], ranges: Sequence[Ids] | None = None) -> Ids:
        """int64 [b, k]: for each of ``queries`` float32 [b, d] the best rows of its ranges, by default of all."""
        chosen = [self._whole] * len(queries) if ranges is None else ranges
        requests = [Request(query, some) for query, some in zip(queries, chosen, strict=True)]
        return np.stack([found.rows for found in get_backend("c").search(self._table, requests, self._k)])


@dataclass(frozen=True, eq=False)
class Asked:
    """The rounds of a work: queries float32 [b, d] each with their candidate ranges; and the ids that are right."""

    work: Work
    queries: Sequence[NDArray[np.float32]]
    ranges: Sequence[Sequence[Ids]]
    near: Sequence[Ids]
    exact: Sequence[Ids]

    @classmethod
    def of(cls, case: Case, work: Work, rounds: int, scan: FloatScan) -> Asked:
        size = BATCH if work == "batch" else 1
        places = np.arange(rounds * size).reshape(rounds, size) % len(case.queries)
        queries = [case.queries[some] for some in places]
        ranges = [[case.ranges[place] for place in some.tolist()] for some in places]
        exact = [scan(some) for some in queries]
        near = [*map(scan, queries, ranges)] if work == "candidates" else exact
        return cls(work, queries, ranges, near, exact)

    def put_to(self, peer: Peer, biased: bool) -> Callable[[int], Answer]:
        """Asks ``peer`` for a round; ``biased``: the table has an item bias."""
        queries = [_widened(some, peer.width, biased) for some in self.queries]
        ranges, candidates = self.ranges, peer.candidates
        if self.work == "candidates" and candidates is not None:
            return lambda at: candidates(queries[at], ranges[at][0])
        return lambda at: peer.exact(queries[at], ranges[at])


def _widened(queries: NDArray[np.float32], width: int | None, biased: bool) -> NDArray[np.float32]:
    """``queries`` float32 [b, d] for a table whose first dimension is the bias, with zeros up to ``width``."""
    if width is None:
        return queries
    wide = np.zeros((len(queries), width), np.float32)
    wide[:, :1] = biased
    wide[:, int(biased) : int(biased) + queries.shape[1]] = queries
    return wide


def run(
    case: Case, asked: Sequence[Asked], peers: Sequence[Peer], twins: Sequence[Peer], warm: bool
) -> list[Row]:
    """A row for every one of ``peers`` at every work; ``twins`` are the same peers over a tiny table."""
    found: list[Row] = []
    flush = (lambda: None) if warm else flush_caches()
    biased = case.bias is not None
    for each in asked:
        tiny = replace(each, ranges=[[np.array([[0, TINY // 2]])] * len(some) for some in each.queries])
        wake = {twin.name: tiny.put_to(twin, biased) for twin in twins}

        def before(name: str, wake: dict[str, Callable[[int], Answer]] = wake) -> None:
            flush()
            wake[name](0)

        entered = [peer for peer in peers if each.work in peer.works]
        laps = race(
            {peer.name: each.put_to(peer, biased) for peer in entered}, len(each.queries), before=before
        )
        found += compared([row_of(each, peer, *laps[peer.name], biased=biased) for peer in entered])
    return found


def row_of(
    asked: Asked, peer: Peer, nanoseconds: Sequence[int], answers: Sequence[Answer], *, biased: bool = False
) -> Row:
    """The row of ``peer``, but for what compares it with others: times and answers by round."""
    size = len(asked.queries[0])
    times = np.array(nanoseconds) / 1_000 / size
    low, median, high = np.percentile(times, [10, 50, 90])
    near = asked.work == "candidates" and peer.candidates is not None
    row = Row(
        work=asked.work,
        by=peer.name,
        median_us=float(median),
        spread=float((high - low) / median),
        bytes_read=float(np.mean([answer.bytes_read for answer in answers])) / size,
        ranks="candidates" if near else "all",
        bias=("added" if peer.width is None else "a dimension") if biased and peer.name != READ else None,
        queries=len(answers) * size,
    )
    if peer.name == READ:
        return row
    truth = asked.near if near else asked.exact
    rows = [answer.rows for answer in answers]
    return replace(
        row,
        recall=recall(rows, truth),
        recall_exact=recall(rows, asked.exact),
        ids_equal=all(map(np.array_equal, rows, truth)),
    )


def recall(found: Sequence[Ids], truth: Sequence[Ids]) -> float:
    """Mean share of the ids of each query of ``truth`` that ``found`` has; both hold arrays [b, k]."""
    pairs = zip(np.concatenate(found).tolist(), np.concatenate(truth).tolist(), strict=True)
    return float(np.mean([len({*some} & {*right}) / len(right) for some, right in pairs]))


def compared(rows: Sequence[Row]) -> list[Row]:
    """The ``rows`` of one work, fastest first, with their ratios."""
    median = {row.by: row.median_us for row in rows}
    read, ours = median.get(READ), median.get(OURS)
    return [
        replace(row, by_read=read and row.median_us / read, by_ours=ours and row.median_us / ours)
        for row in sorted(rows, key=lambda row: row.median_us)
    ]


def merged(runs: Sequence[Sequence[Row]]) -> list[Row]:
    """The rows of several races; of ours and the plain read, which are in every one, those of the first."""
    found = {(row.work, row.by): row for rows in reversed(runs) for row in rows}
    return sorted(found.values(), key=lambda row: (WORKS.index(row.work), row.median_us))


def in_a_process(call: Callable[[], list[Row]]) -> list[Row]:
    """What ``call`` returns, in a copy of this process, so that all its memory is given back; empty where it dies."""
    receiver, sender = Pipe(duplex=False)
    process = get_context("fork").Process(target=lambda: sender.send(call()))
    process.start()
    sender.close()
    try:
        found: list[Row] = receiver.recv()
    except EOFError:
        click.echo("the process ended: most likely it ran out of memory", err=True)
        found = []
    process.join()
    return found


def as_text(rows: Sequence[Row]) -> str:
    """Tables for a person, one for each work. ``=`` behind a recall: the ids of a float32 scan, in its order."""
    parts = []
    for work in WORKS:
        body = [
            [
                row.by + ", all rows" * (work == "candidates" and row.ranks == "all"),
                f"{row.median_us:,.1f} µs" if row.median_us < 10_000 else f"{row.median_us / 1_000:,.1f} ms",
                f"{100 * row.spread:.0f} %",
                f"{row.bytes_read / 1e6:,.2f} MB",
                "" if row.by_read is None else f"{row.by_read:.2f}",
                "" if row.by_ours is None else f"{row.by_ours:.1f}x",
                "" if row.recall is None else f"{100 * row.recall:.2f} %{'=' if row.ids_equal else ''}",
            ]
            for row in rows
            if row.work == work
        ]
        if body:
            head = [work, "median a query", "10-90 %", "bytes read", "by read", "by ours", "recall"]
            parts.append(table(head, body))
    parts.append(
        "Bytes read: ours and faiss's Panorama, IVF and HNSW count them; of the others, what a scan goes through "
        "at least, once for a batch: the float32 table, the codes, or the candidates' part of it."
    )
    by_bias = {how: sorted({row.by for row in rows if row.bias == how}) for how in ("added", "a dimension")}
    if by_bias["a dimension"]:
        parts.append(
            f"Item bias: added by {', '.join(by_bias['added'])}; one more dimension of the table, and of the bytes "
            f"read, for {', '.join(by_bias['a dimension'])}."
        )
    return "\n\n".join(parts)


def _case(vectors: str, data: Path | None, rows: int, dim: int, share: float, count: int, seed: int) -> Case:
    if vectors in ("falling", "isotropic"):
        return isotropic(rows, dim, share, count, seed, falling=vectors == "falling")
    bundle = vectors.removeprefix("bundle:")
    if bundle == vectors:
        raise click.BadParameter(
            f"{vectors!r} is none of bundle:PATH, falling, isotropic", param_hint="--vectors"
        )
    if data is None:
        raise click.UsageError("--vectors bundle:PATH needs --data, the data set whose sessions are to ask")
    try:
        return trained(Path(bundle), data, rows, share, count, seed)
    except HierSRecError as error:
        raise click.ClickException(str(error)) from error


def _names(context: click.Context, option: click.Parameter, value: str, *, known: Sequence[str]) -> list[str]:
    names = [name for name in value.split(",") if name]
    for name in names:
        if name not in known:
            raise click.BadParameter(f"{name!r} is none of {', '.join(known)}", context, option)
    return names


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option(
    "--rows", type=click.IntRange(1_000), default=1_000_000, show_default=True, help="Of the table."
)
@click.option("--dim", default=128, show_default=True, help="Dimensions; a bundle has its own.")
@click.option("--share", default=0.04, show_default=True, help="Part of the rows that are candidates.")
@click.option(
    "--vectors",
    default="falling",
    show_default=True,
    help="bundle:PATH (its table, grown, asked by real sessions); falling or isotropic (random).",
)
@click.option("--data", type=click.Path(path_type=Path), help="Data set whose test sessions ask a bundle.")
@click.option("--works", default=",".join(WORKS), show_default=True, callback=partial(_names, known=WORKS))
@click.option(
    "--peers",
    default=",".join(name for name in PEERS if name not in SLOW),
    show_default=True,
    callback=partial(_names, known=PEERS),
    help=f"Beside ours and the plain read. {', '.join(SLOW)} takes minutes to build.",
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
@click.option("--json", "file", type=click.Path(path_type=Path), help="Write the rows there too.")
def main(
    rows: int,
    dim: int,
    share: float,
    vectors: str,
    data: Path | None,
    works: list[Work],
    peers: list[str],
    rounds: int | None,
    seed: int,
    k: int,
    warm: bool,
    checked: int,
    file: Path | None,
) -> None:
    """Ranking on one thread: ours, its peers, and a plain read of the same bytes.

    Needs what scripts/setup installs, and for the peers: pip install -c constraints.txt -e '.[bench]'
    """
    say = partial(click.echo, err=True)
    timed = {work: rounds or ROUNDS[work] for work in works}
    count = max([checked, *(many * (BATCH if work == "batch" else 1) for work, many in timed.items())])
    case = _case(vectors, data, rows, dim, share, count, seed)
    scan = FloatScan(case, k)
    asked = [Asked.of(case, work, many, scan) for work, many in timed.items()]
    whole = Setup(case.vectors, case.bias, k, say)
    tiny = Setup(case.vectors[:TINY], None if case.bias is None else case.bias[:TINY], k)

    def entered(names: Sequence[str], setup: Setup) -> list[Peer]:
        return [peer for name in names for peer in build(name, setup)]

    ours, twins = entered([READ, OURS], whole), entered([READ, OURS], tiny)

    def beside(names: Sequence[str], ours: Sequence[Peer]) -> list[Row]:
        return run(case, asked, [*ours, *entered(names, whole)], twins + entered(names, tiny), warm)

    if case.vectors.nbytes > TOGETHER:
        least = [peer for peer in ours if peer.name in (READ, OURS)]
        races = [([name], least if place else ours) for place, name in enumerate(peers)]
        found = merged([in_a_process(partial(beside, *each)) for each in races or [([], ours)]])
    else:
        found = beside(peers, ours)
    about: dict[str, Any] = {"rows": rows, "dim": case.vectors.shape[1], "share": share, "vectors": case.name}
    say(f"{case.name}, {rows:,} rows, d = {about['dim']}, k = {k}")
    for work in ("candidates", "exact") if checked else ():
        many = Asked.of(case, work, min(checked, len(case.queries)), scan)
        answer = many.put_to(next(peer for peer in ours if peer.name == OURS), case.bias is not None)
        equal = sum(np.array_equal(answer(at).rows, right) for at, right in enumerate(many.near))
        click.echo(f"{work}: the ids of {equal:,} of {len(many.near):,} queries are those of a float32 scan")
        about[f"{work}_checked"], about[f"{work}_checked_equal"] = len(many.near), equal
    click.echo(as_text(found))
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps([asdict(row) | about for row in found], indent=2) + "\n")


if __name__ == "__main__":
    ensure_one_thread()
    main()
