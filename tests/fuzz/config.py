"""Target "config": ``config.json`` with wrong keys, values, text and files, and folders that hold what is no file."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hiersrec_sdk.bundle.schema import CONFIG
from tests.fuzz.bundle_case import BundleCase, opening
from tests.fuzz.chance import Chance
from tests.fuzz.parts import config_of, signed, sound
from tests.fuzz.wild_json import WILD, again, described, dumps, literal

_KEYS: Final = [
    *["format", "schema_version", "created_by", "sha256", "files", "delta", "data", "metrics", "model"],
    *[
        "items",
        "dimension",
        "levels",
        "categories",
        "max_length",
        "candidate_share",
        "item_id_type",
        "category_id_type",
    ],
    *["preprocessing", "calibration", "cold_start_bias"],
]
_FILES: Final = [
    *[
        "../README.md",
        "/etc/passwd",
        "a/b",
        ".",
        "..",
        "",
        CONFIG,
        "x" * 300,
        "a\0b",
        "\ud800",
        "ü",
        "none.txt",
    ],
    *["README.md/", "./README.md", "model.onnx ", "\n", "C:\\x", "model.onnx\0"],
    *["item_encoder.onnx", "delta.safetensors", "query_parts.onnx"],
]
_ODD: Final = "folder, fifo, loop, dangling, device, terminal, outside, empty, longer, missing, endless"


@dataclass
class ConfigCase(BundleCase):
    """A bundle with a damaged ``config.json``, or with a file that is none: its name, and what it is."""

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
        links = {
            "device": "/dev/null",
            "endless": "/dev/zero",
            "terminal": "/dev/ptmx",
            "outside": "/etc/hostname",
        }
        links |= {"loop": name, "dangling": "nowhere"}
        if kind == "folder":
            file.mkdir()
        elif kind == "fifo":
            os.mkfifo(file)
        elif kind == "empty":
            file.touch()
        elif kind in links:
            file.symlink_to(links[kind])


def make(chance: Chance) -> ConfigCase:
    """A bundle with a damaged config.json."""
    parts = chance.choice(sound()).copy()
    notes = [parts.name]
    files = parts.content()
    config = config_of(parts, files)
    odd_file = None
    if chance.one_in(15):
        odd_file = chance.choice([CONFIG, *files]), chance.kind(_ODD)
        if odd_file[1] in ("device", "empty", "fifo") and odd_file[0] in files:
            config["files"][odd_file[0]]["bytes"] = 0
        notes.append(f"{odd_file[0]} is {odd_file[1]}")
    for _ in range(0 if odd_file else chance.choice([1, 1, 1, 2, 3])):
        notes.append(_change(chance, config))
    content = dumps(config if chance.one_in(40) else _signed(config)).encode("utf-8", "surrogatepass")
    if not odd_file and chance.one_in(8):
        content, note = _spoiled(chance, content)
        notes.append(note)
    options = opening(chance)
    notes.append(str(options))
    return ConfigCase(notes, {CONFIG: content, **files}, parts.ids, chance, options, odd_file=odd_file)


def _change(chance: Chance, config: dict[str, Any]) -> str:
    kind = chance.kind("4 * top, 2 * anywhere, drop, add, 2 * files, 3 * preprocessing, twice")
    if kind == "files" and isinstance(config.get("files"), dict):
        return _change_files(chance, config["files"])
    value = chance.choice(WILD)
    if kind == "preprocessing":
        key, value = chance.kind("text, numbers, vectors"), _settings(chance)
        if isinstance(config.get("preprocessing"), dict):
            config["preprocessing"][key] = value
        return f"preprocessing: {key} {described(value)}"
    if kind == "drop":
        key = chance.choice([*config])
        del config[key]
        return f"{key} dropped"
    if kind == "twice":
        key = chance.choice([*config])
        config[again(key)] = value
        return f"{key} stands twice, then {described(value)}"
    if kind == "anywhere":
        return _change_anywhere(chance, config, value)
    key = chance.choice(_KEYS if kind == "top" else [*_KEYS, "", "\ud800", "\0", "x" * 1000])
    if isinstance(config.get(key), int) and chance.one_in(3):
        value = config[key] + chance.choice([-1, 1, 16, 1000])
    config[key] = value
    return f"{key[:20]!r} is {described(value)}"


def _change_anywhere(chance: Chance, config: dict[str, Any], value: Any) -> str:
    place: Any = config
    where = []
    while True:
        key = chance.choice([*place] if isinstance(place, dict) else range(len(place)))
        where.append(str(key))
        below = place[key]
        if not isinstance(below, dict | list) or not below or chance.one_in(3):
            place[key] = value
            return f"{'.'.join(where)[:60]} is {described(value)}"
        place = below


def _settings(chance: Chance) -> Any:
    """Settings of the item encoder that look right."""
    numbers = [0, -1, 1, 3, 2**31, 2**63, 1.5, "8", None, literal("NaN"), literal("1e999"), 10**9]
    number = chance.choice(numbers)
    texts = [{"buckets": number, "max_tokens": 4}, {"buckets": 8, "max_tokens": number}]
    edges = [[number, 2.0], number, [3.0, 1.0, 2.0], []]
    columns = [*({"price": each} for each in edges), {"price": [1.0], "weight": [1.0]}]
    return chance.choice([*texts, *columns, {"width": number, "from": "file"}, number])


def _change_files(chance: Chance, files: dict[str, Any]) -> str:
    name = chance.choice([*files] or [""])
    if chance.one_in(3):
        new = chance.choice(_FILES)
        unknown = {"sha256": "0" * 64, "bytes": chance.choice([0, 5, -1, 2**70])}
        files[new] = files.get(name, unknown) if chance.one_in(2) else unknown
        if chance.one_in(3):
            files.pop(name, None)
        return f"files: {new[:30]!r} added"
    if chance.one_in(4):
        files.pop(name, None)
        return f"files: {name!r} dropped"
    if not isinstance(files.get(name), dict):
        return "nothing"
    key, value = chance.kind("sha256, bytes, more"), chance.choice(WILD)
    files[name][key] = value
    if chance.one_in(4):
        del files[name][key]
    return f"files: {name!r}: {key} is {described(value)}"


def _signed(config: dict[str, Any]) -> dict[str, Any]:
    """``config`` with the checksum of what a reader will parse, where it can be parsed and has one."""
    if not isinstance(config.get("sha256"), str) or len(config["sha256"]) != 64:
        return config
    try:
        return config | {"sha256": signed(json.loads(dumps(config)))["sha256"]}
    except (ValueError, RecursionError):
        return config


def _spoiled(chance: Chance, content: bytes) -> tuple[bytes, str]:
    kind = chance.kind("mark, encoding, no UTF-8, tail, other, 3 * bytes")
    if kind == "mark":
        return b"\xef\xbb\xbf" + content, "a byte order mark"
    if kind == "encoding":
        code = chance.kind("utf-16, utf-32, utf-16-le")
        return content.decode("utf-8", "replace").encode(code), code
    if kind == "no UTF-8":
        at = chance.randrange(len(content))
        return content[:at] + b"\xff\xfe" + content[at:], f"no UTF-8 at byte {at}"
    if kind == "tail":
        return content + chance.choice([b"x", b"{}", b"\0", b" " * 100]), "more at the end"
    if kind == "other":
        others = [b"", b"null", b"[]", b"{}", b"0", b'"x"', b"[" * 200_000, b'{"a":' * 200_000]
        return chance.choice(others), "something else"
    return chance.spoiled(content)
