"""Files of sessions are read as one table, any range of it; what is wrong in them is named."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hiersrec_sdk import errors
from hiersrec_sdk.integrations import BatchRecommender, session_files
from hiersrec_sdk.integrations.session_files import check_sessions, open_files
from tests.sdk.integrations.asked import sessions_of, table_of
from tests.sdk.integrations.conftest import Known


@settings(max_examples=40)
@given(
    sizes=st.lists(st.integers(0, 30), min_size=1, max_size=4),
    group=st.integers(1, 12),
    chunk=st.integers(1, 12),
    data=st.data(),
)
def test_any_range_of_rows(
    sizes: list[int], group: int, chunk: int, data: st.DataObject, shops: dict[str, Known]
) -> None:
    shop, bundle, _ = shops["string"]
    table = table_of(sessions_of(shop, sum(sizes)), shop)
    with TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(session_files, "CHUNK", chunk)
        folder, first, places = Path(name), 0, []
        for at, size in enumerate(sizes):
            file = folder / f"{at}.parquet"
            pq.write_table(table.slice(first, size), file, row_group_size=group)
            places += [(file, row) for row in range(size)]
            first += size
        files = open_files(folder, BatchRecommender(bundle, keep=["visitor"]))
        assert files.rows == sum(sizes)
        start: int = data.draw(st.integers(0, sum(sizes)))
        stop: int = data.draw(st.integers(start, sum(sizes)))
        pieces = [*files.read(start, stop)]
    found = [(piece.file, piece.first + at) for piece in pieces for at in range(piece.table.num_rows)]
    assert found == places[start:stop]
    assert all(piece.table.num_rows <= chunk for piece in pieces)
    rows = [row for piece in pieces for row in piece.table.select(["items", "visitor"]).to_pylist()]
    assert rows == table.select(["items", "visitor"]).slice(start, stop - start).to_pylist()


def test_files_of_a_folder_follow_each_other_by_name(known: Known, tmp_path: Path) -> None:
    table = table_of(sessions_of(known.shop, 6), known.shop)
    for name in ("b", "a"):
        pq.write_table(table, tmp_path / f"{name}.parquet")
    for other in ("_SUCCESS", "_metadata.parquet", ".hidden.parquet", "a.parquet.crc"):
        (tmp_path / other).write_bytes(b"not Parquet")
    files = open_files(tmp_path, BatchRecommender(known.bundle))
    assert [file.path.name for file in files.files] == ["a.parquet", "b.parquet"]
    assert files.columns == ("items",)


def test_a_name_is_no_pattern(known: Known, tmp_path: Path) -> None:
    path = tmp_path / "a[1]*.parquet"
    pq.write_table(table_of(sessions_of(known.shop, 6), known.shop), path)
    assert open_files(path, BatchRecommender(known.bundle)).rows == 6


def test_what_is_no_file_of_sessions(known: Known, tmp_path: Path) -> None:
    recommend = BatchRecommender(known.bundle, keep=["visitor"])
    with pytest.raises(errors.DataError, match=r"none\.parquet: no such file"):
        open_files(tmp_path / "none.parquet", recommend)
    with pytest.raises(
        errors.DataError, match=r"there is no file whose name ends in \.parquet in this folder"
    ):
        open_files(tmp_path, recommend)
    table = table_of(sessions_of(known.shop, 6), known.shop)
    path = tmp_path / "a.parquet"
    pq.write_table(table, path)
    content = path.read_bytes()
    for wrong in (b"", b"items,visitor", content[:-9]):
        path.write_bytes(wrong)
        with pytest.raises(errors.DataError, match=r"a\.parquet cannot be read as Parquet: "):
            open_files(path, recommend)
    pq.write_table(table.drop_columns(["visitor"]), path)
    with pytest.raises(errors.MissingColumnError, match=r"a\.parquet: there is none of the name 'visitor'"):
        open_files(path, recommend)


def test_a_damaged_page_is_an_error_of_the_file(known: Known, tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(table_of(sessions_of(known.shop, 400), known.shop), path, compression="zstd")
    content = bytearray(path.read_bytes())
    content[8:2_000] = bytes(1_992)
    path.write_bytes(content)
    files = open_files(path, BatchRecommender(known.bundle, keep=["visitor"]))
    with pytest.raises(errors.DataError, match=r"a\.parquet cannot be read as Parquet: "):
        [*files.read(0, 400)]


def test_columns_have_one_type_in_all_files(known: Known, tmp_path: Path) -> None:
    table = table_of(sessions_of(known.shop, 6), known.shop)
    pq.write_table(table, tmp_path / "a.parquet")
    other = table.set_column(0, "visitor", table["visitor"].cast(pa.int32()))
    pq.write_table(other, tmp_path / "b.parquet")
    assert open_files(tmp_path, BatchRecommender(known.bundle)).rows == 12
    with pytest.raises(
        errors.DataError,
        match=r"b\.parquet: the column 'visitor' has the type int32, but in a\.parquet int64",
    ):
        open_files(tmp_path, BatchRecommender(known.bundle, keep=["visitor"]))


@pytest.mark.parametrize(("row", "column"), [(0, "null"), (41, "null"), (41, "inside"), (49, "inside")])
def test_a_bad_session_is_named(row: int, column: str, known: Known, tmp_path: Path) -> None:
    first = known.shop.ids[5]
    sessions: list[Any] = [[first]] * 50
    sessions[row] = None if column == "null" else [first, first, None]
    pq.write_table(table_of([[first]] * 9, known.shop), tmp_path / "a.parquet")
    pq.write_table(table_of(sessions, known.shop), tmp_path / "b.parquet", row_group_size=20)
    recommend = BatchRecommender(known.bundle)
    says = "is null: None" if column == "null" else "has a null at position 2: .*None"
    with pytest.raises(errors.DataError, match=rf"b\.parquet, row {row}: the session {says}.*--on-bad skip"):
        check_sessions(open_files(tmp_path, recommend), recommend)


def test_text_that_is_not_utf8_is_named(shops: dict[str, Known], tmp_path: Path) -> None:
    broken = pa.ListArray.from_arrays([0, 1, 2], pa.array([b"fine", b"\xff"]).view(pa.string()))
    pq.write_table(pa.table({"items": broken}), tmp_path / "a.parquet")
    recommend = BatchRecommender(shops["string"].bundle)
    with pytest.raises(
        errors.DataError, match=r"a\.parquet, row 1: the session has a text that is not UTF-8"
    ):
        check_sessions(open_files(tmp_path, recommend), recommend)


def test_good_sessions_pass(known: Known, tmp_path: Path) -> None:
    pq.write_table(table_of(sessions_of(known.shop, 50), known.shop), tmp_path / "a.parquet")
    recommend = BatchRecommender(known.bundle)
    check_sessions(open_files(tmp_path, recommend), recommend)


def test_a_file_that_is_changed_meanwhile(known: Known, tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(table_of(sessions_of(known.shop, 50), known.shop), path)
    files = open_files(path, BatchRecommender(known.bundle))
    os.utime(path, ns=(1, 1))
    with pytest.raises(errors.DataError, match=r"a\.parquet was changed while it was read"):
        [*files.read(0, 50)]
