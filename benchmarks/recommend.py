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
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks.bundles import examples, grown_bundle, items_to_upsert, random_sessions
from benchmarks.tables import table
from benchmarks.timing import ensure_one_thread, race
from hiersrec_sdk import Recommender, Result
from hiersrec_sdk.bundle.schema import MODEL
from hiersrec_sdk.encoders.runtime import import_onnxruntime
from hiersrec_sdk.errors import InvalidOptionError
from hiersrec_sdk.ranking import Backend, Found, Request, Table
from hiersrec_sdk.ranking.backend import RankedSession, RankSession, Scope

HOW: Final[dict[str, dict[str, Any]]] = {
    "4 %": {"candidates": 0.04},
    "1 %": {"candidates": 0.01},
    "auto": {"candidates": "auto"},
    "exact": {"mode": "exact"},
}
PARTS: Final = ("whole", "gather", "encoder", "kernel", "rest")
Ask = Callable[[int], Any]
Encoder = Callable[[NDArray[np.float32]], object]


def bare_encoder(model: Path) -> Encoder:
    """The session encoder of a bundle in onnxruntime, for vectors float32 [1, length, d]; all outputs."""
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(model), options, ["CPUExecutionProvider"])
    outputs = [output.name for output in session.get_outputs()]
    return lambda vectors: session.run(
        outputs, {"session_vectors": vectors, "session_lengths": np.array([vectors.shape[1]])}
    )


class _Recording:
    """A backend, and what it is asked while calls are answered."""

    def __init__(self, backend: Backend) -> None:
        self.real = backend
        self.asked: list[Callable[[], object]] = []

    def backend(self) -> Backend:
        return replace(self.real, search=self._search, rank_sessions=self._rank_sessions)

    def _search(self, table: Table, requests: Sequence[Request], k: int) -> list[Found]:
        # the encoder writes the next session's outputs over these
        self.asked.append(partial(self.real.search, table, deepcopy(requests), k))
        return self.real.search(table, requests, k)

    def _rank_sessions(self, scope: Scope) -> RankSession | None:
        rank = self.real.rank_sessions(scope)

        def ranked(*asked: Any) -> RankedSession:
            assert rank is not None
            self.asked.append(partial(rank, *deepcopy(asked)))
            return rank(*asked)

        return None if rank is None else ranked


def recorded(recommender: Recommender, call: Ask, count: int) -> tuple[list[Result], Ask]:
    """The results of ``call(0)``, ``call(1)``, …; and a function that asks the backend what one of them asked.

    The one place that knows where a recommender holds its backend.
    """
    searcher: Any = recommender._searcher
    planner: Any = recommender._planner
    recording = _Recording(searcher._backend)
    results, asked = [], []
    try:
        planner._backend = searcher._backend = recording.backend()
        planner.forget()  # plans hold what was prepared for them
        for at in range(count):
            recording.asked = []
            results.append(call(at))
            asked.append(recording.asked)
    finally:
        planner._backend = searcher._backend = recording.real
        planner.forget()
    return results, lambda at: [ask() for ask in asked[at]]


def measure(
    catalogs: Mapping[int, Recommender],
    encoder: Encoder,
    sessions: Sequence[Sequence[Any]],
    how: str,
    k: int,
) -> list[dict[str, Any]]:
    """Medians in microseconds of calls for ``sessions`` of ids, all of one length; ``catalogs`` are by their upserts.

    Raises:
        InvalidOptionError: the bundle cannot rank so.
    """
    count = len(sessions)
    parts: dict[str, Ask] = {}
    results = {}
    for upserts, recommender in catalogs.items():
        call = partial(_recommend, recommender, sessions, k, **HOW[how])
        results[upserts], kernel = recorded(recommender, call, count)
        parts[f"whole {upserts}"], parts[f"kernel {upserts}"] = call, kernel
        parts[f"gather {upserts}"] = partial(_gather, recommender, sessions)
    vectors = [catalogs[0].catalog.vectors(catalogs[0].catalog.rows(session))[None] for session in sessions]
    parts["encoder"] = lambda at: encoder(vectors[at])
    # In a round each asks for another session: the one before has just read what its own one needs.
    turns = {
        name: partial(_shifted, ask, place * count // len(parts), count)
        for place, (name, ask) in enumerate(parts.items())
    }
    laps = race(turns, count)
    found = []
    for upserts, recommender in catalogs.items():
        took = {part: laps[f"{part} {upserts}"].median_us for part in ("whole", "gather", "kernel")}
        took["encoder"] = laps["encoder"].median_us
        took["rest"] = 2 * took["whole"] - sum(took.values())
        found.append(
            {"items": len(recommender.catalog), "upserts": upserts, "how": how, "clicks": len(sessions[0])}
            | took
            | {"rows_scored": float(np.mean([result.rows_scored for result in results[upserts]]))}
            | {"bytes_read": float(np.mean([result.bytes_read for result in results[upserts]]))}
        )
    return found


def _recommend(recommender: Recommender, sessions: Sequence[Any], k: int, at: int, **options: Any) -> Result:
    return recommender.recommend(sessions[at], k, **options)


def _gather(recommender: Recommender, sessions: Sequence[Any], at: int) -> object:
    # The catalog's own methods check their arguments, as the call has done.
    catalog = recommender.catalog.current
    return catalog.vectors(catalog.rows(sessions[at]))


def _shifted(ask: Ask, shift: int, count: int, at: int) -> object:
    return ask((at + shift) % count)


def as_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows for a person, in microseconds."""
    head = ["items, upserts, candidates", "clicks", *PARTS, "by encoder", "rows scored", "bytes read"]
    body = [
        [
            f"{row['items']:,}, {row['upserts']:,}, {row['how']}",
            f"{row['clicks']}",
            *(f"{row[part]:,.1f}" for part in PARTS),
            f"{row['whole'] / row['encoder']:.2f}x",
            *(f"{row[name]:,.0f}" for name in ("rows_scored", "bytes_read")),
        ]
        for row in rows
    ]
    return table(head, body)


def _numbers(context: click.Context, option: click.Parameter, value: str) -> list[int]:
    try:
        return [int(number) for number in value.split(",")]
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a list of integers", context, option) from None


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--data", type=click.Path(path_type=Path), help="Data set whose test sessions ask; else random ones."
)
@click.option(
    "--rows", default="43097,1000000", show_default=True, callback=_numbers, help="Sizes of the catalog."
)
@click.option(
    "--changed", default="1,1000", show_default=True, callback=_numbers, help="Upserts, beside none."
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
    """Where the time of one recommend() of BUNDLE goes, on one thread. 10,000,000 rows take 12 GB and 7 GB of disk."""
    small = Recommender.load(bundle, verify=False)
    drawn = [
        examples(small, data, calls, seed, length) if data else random_sessions(small, length, calls, seed)
        for length in lengths
    ]
    found: list[dict[str, Any]] = []
    for size in rows:
        with grown_bundle(bundle, size, seed) as path:
            catalogs = {}
            for upserts in sorted({0, *changed}):
                started = perf_counter()
                catalogs[upserts] = Recommender.load(path, verify=False)
                took = 1e3 * (perf_counter() - started)
                click.echo(f"{size:,} items, {upserts:,} upserts: loaded in {took:,.0f} ms", err=True)
                catalogs[upserts].catalog.upsert(
                    items_to_upsert(catalogs[upserts], upserts, seed, known=True)
                )
            encoder = bare_encoder(path / MODEL)
            for some in drawn:
                sessions = [list(small.catalog.ids(session)) for session in some]
                for how in HOW if sessions else ():
                    try:
                        asked = sessions[: max(1, calls // 5)] if how == "exact" else sessions
                        found += measure(catalogs, encoder, asked, how, k)
                    except InvalidOptionError as error:
                        click.echo(f"candidates {how} are left out: {error}", err=True)
    click.echo(as_text(found))
    if file is not None:
        file.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    ensure_one_thread()
    main()
