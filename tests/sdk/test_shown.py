"""Values in messages, and paths, as users may give them."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest

from hiersrec_sdk.errors import InvalidPathError
from hiersrec_sdk.paths import as_path, real_path
from hiersrec_sdk.shown import shown


class Failing:
    def __repr__(self) -> str:
        raise ValueError("no repr")


class Hostile:
    """Even what it says of its class and its length is wrong."""

    __class__: Any = property(lambda self: 1 / 0)

    def __len__(self) -> int:
        return -1

    def __repr__(self) -> str:
        raise RecursionError


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (20, "20"),
        (-1.5, "-1.5"),
        ("shoe", "'shoe'"),
        (None, "None"),
        (("Men", "Shirts"), "('Men', 'Shirts')"),
        (10**5_000, "<integer of about 5,000 digits>"),
        (-(10**5_000), "<integer of about 5,000 digits>"),
        ("\ud800\0", r"'\ud800\x00'"),
        (np.zeros((3, 4)), "an array of float64 [3, 4]"),
        (set(range(10**6)), "<set of 1,000,000>"),
    ],
    ids=itertools.count(),
)
def test_values(value: Any, text: str) -> None:
    assert shown(value) == text


@pytest.mark.parametrize(
    "value",
    [
        "x" * 10**6,
        b"x" * 10**6,
        bytearray(10**6),
        [10**5_000] * 50,
        {f"key {number}": "x" * 100 for number in range(100)},
        pd.DataFrame({"a": range(100), "b": "x" * 100}),
        pl.DataFrame({"a": range(100)}),
        np.dtype([(f"field {number}", "f8") for number in range(100)]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_long_values(value: Any) -> None:
    assert 0 < len(shown(value)) <= 100
    assert "\n" not in shown(value)


def test_hostile_values() -> None:
    for value in (Failing(), [Failing()], Hostile(), [Hostile(), {"a": Hostile()}], {1: Hostile()}):
        assert 0 < len(shown(value)) <= 100


@pytest.mark.parametrize(
    "name", ["shop", "a/b", "~", "%d", "größe", b"\xff".decode(errors="surrogateescape")]
)
def test_paths(name: str) -> None:
    assert as_path(name) == as_path(Path(name)) == Path(name)


@pytest.mark.parametrize(
    "value", ["", "a\0b", "\ud800", b"a", 5, None, ["a"], True, 1.5, "\0" * 10**6], ids=itertools.count()
)
def test_what_is_no_path(value: Any) -> None:
    with pytest.raises(InvalidPathError, match=r"^cache_dir must be a ") as raised:
        as_path(value, "cache_dir")
    assert re.search("string or a path object|without NUL and not empty", str(raised.value))
    assert len(str(raised.value)) < 200


def test_a_loop_of_links(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    assert real_path(tmp_path / "loop") == tmp_path.resolve() / "loop"
    assert real_path(tmp_path / "link") == tmp_path.resolve() / "folder"
