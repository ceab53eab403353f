"""Gives the answers of the golden bundles again, by an installed SDK: ``python -m golden``, beside ``tests/``.

Needs Python and ``hiersrec-sdk[cpu]`` alone; imports nothing of this package. Prints what it found as one line of JSON.
"""

from __future__ import annotations

import json
import platform
import shutil
import sys
from importlib.metadata import distribution
from importlib.util import find_spec

import numpy as np

import hiersrec_sdk
from hiersrec_sdk.ranking import instruction_sets
from tests.golden.release import FOLDER, TOLERANCE, Answer, Release


def is_given_again(recommender: hiersrec_sdk.Recommender, answer: Answer) -> bool:
    """Whether ids are equal, and scores as exactly as graphs are on any processor."""
    result = recommender.recommend(answer.session, **answer.options)
    return result.items == tuple(answer.items) and bool(
        np.allclose(result.scores, answer.score_values, rtol=0, atol=TOLERANCE)
    )


def main() -> None:
    """Answer, and print what was found."""
    right = total = 0
    for folder in sorted(config.parent.parent for config in FOLDER.glob("*/bundle/config.json")):
        release = Release(folder)
        recommender = hiersrec_sdk.Recommender.load(release.bundle)
        answers = release.answers("bundle")
        right += sum(is_given_again(recommender, answer) for answer in answers)
        total += len(answers)
    found = {
        "version": hiersrec_sdk.__version__,
        "wheel": distribution("hiersrec-sdk").read_text("WHEEL"),
        "imported": hiersrec_sdk.__file__,
        "machine": platform.machine(),
        "instruction_sets": instruction_sets(),
        "torch": find_spec("torch") is not None,
        "compiler": shutil.which("cc") or shutil.which("gcc"),
        "right": right,
        "total": total,
    }
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
