"""Settings survive the way through the environment, and wrong ones are refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hiersrec_sdk.errors import InvalidOptionError
from hiersrec_sdk.serve import Settings

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=9)
NUMBER = st.integers(1, 1 << 40)
SECONDS = st.floats(1e-6, 1e6)


@given(
    bundle=TEXT,
    feed=st.just("") | TEXT,
    token=st.just("") | TEXT.filter(lambda text: text.isprintable() and text == text.strip()),
    page=st.booleans(),
    max_body_bytes=NUMBER,
    max_k=NUMBER,
    body_seconds=SECONDS,
)
def test_through_the_environment(**given: Any) -> None:
    settings = Settings(**given)
    assert Settings.from_environment(settings.environment()) == settings


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("MAX_K", "0", "HIERSREC_MAX_K: max_k must be an integer ≥ 1, got 0"),
        ("MAX_K", "many", "HIERSREC_MAX_K: max_k must be an integer ≥ 1, got 'many'"),
        ("MAX_K", "1.5", "must be an integer ≥ 1, got 1.5"),
        ("BODY_SECONDS", "-1", "body_seconds must be a number above 0, got -1"),
        ("BODY_SECONDS", "inf", "must be a number above 0, got 'inf'"),
        ("PAGE", "perhaps", "page must be a bool, got 'perhaps'"),
        *(
            ("TOKEN", token, "HIERSREC_TOKEN: token .* without line breaks")
            for token in ("a\n", " a", "a\udcff")
        ),
    ],
)
def test_wrong_values(name: str, value: str, says: str) -> None:
    with pytest.raises(InvalidOptionError, match=says):
        Settings.from_environment({"HIERSREC_BUNDLE": "b", f"HIERSREC_{name}": value})


def test_no_bundle() -> None:
    with pytest.raises(InvalidOptionError, match="HIERSREC_BUNDLE must name"):
        Settings.from_environment({})


def test_the_token_is_not_shown() -> None:
    assert "hush" not in repr(Settings(token="hush"))
