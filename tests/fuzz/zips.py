"""Target "zips": zip files whose entries, sizes, methods and bytes are wrong."""

from __future__ import annotations

import io
import json
import os
import struct
import warnings
import zipfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from hiersrec_sdk import Recommender
from hiersrec_sdk.bundle.schema import CONFIG
from hiersrec_sdk.errors import BundleError, HierSRecError
from tests.fuzz.bundle_case import opening
from tests.fuzz.chance import Chance
from tests.fuzz.parts import Parts, config_of, signed, sound
from tests.fuzz.use import User, WrongError

_NAMES: Final = [
    *[
        "../README.md",
        "/etc/x",
        "a/README.md",
        "README.md/",
        "",
        ".",
        "..\\x",
        "ü",
        "x" * 65_000,
        "CON",
        "a\0b",
    ],
    *[
        "config.json",
        "Config.json",
        "./config.json",
        "//config.json",
        "config.json/x",
        "b/config.json",
        "b/b/config.json",
    ],
]
_METHODS: Final = {zipfile.ZIP_STORED: 8, zipfile.ZIP_DEFLATED: 8, zipfile.ZIP_BZIP2: 1, zipfile.ZIP_LZMA: 1}
_LARGE: Final = 96 << 20  # bytes of a bomb
_Entries = list[tuple[str, bytes]]


@dataclass
class ZipCase:
    """A zip file.

    Attributes:
        notes: what was damaged.
        parts: the bundle.
        content: the zip file.
        chance: chooses how it is used.
        options: of ``Recommender.load``.
        through: "bytes" or "file".
    """

    notes: list[str]
    parts: Parts
    content: bytes
    chance: Chance
    options: dict[str, Any]
    through: str

    def run(self, scratch: Path) -> str:
        """Load it, from the zip and from the cache."""
        cache_folder, file = scratch / "cache", scratch / "bundle.zip"
        os.environ["HIERSREC_CACHE"] = str(cache_folder)
        source: bytes | Path = self.content
        if self.through == "file":
            file.write_bytes(self.content)
            source = file
        try:
            recommender = Recommender.load(source, **self.options)
        except BundleError:
            return "refused"
        except HierSRecError as error:
            raise WrongError(f"loading raises {type(error).__name__}, not a BundleError") from error
        finally:
            if {*scratch.iterdir()} - {cache_folder, file}:
                raise WrongError("files beside the cache")
        user = User(recommender, self.parts.ids, self.chance, scratch, False, cache_folder)
        user.attempt(user.recommend)
        Recommender.load(source, **self.options).recommend(self.parts.ids[:2])
        return "used"


def make(chance: Chance) -> ZipCase:
    """A damaged zip file."""
    parts = chance.choice(sound())
    files = parts.content()
    config = config_of(parts, files)
    kind = chance.kind(
        "8 * bytes, 16 * header, 4 * name, 4 * twice, 4 * missing, 4 * symlink, 7 * config, 4 * around, bomb"
    )
    notes = [parts.name, kind]
    text = b""
    if kind == "config":
        name, sizes = chance.choice([*files]), [0, -1, 1, 10_000_000, 2**31, 2**40, 2**63, 2**70]
        config["files"][name]["bytes"] = chance.choice(sizes)
        notes.append(f"{name} has {config['files'][name]['bytes']} bytes by its config.json")
    elif kind == "bomb":
        config["files"]["more"] = {"bytes": chance.choice([_LARGE, 2**40]), "sha256": "0" * 64}
        text = b" " * chance.choice([0, 32 << 20])
    folder = chance.choice(["", "", "", "bundle/"])
    content = {CONFIG: json.dumps(signed(config)).encode() + text, **files}
    entries = [(folder + name, each) for name, each in content.items()]
    if kind in ("name", "twice", "missing"):
        notes.append(_change(chance, kind, entries))
    method = chance.weighted(_METHODS)
    archive = _zip(entries, method, chance.randrange(len(entries)) if kind == "symlink" else -1, chance)
    if kind == "bomb":
        archive = _with_bomb(archive)
    spoil = {"bytes": Chance.spoiled, "header": _header, "around": _around}.get(kind)
    if spoil is not None:
        archive, note = spoil(chance, archive)
        notes.append(note)
    options, through = opening(chance), chance.kind("bytes, file")
    notes.append(f"method {method}, through {through}, {options}")
    return ZipCase(notes, parts, archive, chance, options, through)


def _change(chance: Chance, kind: str, entries: _Entries) -> str:
    at = chance.randrange(len(entries))
    name, content = entries[at]
    if kind == "name":
        entries[at] = chance.choice(_NAMES), content
        return f"{name} is named {entries[at][0][:30]!r}"
    if kind == "missing":
        del entries[at]
        return name
    entries.insert(chance.randrange(len(entries) + 1), (name, chance.choice([content, b"", b"x" * 50])))
    chance.shuffle(entries)
    return name


def _zip(entries: _Entries, method: int, linked: int, chance: Chance) -> bytes:
    """A zip file, in which the entry ``linked`` is a symbolic link."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a name that stands twice
        for at, (name, content) in enumerate(entries):
            about = zipfile.ZipInfo("placeholder")
            about.filename = name
            about.compress_type = method
            about.external_attr = (0o120777 if at == linked else 0o644) << 16
            targets = [b"/etc/passwd", b"../..", b"model.onnx"]
            archive.writestr(about, chance.choice(targets) if at == linked else content)
    return file.getvalue()


@cache
def _bomb() -> bytes:
    """A zip file with one entry of many zeros."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("more", bytes(_LARGE))
    return file.getvalue()


def _with_bomb(archive: bytes) -> bytes:
    """``archive`` with that entry too, which is not packed again."""
    end, other_end = archive.rfind(b"PK\5\6"), _bomb().rfind(b"PK\5\6")
    start, other_start = (
        struct.unpack_from("<I", each, at + 16)[0] for each, at in ((archive, end), (_bomb(), other_end))
    )
    entry = bytearray(_bomb()[other_start:other_end])
    entry[42:46] = struct.pack("<I", start)
    directory = archive[start:end] + entry
    count = struct.unpack_from("<H", archive, end + 10)[0] + 1
    data = archive[:start] + _bomb()[:other_start]
    return (
        data
        + directory
        + struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, count, count, len(directory), len(data), 0)
    )


# name, offset and width of the fields of a header, by its mark
_CENTRAL: Final = [
    *[
        ("version", 6, 2),
        ("flags", 8, 2),
        ("method", 10, 2),
        ("time", 12, 4),
        ("crc", 16, 4),
        ("compressed", 20, 4),
    ],
    *[
        ("size", 24, 4),
        ("name length", 28, 2),
        ("extra length", 30, 2),
        ("comment length", 32, 2),
        ("disk", 34, 2),
    ],
    *[("attributes", 38, 4), ("offset", 42, 4)],
]
_LOCAL: Final = [
    *[("flags", 6, 2), ("method", 8, 2), ("crc", 14, 4), ("compressed", 18, 4), ("size", 22, 4)],
    *[("name length", 26, 2), ("extra length", 28, 2), ("name", 30, 4)],
]
_END: Final = [
    *[("disk", 4, 2), ("entries", 8, 2), ("all entries", 10, 2), ("directory size", 12, 4)],
    *[("directory offset", 16, 4), ("comment length", 20, 2)],
]


def _header(chance: Chance, archive: bytes) -> tuple[bytes, str]:
    """A field of a header has another value."""
    mark, fields = chance.choice(
        [(b"PK\1\2", _CENTRAL), (b"PK\1\2", _CENTRAL), (b"PK\3\4", _LOCAL), (b"PK\5\6", _END)]
    )
    places = [at for at in range(len(archive)) if archive.startswith(mark, at)]
    at = chance.choice(places)
    name, offset, width = chance.choice(fields)
    small, large = [0, 1, 8, 9, 12, 14, 93, 98, 99, 0x41, 0x800, 0xFFFF], [2**31 - 1, 2**32 - 1, len(archive)]
    value = chance.choice([*small, *large, chance.getrandbits(32)])
    if name == "flags":
        value = chance.choice(
            [1, 0x20, 0x40, 0x2000, 8, 0xFFFF]
        )  # encrypted, patched, encrypted in other ways, ...
    data = bytearray(archive)
    data[at + offset : at + offset + width] = (value & ((1 << 8 * width) - 1)).to_bytes(width, "little")
    return bytes(data), f"header {mark!r} at {at}: {name} is {value}"


def _around(chance: Chance, archive: bytes) -> tuple[bytes, str]:
    """Something before, behind or at the end of the archive."""
    kind = chance.kind("comment, before, after, 2 * zip64, twice")
    end = archive.rfind(b"PK\5\6")
    if kind == "comment":
        comment = chance.choice([b"x" * 65_535, b"PK\5\6" + bytes(18), b"\xff"])
        return archive[: end + 20] + struct.pack(
            "<H", len(comment)
        ) + comment, f"a comment of {len(comment)} bytes"
    if kind == "before":
        return chance.randbytes(100) + archive, "other bytes before it"
    if kind == "after":
        return archive + chance.randbytes(100), "other bytes after it"
    if kind == "twice":
        return archive + archive, "twice"
    count, large = chance.choice([1, 2**40]), chance.choice([0, 2**40, 2**63, 2**64 - 1])
    record = b"PK\6\6" + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, count, count, large, large)
    locator = b"PK\6\7" + struct.pack("<IQI", 0, chance.choice([end, large]), 1)
    tail = archive[end : end + 8] + b"\xff" * 12 + archive[end + 20 :]
    return archive[:end] + record + locator + tail, f"zip64 with {large}"
