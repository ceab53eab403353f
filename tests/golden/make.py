"""Write the golden files of a release, from a SIMULATED shop: python -m tests.golden.make 0.1.0

They are written once, with the release, and committed. Later versions have to open what is there.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from hiersrec_export.export import export
from hiersrec_sdk import Recommender
from hiersrec_sdk.atomic import new_folder
from hiersrec_sdk.bundle import CONFIG, MODEL
from hiersrec_sdk.bundle.schema import config_digest
from hiersrec_sdk.catalog.change_file import read_changes
from hiersrec_sdk.encoders.session_encoder import OnnxSessionEncoder
from hiersrec_training.config import Config
from hiersrec_training.data.prepare import prepare
from hiersrec_training.data.simulate import prepare_options, simulate
from hiersrec_training.train import train
from tests.golden.release import FOLDER, TOLERANCE, Answer, Release, hexed, scores_of

_CONFIG: Final = Config(
    dimension=16, heads=2, max_length=8, text_buckets=64, neighbors=4, epochs=4, precision="float32"
)
_OPTIONS: Final[list[dict[str, Any]]] = [
    {"k": 10},
    {"k": 10, "candidates": 0.3},
    {"k": 10, "candidates": "auto", "include_session_categories": True},
    {"k": 10, "mode": "exact"},
    {"k": 10, "mode": "exact", "exclude_seen": True},
    {"k": 5, "categories": ["Outdoor", "Dresses"]},
    {"k": 10, "exclude_categories": ["Home"], "max_per_category": 2},
]
_CHANGED: Final = 6  # answers that are kept of the catalog with the changes
_NEW: Final = "sku-90001"
_PICTURE: Final = "calibration.png"  # the largest file, and nothing reads it


def main() -> None:
    """Write the folder of the release that the command line names."""
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    out = FOLDER / sys.argv[1]
    if out.exists():
        sys.exit(f"{out} exists, and is never made anew: later versions have to open what is there")
    with tempfile.TemporaryDirectory() as work:
        release = Release(Path(work) / "release")
        _make(Path(work), release)
        with new_folder(out) as part:
            shutil.copytree(release.folder, part, dirs_exist_ok=True)
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    sys.stdout.write(f"{out} written, {size:,} bytes\n")


def _make(work: Path, release: Release) -> None:
    """Write the files of a release, with ``work`` for what is left behind."""
    sessions = _exported(work, release.bundle)
    recommender = Recommender.load(release.bundle)
    bundle = list(_bundle_answers(recommender, sessions))
    release.changes.write_text("".join(json.dumps(change) + "\n" for change in _changes(bundle)), "utf-8")
    with recommender.follow(release.feed) as follower:
        for change in read_changes(release.changes.read_bytes().splitlines()):
            follower.publish([change])
        recommender.save(work / "saved")
    asked = [[_NEW], [_NEW, *sessions[0]], *sessions]
    changed = list(_clear(recommender, asked, {"k": 10, "mode": "exact"}))[:_CHANGED]
    answers = {"bundle": [*map(asdict, bundle)], "changes": [*map(asdict, changed)]}
    release.answers_file.write_text(json.dumps(answers, indent=1) + "\n", "utf-8")
    release.overlay.mkdir()
    for file in (work / "saved").iterdir():
        before = release.bundle / file.name
        if not before.exists() or before.read_bytes() != file.read_bytes():
            shutil.copy(file, release.overlay)


def _exported(work: Path, out: Path) -> list[list[str]]:
    """Export a model of a simulated shop to ``out``; returns sessions of its test split."""
    shop = work / "shop"
    simulate(shop, items=100, sessions=600)
    data = prepare(prepare_options(shop, test_days=3))
    data.save(work / "data")
    train(work / "data", work / "golden", _CONFIG, device="cpu", progress=False)
    export(work / "golden", out)
    config = json.loads((out / CONFIG).read_bytes())
    del config["files"][_PICTURE]
    config["sha256"] = config_digest(config)
    (out / CONFIG).write_text(json.dumps(config, indent=2) + "\n", "utf-8")
    (out / _PICTURE).unlink()
    every = [data.test[at].tolist() for at in range(len(data.test))]
    return [[data.item_ids[row] for row in session] for session in every if len(session) > 2]


def _bundle_answers(recommender: Recommender, sessions: Iterable[list[str]]) -> Iterator[Answer]:
    """An answer with each of the options, each to another session."""
    config, catalog = recommender.config, recommender.catalog.current
    encoder = OnnxSessionEncoder(
        recommender._bundle.read(MODEL), dimension=config["dimension"], categories=config["categories"]
    )
    remaining = iter(sessions)
    for options in _OPTIONS:
        answer = next(_clear(recommender, remaining, options))
        encoded = encoder.encode_one(catalog, catalog.rows(answer.session)[-config["max_length"] :])
        encoding = {
            "category_logits": hexed(encoded.category_logits),
            "repeat_logits": hexed(encoded.repeat_logits),
            "item_query": hexed(encoded.item_query),
        }
        yield replace(answer, encoding=encoding)


def _clear(
    recommender: Recommender, sessions: Iterable[list[str]], options: dict[str, Any]
) -> Iterator[Answer]:
    """The answers to those sessions where no rounding of an encoder changes which items these are, nor their order."""
    for session in sessions:
        result = recommender.recommend(session, **options)
        more = recommender.recommend(session, **options | {"k": options["k"] + 1})
        scores = more.scores.tolist()
        if more.items[:-1] == result.items and all(a - b > 10 * TOLERANCE for a, b in pairwise(scores)):
            yield Answer(session, options, [str(item) for item in result.items], scores_of(result))


def _changes(answers: list[Answer]) -> list[dict[str, Any]]:
    """Changes of every kind, of items that were recommended."""
    first, second, third, fourth = (answer.items[0] for answer in answers[:4])
    return [
        {
            "upsert": {
                "id": _NEW,
                "category": ["Men", "Shoes", "Loafers"],
                "title": "suede loafers, größe 42",
                "text": "red suede loafers",
                "numbers": {"price": 99.5},
            }
        },
        {"upsert": {"id": first, "category": "Tents", "text": "a blue tent"}},
        {"remove": second},
        {"move": {"id": third, "category": ["Home", "Kitchen", "Cookware"]}},
        {"set_bias": {"id": fourth, "value": 1.5}},
        {"upsert": {"id": "sku-90002", "category": "Cookware"}},
        {"remove": "sku-90002"},
    ]


if __name__ == "__main__":
    main()
