"""JSON with what json.dumps does not write: keys that stand twice, numbers beyond all limits, values nested deeply."""

from __future__ import annotations

import json
import re
from typing import Any, Final

_RAW: Final = "\x01raw:"  # what follows it in a string is JSON text; in a key it is left out

LITERALS: Final = [
    *[
        "NaN",
        "Infinity",
        "-Infinity",
        "1e999",
        "-1e999",
        "0.1e-5",
        "9" * 5000,
        "-" + "9" * 4301,
        "1" + "0" * 400,
    ],
    *[
        "[" * 500 + "]" * 500,
        "[" * 5_000 + "]" * 5_000,
        "[" * 100_000 + "]" * 100_000,
        '{"a":' * 500 + "1" + "}" * 500,
    ],
    *['"\\ud800"', '"\\ud83d\\ude00"', '"\\u0000"', '{"a": 1, "a": 2}'],
]
"""JSON that a reader may parse, and has to expect."""
BROKEN: Final = ["[" * 100_000, "{" * 1000, "01", "+1", ".5", "1.", "'x'", "tru", "-", '"\t"', "[1,]"]
"""Text that is no JSON."""
WILD: Final[list[Any]] = [
    *[None, True, False, 0, -1, 1, 2, 5, 2**31, 2**53 + 1, 2**63 - 1, -(2**63), 2**63, 2**64, 10**30, 10**12],
    *[1.0, 0.5, -0.0, 1e39, 1e308, 1e-320],
    *[
        "",
        " ",
        "x",
        "0",
        "-1",
        "1_000",
        "NaN",
        "int64",
        "string",
        "unknown",
        "../x",
        "\0",
        "a\0b",
        "ä",
        "\ud800",
        "x" * 5_000,
    ],
    *[
        [],
        [0],
        [[]],
        [None],
        ["a"],
        ["x"],
        [0, 0],
        [1, 2, 3],
        ["a", "b", "c"],
        [0.5],
        [1e39],
        [True],
        [0.1] * 20,
        ["0/0", "1/0"],
    ],
    *[
        {},
        {"a": 1},
        {"": None},
        {"id": 1},
        {"top_p": 0.5},
        {"price": None},
        {"price": "3"},
        {"price": True},
        {"price": [1]},
    ],
    *(_RAW + text for text in LITERALS),
]
"""Values that are wrong in most places."""


def literal(text: str) -> str:
    """A value that :func:`dumps` writes as ``text``."""
    return _RAW + text


def again(key: str) -> str:
    """A key that :func:`dumps` writes as ``key``, so that the object has it twice."""
    return key + _RAW


def dumps(value: Any, ascii_only: bool = True) -> str:
    """``value`` as JSON."""
    text = json.dumps(value, ensure_ascii=ascii_only)
    mark = re.escape(json.dumps(_RAW)[1:-1])
    text = re.sub(rf'"{mark}((?:[^"\\]|\\.)*)"', lambda found: str(json.loads(f'"{found[1]}"')), text)
    return re.sub(mark, "", text)


def described(value: Any) -> str:
    """``value`` for a note."""
    text = repr(value).replace(repr(_RAW)[1:-1], "")
    return text if len(text) < 60 else f"{text[:50]}… ({len(text)})"
