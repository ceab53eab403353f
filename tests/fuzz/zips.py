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
from tests.fuzz.use import User, Wrong

_NAMES: Final = [
    "../README.md", "/etc/x", "a/README.md", "README.md/", "", ".", "..\\x", "\ud800", "ü", "x" * 70_000, "CON", "a\0b", "config.json/x",
    "config.json", "Config.json", "b/config.json", "bundle/bundle/config.json", "./config.json", "//config.json",
]  # fmt: skip
_METHODS: Final = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
_LARGE: Final = 96 << 20


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
        """Load it, twice if that works."""
        cache_folder = scratch / "cache"
        os.environ["HIERSREC_CACHE"] = str(cache_folder)
        source: Any = self.content
        if self.through == "file":
            source = scratch / "bundle.zip"
            source.write_bytes(self.content)
        try:
            recommender = Recommender.load(source, **self.options)
        except BundleError as error:
            str(error).encode()
            return "refused"
        except HierSRecError as error:
            raise Wrong(f"loading raises {type(error).__name__}, not a BundleError") from error
        finally:
            outside = {*os.listdir(scratch)} - {"cache", "bundle.zip"}
            if outside:
                raise Wrong("files beside the cache")
        ids = self.parts.ids
        user = User(recommender, ids, self.chance, scratch, False, cache_folder)
        user.attempt(user.recommend)
        Recommender.load(source, **self.options).recommend(ids[:2])
        return "used"


def make(chance: Chance) -> ZipCase:
    """A damaged zip file."""
    parts = chance.choice(sound())
    notes = [parts.name]
    files = parts.content()
    config = config_of(parts, files)
    entries: list[tuple[str, bytes]] = [(CONFIG, b""), *files.items()]
    if chance.one_in(4):
        entries = [(f"bundle/{name}", content) for name, content in entries]
    method = chance.choices(_METHODS, [8, 8, 1, 1])[0]
    kind = chance.choice(["bytes", "bytes", "header", "header", "header", "header", "name", "twice", "missing", "symlink", "bomb", "config", "around", "order"])
    if kind == "name":
        at = chance.randrange(len(entries))
        entries[at] = chance.choice(_NAMES), entries[at][1]
        notes.append(f"an entry named {entries[at][0][:30]!r}")
    elif kind == "twice":
        name, content = chance.choice(entries)
        entries.insert(chance.randrange(len(entries) + 1), (name, chance.choice([content, b"", b"x" * 50])))
        notes.append(f"{name} stands twice")
    elif kind == "missing":
        notes.append(f"{entries.pop(chance.randrange(len(entries)))[0]} is missing")
    elif kind == "order":
        chance.shuffle(entries)
        notes.append("in another order")
    elif kind == "bomb" and not chance.one_in(8):
        kind = "config"
    if kind == "config":
        name = chance.choice([*files])
        size = chance.choice([0, -1, 1, len(files[name]) + 1, 2**31, 2**40, 2**63, 2**70])
        config["files"][name]["bytes"] = size
        notes.append(f"{name} has {size} bytes by its config.json")
    if kind == "bomb":
        config["files"]["more"] = {"bytes": chance.choice([_LARGE, 2**40]), "sha256": "0" * 64}
        notes.append("a bomb")
    text = json.dumps(signed(config)).encode()
    if kind == "bomb" and chance.one_in(2):
        text += b" " * (32 << 20)
        notes.append("a long config.json")
    entries = [(name, content if not name.endswith(CONFIG) or content else text) for name, content in entries]
    content = _zip(entries, method, kind == "symlink", chance)
    if kind == "symlink":
        notes.append("an entry is a symbolic link")
    if kind == "bomb":
        content = _with_bomb(content)
    if kind == "bytes":
        content, note = chance.spoiled(content)
        notes.append(note)
    elif kind == "header":
        content, note = _headers(chance, content)
        notes.append(note)
    elif kind == "around":
        content, note = _around(chance, content)
        notes.append(note)
    options = opening(chance)
    through = chance.choice(["bytes", "file"])
    notes.append(f"method {method}, through {through}, {options}")
    return ZipCase(notes, parts, content, chance, options, through)


def _zip(entries: list[tuple[str, bytes]], method: int, symlink: bool, chance: Chance) -> bytes:
    file = io.BytesIO()
    linked = chance.randrange(len(entries)) if symlink else -1
    with zipfile.ZipFile(file, "w", method) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a name that stands twice
        for at, (name, content) in enumerate(entries):
            about = zipfile.ZipInfo("placeholder")
            about.filename = name.encode("utf-8", "replace").decode()[:65_000]
            about.compress_type = method
            about.external_attr = 0o644 << 16
            if at == linked:
                about.external_attr = 0o120777 << 16
                content = chance.choice([b"/etc/passwd", b"../..", b"model.onnx"])
            archive.writestr(about, content)
    return file.getvalue()


@cache
def _bomb() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        with archive.open("more", "w") as entry:
            for _ in range(_LARGE >> 20):
                entry.write(bytes(1 << 20))
    return file.getvalue()


def _with_bomb(content: bytes) -> bytes:
    """The archive with a large entry of zeros, which was packed once."""
    file = io.BytesIO(content)
    with zipfile.ZipFile(io.BytesIO(_bomb())) as other, zipfile.ZipFile(file, "a") as archive:
        about = other.getinfo("more")
        start = about.header_offset
        data = _bomb()[start : other.start_dir]
        about.header_offset = archive.start_dir
        file.seek(archive.start_dir)
        file.write(data)
        archive.start_dir = file.tell()
        archive.filelist.append(about)
        archive.NameToInfo[about.filename] = about
        archive._didModify = True  # type: ignore[attr-defined]
    return file.getvalue()


# field, offset, width: of an entry in the central directory, of a local header, of the end
_CENTRAL: Final = [
    ("version", 6, 2), ("flags", 8, 2), ("method", 10, 2), ("time", 12, 4), ("crc", 16, 4), ("compressed", 20, 4), ("size", 24, 4),
    ("name length", 28, 2), ("extra length", 30, 2), ("comment length", 32, 2), ("disk", 34, 2), ("attributes", 38, 4), ("offset", 42, 4),
]  # fmt: skip
_LOCAL: Final = [("flags", 6, 2), ("method", 8, 2), ("crc", 14, 4), ("compressed", 18, 4), ("size", 22, 4), ("name length", 26, 2), ("extra length", 28, 2), ("name", 30, 4)]
_END: Final = [("disk", 4, 2), ("entries", 8, 2), ("all entries", 10, 2), ("directory size", 12, 4), ("directory offset", 16, 4), ("comment length", 20, 2)]


def _headers(chance: Chance, content: bytes) -> tuple[bytes, str]:
    """A field of a header has another value."""
    where, mark, fields = chance.choice([("central", b"PK\1\2", _CENTRAL), ("central", b"PK\1\2", _CENTRAL), ("local", b"PK\3\4", _LOCAL), ("end", b"PK\5\6", _END)])
    places = [at for at in range(len(content)) if content.startswith(mark, at)]
    if not places:
        return content, "nothing"
    at = chance.choice(places)
    name, offset, width = chance.choice(fields)
    data = bytearray(content)
    value = chance.choice([0, 1, 8, 9, 12, 14, 93, 98, 99, 0x41, 0x800, 0xFFFF, 0xFFFFFFFF, 0x7FFFFFFF, len(content), chance.getrandbits(32)])
    if name == "flags":
        value = chance.choice([1, 0x20, 0x40, 0x2000, 8, 0xFFFF])
    value &= (1 << 8 * width) - 1
    data[at + offset : at + offset + width] = value.to_bytes(width, "little")
    return bytes(data), f"{where} header at {at}: {name} is {value}"


def _around(chance: Chance, content: bytes) -> tuple[bytes, str]:
    kind = chance.choice(["comment", "before", "after", "zip64", "twice", "extra"])
    if kind == "comment":
        comment = chance.choice([b"x" * 65_535, b"PK\5\6" + bytes(18), b"\xff"])
        end = content.rfind(b"PK\5\6")
        return content[: end + 20] + struct.pack("<H", len(comment)) + comment, f"a comment of {len(comment)} bytes"
    if kind == "before":
        return chance.randbytes(100) + content, "other bytes before it"
    if kind == "after":
        return content + chance.randbytes(100), "other bytes after it"
    if kind == "twice":
        return content + content, "twice"
    end = content.rfind(b"PK\5\6")
    large = chance.choice([0, 2**40, 2**63, 2**64 - 1])
    record = b"PK\6\6" + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, chance.choice([1, large]), chance.choice([1, large]), large, large)
    locator = b"PK\6\7" + struct.pack("<IQI", 0, chance.choice([end, large]), 1)
    tail = bytearray(content[end:])
    tail[8:20] = b"\xff" * 12
    return content[:end] + record + locator + bytes(tail), f"zip64 with {large}"
