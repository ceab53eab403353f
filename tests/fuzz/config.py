"""Target "config": ``config.json`` with wrong keys, values, text and files, and folders that hold other things than files."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hiersrec_sdk.bundle.schema import CONFIG
from tests.fuzz.bundle_case import BundleCase, opening
from tests.fuzz.chance import Chance
from tests.fuzz.parts import config_of, signed, sound

_RAW: Final = "\x01raw:"  # a string that stands for JSON text
_WILD: Final[list[Any]] = [
    None, True, False, 0, -1, 1, 2, 1.0, 0.5, -0.0, 1e308, 1e-320, 2**31, 2**53 + 1, 2**63 - 1, 2**63, 2**64, 10**30,
    "", "x", "int64", "string", "0", "\0", "ä", "\ud800", "x" * 100_000, "../x", [], [0], [[]], [None], ["a"], {}, {"a": 1},
    {"": None}, [1, 2, 3], ["a", "b", "c"], [10**12], [0.5], {"top_p": 0.5},
    *(_RAW + text for text in ("NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1E400", "9" * 5000, "-" + "9" * 4000, "1" + "0" * 309)),
    _RAW + "[" * 100_000 + "]" * 100_000, _RAW + "[" * 900 + "]" * 900, _RAW + '{"a":' * 500 + "1" + "}" * 500,
    _RAW + '{"a": 1, "a": 2}', _RAW + '"\\ud800"', _RAW + '"\\ud83d\\ude00"', _RAW + "0.1e-5",
]  # fmt: skip
_NAMES: Final = [
    "../README.md", "/etc/passwd", "a/b", ".", "..", "", CONFIG, "x" * 300, "a\0b", "\ud800", "ü", "none.txt", "README.md/",
    "./README.md", "model.onnx ", "\n", "C:\\x", "item_encoder.onnx", "delta.safetensors", "query_parts.onnx", "model.onnx\0",
]  # fmt: skip
_KEYS: Final = [
    "items", "dimension", "levels", "categories", "max_length", "candidate_share", "item_id_type", "category_id_type",
    "preprocessing", "calibration", "cold_start_bias", "delta", "data", "metrics", "model", "files", "schema_version",
    "format", "created_by", "sha256",
]  # fmt: skip


@dataclass
class ConfigCase(BundleCase):
    """A bundle with a damaged ``config.json``, and maybe a file that is none."""

    odd_file: tuple[str, str] | None = None

    def spoil(self, folder: Path) -> None:
        """Put something else in place of a file."""
        if self.odd_file is None:
            return
        name, kind = self.odd_file
        file = folder / name
        if kind == "longer":
            file.write_bytes(file.read_bytes() + b"x")
            return
        file.unlink()
        if kind == "folder":
            file.mkdir()
        elif kind == "fifo":
            os.mkfifo(file)
        elif kind == "loop":
            file.symlink_to(file.name)
        elif kind == "dangling":
            file.symlink_to("nowhere")
        elif kind == "device":
            file.symlink_to("/dev/null")
        elif kind == "endless":
            file.symlink_to("/dev/zero")
        elif kind == "terminal":
            file.symlink_to("/dev/ptmx")
        elif kind == "outside":
            file.symlink_to("/etc/hostname")
        elif kind == "empty":
            file.touch()


def make(chance: Chance) -> ConfigCase:
    """A bundle with a damaged config.json."""
    parts = chance.choice(sound()).copy()
    notes = [parts.name]
    files = parts.content()
    config = config_of(parts, files)
    odd_file = None
    if chance.one_in(15):
        kinds = ["folder", "fifo", "loop", "dangling", "device", "terminal", "outside", "empty", "longer", "missing", "endless"]
        odd_file = chance.choice([CONFIG, *files]), chance.choice(kinds)
        if odd_file[1] in ("device", "empty", "fifo") and odd_file[0] in files:
            config["files"][odd_file[0]]["bytes"] = 0
        notes.append(f"{odd_file[0]} is {odd_file[1]}")
    for _ in range(0 if odd_file else chance.choice([1, 1, 1, 2, 3])):
        notes.append(_change(chance, config))
    text = _text(signed_again(config) if not chance.one_in(40) else config)
    content = text.encode("utf-8", "surrogatepass")
    if not odd_file and chance.one_in(8):
        content, note = _spoiled(chance, content)
        notes.append(note)
    options = opening(chance)
    notes.append(str(options))
    return ConfigCase(notes, {CONFIG: content, **files}, parts.ids, chance, options, odd_file=odd_file)


def _change(chance: Chance, config: dict[str, Any]) -> str:
    kind = chance.choice(["top", "top", "top", "top", "anywhere", "anywhere", "drop", "add", "files", "files", "preprocessing", "twice"])
    if kind == "files" and isinstance(config.get("files"), dict):
        return _change_files(chance, config["files"])
    if kind == "preprocessing":
        key, value = chance.choice(["text", "numbers", "vectors"]), _settings(chance)
        if isinstance(config.get("preprocessing"), dict):
            config["preprocessing"][key] = value
        return f"preprocessing: {key} {_short(value)}"
    if kind == "drop":
        key = chance.choice([*config] or [""])
        config.pop(key, None)
        return f"{key} dropped"
    if kind == "twice":
        key, value = chance.choice([*config] or [""]), chance.choice(_WILD)
        config[f"{key}{_RAW}"] = value
        return f"{key} stands twice, then {_short(value)}"
    if kind == "add":
        key, value = chance.choice([*_KEYS, "", "\ud800", "\0", "x" * 1000]), chance.choice(_WILD)
        config[key] = value
        return f"{key[:20]!r} is {_short(value)}"
    if kind == "top":
        key, value = chance.choice(_KEYS), chance.choice(_WILD)
        if isinstance(config.get(key), int) and chance.one_in(3):
            value = config[key] + chance.choice([-1, 1, 16, 1000])
        config[key] = value
        return f"{key} is {_short(value)}"
    place: Any = config
    where = []
    while True:
        keys: list[Any] = [*place] if isinstance(place, dict) else [*range(len(place))]
        if not keys:
            return "nothing"
        key = chance.choice(keys)
        where.append(str(key))
        if isinstance(place[key], dict | list) and len(place[key]) and not chance.one_in(3):
            place = place[key]
            continue
        value = chance.choice(_WILD)
        place[key] = value
        return f"{'.'.join(where)[:60]} is {_short(value)}"


def _settings(chance: Chance) -> Any:
    """Settings of the item encoder that look right."""
    number = chance.choice([0, -1, 1, 3, 2**31, 2**63, 1.5, "8", None, _RAW + "NaN", _RAW + "1e999"])
    return chance.choice(
        [
            {"buckets": number, "max_tokens": 4},
            {"buckets": 8, "max_tokens": number},
            {"price": [number, 2.0]},
            {"price": number},
            {"price": [3.0, 1.0, 2.0]},
            {"price": []},
            {"price": [1.0], "weight": [1.0]},
            {"width": number, "from": "file"},
            {"width": 10**9, "from": "file"},
            number,
        ]
    )


def _change_files(chance: Chance, files: dict[str, Any]) -> str:
    name = chance.choice([*files] or [""])
    if chance.one_in(3):
        new = chance.choice(_NAMES)
        about = files.get(name, {"sha256": "0" * 64, "bytes": 0})
        files[new] = chance.choice([about, {"sha256": "0" * 64, "bytes": chance.choice([0, 5, -1, 2**70])}])
        if chance.one_in(3):
            files.pop(name, None)
        return f"files: {new[:30]!r} added"
    if chance.one_in(4):
        files.pop(name, None)
        return f"files: {name!r} dropped"
    if not isinstance(files.get(name), dict):
        return "nothing"
    key, value = chance.choice(["sha256", "bytes", "more"]), chance.choice(_WILD)
    files[name][key] = value
    if chance.one_in(4):
        del files[name][key]
    return f"files: {name!r}: {key} is {_short(value)}"


def signed_again(config: dict[str, Any]) -> dict[str, Any]:
    """``config`` with the checksum of what a reader will parse, where that can be parsed."""
    if "sha256" not in config or not isinstance(config["sha256"], str) or len(config["sha256"]) != 64:
        return config
    try:
        return config | {"sha256": signed(json.loads(_text(config)))["sha256"]}
    except (ValueError, RecursionError):
        return config


def _text(config: dict[str, Any]) -> str:
    """JSON, in which strings that begin so are the text that they hold."""
    text = json.dumps(config)
    raw = json.dumps(_RAW)[1:-1]
    while raw in text:
        before, _, after = text.partition(raw)
        if before.endswith('"'):  # a value
            body, end = _string_end(after)
            text = before[:-1] + body + after[end:]
        else:  # a key that stands twice
            text = before + after
    return text


def _string_end(text: str) -> tuple[str, int]:
    """The string that ``text`` begins with, without its quotes, and where the rest begins."""
    end = re.match(r'(?:[^"\\]|\\.)*"', text)
    assert end is not None
    return str(json.loads(f'"{end[0]}')), end.end()


def _spoiled(chance: Chance, content: bytes) -> tuple[bytes, str]:
    kind = chance.randrange(8)
    if kind == 0:
        return b"\xef\xbb\xbf" + content, "a byte order mark"
    if kind == 1:
        code = chance.choice(["utf-16", "utf-32", "utf-16-le"])
        return content.decode("utf-8", "replace").encode(code), code
    if kind == 2:
        at = chance.randrange(len(content))
        return content[:at] + b"\xff\xfe" + content[at:], f"no UTF-8 at byte {at}"
    if kind == 3:
        return content + chance.choice([b"x", b"{}", b"\0", b" " * 100]), "more at the end"
    if kind == 4:
        return chance.choice([b"", b"null", b"[]", b"{}", b"0", b'"x"', b"[" * 200_000, b'{"a":' * 200_000]), "something else"
    return chance.spoiled(content)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 60 else f"{text[:50]}… ({len(text)})"
