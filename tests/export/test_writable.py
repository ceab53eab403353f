"""What cannot be written is found before the work: neither a run nor a bundle is read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hiersrec_export.export import export
from hiersrec_export.standalone import export_standalone
from hiersrec_export.writable import check_writable
from hiersrec_sdk.errors import BundleError, BundleMissingError, ExportError, RunError
from tests.conftest import quiet


def attempt(out: Path, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        export(Path("no run"), out, report=quiet)
    with pytest.raises(ExportError, match=message):
        export_standalone(Path("no bundle"), out, report=quiet)


def test_a_parent_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    attempt(tmp_path / "file" / "bundle", r"file/bundle cannot be written: .*file.*; choose another place$")
    attempt(tmp_path / "file" / "more" / "bundle", r"file/more/bundle cannot be written: ")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_name_that_is_too_long_beside_its_end(tmp_path: Path) -> None:
    """A name may have 255 bytes, and that of a part is longer than the final one."""
    attempt(tmp_path / ("b" * 250), r"cannot be written: .*File name too long")
    attempt(tmp_path / ("b" * 256), r"cannot be written: .*File name too long")
    attempt(tmp_path / ("b" * 256) / "bundle", r"cannot be written: .*File name too long")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_is_read_only(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir(0o500)
    attempt(folder / "bundle", r"cannot be written: .*Permission denied")
    folder.chmod(0o700)


def test_what_can_be_written_leaves_nothing(tmp_path: Path) -> None:
    out = tmp_path / "new" / "and newer" / "bundle"
    with pytest.raises(RunError):
        export(tmp_path, out, report=quiet)
    with pytest.raises(BundleMissingError):
        export_standalone(tmp_path / "nothing", out, report=quiet)
    assert not list(tmp_path.iterdir())
    (tmp_path / "new").mkdir()
    check_writable(out, BundleError)
    assert [path.name for path in tmp_path.rglob("*")] == ["new"]


def test_a_path_that_no_system_takes(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"cannot be written: .*null"):
        check_writable(tmp_path / "a\0b", BundleError)
