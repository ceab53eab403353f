"""What releases left behind: this version opens their bundles, changes and feeds, and gives their answers."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from hiersrec_sdk import Recommender
from hiersrec_sdk.bundle import open_bundle
from hiersrec_sdk.catalog.change_file import apply
from hiersrec_sdk.ranking import available_backends, get_backend
from tests.golden.release import (
    FOLDER,
    TOLERANCE,
    Answer,
    RecordedEncoder,
    Release,
    encoding_of,
    scores_of,
)
from tests.sdk.ranking.cases import each_instruction_set

RELEASES = [Release(path) for path in sorted(FOLDER.iterdir()) if (path / "answers.json").is_file()]

pytestmark = pytest.mark.parametrize("release", RELEASES, ids=lambda release: release.folder.name)


def assert_answers(recommender: Recommender, answers: list[Answer]) -> None:
    """Every answer is given again; scores as exactly as graphs are on any processor."""
    assert len(answers) > 3
    for answer in answers:
        result = recommender.recommend(answer.session, **answer.options)
        assert result.items == tuple(answer.items)
        np.testing.assert_allclose(result.scores, answer.score_values, rtol=0, atol=TOLERANCE)


def assert_same_bits(release: Release, backend: str) -> None:
    """Every answer is given again to the bit, from the recorded outputs of the session encoder."""
    recorded = RecordedEncoder()
    recommender = Recommender(open_bundle(release.bundle), recorded, get_backend(backend))
    for answer in release.answers("bundle"):
        recorded.encoded = encoding_of(answer.encoding)
        result = recommender.recommend(answer.session, **answer.options)
        assert result.items == tuple(answer.items)
        assert scores_of(result) == answer.scores


def test_bundle_is_sound(release: Release) -> None:
    recommender = Recommender.load(release.bundle)
    assert_answers(recommender, release.answers("bundle"))
    alike = [answer for answer in release.answers("bundle") if answer.options == {"k": 10}]
    many = recommender.recommend_many([answer.session for answer in alike], k=10)
    assert [result.items for result in many] == [tuple(answer.items) for answer in alike]


@pytest.mark.parametrize("backend", available_backends())
def test_ranking_is_the_same_to_the_bit(release: Release, backend: str) -> None:
    if backend == "c":
        for _ in each_instruction_set():
            assert_same_bits(release, backend)
    else:
        assert_same_bits(release, backend)


def test_changes_are_made_saved_and_loaded(release: Release, tmp_path: Path) -> None:
    recommender = Recommender.load(release.bundle)
    done = apply(recommender.catalog, release.changes.read_bytes().splitlines())
    assert all(done.values())
    answers = release.answers("changes")
    assert_answers(recommender, answers)
    recommender.save(tmp_path / "bundle")
    again = Recommender.load(tmp_path / "bundle")
    assert_answers(again, answers)
    for answer in answers:
        before, after = (each.recommend(answer.session, **answer.options) for each in (recommender, again))
        assert scores_of(before) == scores_of(after)


def test_feed_is_followed(release: Release, tmp_path: Path) -> None:
    feed = shutil.copy(release.feed, tmp_path / "changes.feed")
    recommender = Recommender.load(release.bundle)
    with recommender.follow(feed) as follower:
        assert follower.position == len(release.changes.read_bytes().splitlines())
        assert follower.rejected == 0
        assert_answers(recommender, release.answers("changes"))


def test_saved_bundle_goes_on_where_the_feed_ended(release: Release, tmp_path: Path) -> None:
    feed = shutil.copy(release.feed, tmp_path / "changes.feed")
    recommender = Recommender.load(release.saved(tmp_path / "bundle"))
    answers = release.answers("changes")
    assert_answers(recommender, answers)
    last = answers[-1]
    gone = next(item for item in last.items if item not in last.session)
    with recommender.follow(feed) as follower:
        position = follower.position
        follower.publish([{"remove": gone}])
        assert follower.position == position + 1
    result = recommender.recommend(last.session, **last.options)
    assert [*result.items[:-1]] == [item for item in last.items if item != gone]
