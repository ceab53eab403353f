"""Target "changes": change files with wrong lines, through the function and through the command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hiersrec_sdk import Recommender
from hiersrec_sdk.catalog.change_file import apply
from hiersrec_sdk.errors import HierSRecError, InvalidArgumentError
from tests.fuzz.bundle_case import opening
from tests.fuzz.chance import Chance
from tests.fuzz.parts import Parts, sound, with_config, write
from tests.fuzz.use import User, WrongError, command
from tests.fuzz.wild_json import BROKEN, LITERALS, WILD, dumps, literal

_LONGEST_MESSAGE = 2_000  # characters


@dataclass
class ChangesCase:
    """A change file for a sound bundle.

    Attributes:
        notes: the lines that are damaged.
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
        folder = write(scratch / "bundle", with_config(self.parts, self.parts.content()))
        after = scratch / "after"
        if self.through == "cli":
            changes = scratch / "changes.jsonl"
            changes.write_bytes(self.content)
            try:
                command(["catalog", "apply"], folder, changes, Path("--out"), after)
            except HierSRecError:
                if after.exists():
                    raise WrongError("a change file was refused, but a bundle was written") from None
                return "refused"
            recommender, end = Recommender.load(after, **self.options), "used"
        else:
            recommender = Recommender.load(folder, **self.options)
            end = self._apply(recommender)
            recommender.save(after)
            _compare(recommender, Recommender.load(after, backend="numpy"))
        user = User(recommender, self.parts.ids, self.chance, scratch, True, folder)
        for step in user.reading():
            if step.__name__ in ("look_up", "titles", "recommend", "many"):
                user.attempt(step)
        return end

    def _apply(self, recommender: Recommender) -> str:
        text = self.content.decode("utf-8", "surrogateescape")
        try:
            apply(recommender.catalog, text.splitlines(keepends=True))
        except InvalidArgumentError as error:
            if len(str(error)) > _LONGEST_MESSAGE:
                raise WrongError(f"a message of more than {_LONGEST_MESSAGE:,} characters") from error
            return "refused"
        return "used"


def _compare(saved: Recommender, loaded: Recommender) -> None:
    """The catalog that was saved is the one that is loaded."""
    one, other = saved.catalog.live_rows(), loaded.catalog.live_rows()
    ids = [*saved.catalog.ids(one)] == [*loaded.catalog.ids(other)]
    if not ids or not np.array_equal(saved.catalog.vectors(one), loaded.catalog.vectors(other)):
        raise WrongError("the catalog that was saved is another one when it is loaded")


def make(chance: Chance) -> ChangesCase:
    """A change file."""
    parts = chance.choice(sound())
    notes, lines = [parts.name], []
    for _ in range(chance.choice([1, 1, 2, 3, 8])):
        change = _sound(chance, parts)
        if chance.one_in(2):
            lines.append(dumps(change))
            continue
        line = _damaged(chance, change)
        notes.append(line if len(line) < 200 else f"{line[:150]}… ({len(line)})")
        lines.append(line)
    content = "\n".join(lines).encode("utf-8", "surrogatepass")
    if chance.one_in(6):
        content, note = _file(chance, content)
        notes.append(note)
    through = chance.kind("4 * apply, cli")
    notes.append(f"through {through}")
    return ChangesCase(notes, parts, content, through, chance, opening(chance) | {"verify": True})


def _sound(chance: Chance, parts: Parts) -> dict[str, Any]:
    """A change that can be made."""
    new = f"new-{chance.randrange(3)}" if isinstance(parts.ids[0], str) else 2**40 + chance.randrange(3)
    item = chance.choice([chance.choice(parts.ids), chance.choice(parts.ids), new])
    category = _category(chance, parts)
    kind = chance.kind("3 * upsert, remove, move, set_bias")
    if kind == "remove":
        return {"remove": item}
    if kind == "move":
        return {"move": {"id": item, "category": category}}
    if kind == "set_bias":
        return {"set_bias": {"id": item, "value": chance.choice([0, 1.5, -3])}}
    fields: dict[str, Any] = {
        "category": category,
        "text": "red boots",
        "numbers": {"price": 3.5},
        "title": "Größe 3",
        "vector": [0.25] * int(parts.config["dimension"]),
        "metadata_vector": [0.5, 0.5, 1],
    }
    return {"upsert": {"id": item} | {name: value for name, value in fields.items() if chance.one_in(3)}}


def _category(chance: Chance, parts: Parts) -> Any:
    """An id of a category, or the path to a new one; not all of these ids exist."""
    name, level = chance.choice([0, 1, 5, 7, 9]), chance.randrange(3)
    if parts.config["category_id_type"] == "int64":
        return chance.choice([100 * level + name, [100 * level + name, 12345]])
    named = f"c{name}" if "repeated" in parts.name else f"{level}/{name}"
    return chance.choice([named, [named, "fresh"]])


def _damaged(chance: Chance, change: dict[str, Any]) -> str:
    kind = next(iter(change))
    value, wild = change[kind], chance.choice(WILD)
    ascii_only = chance.one_in(2)
    how = chance.kind("4 * field, value, more, kind, 2 * broken, line, twice, drop")
    if how == "line":
        return _line(chance, dumps(change, ascii_only))
    if how == "twice":
        other = {chance.kind("upsert, remove, move"): wild}
        return f"{dumps(change)[:-1]}, {dumps(other)[1:]}"
    if how == "kind":
        return dumps({chance.choice(["upserts", "", "Upsert", "compact", "\0"]): value}, ascii_only)
    if how == "broken":
        wild = literal(chance.choice(BROKEN + LITERALS))
    if how == "value" or not isinstance(value, dict):
        change[kind] = wild
    elif how == "more":
        value[chance.choice(["", "ids", "x", "clicks", "\ud800", "id "])] = wild
    elif how == "drop":
        del value[chance.choice([*value])]
    elif how == "field" and chance.one_in(3):
        value[chance.kind("id, category, text, title, numbers, vector, metadata_vector, value")] = wild
    else:
        value[chance.choice([*value])] = wild
    return dumps(change, ascii_only)


def _line(chance: Chance, line: str) -> str:
    """A line that is cut, doubled, wrapped or preceded by something."""
    at = chance.randrange(len(line))
    cut = [line[:at], line[at:], line[:at] + "\0" + line[at:], line + line, line + "}", line + "\r"]
    wrapped = [
        f"[{line}]",
        f'"{line}"',
        f'{{"upsert": [{line}]}}',
        line.replace('"', "'"),
        line.replace(":", "="),
    ]
    led = [start + line for start in ("\ufeff", "\x85", "\u2028", "#", " " * 10_000)]
    return chance.choice(
        [*cut, *wrapped, *led, "null", "[]", "{}", "3", "[" * 100_000, '{"upsert":' * 50_000]
    )


def _file(chance: Chance, content: bytes) -> tuple[bytes, str]:
    kind = chance.kind("mark, encoding, no UTF-8, ends, many, 2 * bytes")
    if kind == "mark":
        return b"\xef\xbb\xbf" + content, "a byte order mark"
    if kind == "encoding":
        return content.decode("utf-8", "replace").encode("utf-16"), "UTF-16"
    if kind == "no UTF-8":
        at, bad = chance.randrange(len(content) + 1), chance.choice([b"\xff", b"\xed\xa0\x80", b"\x80"])
        return content[:at] + bad + content[at:], f"no UTF-8 at byte {at}"
    if kind == "ends":
        return content.replace(b"\n", chance.choice([b"\r", b"\r\n", b"\n\n\n"])), "other ends of lines"
    if kind == "many":
        return (content + b"\n") * chance.choice([2, 300]), "many times over"
    return chance.spoiled(content)
