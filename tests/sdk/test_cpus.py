"""CPUs of a container with made-up control groups, and threads="auto"."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest

from hiersrec_sdk import Recommender, cpus, errors, pipeline, pool, search
from hiersrec_sdk.cpus import available_cpus
from tests.sdk.bundles import make_shop

V2 = "30 23 0:26 {top} {point} rw,nosuid - cgroup2 cgroup2 rw,nsdelegate"
V1 = "33 25 0:29 {top} {point} rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct"
OTHER = [
    "25 30 0:22 / /proc rw - proc proc rw",
    "34 25 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory",
    "35 25 0:31 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset",
]


@pytest.fixture(autouse=True)
def sixteen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)))
    cpus._available_cpus.cache_clear()


def tree(root: Path, groups: list[str], mounts: list[str], files: dict[str, str]) -> int:
    files = files | {
        "proc/self/cgroup": "".join(line + "\n" for line in groups),
        "proc/self/mountinfo": "".join(line + "\n" for line in [*OTHER, *mounts]),
    }
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return available_cpus(root)


def v2(
    root: Path, quotas: dict[str, str], group: str = "/pod/app", top: str = "/", point: str = "/sys/fs/cgroup"
) -> int:
    files = {f"{point[1:]}/{folder}cpu.max": quota + "\n" for folder, quota in quotas.items()}
    return tree(root, [f"0::{group}"], [V2.format(top=top, point=point.replace(" ", "\\040"))], files)


@pytest.mark.parametrize(
    ("quotas", "wanted"),
    [
        ({}, 16),
        ({"pod/app/": "max 100000"}, 16),
        ({"pod/app/": "200000 100000"}, 2),
        ({"pod/app/": "150000 100000"}, 2),  # rounded up
        ({"pod/app/": "10000 100000"}, 1),
        ({"pod/app/": "6400000 100000"}, 16),  # more than the affinity
        ({"pod/app/": "max 100000", "pod/": "350000 100000"}, 4),  # of an ancestor
        ({"pod/app/": "500000 100000", "pod/": "300000 100000", "": "900000 100000"}, 3),
        ({"pod/app/": "50000 10000"}, 5),
        ({"pod/other/": "100000 100000"}, 16),  # of a sibling
        ({"pod/app/": "nonsense"}, 16),
        ({"pod/app/": "100000 0"}, 16),
    ],
)
def test_cgroup_v2(quotas: dict[str, str], wanted: int, tmp_path: Path) -> None:
    assert v2(tmp_path, quotas) == wanted


def test_a_container_of_cgroup_v2(tmp_path: Path) -> None:
    assert v2(tmp_path / "cgroup namespace", {"": "200000 100000"}, group="/") == 2
    assert v2(tmp_path / "of the host", {"": "200000 100000"}, group="/docker/abc", top="/docker/abc") == 2
    assert v2(tmp_path / "outside", {"": "200000 100000"}, group="/../../elsewhere") == 2
    assert v2(tmp_path / "elsewhere", {"pod/app/": "200000 100000"}, point="/mnt/my groups") == 2
    assert v2(tmp_path / "alike", {"": "200000 100000"}, group="/docker/abcdef", top="/docker/abc") == 2


@pytest.mark.parametrize(
    ("quotas", "wanted"),
    [
        ({}, 16),
        ({"docker/abc/": (-1, 100_000)}, 16),
        ({"docker/abc/": (250_000, 100_000)}, 3),
        ({"docker/abc/": (-1, 100_000), "docker/": (400_000, 100_000)}, 4),
    ],
)
@pytest.mark.parametrize("top", ["/", "/docker/abc"])
def test_cgroup_v1(quotas: dict[str, tuple[int, int]], wanted: int, top: str, tmp_path: Path) -> None:
    point = "sys/fs/cgroup/cpu,cpuacct"
    if top != "/":
        quotas = {folder.removeprefix("docker/abc/"): each for folder, each in quotas.items()}
        wanted = 16 if "docker/" in quotas else wanted  # which it cannot see
    files: dict[str, str] = {}
    for folder, (quota, period) in quotas.items():
        files |= {
            f"{point}/{folder}cpu.cfs_quota_us": f"{quota}\n",
            f"{point}/{folder}cpu.cfs_period_us": f"{period}\n",
        }
    groups = ["5:memory:/docker/abc", "4:cpu,cpuacct:/docker/abc", "3:cpuset:/", "0::/docker/abc"]
    assert tree(tmp_path, groups, [V1.format(top=top, point=f"/{point}")], files) == wanted


def test_names_of_mounts_are_bytes(tmp_path: Path) -> None:
    assert v2(tmp_path, {"pod/app/": "150000 100000"}) == 2
    odd = b"40 30 0:40 / /mnt/caf\xe9 rw - ext4 disk rw\n41 30 0:41 / /mnt/a\x0cb\xe2\x80\xa8c rw - ext4 disk rw\n"
    mounts = tmp_path / "proc/self/mountinfo"
    mounts.write_bytes(odd + mounts.read_bytes())
    assert available_cpus(tmp_path) == 2


def test_no_control_groups(tmp_path: Path) -> None:
    assert available_cpus(tmp_path) == 16
    assert available_cpus() >= 1


@pytest.mark.parametrize("cores", [1, 3])
def test_auto_is_the_number_of_cpus(cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: set[int] = set()

    def in_threads(make: Any, values: Any, threads: int) -> Any:
        asked.add(threads)
        return pool.in_threads(make, values, threads)

    monkeypatch.setattr(search, "_PART_ROWS", 8)
    for module in (search, pipeline):
        monkeypatch.setattr(module, "in_threads", in_threads)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)))
    shop = make_shop(times=4)
    recommender = Recommender.load(shop.write(tmp_path / "bundle"), threads="auto")
    wanted = min(cores, available_cpus())
    assert recommender._pipeline.encoder.threads == wanted
    assert pickle.loads(pickle.dumps(recommender))._threads == "auto"  # of the machine that it comes to
    session = shop.ids[5:9]
    one = recommender.recommend(session, 9, mode="exact")
    assert list(recommender.recommend(session, 9, mode="exact", threads="auto")) == list(one)
    many: Any = recommender.recommend_many([session] * 5, 9, batch_size=2, threads="auto", mode="exact")
    assert [list(found) for found in many] == [list(one)] * 5
    assert asked == ({wanted} if wanted > 1 else set())


def test_an_invalid_number_of_threads(tmp_path: Path) -> None:
    recommender: Any = Recommender.load(make_shop().write(tmp_path / "bundle"))
    wrong: list[Any] = [0, -1, "all", None, 1.5, True, 257, 10**6, 2**63, 10**5_000]
    message = "threads must be an integer from 1 to 256, or 'auto', got"
    for threads in wrong:
        for call in (recommender.recommend, recommender.recommend_many):
            with pytest.raises(errors.InvalidThreadsError, match=message):
                call([], threads=threads)
        with pytest.raises(errors.InvalidThreadsError, match=message):
            Recommender.load(tmp_path / "bundle", threads=threads)
