"""Where the time of one call of ``Recommender.recommend`` goes: ``python -m benchmarks.recommend --help``.

One process, one thread. The whole call and its parts, each alone, take turns on the same sessions:

    gather    own ids to rows, and the rows' vectors
    encoder   the bare onnxruntime run of ``model.onnx``: no SDK, all outputs
    kernel    what the call asks of the kernel, as it asks it
    rest      the whole call less these
    hot       the bare onnxruntime run in a loop of its own: in a call, as in turns with it, the rows that were scored
              before have driven some of its weights out of the processor's caches

A catalogue larger than the bundle's own is its trained table grown (``vectors/grow.py``), in a temporary folder.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import click
import numpy as np
import onnxruntime
from numpy.typing import NDArray

from benchmarks.one_thread import ensure_one_thread
from benchmarks.race import race
from benchmarks.vectors.grown_bundle import write_grown_bundle
from benchmarks.vectors.sessions import cases
from hiersrec_sdk import Recommender, Result
from hiersrec_sdk.bundle.folder import open_bundle
from hiersrec_sdk.bundle.schema import MODEL
from hiersrec_sdk.errors import HierSRecError, InvalidOptionError
from hiersrec_sdk.ranking import Found, Request, Table

LENGTHS: Final = (1, 5, 20)
HOW: Final = ("0.04", "0.01", "auto", "exact")


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Medians in microseconds of one kind of call.

    Attributes:
        rows: of the catalogue.
        length: clicks of each session.
        candidates: "0.04" and the like, "auto", or "exact".
        whole_us, gather_us, encoder_us, kernel_us, rest_us: the whole call and its parts.
        ratio: of the whole call to the bare encoder run.
        hot_us: the bare encoder run in a loop of its own, where nothing drives its weights out of the caches.
        rows_scored: mean of the calls.
        bytes_read: likewise.
        calls: how many were timed.
    """

    rows: int
    length: int
    candidates: str
    whole_us: float
    gather_us: float
    encoder_us: float
    kernel_us: float
    rest_us: float
    ratio: float
    hot_us: float
    rows_scored: float
    bytes_read: float
    calls: int


class BareEncoder:
    """The session encoder of a bundle in onnxruntime, without the SDK around it."""

    def __init__(self, model: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session: Any = onnxruntime.InferenceSession(str(model), options, ["CPUExecutionProvider"])
        self._outputs = [output.name for output in self._session.get_outputs()]

    def __call__(self, vectors: NDArray[np.float32], lengths: NDArray[np.int64]) -> object:
        """All outputs for sessions ``vectors`` float32 [batch, length, d] of ``lengths`` int64 [batch]."""
        return self._session.run(self._outputs, {"session_vectors": vectors, "session_lengths": lengths})


def measure(
    recommender: Recommender, encoder: BareEncoder, sessions: Sequence[NDArray[np.int64]], how: str, k: int
) -> Parts:
    """Time a call for each of ``sessions``, given by their rows, which are all of one length.

    Raises:
        HierSRecError: the recommender cannot rank so.
    """
    catalog, count = recommender.catalog, len(sessions)
    asked = [list(catalog.ids(rows)) for rows in sessions]
    options: dict[str, Any] = {"mode": "exact"} if how == "exact" else {"candidates": _share(how)}

    def whole(at: int) -> Result:
        return recommender.recommend(asked[at], k, **options)

    results, requests = _recorded(recommender, [partial(whole, at) for at in range(count)])
    vectors = [catalog.input_vectors[rows][None] for rows in sessions]
    lengths = np.array([len(sessions[0])])
    # The parts that read the catalogue are of another session: the whole call has just read what its own one needs.
    after = [(at + count // 2) % count for at in range(count)]
    parts: dict[str, Callable[[int], object]] = {
        "whole": whole,
        "gather": lambda at: catalog.input_vectors[catalog.rows(asked[after[at]])],
        "encoder": lambda at: encoder(vectors[at], lengths),
        "kernel": lambda at: recommender._search(recommender.catalog.current.table, requests[after[at]], k),
    }
    hot = race({"encoder": parts["encoder"]}, count)["encoder"]
    laps = race(parts, count)
    took = {name: float(np.median(own.nanoseconds)) / 1_000 for name, own in laps.items()}
    return Parts(
        rows=len(catalog),
        length=len(sessions[0]),
        candidates=how,
        whole_us=took["whole"],
        gather_us=took["gather"],
        encoder_us=took["encoder"],
        kernel_us=took["kernel"],
        rest_us=2 * took["whole"] - sum(took.values()),
        ratio=took["whole"] / took["encoder"],
        hot_us=float(np.median(hot.nanoseconds)) / 1_000,
        rows_scored=float(np.mean([result.rows_scored for result in results])),
        bytes_read=float(np.mean([result.bytes_read for result in results])),
        calls=count,
    )


def _recorded(
    recommender: Recommender, calls: Sequence[Callable[[], Result]]
) -> tuple[list[Result], list[Sequence[Request]]]:
    """The results of ``calls``, and what each of them asked of the kernel."""
    search = recommender._search
    asked: list[Sequence[Request]] = []

    def recording(table: Table, requests: Sequence[Request], k: int) -> list[Found]:
        asked.append(deepcopy(requests))  # the encoder writes the next session's outputs over these
        return search(table, requests, k)

    recommender._search = recording
    try:
        return [call() for call in calls], asked
    finally:
        recommender._search = search


def as_table(parts: Sequence[Parts]) -> str:
    """The parts for a person."""
    head = f"{'rows':>10}  {'clicks':>6}  {'candidates':<10}" + "".join(
        f"  {name:>9}" for name in ("whole", "gather", "encoder", "kernel", "rest", "ratio", "hot")
    )
    lines = [f"{head}  {'rows scored':>11}  {'bytes read':>13}   (microseconds)"]
    for own in parts:
        times = (own.whole_us, own.gather_us, own.encoder_us, own.kernel_us, own.rest_us)
        lines.append(
            f"{own.rows:10,}  {own.length:6}  {own.candidates:<10}"
            + "".join(f"  {time:9,.1f}" for time in times)
            + f"  {own.ratio:8.2f}x  {own.hot_us:9,.1f}  {own.rows_scored:11,.0f}  {own.bytes_read:13,.0f}"
        )
    return "\n".join(lines)


def random_sessions(recommender: Recommender, length: int, count: int, seed: int) -> list[NDArray[np.int64]]:
    """``count`` sessions of ``length`` rows of one leaf category each, which is drawn by the rows that it holds."""
    random = np.random.default_rng(seed)
    leaves = np.asarray(recommender.catalog.ranges[-1])
    found = []
    for row in random.integers(0, len(recommender.catalog), count).tolist():
        start, stop = leaves[int(leaves[:, 1].searchsorted(row, side="right"))].tolist()
        found.append(random.integers(start, stop, length))
    return found


def _share(how: str) -> float | str:
    return how if how == "auto" else float(how)


def _numbers(context: click.Context, option: click.Parameter, value: str) -> list[int]:
    try:
        return [int(number) for number in value.split(",")]
    except ValueError:
        raise click.BadParameter(f"{value!r} is no list of whole numbers", context, option) from None


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Data set whose test sessions are asked; else sessions are drawn from one category each.",
)
@click.option(
    "--rows",
    default="43097,1000000,10000000",
    show_default=True,
    callback=_numbers,
    help="Sizes of the catalogue. 10,000,000 rows of 128 dimensions take 12 GB of memory and 7 GB of disk.",
)
@click.option(
    "--lengths",
    default=",".join(map(str, LENGTHS)),
    show_default=True,
    callback=_numbers,
    help="Clicks of a session.",
)
@click.option(
    "--calls", default=300, show_default=True, help="Calls of each kind; a fifth where all is ranked."
)
@click.option("--k", default=20, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="The rows as a list of objects.")
def main(
    bundle: Path,
    data: Path | None,
    rows: list[int],
    lengths: list[int],
    calls: int,
    k: int,
    seed: int,
    as_json: bool,
) -> None:
    """Where the time of one recommend() of BUNDLE goes, on one thread.

    Needs what scripts/setup installs.
    """
    say = partial(click.echo, err=True)
    found = []
    try:
        own = open_bundle(bundle)
        recommender = Recommender.load(bundle, verify=False)
        for size in rows:
            if size < len(recommender.catalog):
                say(f"{size:,} rows are left out: the bundle has {len(recommender.catalog):,}")
                continue
            with tempfile.TemporaryDirectory() as folder:
                path = bundle
                if size > len(recommender.catalog):
                    path = Path(folder) / "bundle"
                    say(f"growing the bundle to {size:,} rows…")
                    write_grown_bundle(path, own, size, seed)
                for parts in _of_bundle(path, recommender, data, lengths, calls, k, seed, say):
                    found.append(parts)
    except HierSRecError as error:
        raise click.ClickException(str(error)) from error
    click.echo(json.dumps([asdict(parts) for parts in found], indent=2) if as_json else as_table(found))


def _of_bundle(
    path: Path,
    small: Recommender,
    data: Path | None,
    lengths: Sequence[int],
    calls: int,
    k: int,
    seed: int,
    say: Callable[[str], object],
) -> list[Parts]:
    """All kinds of calls of the bundle ``path``; sessions are drawn from the catalogue of ``small``."""
    recommender, encoder = Recommender.load(path, verify=False), BareEncoder(path / MODEL)
    found = []
    for length in lengths:
        drawn = (
            random_sessions(small, length, calls, seed)
            if data is None
            else cases(small, data, calls, seed, length)
        )
        # the same items, wherever they lie in the larger catalogue
        sessions = [recommender.catalog.rows(small.catalog.ids(rows)) for rows in drawn]
        for how in HOW:
            if not sessions:
                say(f"{length} clicks are left out: no test session has as many")
                break
            try:
                found.append(
                    measure(
                        recommender, encoder, sessions[: calls // 5] if how == "exact" else sessions, how, k
                    )
                )
            except InvalidOptionError as error:
                say(f"candidates {how} are left out: {error}")
    return found


if __name__ == "__main__":
    ensure_one_thread()
    main()
