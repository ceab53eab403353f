"""The bundle on disk: one folder that holds a model and its catalogue. Writing and reading, both checked.

    config.json          what the folder is, the settings, the metrics; SHA-256 and size of every other file
    model.onnx           the session encoder; it knows no item
    catalog.safetensors  the tables of the catalogue, rows in the order of the category tree
    delta.safetensors  optional: what has changed of the catalogue since
    query_parts.onnx     optional: what the encoder's query is the sum of, for explanations
    ...                  other files, such as item_encoder.onnx and README.md

``config.json`` also holds the SHA-256 of its own content, so that a change of any file is noticed.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import math
import os
import secrets
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hiersrec_sdk import __version__
from hiersrec_sdk.bundle.tables import read_tables, sync, write_tables
from hiersrec_sdk.errors import (
    BundleCorruptError,
    BundleError,
    BundleMissingError,
    BundleVersionError,
    InvalidOptionError,
)
from hiersrec_sdk.ranking import covisitation as wide
from hiersrec_sdk.ranking.codes import Codes

FORMAT: Final = "hiersrec-bundle"
SCHEMA_VERSION: Final = 2
CONFIG: Final = "config.json"
MODEL: Final = "model.onnx"
PARTS: Final = "query_parts.onnx"
CATALOG: Final = "catalog.safetensors"
CHANGES: Final = "delta.safetensors"
ID_TYPES: Final = ("int64", "string")


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: its folder, the content of ``config.json``, the tables as read-only memory maps."""

    path: Path
    config: dict[str, Any]
    tables: dict[str, NDArray[Any]]
    changes: dict[str, NDArray[Any]] | None = None  # of the catalogue, since it was exported

    @property
    def model(self) -> Path:
        """The file of the session encoder."""
        return self.path / MODEL


def write_bundle(
    path: str | os.PathLike[str],
    config: Mapping[str, Any],
    tensors: Mapping[str, NDArray[Any]],
    files: Mapping[str, bytes],
) -> None:
    """Write the bundle ``path``, all or nothing: a folder beside it, renamed once all of it is on the disk.

    Args:
        path: the folder to make; its parents are made too.
        config: the content of ``config.json`` but for ``format``, ``schema_version``, ``created_by``,
            ``files`` and ``sha256``, which are filled in here.
        tensors: the tables of ``catalog.safetensors``.
        files: the other files by name; ``model.onnx`` is needed.

    Raises:
        BundleError: the path exists, the content is no valid bundle, or it cannot be written. Nothing is left
            behind.
    """
    path = Path(path)
    if os.path.lexists(path):
        raise BundleError(f"{path} exists already: choose another folder or remove it")
    for name in ("item_vectors", "input_vectors"):
        if name in tensors and not np.isfinite(tensors[name]).all():
            raise BundleError(f"{path} was not written: table {name!r} holds values that are not finite")
    for name in files:
        if not _is_file_name(name):
            raise BundleError(f"{path} was not written: {name!r} is no name for a further file of it")
    part = path.with_name(f"{path.name}.part-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        part.mkdir(parents=True)
        for name, content in files.items():
            (part / name).write_bytes(content)
        write_tables(part / CATALOG, tensors)
        _write_config(part, config, {name: _describe(part / name) for name in sorted([*files, CATALOG])})
        _open(part, hashes=False, contents=True)
        for file in (*part.iterdir(), part):
            sync(file)
        part.rename(path)
        sync(path.parent)
    except (OSError, TypeError, ValueError, BundleError) as error:
        raise BundleError(f"{path} was not written: {error}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def write_changed(
    source: Path,
    path: str | os.PathLike[str],
    config: Mapping[str, Any],
    changes: Mapping[str, NDArray[Any]],
    items: int,
) -> str:
    """Write the bundle ``path`` as the one in ``source`` with ``changes`` of its catalogue, which has ``items`` then.

    All or nothing: a folder beside it, which takes the place of a bundle that is there in one step. Returns the SHA-256
    of the new ``config.json``'s content. ``config`` has to be that of ``source``, by its own SHA-256.

    Raises:
        BundleError: it cannot be written, something else is at ``path``, or another bundle is in ``source`` by now.
            What is there stays.
        InvalidOptionError: ``path`` is no path.
    """
    try:
        path = Path(path).resolve()
    except TypeError:
        raise InvalidOptionError(
            f"path is {path!r}; it must be the folder of a bundle, a string or a Path"
        ) from None
    if _read_config(source / CONFIG)["sha256"] != config["sha256"]:
        raise BundleError(
            f"{path} was not written: the bundle in {source} was replaced since it was loaded; load it again, and make "
            "the changes to it"
        )
    if os.path.lexists(path) and not (path / CONFIG).is_file():
        raise BundleError(f"{path} exists already and is no bundle: choose another folder or remove it")
    part = path.with_name(f"{path.name}.part-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        part.mkdir(parents=True)
        files = {name: about for name, about in config["files"].items() if name != CHANGES}
        for name in files:
            _link(source / name, part / name)
        if _read_config(source / CONFIG)["sha256"] != config["sha256"]:
            raise BundleError(f"the bundle in {source} was replaced meanwhile")
        if changes:
            write_tables(part / CHANGES, changes)
            files[CHANGES] = _describe(part / CHANGES)
            sync(part / CHANGES)
        own = {key: value for key, value in config.items() if key not in ("files", "sha256", "changed")}
        digest = _write_config(part, {**own, "changed": {"items": items}} if changes else own, files)
        sync(part / CONFIG)
        sync(part)
        if os.path.lexists(path):
            _exchange(part, path)
        else:
            part.rename(path)
        sync(path.parent)
        return digest
    except (OSError, TypeError, ValueError, BundleError) as error:
        raise BundleError(f"{path} was not written: {error}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)  # what it was, or what was there before


def read_file(folder: Path, name: str, config: Mapping[str, Any]) -> bytes:
    """The file ``name`` of a bundle that was opened before, with this ``config``.

    Raises:
        BundleCorruptError: it is another one by now.
        BundleError: it cannot be read.
    """
    try:
        content = (folder / name).read_bytes()
    except OSError as error:
        raise BundleError(f"{folder / name} cannot be read: {error}") from error
    if hashlib.sha256(content).hexdigest() != config["files"][name]["sha256"]:
        raise BundleCorruptError(f"{folder / name} is not the one that was loaded: load the bundle again")
    return content


def _link(source: Path, target: Path) -> None:
    try:
        os.link(
            source.resolve(), target
        )  # of a symbolic link, as in a snapshot of the Hugging Face hub, what it means
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)
        sync(target)


def _exchange(one: Path, other: Path) -> None:
    """Let two folders change their names, at once."""
    libc = ctypes.CDLL(None, use_errno=True)
    here, swap = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    if not hasattr(libc, "renameat2") or libc.renameat2(
        here, os.fsencode(one), here, os.fsencode(other), swap
    ):
        raise BundleError("this system cannot replace a folder in one step: save to a new one")


def _write_config(folder: Path, config: Mapping[str, Any], files: Mapping[str, Any]) -> str:
    """Returns the SHA-256 of its content."""
    about = {
        "format": FORMAT,
        "schema_version": SCHEMA_VERSION,
        "created_by": f"hiersrec-sdk {__version__}",
        **config,
        "files": files,
    }
    about = json.loads(json.dumps(about, allow_nan=False))  # as a reader will see it: keys are strings
    digest = _digest(about)
    (folder / CONFIG).write_text(json.dumps({**about, "sha256": digest}, indent=2) + "\n", encoding="utf-8")
    return digest


def open_bundle(path: str | os.PathLike[str], verify: bool = True) -> Bundle:
    """Open the bundle ``path`` and check it.

    The settings, the shapes of the tables, the category tree and the size of every file are always checked; ``verify``
    says whether the SHA-256 of every file and the contents of all tables are too, which reads all of them.

    Raises:
        BundleMissingError: there is no bundle, or one of its files is missing.
        BundleCorruptError: a file is truncated, altered or of another format; names the file and the cause.
        BundleVersionError: a newer version wrote it.
        BundleError: a file cannot be read.
        InvalidOptionError: ``path`` is no path.
    """
    try:
        path = Path(path)
    except TypeError:
        raise InvalidOptionError(
            f"path is {path!r}; it must be the folder of a bundle, a string or a Path"
        ) from None
    if path.is_file():
        raise BundleMissingError(
            f"{path} is a file, not a folder: a bundle is the folder that holds {CONFIG}, or a whole zip file of it"
        )
    if not path.is_dir():
        raise BundleMissingError(f"{path} is no bundle: there is no such folder")
    while True:
        folder = path.stat().st_ino
        try:
            bundle = _open(path, hashes=verify, contents=verify)
        except BundleError:
            if path.is_dir() and path.stat().st_ino != folder:
                continue
            raise
        if path.stat().st_ino == folder:  # else it was replaced meanwhile, and some files may be of either
            return bundle


def _open(path: Path, hashes: bool, contents: bool) -> Bundle:
    try:
        config = _read_config(path / CONFIG)
        for name, about in config["files"].items():
            check_file(path / name, about, hashes)
        tables = read_tables(path / CATALOG)
        changes = read_tables(path / CHANGES) if CHANGES in config["files"] else None
    except BundleError:
        raise
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error}") from error
    _Tables(path / CATALOG, tables, contents).check(config)
    return Bundle(path, config, tables, changes)


def _describe(file: Path) -> dict[str, Any]:
    with file.open("rb") as stream:
        return {"sha256": hashlib.file_digest(stream, "sha256").hexdigest(), "bytes": file.stat().st_size}


def _digest(config: Mapping[str, Any]) -> str:
    """SHA-256 of the content of ``config.json`` but for the key ``sha256``, however it is laid out."""
    content = {key: value for key, value in config.items() if key != "sha256"}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def check_file(file: Path, about: Mapping[str, Any], verify: bool, called: str = "") -> None:
    """Check the size of ``file``, and with ``verify`` its SHA-256, by what ``config.json`` says ``about`` it.

    Raises:
        BundleMissingError, BundleCorruptError: the message names the file, as it is ``called`` where that is given.
    """
    shown = called or str(file)
    if not file.is_file():
        raise BundleMissingError(f"{shown} is missing: {CONFIG} lists it")
    size = file.stat().st_size
    if size != about["bytes"]:
        what = "truncated" if size < about["bytes"] else "altered"
        raise BundleCorruptError(f"{shown} is {what}: it has {size} bytes, {CONFIG} says {about['bytes']}")
    if verify and _describe(file)["sha256"] != about["sha256"]:
        raise BundleCorruptError(f"{shown} is altered: its SHA-256 is not the one that {CONFIG} holds")


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 1


def _is_share(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value <= 1


def _is_list(value: Any, check: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(check(item) for item in value)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _is_file_name(name: str) -> bool:
    """Whether it names a file of the bundle itself: with a folder in it, it could lead out."""
    return Path(name).name == name and name not in ("", "..", CONFIG) and name.isprintable()


def _are_files(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and {MODEL, CATALOG} <= value.keys()
        and all(map(_is_file_name, value))
        and all(_is_object(about) and {"sha256", "bytes"} <= about.keys() for about in value.values())
        and all(isinstance(about["sha256"], str) and type(about["bytes"]) is int for about in value.values())
    )


def _is_preprocessing(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    vectors = value.get("vectors")
    return vectors is None or (
        isinstance(vectors, dict) and _is_count(vectors.get("width")) and isinstance(vectors.get("from"), str)
    )


_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "created_by": (lambda value: isinstance(value, str), "a string"),
    "item_id_type": (lambda value: value in ID_TYPES, "'int64' or 'string'"),
    "category_id_type": (lambda value: value in ID_TYPES, "'int64' or 'string'"),
    "items": (_is_count, "a whole number of at least 1"),
    "dimension": (_is_count, "a whole number of at least 1"),
    "levels": (lambda value: _is_list(value, lambda name: isinstance(name, str)), "a list of names"),
    "categories": (lambda value: _is_list(value, _is_count), "a list of whole numbers of at least 1"),
    "max_length": (_is_count, "a whole number of at least 1"),
    "candidate_share": (_is_share, "a number above 0 and up to 1"),
    "model": (_is_object, "an object"),
    "preprocessing": (
        _is_preprocessing,
        "an object whose vectors, if any, have a width and say where they are from",
    ),
    "data": (_is_object, "an object"),
    "metrics": (_is_object, "an object"),
    "files": (_are_files, f"SHA-256 and bytes by file name, {MODEL} and {CATALOG} among them"),
}


def _are_budgets(value: Any) -> bool:
    own = value.get("session_categories") if isinstance(value, dict) else None
    return isinstance(own, dict) and _is_share(value.get("top_p")) and _is_share(own.get("top_p"))


_OPTIONAL: dict[str, tuple[Callable[[Any], bool], str]] = {
    "calibration": (
        _are_budgets,
        "an object with a top_p above 0 and up to 1, and so in its session_categories",
    ),
    "cold_start_bias": (lambda value: isinstance(value, float) and math.isfinite(value), "a finite number"),
}


def _read_config(file: Path) -> dict[str, Any]:
    try:
        return parse_config(file.read_bytes(), str(file))
    except FileNotFoundError:
        raise BundleMissingError(f"{file} is missing: {file.parent} is no bundle") from None


def parse_config(content: bytes, file: str) -> dict[str, Any]:
    """What the ``content`` of a ``config.json`` says, checked; ``file`` is its name, for the messages.

    Raises:
        BundleCorruptError: it is truncated, altered or foreign.
        BundleVersionError: a newer version wrote it.
    """
    try:
        config = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise BundleCorruptError(f"{file} is truncated or no JSON: {error}") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise BundleCorruptError(f"{file} does not describe a HierSRec bundle: its format is not {FORMAT!r}")
    version = config.get("schema_version")
    if type(version) is not int or version < 1:
        raise BundleCorruptError(f"{file}: schema_version is {version!r}, not a whole number of at least 1")
    if version > SCHEMA_VERSION:
        raise BundleVersionError(
            f"{file}: schema version {version} is newer than {SCHEMA_VERSION}, the newest that this version "
            "reads: upgrade hiersrec-sdk"
        )
    if version < SCHEMA_VERSION:
        raise BundleVersionError(
            f"{file}: schema version {version} is older than {SCHEMA_VERSION}, the only one that this version reads: "
            "make the bundle anew from its run, hiersrec export RUN --out BUNDLE"
        )
    for key in _RULES:
        if key not in config:
            raise BundleCorruptError(f"{file} lacks {key!r}")
    for key, (holds, right) in (_RULES | _OPTIONAL).items():
        if key in config and not holds(config[key]):
            raise BundleCorruptError(f"{file}: {key!r} is not {right}")
    levels, sizes = config["levels"], config["categories"]
    if len(levels) != len(sizes):
        raise BundleCorruptError(f"{file}: {len(levels)} levels, but {len(sizes)} numbers of categories")
    if config.get("sha256") != _digest(config):
        raise BundleCorruptError(f"{file} is altered: its content does not match its own SHA-256")
    return config


@dataclass(frozen=True)
class _Tables:
    """The checks of the catalogue's tables; ``file`` for the messages; ``contents``: also what takes a whole read."""

    file: Path
    tables: dict[str, NDArray[Any]]
    contents: bool

    def check(self, config: Mapping[str, Any]) -> None:
        items, dimension, sizes = config["items"], config["dimension"], config["categories"]
        self.array("item_vectors", np.float32, items, dimension)
        if "input_vectors" in self.tables:
            self.array("input_vectors", np.float32, items, dimension)
        if "bias" in self.tables:
            self.array("bias", np.float32, items)
        self.codes(items, dimension)
        self.wide(items)
        self.array("clicks", np.int64, items)
        self.item_ids(config["item_id_type"], items)
        self.strings("titles", items, needed=False)
        self.tree(config["category_id_type"], items, sizes)
        if "extra_offsets" in self.tables:
            self.array("extra_rows", np.int64, self.offsets("extra_offsets", sizes[-1]))
            self.within("extra_rows", items)

    def require(self, holds: bool | np.bool, cause: str) -> None:
        if not holds:
            raise BundleCorruptError(f"{self.file}: {cause}")

    def array(self, name: str, dtype: type[np.generic], *shape: int) -> NDArray[Any]:
        self.require(name in self.tables, f"table {name!r} is missing")
        table = self.tables[name]
        have, want = f"{table.dtype} {list(table.shape)}", f"{np.dtype(dtype)} {list(shape)}"
        self.require(have == want, f"table {name!r} is {have}, it should be {want}")
        return table

    def codes(self, items: int, dimension: int) -> None:
        for name in Codes.names(self.tables):
            self.require(name in self.tables, f"table {name!r} is missing")
        codes = Codes.from_tables(self.tables)
        if codes is not None:
            try:
                codes.check(items, dimension)
            except ValueError as error:
                self.require(False, f"table 'codes': {error}")

    def wide(self, items: int) -> None:
        if not any(name in self.tables for name in wide.TABLES):
            return
        for name in wide.TABLES:
            self.require(name in self.tables, f"table {name!r} is missing")
        self.array("covisitation.popularity", np.float32, items, wide.POPULARITIES)
        edges = self.offsets("covisitation.offsets", items)
        self.array("covisitation.rows", np.int32, edges)
        self.array("covisitation.counts", np.uint16, edges, wide.EDGE_COUNTS)
        hidden = len(self.tables["covisitation.hidden_bias"])
        self.array("covisitation.hidden_bias", np.float32, hidden)
        self.array("covisitation.hidden_weight", np.float32, wide.FEATURES, hidden)
        self.array("covisitation.weight", np.float32, hidden + 1)
        if self.contents:
            self.within("covisitation.rows", items)

    def offsets(self, name: str, count: int) -> int:
        """Check offsets of ``count`` parts; return where the last part ends."""
        offsets = self.array(name, np.int64, count + 1)
        follows = offsets[0] == 0 and (not self.contents or np.all(offsets[1:] >= offsets[:-1]))
        self.require(follows, f"table {name!r} does not run up from 0")
        return int(offsets[-1])

    def within(self, name: str, stop: int) -> None:
        table = self.tables[name]
        holds = not len(table) or (table.min() >= 0 and table.max() < stop)
        self.require(holds, f"table {name!r} holds values outside [0, {stop})")

    def strings(self, name: str, count: int, needed: bool = True) -> None:
        if needed or f"{name}.offsets" in self.tables:
            self.array(f"{name}.bytes", np.uint8, self.offsets(f"{name}.offsets", count))

    def ids(self, name: str, id_type: str, count: int) -> None:
        if id_type == "int64":
            self.array(name, np.int64, count)
        else:
            self.strings(name, count)

    def item_ids(self, id_type: str, items: int) -> None:
        self.ids("item_ids", id_type, items)
        order = self.array("item_ids.order", np.int64, items)
        if id_type != "int64":
            self.array("item_ids.hashes", np.uint64, items)
        if not self.contents:
            return
        self.within("item_ids.order", items)
        if id_type == "int64":
            ids = self.tables["item_ids"][order]
            rising = np.all(ids[1:] > ids[:-1])
            self.require(rising, "table 'item_ids.order' does not sort the ids, or an id stands twice")
        else:
            hashes = self.tables["item_ids.hashes"]
            self.require(np.all(hashes[1:] >= hashes[:-1]), "table 'item_ids.hashes' is not sorted")
            once = np.all(np.bincount(order, minlength=items) == 1)
            self.require(once, "table 'item_ids.order' does not name every row once")

    def tree(self, id_type: str, items: int, sizes: list[int]) -> None:
        for level, size in enumerate(sizes):
            self.ids(f"category_ids.{level}", id_type, size)
            self.strings(f"category_names.{level}", size, needed=False)
            ranges = self.array(f"category_ranges.{level}", np.int64, size, 2)
            follows = np.all(ranges[:, 0] <= ranges[:, 1]) and np.all(ranges[1:, 0] == ranges[:-1, 1])
            covers = ranges[0, 0] == 0 and ranges[-1, 1] == items
            self.require(
                follows and covers,
                f"table 'category_ranges.{level}' does not split the rows [0, {items}) in order",
            )
            parents = self.array(f"category_parents.{level}", np.int32, size)
            if level == 0:
                self.require(np.all(parents == -1), "table 'category_parents.0' is not -1 throughout")
                continue
            self.within(f"category_parents.{level}", sizes[level - 1])
            above = self.tables[f"category_ranges.{level - 1}"][parents]
            inside = np.all(above[:, 0] <= ranges[:, 0]) and np.all(ranges[:, 1] <= above[:, 1])
            self.require(inside, f"table 'category_ranges.{level}' leaves the ranges of its parents")
