"""Where the time of one call of ``Recommender.recommend`` goes: ``python -m benchmarks.recommend --help``.

One process, one thread. The whole call and its parts, each alone, take turns on the same sessions, of the catalog as it
was exported and of the same one after upserts:

    gather    external ids to rows, and the rows' vectors
    encoder   the bare onnxruntime run of ``model.onnx``: no SDK, all outputs
    kernel    what the call asks of the ranking backend, as it asks it
    rest      the whole call less these

A catalog larger than the bundle's own is its trained table grown (``vectors.py``), in a temporary folder.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import click
import numpy as np
import onnxruntime
from numpy.typing import NDArray

from benchmarks.bundles import examples, grown_bundle, items_to_upsert, random_sessions
from benchmarks.tables import table
from benchmarks.timing import ensure_one_thread, race
from hiersrec_sdk import Recommender, Result
from hiersrec_sdk.bundle.folder import MODEL
from hiersrec_sdk.errors import InvalidOptionError
from hiersrec_sdk.ranking import Backend, Found, Request, Table

HOW: Final = ("0.04", "0.01", "auto", "exact")

Search = tuple[Table, Sequence[Request], int]
"""What a backend's ``search`` takes."""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Medians in microseconds of one kind of call.

    ``changed``: items upserted before; ``candidates``: "0.04" and the like, "auto", or "exact"; means of what was read.
    """

    rows: int
    changed: int
    clicks: int
    candidates: str
    whole_us: float
    gather_us: float
    encoder_us: float
    kernel_us: float
    rest_us: float
    rows_scored: float
    bytes_read: float
    calls: int


def bare_encoder(model: Path) -> Callable[[NDArray[np.float32]], object]:
    """The session encoder of a bundle in onnxruntime, for vectors float32 [1, length, d]; all outputs."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(model), options, ["CPUExecutionProvider"])
    outputs = [output.name for output in session.get_outputs()]
    return lambda vectors: session.run(
        outputs, {"session_vectors": vectors, "session_lengths": np.array([vectors.shape[1]])}
    )


class _Recording:
    """A backend that notes what its ``search`` is asked."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.asked: list[Search] = []

    def search(self, table: Table, requests: Sequence[Request], k: int) -> list[Found]:
        self.asked.append(
            (table, deepcopy(requests), k)
        )  # the encoder writes the next session's outputs over these
        return self.backend.search(table, requests, k)


def recorded(
    recommender: Recommender, call: Callable[[int], Result], count: int
) -> tuple[list[Result], Callable[[int], object]]:
    """The results of ``call(0)``, ``call(1)``, …; and a function that asks the backend what one of them asked.

    The one place that knows where a recommender holds its backend.
    """
    searcher = recommender._searcher
    backend = searcher._backend
    results, asked = [], []
    try:
        for at in range(count):
            recording: Any = _Recording(backend)
            searcher._backend = recording
            results.append(call(at))
            asked.append(recording.asked)
    finally:
        searcher._backend = backend
    return results, lambda at: [backend.search(*search) for search in asked[at]]


def measure(
    catalogs: Mapping[int, Recommender],
    encoder: Callable[[NDArray[np.float32]], object],
    sessions: Sequence[Sequence[Any]],
    how: str,
    k: int,
) -> list[Parts]:
    """Time a call for each of ``sessions``, of ids, all of one length, with each of ``catalogs`` by its upserts.

    Raises:
        HierSRecError: the recommender cannot rank so.
    """
    count = len(sessions)
    options: dict[str, Any] = {"mode": "exact"} if how == "exact" else {"candidates": _share(how)}
    parts: dict[tuple[str, int], Callable[[int], object]] = {}
    results = {}
    for changed, recommender in catalogs.items():
        catalog = recommender.catalog

        def whole(at: int, recommender: Recommender = recommender) -> Result:
            return recommender.recommend(sessions[at], k, **options)

        def gather(at: int, catalog: Any = catalog) -> object:
            return catalog.vectors(catalog.rows(sessions[at]))

        results[changed], kernel = recorded(recommender, whole, count)
        parts |= {("whole", changed): whole, ("gather", changed): gather, ("kernel", changed): kernel}
    vectors = [catalogs[0].catalog.vectors(catalogs[0].catalog.rows(session))[None] for session in sessions]
    parts["encoder", 0] = lambda at: encoder(vectors[at])
    # In a round each asks for another session: the one before has just read what its own one needs.
    turns = {
        f"{part} {changed}": partial(_shifted, ask, place * count // len(parts), count)
        for place, ((part, changed), ask) in enumerate(parts.items())
    }
    laps = race(turns, count)
    found = []
    for changed, recommender in catalogs.items():
        took = {part: laps[f"{part} {changed}"].median_us for part in ("whole", "gather", "kernel")}
        took["encoder"] = laps["encoder 0"].median_us
        found.append(
            Parts(
                rows=len(recommender.catalog),
                changed=changed,
                clicks=len(sessions[0]),
                candidates=how,
                **{f"{part}_us": median for part, median in took.items()},
                rest_us=2 * took["whole"] - sum(took.values()),
                rows_scored=float(np.mean([result.rows_scored for result in results[changed]])),
                bytes_read=float(np.mean([result.bytes_read for result in results[changed]])),
                calls=count,
            )
        )
    return found


def _shifted(ask: Callable[[int], object], shift: int, count: int, at: int) -> object:
    return ask((at + shift) % count)


def as_text(parts: Sequence[Parts]) -> str:
    """The parts for a person, in microseconds."""
    head = [
        "items, upserts, candidates",
        "clicks",
        "whole",
        "gather",
        "encoder",
        "kernel",
        "rest",
        "by encoder",
    ]
    body = [
        [
            f"{each.rows:,}, {each.changed:,}, {each.candidates}",
            f"{each.clicks}",
            *(f"{getattr(each, f'{part}_us'):,.1f}" for part in head[2:7]),
            f"{each.whole_us / each.encoder_us:.2f}x",
            f"{each.rows_scored:,.0f}",
            f"{each.bytes_read:,.0f}",
        ]
        for each in parts
    ]
    return table([*head, "rows scored", "bytes read"], body)


def _share(how: str) -> float | str:
    return how if how == "auto" else float(how)


def of_catalogs(
    catalogs: Mapping[int, Recommender],
    encoder: Callable[[NDArray[np.float32]], object],
    sessions: Sequence[Sequence[Any]],
    k: int,
) -> Iterator[Parts]:
    """Every kind of call; a fifth of the ``sessions`` where all is ranked."""
    for how in HOW:
        some = sessions[: max(1, len(sessions) // 5)] if how == "exact" else sessions
        try:
            yield from measure(catalogs, encoder, some, how, k)
        except InvalidOptionError as error:
            click.echo(f"candidates {how} are left out: {error}", err=True)


def _numbers(context: click.Context, option: click.Parameter, value: str) -> list[int]:
    try:
        return [int(number) for number in value.split(",")]
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a list of integers", context, option) from None


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Data set whose test sessions ask; else sessions are drawn from one category each.",
)
@click.option(
    "--rows",
    default="43097,1000000",
    show_default=True,
    callback=_numbers,
    help="Sizes of the catalog. 10,000,000 rows of 128 dimensions take 12 GB of memory and 7 GB of disk.",
)
@click.option(
    "--changed",
    default="1,1000",
    show_default=True,
    callback=_numbers,
    help="Upserts before the calls, beside none; every second one is of an item of the bundle.",
)
@click.option(
    "--lengths", default="1,5,20", show_default=True, callback=_numbers, help="Clicks of a session."
)
@click.option("--calls", default=300, show_default=True, help="Of each kind; a fifth where all is ranked.")
@click.option("--k", default=20, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--json", "file", type=click.Path(path_type=Path), help="Write the figures there too.")
def main(
    bundle: Path,
    data: Path | None,
    rows: list[int],
    changed: list[int],
    lengths: list[int],
    calls: int,
    k: int,
    seed: int,
    file: Path | None,
) -> None:
    """Where the time of one recommend() of BUNDLE goes, on one thread.

    Needs what scripts/setup installs.
    """
    found: list[Parts] = []
    small = Recommender.load(bundle, verify=False)
    drawn = [
        examples(small, data, calls, seed, length) if data else random_sessions(small, length, calls, seed)
        for length in lengths
    ]
    for size in rows:
        with grown_bundle(bundle, size, seed) as path:
            catalogs = {}
            for count in sorted({0, *changed}):
                started = perf_counter()
                recommender = catalogs[count] = Recommender.load(path, verify=False)
                took = 1e3 * (perf_counter() - started)
                click.echo(f"{size:,} items: loaded in {took:,.0f} ms, {count:,} upserts", err=True)
                recommender.catalog.upsert(items_to_upsert(recommender, count, seed, known=True))
            encoder = bare_encoder(path / MODEL)
            for sessions in drawn:
                ids = [list(small.catalog.ids(session)) for session in sessions]
                found += of_catalogs(catalogs, encoder, ids, k) if ids else ()
    click.echo(as_text(found))
    if file is not None:
        file.write_text(json.dumps([asdict(parts) for parts in found], indent=2) + "\n")


if __name__ == "__main__":
    ensure_one_thread()
    main()
