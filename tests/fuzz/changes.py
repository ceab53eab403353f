"""Target "changes": change files with wrong lines, through the function and through the command line."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from hiersrec_sdk import Recommender
from hiersrec_sdk.catalog.change_file import apply
from hiersrec_sdk.errors import HierSRecError, InvalidArgumentError
from tests.fuzz.bundle_case import opening
from tests.fuzz.chance import Chance
from tests.fuzz.parts import Parts, config_of, sound, write
from tests.fuzz.use import User, Wrong, command

_RAW: Final = "\x01raw:"
_WILD: Final[list[Any]] = [
    None, True, False, 0, -1, 1, 5, 2**31, 2**63 - 1, -(2**63), 2**63, 2**64, 10**40, 0.5, -0.0, 1e308, 1e39, 1e-320,
    "", " ", "x", "0", "-1", "\0", "a\0b", "\ud800", "ü", "unknown", "x" * 5000, [], [[]], [None], [0], ["x"], [0, 0], ["0/0", "1/0", "2/0"],
    {}, {"a": 1}, {"id": 1}, [1e39], [True], [0.1] * 20, ["nan"], {"price": None}, {"price": "3"}, {"price": True}, {"": 1}, {"price": [1]},
    {"price": {}}, {"price": 10**400}, "NaN", "1_000",
]  # fmt: skip
_LITERALS: Final = [
    "NaN", "Infinity", "-Infinity", "1e999", "9" * 5000, "-" + "9" * 4301, "1" + "0" * 400, "[" * 100_000, "[" * 500 + "]" * 500,
    "{" * 1000, '"\\ud800"', '"\\u0000"', "01", "+1", ".5", "1.", "'x'", "tru", "-", '"\t"', "[1,]", "[" * 5000 + "]" * 5000,
]  # fmt: skip


@dataclass
class ChangesCase:
    """A change file for a sound bundle.

    Attributes:
        notes: what the file has.
        parts: the bundle.
        content: the file.
        through: "apply", or "cli".
        chance: chooses what comes after.
        options: of ``Recommender.load``.
    """

    notes: list[str]
    parts: Parts
    content: bytes
    through: str
    chance: Chance
    options: dict[str, Any]

    def run(self, scratch: Path) -> str:
        """Apply it, and use the catalog that it leaves."""
        files = self.parts.content()
        files = {"config.json": json.dumps(config_of(self.parts, files)).encode(), **files}
        folder = write(scratch / "bundle", files)
        if self.through == "cli":
            changes, out = scratch / "changes.jsonl", scratch / "out"
            changes.write_bytes(self.content)
            try:
                command(["catalog", "apply"], folder, changes, Path("--out"), out)
            except HierSRecError:
                if out.exists():
                    raise Wrong("a change file was refused, but a bundle was written") from None
                return "refused"
            recommender = Recommender.load(out, **self.options)
            end = "used"
        else:
            recommender = Recommender.load(folder, **self.options)
            catalog = recommender.catalog
            try:
                apply(catalog, self.content.decode("utf-8", "surrogateescape").splitlines(keepends=True))
                end = "used"
            except InvalidArgumentError as error:
                str(error).encode("utf-8", "backslashreplace")
                if len(str(error)) > 2_000:
                    raise Wrong("a message of more than 2,000 characters") from error
                end = "refused"
            recommender.save(scratch / "after")
            again = Recommender.load(scratch / "after", backend="numpy")
            rows, then = catalog.live_rows(), again.catalog.live_rows()
            same = [*catalog.ids(rows)] == [*again.catalog.ids(then)] and np.array_equal(
                catalog.vectors(rows), again.catalog.vectors(then)
            )
            if not same:
                raise Wrong("the catalog that was saved is another one when it is loaded")
        user = User(recommender, self.parts.ids, self.chance, scratch, True, folder)
        for step in user.reading():
            if step.__name__ in ("look_up", "titles", "recommend", "many"):
                user.attempt(step)
        return end


def make(chance: Chance) -> ChangesCase:
    """A change file."""
    parts = chance.choice(sound())
    ids = parts.ids
    notes, lines = [parts.name], []
    for _ in range(chance.choice([1, 1, 2, 3, 8])):
        change = _sound(chance, parts, ids)
        if chance.one_in(5):
            lines.append(json.dumps(change))
            continue
        line = _damaged(chance, change)
        notes.append(line if len(line) < 200 else f"{line[:150]}… ({len(line)})")
        lines.append(line)
    content = "\n".join(lines).encode("utf-8", "surrogatepass")
    if chance.one_in(6):
        content, note = _file(chance, content)
        notes.append(note)
    options = opening(chance) | {"verify": True}
    through = "cli" if chance.one_in(5) else "apply"
    notes.append(f"through {through}")
    return ChangesCase(notes, parts, content, through, chance, options)


def _sound(chance: Chance, parts: Parts, ids: list[Any]) -> dict[str, Any]:
    """A change that can be made."""
    text = isinstance(ids[0], str)
    new = f"new-{chance.randrange(3)}" if text else 2**40 + chance.randrange(3)
    item = chance.choice([chance.choice(ids), chance.choice(ids), new])
    strings = parts.config["category_id_type"] == "string"
    repeated = "repeated" in parts.name
    name = chance.choice([0, 5, 7, 9] if repeated else [0, 1])
    category: Any = (f"c{name}" if repeated else f"{chance.randrange(3)}/{name}") if strings else 100 * chance.randrange(3) + name
    if chance.one_in(3):
        category = [category, "fresh" if strings else 12345]
    kind = chance.choice(["upsert", "upsert", "upsert", "remove", "move", "set_bias"])
    if kind == "remove":
        return {"remove": item}
    if kind == "move":
        return {"move": {"id": item, "category": category}}
    if kind == "set_bias":
        return {"set_bias": {"id": item, "value": chance.choice([0, 1.5, -3])}}
    upsert: dict[str, Any] = {"id": item}
    if chance.one_in(2):
        upsert["category"] = category
    if chance.one_in(2):
        upsert["text"] = "red boots"
    if chance.one_in(3):
        upsert["numbers"] = {"price": 3.5}
    if chance.one_in(3):
        upsert["title"] = "Größe 3"
    if chance.one_in(4):
        upsert["vector"] = [0.25] * int(parts.config["dimension"])
    if chance.one_in(5):
        upsert["metadata_vector"] = [0.5, 0.5, 1]
    return {"upsert": upsert}


def _damaged(chance: Chance, change: dict[str, Any]) -> str:
    kind = next(iter(change))
    value = change[kind]
    how = chance.choice(["field", "field", "field", "field", "value", "more", "kind", "literal", "literal", "line", "twice", "drop"])
    if how == "value" or (not isinstance(value, dict) and how in ("field", "more", "drop")):
        change[kind] = chance.choice(_WILD)
    elif how == "field":
        names = ["id", "category", "text", "title", "numbers", "vector", "metadata_vector", "value"]
        value[chance.choice([*value, *value, chance.choice(names)])] = chance.choice(_WILD)
    elif how == "more":
        value[chance.choice(["", "ids", "x", "clicks", "\ud800", "id "])] = chance.choice(_WILD)
    elif how == "drop":
        value.pop(chance.choice([*value]))
    elif how == "kind":
        change = {chance.choice(["upserts", "", "Upsert", "compact", "\0"]): value}
    elif how == "literal":
        literal = chance.choice(_LITERALS)
        if isinstance(value, dict):
            value[chance.choice([*value])] = _RAW
        else:
            change[kind] = _RAW
        return json.dumps(change).replace(json.dumps(_RAW), literal)
    elif how == "twice":
        return json.dumps(change)[:-1] + ", " + json.dumps(_extra(chance))[1:]
    elif how == "line":
        return _line(chance, json.dumps(change, ensure_ascii=chance.one_in(2)))
    return json.dumps(change, ensure_ascii=chance.one_in(2))


def _extra(chance: Chance) -> dict[str, Any]:
    return {chance.choice(["upsert", "remove", "move"]): chance.choice(_WILD)}


def _line(chance: Chance, line: str) -> str:
    at = chance.randrange(len(line))
    wrong = [
        line[:at], line[at:], line + line, line + "}", f"[{line}]", f'"{line}"', line[:at] + "\0" + line[at:], "null", "[]", "{}", "3",
        "\ufeff" + line, line.replace('"', "'"), "\x85" + line, "\u2028" + line, line + "\r", " " * 10_000 + line, "[" * 100_000, '{"upsert":' * 50_000,
        "#" + line, line.replace(":", "="), '{"upsert": [' + line + "]}",
    ]  # fmt: skip
    return chance.choice(wrong)


def _file(chance: Chance, content: bytes) -> tuple[bytes, str]:
    kind = chance.randrange(7)
    if kind == 0:
        return b"\xef\xbb\xbf" + content, "a byte order mark"
    if kind == 1:
        return content.decode("utf-8", "replace").encode("utf-16"), "UTF-16"
    if kind == 2:
        at = chance.randrange(len(content) + 1)
        return content[:at] + chance.choice([b"\xff", b"\xed\xa0\x80", b"\x80"]) + content[at:], f"no UTF-8 at byte {at}"
    if kind == 3:
        return content.replace(b"\n", chance.choice([b"\r", b"\r\n", b"\n\n\n"])), "other ends of lines"
    if kind == 4:
        return (content + b"\n") * chance.choice([2, 300]), "many times over"
    return chance.spoiled(content)
