"""Peers find what the definition finds; medians, ratios and recalls of the rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

from benchmarks import ranking
from benchmarks.peers import OURS, PEERS, READ, Answer, Peer, Setup, Work, build
from benchmarks.ranking import Asked, FloatScan, Row, as_text, compared, merged, recall, row_of, run
from benchmarks.vectors import Case, isotropic

K = 5
APPROXIMATE = ("faiss-sq8", "faiss-rabitq", "faiss-ivf", "faiss-hnsw")


@pytest.fixture(scope="module", params=[False, True], ids=["", "bias"])
def case(request: pytest.FixtureRequest) -> Case:
    """600 rows, with an item bias that decides or without one."""
    made = isotropic(600, 24, 0.2, 8, seed=0, falling=True)
    bias = 3 * np.random.default_rng(1).standard_normal(600).astype(np.float32)
    return replace(made, bias=bias) if request.param else made


@pytest.mark.parametrize("name", [OURS, READ, *PEERS])
def test_a_peer_finds_what_a_float32_scan_finds(name: str, case: Case) -> None:
    peers = build(name, Setup(case.vectors, case.bias, K))
    if not peers:
        pytest.skip(f"{name} is not installed")
    scan = FloatScan(case, K)
    asked = [Asked.of(case, work, 2, scan) for work in ranking.WORKS]
    scores = case.queries[0] @ case.vectors.T + (0 if case.bias is None else case.bias)
    assert asked[1].exact[0][0].tolist() == np.argsort(-scores)[:K].tolist()

    rows = run(case, asked, peers, peers, warm=True)

    assert {row.work for row in rows} == {"candidates", "exact", "batch"}
    for row in rows:
        assert row.bytes_read > 0
        assert row.bias in (("added", "a dimension") if case.bias is not None and row.by != READ else (None,))
    recalls = [row.recall or 0.0 for row in rows if row.by != READ]
    if name in APPROXIMATE:
        assert max(recalls) > 0.9  # with the widest of its settings
    else:
        assert {*recalls} <= {1.0}
    table = 600 * 4 * (24 + (case.bias is not None))
    if name in ("numpy", "torch", "onnxruntime", "implicit", "faiss-flat"):
        exact = next(row for row in rows if row.work == "exact")
        assert exact.bytes_read == table
        assert next(row for row in rows if row.work == "batch").bytes_read == table / ranking.BATCH
    if name == "faiss-panorama":
        assert rows[1].bytes_read < table + 4 * 8 * 600


def ids(*rows: int) -> NDArray[np.int64]:
    return np.array([rows])


def asked(truth: Sequence[NDArray[np.int64]], work: Work = "exact", queries: int = 1) -> Asked:
    nothing = [np.zeros((queries, 2), np.float32)] * len(truth)
    return Asked(work, nothing, [[]] * len(truth), truth, truth)


def someone(name: str = "someone") -> Peer:
    return Peer(name, lambda queries, ranges: Answer(ids(), 0))


def test_recall() -> None:
    assert recall([ids(1, 2), ids(5, 6)], [ids(2, 1), ids(5, 7)]) == 0.75
    assert recall([np.array([[1, 2], [3, -1]])], [np.array([[1, 2], [3, 4]])]) == 0.75


def test_row_of_a_batch() -> None:
    truth = [np.array([[1, 2], [3, 4]])] * 3
    answers = [Answer(truth[0], 100)] * 2 + [Answer(np.array([[1, 2], [4, 3]]), 400)]
    row = row_of(asked(truth, "batch", 2), someone(), [2_000, 9_000, 4_000], answers)

    assert row.median_us == 2
    assert row.spread == pytest.approx((4 - 1.2) / 2)  # percentiles lie between the times
    assert row.recall == row.recall_exact == 1
    assert row.ids_equal is False  # in another order
    assert (row.bytes_read, row.queries) == (100, 6)


def test_row_of_candidates() -> None:
    question = replace(asked([ids(1, 2)], "candidates"), exact=[ids(1, 9)])
    near = replace(someone(), candidates=lambda queries, ranges: Answer(ids(), 0))

    for peer, expected in (near, (1, 0.5, "candidates", True)), (someone(), (0.5, 0.5, "all", False)):
        row = row_of(question, peer, [1_000], [Answer(ids(1, 2), 9)])
        assert (row.recall, row.recall_exact, row.ranks, row.ids_equal) == expected


def test_row_of_the_read() -> None:
    row = row_of(asked([ids(1)]), someone(READ), [1_000], [Answer(ids(), 128)])

    assert (row.recall, row.recall_exact, row.ids_equal, row.bytes_read) == (None, None, None, 128)


def rows() -> list[Row]:
    times = {"numpy": 50.0, OURS: 5.0, READ: 4.0, f"{OURS}-without-codes": 20.0}
    return [
        Row(work="exact", by=name, median_us=time, spread=0.1, bytes_read=1e6) for name, time in times.items()
    ]


def test_compared() -> None:
    found = compared(rows())

    assert [row.by for row in found] == [READ, OURS, f"{OURS}-without-codes", "numpy"]
    assert [row.by_read for row in found] == [1, 1.25, 5, 12.5]
    assert [row.by_ours for row in found] == [0.8, 1, 4, 10]
    assert compared(rows()[:1]) == rows()[:1]


def test_merged() -> None:
    first, second = ([Row(work="exact", by=OURS, median_us=time, spread=0, bytes_read=0)] for time in (1, 2))
    other = replace(first[0], by="torch", median_us=3)

    assert merged([first, [*second, other]]) == [first[0], other]


def test_as_text() -> None:
    head, _, *lines = as_text(compared(rows())).splitlines()

    assert [cell.strip() for cell in head.split("|")[1:4]] == ["exact", "median a query", "10-90 %"]
    assert [cell.strip() for cell in lines[1].split("|")[1:7]] == [
        OURS,
        "5.0 µs",
        "10 %",
        "1.00 MB",
        "1.25",
        "1.0x",
    ]
    assert "dimension" not in "".join(lines)
    biased = [replace(row, bias="added" if row.by == OURS else "a dimension") for row in rows()[:2]]
    assert f"Item bias: added by {OURS}; one more dimension" in as_text(biased)


@pytest.mark.parametrize("together", [1 << 30, 0])
@pytest.mark.slow
def test_the_command_measures_a_bundle(
    together: int, tiny_bundle: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranking, "TOGETHER", together)  # 0: each peer in a process of its own
    file = tmp_path / "run.json"
    options = [
        "--vectors",
        f"bundle:{tiny_bundle}",
        "--data",
        str(tiny_data),
        "--rows",
        "1000",
        "--rounds",
        "2",
    ]
    options += ["--peers", "numpy,torch", "--k", "5", "--check", "7", "--json", str(file), "--warm"]
    result = CliRunner().invoke(ranking.main, options, catch_exceptions=False)
    assert result.exit_code == 0
    assert "exact: the ids of 7 of 7 queries are those of a float32 scan" in result.output
    found = json.loads(file.read_text())
    assert {"numpy", "torch", OURS, READ} <= {row["by"] for row in found}
    assert {row["rows"] for row in found} == {1000}
    assert {row["bias"] for row in found if row["by"] != READ} == {"added"}


def test_wrong_options_are_named(tmp_path: Path) -> None:
    for options in (["--peers", "nobody"], ["--works", "guess"], ["--vectors", "other"]):
        result = CliRunner().invoke(ranking.main, options)
        assert result.exit_code == 2
        assert options[0] in result.output
    missing = ["--vectors", f"bundle:{tmp_path / 'none'}"]
    assert "needs --data" in CliRunner().invoke(ranking.main, missing).output
    result = CliRunner().invoke(ranking.main, [*missing, "--data", str(tmp_path)])
    assert result.exit_code == 1
    assert str(tmp_path / "none") in result.output
