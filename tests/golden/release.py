"""What a release left behind: a bundle, changes of its catalog, and answers, for every later version to give again.

bundle/        as ``hiersrec export`` wrote it, without the picture of the model card
changes.jsonl  catalog changes
changes.feed   the same ones as a change feed
saved/         the files of the bundle with these changes that are not those of ``bundle/``: it contains the feed
answers.json   see :class:`Answer`
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hiersrec_sdk.encoders.session_encoder import Encoded, OnnxSessionEncoder, Vectors
from hiersrec_sdk.results import Result

FOLDER: Final = Path(__file__).resolve().parent
TOLERANCE: Final = (
    1e-4  # of a score, where a graph has run; those of an answer are ten times as far apart, or more
)


@dataclass(frozen=True)
class Answer:
    """What a recommender answered.

    Attributes:
        session: external item ids.
        options: of ``recommend``.
        items: external ids, best first.
        scores: as ``float.hex``, without loss.
        encoding: the outputs of the session encoder by name, each as lists of ``float.hex``. From them on every
            processor has to give the scores to the bit. None with changes: vectors of new items too come from a graph.
    """

    session: list[str]
    options: dict[str, Any]
    items: list[str]
    scores: list[str]
    encoding: dict[str, Any] | None = None

    @property
    def score_values(self) -> list[float]:
        return [float.fromhex(score) for score in self.scores]


@dataclass(frozen=True)
class Release:
    """The files of one release in ``folder``."""

    folder: Path

    @property
    def bundle(self) -> Path:
        return self.folder / "bundle"

    @property
    def changes(self) -> Path:
        return self.folder / "changes.jsonl"

    @property
    def feed(self) -> Path:
        return self.folder / "changes.feed"

    @property
    def overlay(self) -> Path:
        return self.folder / "saved"

    @property
    def answers_file(self) -> Path:
        return self.folder / "answers.json"

    def saved(self, path: Path) -> Path:
        """Put the bundle with the changes together, as it was saved, at ``path``."""
        shutil.copytree(self.bundle, path)
        shutil.copytree(self.overlay, path, dirs_exist_ok=True)
        return path

    def answers(self, which: str) -> list[Answer]:
        """Those of the ``"bundle"``, or those with the ``"changes"``."""
        content = json.loads(self.answers_file.read_text("utf-8"))
        return [Answer(**answer) for answer in content[which]]


class RecordedEncoder(OnnxSessionEncoder):
    """Gives an encoding that was recorded, in place of running a graph.

    Attributes:
        encoded: what it gives next.
    """

    def __init__(self) -> None:
        self.providers, self.threads = ("cpu",), 1
        self.encoded: Encoded

    def encode_one(self, catalog: Vectors, rows: NDArray[np.int64]) -> Encoded:
        """The recorded encoding."""
        return self.encoded


def hexed(values: Any) -> Any:
    """Arrays as nested lists of ``float.hex``."""
    return float(values).hex() if isinstance(values, np.floating) else [hexed(each) for each in values]


def encoding_of(recorded: Mapping[str, Any] | None) -> Encoded:
    """The recorded encoding of an answer as arrays again."""

    def array(values: list[Any]) -> NDArray[np.float32]:
        return np.array([[float.fromhex(each) for each in row] for row in values], dtype=np.float32)

    assert recorded is not None
    return Encoded(
        tuple(map(array, recorded["category_logits"])),
        array(recorded["repeat_logits"]),
        array(recorded["item_query"]),
    )


def scores_of(result: Result) -> list[str]:
    """The scores to the bit."""
    return [score.hex() for score in result.scores.tolist()]
