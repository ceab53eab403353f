"""What the check of a wheel finds."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from hiersrec_sdk.ranking import kernel_file
from release.wheel import problems, wheel_tag

KERNEL = "hiersrec_sdk/_kernel.abi3.so"
FILES = {
    "hiersrec_sdk/__init__.py": b"",
    "hiersrec_sdk/_version.py": b"",
    "hiersrec_sdk/py.typed": b"",
    "hiersrec_sdk-1.0.dist-info/licenses/LICENSE": b"",
}
Write = Callable[[str, Mapping[str, bytes]], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a wheel for a tag, with files."""

    def written(tag: str, files: Mapping[str, bytes]) -> Path:
        path = tmp_path / f"hiersrec_sdk-1.0-{tag}.whl"
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return path

    return written


@pytest.fixture(scope="module")
def kernel() -> bytes:
    """The compiled kernel of this machine, x86-64."""
    file = kernel_file()
    if file is None or file.read_bytes()[18:20] != b"\x3e\x00":
        pytest.skip("needs a compiled kernel of x86-64")
    return file.read_bytes()


def test_a_pure_wheel(write: Write) -> None:
    wheel = write("py3-none-any", FILES)
    assert wheel_tag(wheel) == "any"
    assert problems(wheel) == []


@pytest.mark.parametrize("name", ["hiersrec_sdk/_kernel.pyx", "hiersrec_sdk/topk.c", "hiersrec_sdk/topk.h"])
def test_sources_are_found(write: Write, name: str) -> None:
    assert problems(write("py3-none-any", {**FILES, name: b""})) == [f"{name} is not for users"]


def test_other_packages_are_found(write: Write) -> None:
    [found] = problems(write("py3-none-any", {**FILES, "tests/test_wheel.py": b""}))
    assert found.startswith("tests/test_wheel.py belongs to none of ")


@pytest.mark.parametrize("name", ["hiersrec_sdk/_version.py", "hiersrec_sdk/py.typed"])
def test_missing_files_are_found(write: Write, name: str) -> None:
    files = {other: content for other, content in FILES.items() if other != name}
    assert problems(write("py3-none-any", files)) == [f"{name} is missing"]


def test_links_that_lead_nowhere_are_found(write: Write) -> None:
    about = b"Name: x\n\n[paper](https://arxiv.org/abs/2309.06533), [below](#use), [own data](docs/data.md)\n"
    [found] = problems(write("py3-none-any", {**FILES, "hiersrec_sdk-1.0.dist-info/METADATA": about}))
    assert "link to docs/data.md" in found


def test_an_extension_belongs_into_platform_wheels_alone(write: Write, kernel: bytes) -> None:
    pure = problems(write("py3-none-any", {**FILES, KERNEL: kernel}))
    assert f"extensions are ['{KERNEL}'], not []" in pure
    assert problems(write("cp311-abi3-manylinux_2_17_x86_64", FILES)) == [
        f"extensions are [], not ['{KERNEL}']"
    ]


def test_a_platform_wheel(write: Write, kernel: bytes) -> None:
    wheel = write("cp311-abi3-manylinux2014_x86_64.manylinux_2_17_x86_64", {**FILES, KERNEL: kernel})
    assert wheel_tag(wheel) == "manylinux_2_17_x86_64"
    assert problems(wheel) == []


def test_an_extension_of_another_machine_is_found(write: Write, kernel: bytes) -> None:
    wheel = write("cp311-abi3-manylinux_2_17_aarch64", {**FILES, KERNEL: kernel})
    assert problems(wheel) == [f"{KERNEL} is for x86_64"]


def test_folders_of_the_builder_are_found(write: Write, kernel: bytes) -> None:
    wheel = write("cp311-abi3-manylinux_2_17_x86_64", {**FILES, KERNEL: kernel + b"/srv/built/csrc/topk.c"})
    assert problems(wheel) == []
    [found] = problems(wheel, [Path("/srv/built")])
    assert found == f"{KERNEL} names /srv/built, a folder of the machine that built it"


def test_more_exports_are_found(write: Write, kernel: bytes) -> None:
    renamed = kernel.replace(b"PyInit__kernel\0", b"PyInit__colone\0")
    wheel = write("cp311-abi3-manylinux_2_17_x86_64", {**FILES, KERNEL: renamed})
    assert problems(wheel) == [f"{KERNEL} exports ['PyInit__colone'], not ['PyInit__kernel']"]
