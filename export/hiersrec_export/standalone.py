"""A bundle as one ONNX file that answers sessions by itself, in whatever runs ONNX."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray

from hiersrec_export.standalone_graph import Tables, standalone_graph
from hiersrec_export.writable import check_writable
from hiersrec_sdk import Recommender, Result, __version__
from hiersrec_sdk.atomic import write_file
from hiersrec_sdk.bundle.schema import MODEL
from hiersrec_sdk.cpus import resolved
from hiersrec_sdk.encoders.runtime import open_session
from hiersrec_sdk.errors import ExportError

FORMAT: Final = "hiersrec-standalone"
VERSION: Final = 1
LARGEST: Final = 2**31 - 2**24  # bytes: a protobuf message ends at 2 GiB, and the encoder and names need some
TOLERANCE: Final = 1e-4
_BATCHES: Final = (1, 2, 7, 64)  # sessions that are compared together
_K: Final = 100


def export_standalone(
    bundle: Path,
    out: Path,
    *,
    largest: int = LARGEST,
    report: Callable[[str], None] = print,
    step: Callable[[str], None] = lambda name: None,
) -> float:
    """Write the bundle in the folder ``bundle``, changes of its catalog included, as the one file ``out``.

    Its inputs and outputs: see :mod:`hiersrec_export.standalone_graph`. It is written whole or not at all, and only if
    it answers as ``Recommender.recommend(session, k, mode="exact")`` does.

    Args:
        bundle: the folder.
        out: the file to write; it must not exist.
        largest: bytes that the tables of the catalog may take.
        report: takes lines for a person to read.
        step: takes the name of each step as it begins; some take seconds.

    Returns:
        The worst difference of a score, relative to the largest one of its session (or to 1).

    Raises:
        BundleError: the bundle cannot be read.
        ExportError: ``out`` exists or cannot be written, the catalog is empty or larger than one file may be, or the
            answers differ.
    """
    bundle, out = Path(bundle), Path(out)
    if os.path.lexists(out):
        raise ExportError(f"{out} exists already: choose another file or remove it")
    check_writable(out, ExportError)
    recommender = Recommender.load(bundle)
    catalog = recommender.catalog.current
    if not len(catalog):
        raise ExportError(f"{bundle} has no items: a standalone model needs one. {out} was not written.")
    tables = Tables.of(catalog)
    if tables.nbytes > largest:
        raise ExportError(
            f"the catalog of {bundle} takes {tables.nbytes:,} bytes, and one ONNX file holds at most {largest:,} of "
            f"them: serve the bundle itself, or train with fewer items or a smaller dimension. {out} was not written."
        )
    step("building the standalone model…")
    config = recommender.config
    model = standalone_graph(
        onnx.load_from_string(recommender._bundle.read(MODEL)), tables, config["max_length"]
    )
    model.producer_name, model.producer_version = "hiersrec-sdk", __version__
    about = {
        "format": FORMAT,
        "version": VERSION,
        "bundle_sha256": config["sha256"],
        "items": len(catalog),
        "item_id_type": config["item_id_type"],
        "max_length": config["max_length"],
        "padding": tables.padding,
    }
    onnx.helper.set_model_props(model, {name: str(value) for name, value in about.items()})
    onnx.checker.check_model(model, full_check=True)
    sessions = drawn_sessions(recommender, tables)
    worst = 0.0

    def write(part: Path) -> None:
        nonlocal model, worst
        part.write_bytes(model.SerializeToString())
        del model
        step("checking parity of the standalone model and the bundle…")
        worst = check_standalone(part, recommender, sessions, tables.padding)

    try:
        write_file(out, write)
    except OSError as error:
        raise ExportError(f"{out} was not written: {error}") from error
    report(
        f"{out}: {out.stat().st_size:,} bytes; it and the bundle agree on {len(sessions)} sessions: worst relative "
        f"difference {worst:.1e}"
    )
    return worst


def drawn_sessions(recommender: Recommender, tables: Tables, seed: int = 0) -> list[list[int | str]]:
    """Sessions of external ids to compare on, of every length up to two beyond the longest that counts.

    They hold repeated items, co-visited items, and unknown ids.
    """
    random = np.random.default_rng(seed)
    n = len(tables.ids)
    scorer = tables.covisitation if tables.successors is None else None
    sessions: list[list[int | str]] = []
    for length in [*range(recommender.config["max_length"] + 3), *([3] * 40)]:
        rows: list[int] = []
        while len(rows) < length:
            draw, row = random.random(), int(random.integers(n))
            if rows and draw < 0.2:
                row = rows[int(random.integers(len(rows)))]
            elif rows and draw < 0.6 and scorer is not None and rows[-1] >= 0:
                first, last = scorer.counts.offsets[rows[-1] : rows[-1] + 2]
                near = scorer.counts.rows[first:last]
                row = int(random.choice(near)) if len(near) else row
            elif draw > 0.9:
                row = -1
            rows.append(row)
        sessions.append([tables.ids[row] if row >= 0 else tables.padding for row in rows])
    return sessions


def check_standalone(
    model: Path, recommender: Recommender, sessions: Sequence[list[int | str]], padding: int | str
) -> float:
    """Compare the file ``model`` with ``recommender``, in mode "exact", on ``sessions``, in batches of several sizes.

    Returns:
        The worst difference of a score, relative to the largest one of its session (or to 1).

    Raises:
        ExportError: it is above 1e-4, or the items differ where scores do not tie within that.
    """
    running = open_session(model.read_bytes(), str(model), threads=resolved("auto"))
    k = np.array([_K], dtype=np.int64)
    start, turn, worst = 0, 0, 0.0
    while start < len(sessions):
        batch = sessions[start : start + _BATCHES[turn % len(_BATCHES)]]
        names = ["items", "scores", "known"]
        items, scores, known = running.run(names, {"session": padded(batch, padding), "k": k})
        for at, session in enumerate(batch):
            result = recommender.recommend(session, _K, mode="exact")
            worst = max(worst, _difference(result, session, items[at].tolist(), scores[at]))
            if known[at] != len(session) - result.unknown_ids:
                raise ExportError(
                    f"the standalone model knows {known[at]} items of the session {session}, the bundle "
                    f"{len(session) - result.unknown_ids}. No standalone model was written."
                )
        start, turn = start + len(batch), turn + 1
    return worst


def padded(sessions: Sequence[Sequence[int | str]], padding: int | str) -> NDArray[Any]:
    """External ids [sessions, longest], int64 or objects, as the model takes them."""
    dtype = object if isinstance(padding, str) else np.int64
    array = np.full((len(sessions), max(map(len, sessions))), padding, dtype=dtype)
    for at, session in enumerate(sessions):
        array[at, : len(session)] = session
    return array


def _difference(
    result: Result, session: Sequence[Any], items: list[Any], scores: NDArray[np.float32]
) -> float:
    """The worst relative difference of an answer to ``session``, rank by rank and item by item.

    An item that only one of the two has must tie with the last one.
    """
    if len(set(items)) == len(result.items):
        wanted = dict(zip(result.items, result.scores.tolist(), strict=True))
        given, last = dict(zip(items, scores.tolist(), strict=True)), float(result.scores[-1])
        by_item = [wanted.get(item, last) - given.get(item, last) for item in wanted.keys() | given.keys()]
        differences = np.abs([*(result.scores - scores), *by_item])
        worst = float(differences.max() / max(1.0, np.abs(result.scores).max()))
    else:
        worst = np.inf
    if not worst <= TOLERANCE:
        raise ExportError(
            f"the standalone model and the bundle differ by {worst:.1e} (relative) after the session {list(session)}; "
            f"at most {TOLERANCE:.0e} is allowed. No standalone model was written."
        )
    return worst
