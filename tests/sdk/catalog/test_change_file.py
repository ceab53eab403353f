"""Files of catalog changes: a line that is wrong is named, whatever is wrong with it."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from hiersrec_sdk import Recommender
from hiersrec_sdk.catalog import change_file
from hiersrec_sdk.catalog.change_file import apply, read_lines
from hiersrec_sdk.errors import CatalogChangeError
from tests.sdk.bundles import make_shop

SHOP = make_shop("string")
VECTOR = "[1, 1, 1, 1, 1, 1]"
GOOD = f'{{"upsert": {{"id": "new", "vector": {VECTOR}}}}}'.encode()
WRONG = {
    "no JSON": (b"upsert", "is not JSON: Expecting value"),
    "deep": (b"[" * 100_000, "is not JSON: it is nested more than 32 levels deep"),
    "deep objects": (b'{"upsert":' * 50_000, "is not JSON: it is nested"),
    "thousands of digits": (
        b'{"remove": ' + b"9" * 5_000 + b"}",
        "is not JSON: the integer 9+… does not fit",
    ),
    "beyond 64 bits": (b'{"remove": 18446744073709551616}', "is not JSON: the integer"),
    "NaN": (b'{"set_bias": {"id": "0", "value": NaN}}', "is not JSON: NaN is no number"),
    "infinity": (b'{"set_bias": {"id": "0", "value": -Infinity}}', "is not JSON: -Infinity is no number"),
    "too large": (b'{"set_bias": {"id": "0", "value": 1e999}}', "is not JSON: the number 1e999 is too large"),
    "beyond float32": (
        b'{"set_bias": {"id": "0", "value": 1e300}}',
        r"values must be finite, up to 1e\+15",
    ),
    "invalid UTF-8": (b'{"remove": "\xff"}', "is not JSON: 'utf-8' codec can't decode"),
    "NUL": (b'{"remove": "a\0"}', "is not JSON: Invalid control character"),
    "half a surrogate pair": (rb'{"remove": "\ud800"}', "is not JSON: 'utf-8' codec can't encode"),
    "a key twice": (b'{"remove": "a", "remove": "b"}', "is not JSON: the key 'remove' stands twice"),
    "a byte order mark": (b'\xef\xbb\xbf{"remove": "a"}', "is not JSON: Unexpected UTF-8 BOM"),
    "long": (b'{"remove": "' + b"x" * 5_000 + b'"}', "is longer than 4,000 bytes"),
    "two kinds": (b'{"remove": "a", "move": "b"}', "must be an object with one key of"),
    "no kind": (b'{"delete": "a"}', "must be an object with one key of .*got {'delete': 'a'}"),
    "no object": (b"5", "must be an object with one key of .*got 5"),
    "text for a number": (
        b'{"set_bias": {"id": "0", "value": "5"}}',
        "values must be a list of numbers, got '5'",
    ),
    "a bool for a number": (
        b'{"set_bias": {"id": "0", "value": true}}',
        "values must be a list of numbers, got True",
    ),
    "fields of a bias": (b'{"set_bias": {"id": "0"}}', "must have the keys id and value"),
    "an unknown item": (b'{"set_bias": {"id": "who", "value": 1}}', "item id 'who' is not in the catalog"),
    "an id of another type": (b'{"remove": 5}', "item id at position 0 is 5, of type int"),
    "a number for a title": (
        b'{"upsert": {"id": "0", "title": 5}}',
        "'0': its title must be UTF-8 text, got 5",
    ),
    "text in a vector": (
        b'{"upsert": {"id": "0", "vector": ["1"]}}',
        "'0': its vector must be a list of numbers",
    ),
}


@pytest.fixture(scope="module")
def recommender(tmp_path_factory: pytest.TempPathFactory) -> Recommender:
    return Recommender.load(SHOP.write(tmp_path_factory.mktemp("bundles") / "bundle"))


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_line_is_named(name: str, recommender: Recommender, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(change_file, "_LONGEST", 4_000 if name == "long" else 10**6)
    line, message = WRONG[name]
    for good in (GOOD, b'{"remove": "new"}'):
        content = b"\n".join([good, b"", line, b'{"remove": "0"}\n'])
        with pytest.raises(CatalogChangeError, match=f"^line 3:?.*{message}") as raised:
            apply(recommender.catalog, read_lines(io.BytesIO(content)))
        assert len(str(raised.value)) < 600
        assert (recommender.catalog.rows(["new"])[0] >= 0) == (good is GOOD)  # what stands before it is made
        assert recommender.catalog.rows(["0"])[0] >= 0  # and what comes after it is not


def test_a_line_that_never_ends(
    recommender: Recommender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(change_file, "_LONGEST", 1_000)
    endless = tmp_path / "endless"
    with endless.open("wb") as file:
        file.truncate(1 << 40)
    with endless.open("rb") as file:
        with pytest.raises(CatalogChangeError, match=r"^line 1 is longer than 1,000 bytes"):
            apply(recommender.catalog, read_lines(file))
        assert file.tell() < 2_000


def test_text_and_bytes_are_the_same(recommender: Recommender) -> None:
    lines = ['{"upsert": {"id": "größe", "title": "gr\\u00f6\\u00dfe"}}\n', "\n", '{"remove": "größe"}\n']
    vector = lines[0].replace('"title"', f'"vector": {VECTOR}, "title"')
    for some in ([vector, *lines], [line.encode() for line in (vector, *lines)]):
        assert apply(recommender.catalog, some) == {"upsert": 2, "remove": 1, "move": 0, "set_bias": 0}
