"""hiersrec recommend --sessions: the same answers in shards, whatever ends a run in the middle."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hiersrec_sdk import Recommender
from hiersrec_sdk.cli import batch
from hiersrec_sdk.integrations.session_files import check_sessions
from tests.sdk.bundles import Shop, make_shop
from tests.sdk.cli.run import failed, hiersrec, passed
from tests.sdk.integrations.asked import answers, sessions_of, table_of
from tests.sdk.quiet_python import QUIET_PYTHON
from tests.waiting import PATIENCE, has_ended, wait_for

MANY = 9_000  # sessions: a run of seconds


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Shop, Path]:
    """A shop and its bundle."""
    shop = make_shop("string")
    return shop, shop.write(tmp_path_factory.mktemp("made") / "bundle")


@pytest.fixture(scope="module")
def many(made: tuple[Shop, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three files with ``MANY`` sessions."""
    folder = tmp_path_factory.mktemp("many")
    table = table_of(sessions_of(made[0], MANY), made[0])
    for at in range(3):
        pq.write_table(table.slice(at * MANY // 3, MANY // 3), folder / f"{at}.parquet", row_group_size=1_700)
    return folder


@pytest.fixture(scope="module")
def few(made: tuple[Shop, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a file of 300 sessions."""
    folder = tmp_path_factory.mktemp("few")
    pq.write_table(table_of(sessions_of(made[0], 300), made[0]), folder / "0.parquet")
    return folder


@pytest.fixture(scope="module")
def whole(made: tuple[Shop, Path], many: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shards of ``many`` by an undisturbed run."""
    out = tmp_path_factory.mktemp("whole") / "recs"
    passed(*arguments(made[1], many, out))
    return out


def arguments(bundle: Path, sessions: Path, out: Path, *more: str) -> list[str]:
    given = ["recommend", str(bundle), "--sessions", str(sessions), "--out", str(out)]
    given += ["--keep", "visitor", "--processes", "2", "--shard-sessions", "100", "--no-progress"]
    return [*given, *more]


def contents(out: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(out.iterdir()) if file.name != "_job.json"}


def read(out: Path) -> Any:
    return pa.concat_tables([pq.read_table(file) for file in sorted(out.glob("*.parquet"))])


@contextmanager
def running(*given: str) -> Iterator[subprocess.Popen[str]]:
    """The command as a process group of its own, which has ended afterwards."""
    process = subprocess.Popen(
        [*QUIET_PYTHON, "-m", "hiersrec_sdk.cli", *given],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def workers(process: subprocess.Popen[str]) -> list[int]:
    """The processes that make shards."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(each) for each in children if b"spawn_main" in Path(f"/proc/{each}/cmdline").read_bytes()]


def all_gone(pids: list[int]) -> bool:
    return all(map(has_ended, pids))


def names(out: Path) -> list[str]:
    """The shards that are there."""
    return sorted(file.name for file in out.glob("*.parquet"))


def wait_for_shards(out: Path, least: int = 4) -> None:
    """Until so many are there."""
    wait_for(lambda: len(names(out)) >= least)


@pytest.mark.parametrize("id_type", ["int64", "string"])
@pytest.mark.slow
def test_every_session_is_answered_in_order(id_type: str, tmp_path: Path) -> None:
    shop = make_shop(id_type)
    bundle, sessions = shop.write(tmp_path / "bundle"), sessions_of(shop, 250)
    file, out = tmp_path / "sessions.parquet", tmp_path / "recs"
    pq.write_table(table_of(sessions, shop, "clicks"), file, row_group_size=70)
    more = ["--session-column", "clicks", "--keep", "when", "-k", "7", "--exclude-seen", "--mode", "exact"]
    more += ["--exclude-category", json.dumps([shop.category_ids[0][0]])]
    printed = passed(*arguments(bundle, file, out, *more))
    assert printed == f"250 sessions; 3 files written to {out}\n"
    assert [*contents(out)] == [f"part-0000{at}.parquet" for at in range(3)]
    assert pq.read_table(out).equals(read(out))  # whoever reads the folder reads nothing else
    recommender = Recommender.load(bundle)
    excluded = [(shop.category_ids[0][0],)]
    wanted = answers(recommender, sessions, 7, exclude_seen=True, mode="exact", exclude_categories=excluded)
    when = [None if at % 3 else f"day {at}" for at in range(250)]
    assert read(out).to_pydict() == {"visitor": [*range(250)], "when": when, **wanted}


@pytest.mark.slow
def test_one_process_writes_the_same_files_as_two(
    made: tuple[Shop, Path], many: Path, whole: Path, tmp_path: Path
) -> None:
    passed(*arguments(made[1], many, tmp_path / "recs", "--processes", "1"))
    assert contents(tmp_path / "recs") == contents(whole)
    assert read(whole)["visitor"].to_pylist() == [*range(MANY)]
    job = json.loads((whole / "_job.json").read_text())
    assert job["shards"] == MANY // 100 == len(contents(whole))
    assert job["sessions"]["rows"] == MANY


@pytest.mark.parametrize("whom", ["all", "starter"])
@pytest.mark.slow
def test_a_run_that_is_killed_goes_on(
    whom: str, made: tuple[Shop, Path], many: Path, whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "recs"
    given = arguments(made[1], many, out)
    for _ in range(2):
        with running(*given) as process:
            wait_for_shards(out, len(names(out)) + 3)
            others = workers(process)
            assert len(others) == 2
            if whom == "all":
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()
            process.wait()
        wait_for(partial(all_gone, others))  # they end by themselves
    done = {file: (out / file).stat().st_mtime_ns for file in names(out)}
    assert 6 <= len(done) < len(contents(whole))
    printed = passed(*given)
    assert f"{MANY // 100} files written to {out}, {len(done)} of them before" in printed
    assert contents(out) == contents(whole)  # and no part of a file is left
    assert {file: (out / file).stat().st_mtime_ns for file in done} == done


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.slow
def test_a_signal_ends_it(
    number: signal.Signals, made: tuple[Shop, Path], many: Path, whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "recs"
    with running(*arguments(made[1], many, out)) as process:
        wait_for_shards(out)
        others = workers(process)
        os.killpg(process.pid, number)  # as Ctrl-C in a terminal
        stdout, stderr = process.communicate(timeout=PATIENCE)
        assert process.returncode == (143 if number == signal.SIGTERM else 1)
    assert all_gone(others)
    assert "Traceback" not in stderr
    assert not stdout
    for name in names(out):
        assert (out / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.slow
def test_a_worker_that_is_killed_is_an_error(made: tuple[Shop, Path], many: Path, tmp_path: Path) -> None:
    out = tmp_path / "recs"
    with running(*arguments(made[1], many, out)) as process:
        wait_for_shards(out)
        os.kill(workers(process)[0], signal.SIGKILL)
        _, stderr = process.communicate(timeout=PATIENCE)
        assert process.returncode == 1
    assert stderr.startswith(
        "Error: a process that recommends was killed by SIGKILL, maybe for want of memory. Finished shards stay"
    )


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["-k", "3"], "with -k 20, got 3"),
        (["--mode", "exact"], "with --mode 'candidates', got 'exact'"),
        (["--exclude-seen"], "with --exclude-seen False, got True"),
        (["--candidates", "0.5"], "with --candidates None, got 0.5"),
        (["--category", "0/1"], "with --category None, got ['0/1']"),
        (["--keep", "when"], "with --keep ['visitor'], got ['visitor', 'when']"),
        (["--shard-sessions", "99"], "with --shard-sessions 100, got 99"),
        (["--batch-size", "9"], "with --batch-size 64, got 9"),
        (["--on-bad", "skip"], "with --on-bad 'error', got 'skip'"),
    ],
)
def test_other_options_are_refused(
    more: list[str], says: str, made: tuple[Shop, Path], many: Path, whole: Path
) -> None:
    before = contents(whole)
    said = failed(*arguments(made[1], many, whole, *more))
    assert f"{whole} was begun {says}: give another folder with --out, or remove {whole}" in said
    assert contents(whole) == before


@pytest.mark.slow
def test_other_sessions_and_bundles_are_refused(tmp_path: Path) -> None:
    shop = make_shop()
    bundle, file, out = shop.write(tmp_path / "bundle"), tmp_path / "sessions.parquet", tmp_path / "recs"
    pq.write_table(table_of(sessions_of(shop, 50), shop), file)
    passed(*arguments(bundle, file, out))
    assert "1 files written" in passed(*arguments(bundle, file, out))
    os.utime(file, ns=(1, 1))
    assert "was begun with other --sessions; 'sessions.parquet' differs" in failed(
        *arguments(bundle, file, out)
    )
    passed(*arguments(bundle, file, tmp_path / "again"))
    other = make_shop(seed=4).write(tmp_path / "other")
    said = failed(*arguments(other, file, tmp_path / "again"))
    assert "was begun with another bundle, or the bundle was changed" in said


def test_another_job_that_begins_meanwhile(
    made: tuple[Shop, Path], few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While this one looks at its sessions, which may take minutes."""
    out = tmp_path / "recs"

    def begin_another(*given: Any) -> None:
        monkeypatch.setattr(batch, "check_sessions", check_sessions)
        passed(*arguments(made[1], few, out, "-k", "3"))

    monkeypatch.setattr(batch, "check_sessions", begin_another)
    assert f"{out} was begun with -k 3, got 20" in failed(*arguments(made[1], few, out))
    assert {len(items) for items in read(out).to_pydict()["items"]} <= {0, 1, 2, 3}


@pytest.mark.slow
def test_what_is_in_the_way(made: tuple[Shop, Path], few: Path, tmp_path: Path) -> None:
    out = tmp_path / "recs"
    given = arguments(made[1], few, out, "--shard-sessions", "150", "--processes", "1")
    out.mkdir()
    (out / "mine").write_text("something else")
    assert f"{out} has files, but no _job.json: give another folder with --out" in failed(*given)
    (out / "mine").unlink()
    passed(*given)
    job, part = out / "_job.json", out / "part-00001.parquet"
    pq.write_table(pq.read_table(part).slice(1), part)
    assert "part-00001.parquet has 149 rows, not 150: remove it" in failed(*given)
    part.write_bytes(b"cut")
    assert "part-00001.parquet cannot be read; remove it: " in failed(*given)
    part.unlink()
    assert "2 files written" in passed(*given)
    for content in (b"{", b"[]", b'{"format": "another"}', job.read_bytes().replace(b"hiersrec-rec", b"x")):
        job.write_bytes(content)
        assert "_job.json cannot be read: " in failed(*given)
    assert "--out must be another folder than that of --sessions" in failed(*arguments(made[1], few, few))


@pytest.mark.slow
def test_bad_sessions(made: tuple[Shop, Path], tmp_path: Path) -> None:
    shop, bundle = made
    sessions: list[Any] = sessions_of(shop, 250)
    good = answers(Recommender.load(bundle), sessions, 20)
    sessions[140], sessions[230] = None, [shop.ids[3], None]
    file, out = tmp_path / "sessions.parquet", tmp_path / "recs"
    pq.write_table(table_of(sessions, shop), file)
    said = failed(*arguments(bundle, file, out))
    assert f"{file}, row 140: the session is null: None; on_bad='skip' (--on-bad skip)" in said
    assert not out.exists()
    printed = passed(*arguments(bundle, file, out, "--on-bad", "skip"))
    assert printed == f"250 sessions, 2 of them bad and skipped; 3 files written to {out}\n"
    found = read(out).to_pydict()
    for at in (140, 230):
        assert (found["items"][at], found["scores"][at], found["mode"][at]) == ([], [], None)
        good["items"][at] = found["items"][at]
    assert found["items"] == good["items"]


@pytest.mark.slow
def test_unknown_ids_may_be_an_error(made: tuple[Shop, Path], tmp_path: Path) -> None:
    shop, bundle = made
    file, out = tmp_path / "sessions.parquet", tmp_path / "recs"
    sessions: list[Any] = [[shop.ids[3]]] * 250
    sessions[140] = [shop.ids[3], shop.stranger]
    pq.write_table(table_of(sessions, shop), file)
    said = failed(*arguments(bundle, file, out, "--on-unknown", "error"))
    assert f"{file}, row 140: item id 'stranger' is not in the catalog" in said
    assert not (out / "part-00001.parquet").exists()


@pytest.mark.slow
def test_no_sessions_at_all(made: tuple[Shop, Path], tmp_path: Path) -> None:
    file, out = tmp_path / "sessions.parquet", tmp_path / "recs"
    pq.write_table(table_of([], made[0]), file)
    assert passed(*arguments(made[1], file, out)) == f"0 sessions; 1 files written to {out}\n"
    assert read(out).num_rows == 0
    assert read(out).column_names == ["visitor", "items", "scores", "mode", "unknown_ids"]


@pytest.mark.slow
def test_a_column_that_only_one_file_requires(made: tuple[Shop, Path], tmp_path: Path) -> None:
    shop, folder, out = made[0], tmp_path / "sessions", tmp_path / "recs"
    folder.mkdir()
    for name, nullable in (("a", False), ("b", True)):
        table = table_of(sessions_of(shop, 20), shop)
        fields = [
            field.with_nullable(nullable) if field.name == "visitor" else field for field in table.schema
        ]
        pq.write_table(table.cast(pa.schema(fields)), folder / f"{name}.parquet")
    passed(*arguments(made[1], folder, out))
    assert read(out)["visitor"].to_pylist() == [*range(20)] * 2


@pytest.mark.parametrize(
    ("more", "code", "says"),
    [
        (["--processes", "0"], 1, "--processes must be an integer from 1 to 256, got 0"),
        (["--shard-sessions", "0"], 1, "--shard-sessions must be an integer ≥ 1, got 0"),
        (["--batch-size", "0"], 1, "batch_size must be an integer ≥ 1, got 0"),
        (["-k", "0"], 1, "k must be an integer ≥ 1, got 0"),
        (["--category", "no such"], 1, "no such"),
        (["--keep", "none"], 1, "0.parquet: there is none of the name 'none'"),
        (["--session-column", "visitor"], 1, "0.parquet: the column 'visitor' has the type int64"),
        (["--json"], 2, "--json cannot be combined with --sessions"),
        (["shoe-1"], 2, "ITEM cannot be combined with --sessions"),
    ],
)
def test_wrong_options(
    more: list[str], code: int, says: str, made: tuple[Shop, Path], few: Path, tmp_path: Path
) -> None:
    result = hiersrec(*arguments(made[1], few, tmp_path / "recs", *more))
    assert result.exit_code == code
    assert says in result.stderr
    assert "Traceback" not in result.output
    assert not (tmp_path / "recs").exists()


def test_options_of_many_need_sessions(made: tuple[Shop, Path], tmp_path: Path) -> None:
    for more in (["--keep", "a"], ["--processes", "1"], ["--on-bad", "error"], ["--no-progress"]):
        result = hiersrec("recommend", made[1], *more)
        assert result.exit_code == 2
        assert f"{more[0].replace('no-', '')} needs --sessions" in result.stderr
    assert "--sessions needs --out" in hiersrec("recommend", made[1], "--sessions", tmp_path).stderr
    assert "--out needs --sessions" in hiersrec("recommend", made[1], "--out", tmp_path / "recs").stderr


@pytest.mark.slow
def test_progress_is_shown(
    made: tuple[Shop, Path], few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "_SECONDS", 0.0)
    given = arguments(made[1], few, tmp_path / "recs", "--processes", "1")
    lines = hiersrec(*given, "--progress").stderr.splitlines()
    assert lines[-1].startswith("300 of 300 sessions, ")
    assert lines[-1].endswith(" a second, 0 s left")
    given[given.index(str(tmp_path / "recs"))] = str(tmp_path / "again")
    assert hiersrec(*given).stderr == ""
