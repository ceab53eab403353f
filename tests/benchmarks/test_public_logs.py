"""The study of public logs agrees with prepare on made-up files of two formats, and sees where they differ."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from benchmarks.studies import public_logs
from benchmarks.studies.public_logs import Click, Reading, by_session, by_user, main, options_of

# a date for each session, and milliseconds that order its clicks: 8, 7 and 9, 7
DIGINETICA = """session_id;user_id;item_id;timeframe;eventdate
1;NA;7;526309;2016-05-09
1;NA;8;243569;2016-05-09
2;NA;9;100;2016-05-10
2;NA;7;1000;2016-05-10
3;NA;7;5;2016-05-11
"""
OTTO = [
    [(15, 1659304800025, "clicks"), (16, 1659304904511, "clicks")],
    [(16, 1659305900000, "clicks"), (15, 1659305950000, "carts")],
    [(17, 1659306000000, "clicks"), (15, 1659306100000, "clicks")],
]


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    for name in ("diginetica", "otto"):
        (tmp_path / name).mkdir()
    (tmp_path / "diginetica/sample_train-item-views.csv").write_text(DIGINETICA)
    with (tmp_path / "otto/train.jsonl").open("w") as file:
        for session, clicks in enumerate(OTTO):
            events = [{"aid": item, "ts": time, "type": kind} for item, time, kind in clicks]
            file.write(json.dumps({"session": session, "events": events}) + "\n")
    return tmp_path


def run(logs: Path, *words: str) -> Result:
    return CliRunner().invoke(main, ["--logs", str(logs), *words])


def cells(output: str) -> dict[str, list[str]]:
    """The cells of the table by the name of the log."""
    found = [[cell.strip() for cell in line.split("|")[1:-1]] for line in output.splitlines() if "|" in line]
    return {row[0]: row for row in found}


def test_both_readings_agree_and_leave_a_page(logs: Path) -> None:
    result = run(logs, "--out", str(logs / "page"))
    assert result.exit_code == 0, result.output
    assert "hm is absent" in result.output
    page = (logs / "page/public_logs.md").read_text()
    found = cells(page)
    assert found["diginetica"][3:] == ["`--separator` `--order-column`", "5", "2", "3", "yes"]
    assert found["otto"][4:] == ["6", "2", "3", "yes"]
    assert "--time-column eventdate --order-column timeframe --out data" in page
    assert not list((logs / "page").glob("*.png"))


def test_one_log_is_shown(logs: Path) -> None:
    result = run(logs, "--only", "otto", "--show")
    assert result.exit_code == 0
    assert "not of event type clicks, but carts" in result.output
    assert "diginetica" not in result.output


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda right: replace(right, clicks=4), "clicks read: 5 instead of 4"),
        (lambda right: replace(right, sessions=right.sessions[:1]), "sessions: 2 instead of 1"),
        (
            lambda right: replace(right, sessions=[(time, items[::-1]) for time, items in right.sessions]),
            "2 sessions differ, such as",
        ),
        (
            lambda right: replace(right, sessions=[(time + 1, items) for time, items in right.sessions]),
            "2 sessions differ, such as",
        ),
        (lambda right: replace(right, categories={"7": [("tea",)]}), "categories: [1] instead of [2]"),
    ],
)
def test_a_difference_is_seen(
    change: Callable[[Reading], Reading], words: str, logs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [log] = [log for log in public_logs.LOGS if log.name == "diginetica"]
    monkeypatch.setattr(
        public_logs, "LOGS", [replace(log, read=lambda folder: change(public_logs.read_diginetica(folder)))]
    )
    result = run(logs)
    assert result.exit_code == 1
    assert f"diginetica: {words}" in result.output
    assert cells(result.output)["diginetica"][-1] == "no"


def test_a_refusal_is_told(logs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [log] = [log for log in public_logs.LOGS if log.name == "otto"]
    monkeypatch.setattr(
        public_logs, "LOGS", [replace(log, command=log.command.replace("events.aid", "events.sku"))]
    )
    result = run(logs)
    assert result.exit_code == 1
    assert "otto: refused: Error: " in result.output


def test_sessions_of_plain_python() -> None:
    clicks = [
        Click("u", "b", 60.0),
        Click("u", "a", 0.0),
        Click("u", "c", 60.0 + 31 * 60),
        Click("v", "a", 5.0),
    ]
    assert by_session(clicks) == [(1920.0, ("a", "b", "c"))]
    assert by_user(clicks) == [(60.0, ("a", "b"))]
    ordered = [Click("s", "b", 0.0, order=2), Click("s", "a", 0.0, order=1)]
    assert by_session(ordered) == [(0.0, ("a", "b"))]


def test_options_that_only_name_columns_are_left_out() -> None:
    command = (
        "x.csv --time-column day --time-column clock --session-column '' --item-column sku --separator ';'"
    )
    assert options_of(command) == ["--time-column", "--session-column", "--separator"]
