"""Steps of one process and of several are compared, and what is sent is counted."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from benchmarks.training_processes import BLOCK, SPARE, Pace, on_paper, pace, speeds, traffic
from hiersrec_training.config import Config
from hiersrec_training.launch import launch
from tests.conftest import quiet

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def found(tiny_data: Path, tiny_config: Config) -> Pace:
    config = replace(tiny_config, dropout=0.0, neighbors=0)
    return launch(2, partial(pace, tiny_data, 0, config, BLOCK), quiet, "cpu")


def test_both_take_the_same_steps(found: Pace) -> None:
    assert (found.items, found.softmax, found.batch_sessions) == (48, "full", 16)
    assert len(found.alone) == len(found.shared) == len(found.one_window) == BLOCK - SPARE
    assert len(found.differences) == BLOCK
    assert max(found.differences) < 1e-4
    assert speeds([found, found]).count("\n") == 3


def test_what_is_handed_over_is_what_is_sent(found: Pace) -> None:
    """Of two ranks, each sends as much as it hands over, and a little around it."""
    assert found.rows == [48] * BLOCK
    handed = found.table_bytes + found.other_bytes
    assert handed > 4 * 48 * 16
    assert found.sent_bytes > 0.9 * handed
    assert traffic([found]).count("\n") == 2


def test_on_paper_shards_divide_the_table_among_the_cards() -> None:
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in on_paper().splitlines()[2:]]
    assert len(rows) == 12
    for every, shards, dense in zip(rows[::3], rows[1::3], rows[2::3], strict=True):
        assert [every[1], shards[1], dense[1]] == [
            "every card has all",
            "row-wise shards",
            "dense all-reduce",
        ]
        memory, sent = ([float(row[at].replace(",", "")) for row in (every, shards, dense)] for at in (3, 4))
        assert memory[0] == memory[2] == pytest.approx(8 * memory[1], abs=4)
        assert sent[1] < sent[0] < sent[2]
    # 8,960 MB: 10 million rows of 512 bytes, sent 2 · 7 / 8 times
    assert rows[2][4] == "8,960"
