"""Target "tables": ``catalog.safetensors`` and ``delta.safetensors`` with wrong values, tables and headers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from itertools import pairwise
from typing import Any, Final

import numpy as np

from hiersrec_sdk.bundle.schema import CATALOG, DELTA
from tests.fuzz.bundle_case import BundleCase, opening
from tests.fuzz.chance import Chance
from tests.fuzz.parts import Packed, Tables, framed, sound, with_config

_BAD_UTF8: Final = [b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xc0\x80", b"\xf5\x80\x80\x80", b"\x80", b"\0"]
_DTYPES: Final = ["<f8", "<f4", "<f2", "<i8", "<i4", "<i2", "i1", "<u8", "<u4", "<u2", "u1", "?"]

_Change = Callable[[Chance, Tables], str | None]
"""Changes some tables, and says how; None where it does not apply."""


def make(chance: Chance) -> BundleCase:
    """A bundle with damaged tables."""
    parts = chance.choice(sound()).copy()
    notes = [parts.name]
    name = DELTA if DELTA in parts.tables and chance.one_in(3) else CATALOG
    tables = parts.tables[name]
    for _ in range(chance.choice([0, 1, 1, 1, 1, 2, 2, 3, 6])):
        note = chance.weighted(_CHANGES)(chance, tables)
        if note is not None:
            notes.append(note)
    packed = Packed.of(tables)
    content = packed.dump()
    if packed.header and (chance.one_in(8) or len(notes) == 1):
        content, note = _file(chance, packed)
        notes.append(note)
    if chance.one_in(12):
        key = chance.kind("items, dimension, max_length")
        parts.config[key] = max(1, parts.config[key] + chance.choice([-1, 1, 16]))
        notes.append(f"config: {key} {parts.config[key]}")
    options = opening(chance)
    notes.append(f"{name}, {options}")
    files = with_config(parts, parts.content() | {name: content})
    return BundleCase(notes, files, parts.ids, chance, options)


def _table(chance: Chance, tables: Tables, least: int = 0) -> str | None:
    """The name of a table of at least so many values, mostly one that indexes others; or None."""
    names = [name for name in sorted(tables) if tables[name].size >= least]
    telling = [name for name in names if not name.endswith(("vectors", ".bytes", "titles.offsets"))]
    chosen = telling if telling and not chance.one_in(3) else names
    return chance.choice(chosen) if chosen else None


def _of(chance: Chance, tables: Tables, *suffixes: str) -> str | None:
    """The name of a table that has values and whose name ends so; or None."""
    names = [name for name in sorted(tables) if name.endswith(suffixes) and tables[name].size]
    return chance.choice(names) if names else None


def _rows(tables: Tables) -> int:
    """About how many rows there are."""
    return next(
        (len(tables[name]) for name in ("item_vectors", "vectors") if name in tables and tables[name].ndim),
        60,
    )


def _poke(chance: Chance, tables: Tables) -> str | None:
    """Some values are extreme ones."""
    name = _table(chance, tables, 1)
    if name is None:
        return None
    table = tables[name].copy()
    flat, changed = table.reshape(-1), {}
    near = chance.choice([_rows(tables), len(flat), 9])
    for _ in range(chance.choice([1, 1, 1, 2, 5])):
        at = chance.choice([0, len(flat) - 1, chance.randrange(len(flat)), chance.randrange(len(flat))])
        flat[at] = chance.extreme(table.dtype, near)
        changed[at] = flat[at].item()
    tables[name] = table
    return f"{name}: {changed}"


def _nudge(chance: Chance, tables: Tables) -> str | None:
    """Values are a little larger or smaller."""
    name = _table(chance, tables, 1)
    if name is None:
        return None
    table = tables[name].copy()
    flat = table.reshape(-1)
    begin, step = chance.randrange(len(flat)), chance.choice([-1, 1, 1, 2, -60])
    stop = chance.choice([begin + 1, begin + 1, len(flat), begin + 5])
    with np.errstate(all="ignore"):
        wide = flat[begin:stop].astype(np.float64 if table.dtype.kind == "f" else np.int64)
        flat[begin:stop] = (wide + step).astype(table.dtype)
    tables[name] = table
    return f"{name}: {step} added to {begin} to {stop}"


def _flip(chance: Chance, tables: Tables) -> str | None:
    name = _table(chance, tables, 1)
    if name is None:
        return None
    data = bytearray(tables[name].tobytes())
    bits = [chance.randrange(8 * len(data)) for _ in range(chance.choice([1, 1, 2, 16]))]
    for bit in bits:
        data[bit // 8] ^= 1 << bit % 8
    tables[name] = np.frombuffer(bytes(data), tables[name].dtype).reshape(tables[name].shape)
    return f"{name}: bits {bits} flipped"


def _fill(chance: Chance, tables: Tables) -> str | None:
    name = _table(chance, tables)
    if name is None:
        return None
    value = chance.extreme(tables[name].dtype, chance.choice([_rows(tables), 9]))
    tables[name] = np.full_like(tables[name], value)
    return f"{name}: {value!s} throughout"


def _reorder(chance: Chance, tables: Tables) -> str | None:
    name = _table(chance, tables, 2)
    if name is None or not tables[name].ndim:
        return None
    table = tables[name].copy()
    kind = chance.kind("reversed, shuffled, sorted, rolled, columns exchanged, rows exchanged, row repeated")
    one, other = chance.randrange(len(table)), chance.randrange(len(table))
    if kind == "reversed":
        table = table[::-1]
    elif kind == "shuffled":
        table = table[np.random.default_rng(chance.getrandbits(32)).permutation(len(table))]
    elif kind == "sorted":
        table.sort(axis=0)
    elif kind == "rolled":
        table = np.roll(table, 1, axis=0)
    elif kind == "columns exchanged":
        table = table[..., ::-1]
    elif kind == "rows exchanged":
        table[[one, other]] = table[[other, one]]
    else:
        table[one] = table[other]
    tables[name] = table
    return f"{name}: {kind}, {one} and {other}"


def _exchange(chance: Chance, tables: Tables) -> str | None:
    one, other = _table(chance, tables), _table(chance, tables)
    if one is None or other is None:
        return None
    tables[one], tables[other] = tables[other], tables[one]
    return f"{one} and {other} exchanged"


def _names(chance: Chance, tables: Tables) -> str | None:
    """A table is missing, named otherwise, copied or new."""
    name = _table(chance, tables)
    if name is None:
        return None
    kind = chance.kind("2 * dropped, renamed, copied, added")
    known = [
        *sorted(tables),
        "item_bias",
        "extra_rows",
        "extra_offsets",
        "base_user_bias",
        "titles.bytes",
        "codes",
    ]
    new = chance.choice([*known, "nobody", "", "a\0b", "ü", f"{name}x", name.upper(), "padding"])
    if kind == "added":
        tables[new] = np.zeros(chance.choice([0, 1, 9, 10, 60, 61]), dtype=chance.choice(_DTYPES))
        return f"{new!r} added: {tables[new].dtype} {list(tables[new].shape)}"
    table = tables[name]
    if kind != "copied":
        del tables[name]
    if kind != "dropped":
        tables[new] = table
    return f"{name}: {kind}, {new!r}"


def _resize(chance: Chance, tables: Tables) -> str | None:
    name = _table(chance, tables)
    if name is None or not tables[name].ndim:
        return None
    table = tables[name]
    kind = chance.kind("shorter, longer, empty, half, one more axis, flat, transposed, narrower, scalar")
    if kind == "shorter":
        table = table[: max(0, len(table) - chance.choice([1, 2, 17]))]
    elif kind == "longer":
        table = np.concatenate([table, table[-1:]])
    elif kind == "empty":
        table = table[:0]
    elif kind == "half":
        table = table[: len(table) // 2]
    elif kind == "one more axis":
        table = table[..., None] if chance.one_in(2) else table[None]
    elif kind == "flat":
        table = table.reshape(-1)
    elif kind == "transposed":
        table = table.T
    elif kind == "narrower":
        table = table[..., :-1]
    elif table.size:
        table = table.reshape(-1)[:1].reshape(())
    tables[name] = table
    return f"{name}: {kind}, now {list(table.shape)}"


def _retype(chance: Chance, tables: Tables) -> str | None:
    name = _table(chance, tables, 1)
    if name is None:
        return None
    dtype, table = np.dtype(chance.choice(_DTYPES)), tables[name]
    width = table.itemsize * (table.shape[-1] if table.ndim else 1)
    if chance.one_in(2) and width % dtype.itemsize == 0:
        tables[name] = np.frombuffer(table.tobytes(), dtype).reshape(*table.shape[:-1], -1)
        return f"{name}: its bytes are {dtype}"
    with np.errstate(all="ignore"):
        tables[name] = table.astype(dtype)
    return f"{name}: its values are {dtype}"


def _offsets(chance: Chance, tables: Tables) -> str | None:
    """Offsets that fall, begin or end elsewhere, or cut characters."""
    name = _of(chance, tables, "offsets")
    if name is None or tables[name].size < 3 or tables[name].dtype != np.int64 or tables[name].ndim != 1:
        return None
    table = tables[name].copy()
    at, total = chance.randrange(1, len(table) - 1), int(table[-1])
    kind = chance.kind("beyond, negative, falls, one more, one less, huge, last, first")
    values = {
        "beyond": total + chance.choice([1, 100, 2**40]),
        "negative": -chance.choice([1, 5, 2**40]),
        "falls": max(0, int(table[at - 1]) - 1),
        "one more": int(table[at]) + 1,
        "one less": int(table[at]) - 1,
        "huge": 2**63 - 1,
    }
    if kind in values:
        table[at] = min(values[kind], 2**63 - 1)
    elif kind == "last":
        table[-1] = total + chance.choice([-1, 1, -total])
    else:
        table[0] = chance.choice([1, -1])
    tables[name] = table
    return f"{name}: {kind} at {at}"


def _order(chance: Chance, tables: Tables) -> str | None:
    """Rows of an order, or other rows, negative, repeated or beyond the last."""
    name = _of(chance, tables, ".order", "_rows", "covisitation.rows", "deleted", "origin", "placement_id")
    if name is None:
        return None
    table, n = tables[name].copy(), _rows(tables)
    flat = table.reshape(-1)
    given = int(flat[0]) if np.isfinite(flat[0]) else 0  # its type may have been changed before
    for _ in range(chance.choice([1, 3, len(flat)])):
        value = chance.choice([-1, -2, -n, n, n + 1, n - 1, 2**31 - 1, -(2**31), 2**62, given])
        with np.errstate(all="ignore"):
            flat[chance.randrange(len(flat))] = np.array(value).astype(table.dtype)
    tables[name] = table
    return f"{name}: rows that are not there"


def _hashes(chance: Chance, tables: Tables) -> str | None:
    """Hashes that collide, or belong to nobody; sorted or not."""
    if "item_ids.hashes" not in tables or tables["item_ids.hashes"].dtype != np.uint64:
        return None
    hashes = tables["item_ids.hashes"].reshape(-1).copy()
    if len(hashes) < 3:
        return None
    kind = chance.kind("all alike, collide, of nobody, rolled, of another id")
    at = chance.randrange(len(hashes) - 1)
    if kind == "all alike":
        hashes[:] = hashes[at]
    elif kind == "collide":
        hashes[at : at + chance.choice([2, 5])] = hashes[at]
    elif kind == "of nobody":
        hashes[at] ^= np.uint64(1)
    elif kind == "rolled":
        hashes = np.roll(hashes, 1)
    else:
        hashes[at] = _hash_of(b"nobody's")
    if chance.one_in(2):
        hashes.sort()
    tables["item_ids.hashes"] = hashes
    return f"item_ids.hashes: {kind} at {at}"


def _same_id(chance: Chance, tables: Tables) -> str | None:
    """Two items of one id; the index is made anew, so that nothing else is wrong."""
    try:
        if "item_ids" in tables:
            ids = tables["item_ids"].copy()
            one, other = chance.sample(range(len(ids)), 2)
            ids[one] = ids[other]
            tables["item_ids"], tables["item_ids.order"] = ids, np.argsort(ids, kind="stable")
            return f"item_ids: rows {one} and {other} have one id"
        data, offsets = tables["item_ids.bytes"].tobytes(), tables["item_ids.offsets"].tolist()
        texts = [data[begin:end] for begin, end in pairwise(offsets)]
        one, other = chance.sample(range(len(texts)), 2)
    except (KeyError, TypeError, ValueError):  # of tables that are damaged already
        return None
    texts[one] = texts[other]
    hashes = np.array([_hash_of(text) for text in texts], dtype=np.uint64)
    order = np.argsort(hashes, kind="stable")
    tables["item_ids.bytes"] = np.frombuffer(b"".join(texts), np.uint8)
    tables["item_ids.offsets"] = np.cumsum([0, *map(len, texts)])
    tables["item_ids.order"], tables["item_ids.hashes"] = order, hashes[order]
    return f"item_ids: rows {one} and {other} have one id"


def _hash_of(text: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def _text(chance: Chance, tables: Tables) -> str | None:
    """Bytes that are no UTF-8, or a control character."""
    name = _of(chance, tables, ".bytes")
    if name is None or tables[name].dtype != np.uint8:
        return None
    data = bytearray(tables[name].tobytes())
    at, bad = chance.randrange(len(data)), chance.choice(_BAD_UTF8)
    data[at : at + len(bad)] = bad[: len(data) - at]
    tables[name] = np.frombuffer(bytes(data), np.uint8)
    return f"{name}: {bad!r} at {at}"


def _codes(chance: Chance, tables: Tables) -> str | None:
    """Codes that disagree with the vectors."""
    name = _of(
        chance,
        tables,
        "codes",
        ".scales",
        ".suffix_norms",
        ".quantization_errors",
        ".max_norm",
        ".stage_ends",
    )
    if name is None:
        return None
    table = tables[name].copy()
    flat = table.reshape(-1)
    kind = chance.kind("zero, one value, shuffled, half, largest")
    if kind == "zero":
        flat[:] = 0
    elif kind == "one value":
        at = chance.randrange(len(flat))
        flat[at] = chance.extreme(table.dtype, 128)
        kind = f"{flat[at].item()} at {at}"
    elif kind == "shuffled":
        flat[:] = flat[np.random.default_rng(chance.getrandbits(32)).permutation(len(flat))]
    elif kind == "half":
        flat[:] = (flat / 2).astype(table.dtype)
    else:
        flat[:] = np.inf if table.dtype.kind == "f" else 2**15 - 1 if table.itemsize > 1 else 127
    tables[name] = table
    return f"{name}: {kind}"


def _vectors(chance: Chance, tables: Tables) -> str | None:
    """Other vectors than the codes know, or odd ones."""
    name = _of(chance, tables, "vectors", "_bias", "popularity", "weight")
    if name is None or tables[name].dtype.kind != "f" or not tables[name].ndim:
        return None
    table = tables[name].copy()
    kind, at = chance.kind("one value, row doubled, huge, tiny, zero row"), chance.randrange(len(table))
    with np.errstate(all="ignore"):
        if kind == "one value":
            table.reshape(-1)[chance.randrange(table.size)] = chance.extreme(table.dtype, 1)
        elif kind == "row doubled":
            table[at] *= 2
        elif kind == "zero row":
            table[at] = 0
        else:
            table *= np.array(1e38 if kind == "huge" else 1e-38, table.dtype)
    tables[name] = table
    return f"{name}: {kind} at {at}"


def _tree(chance: Chance, tables: Tables) -> str | None:
    """Ranges that overlap, cross or turn round; parents that do not exist, or in another order."""
    name = _of(chance, tables, *(f"{kind}.{level}" for kind in ("ranges", "parents") for level in range(3)))
    if name is None or not tables[name].ndim:
        return None
    table = tables[name].copy()
    at = chance.randrange(len(table))
    kind = chance.kind("value, exchanged, boundary, empty, all in one")
    if kind == "value" or table.ndim != 2:
        near = chance.choice([len(table), 60])
        table.reshape(-1)[chance.randrange(table.size)] = chance.extreme(table.dtype, near)
    elif kind == "exchanged":
        table[at] = table[at][::-1]
    elif kind == "boundary":
        moved = chance.choice([-1, 1, 60, -60])
        table[at, -1] += moved
        table[at + 1 : at + 2, 0] += moved
    elif kind == "empty":
        table[:] = 0
    else:
        table[0], table[1:] = [0] * (table.shape[1] - 1) + [table[-1, -1]], table[-1, -1]
    tables[name] = table
    return f"{name}: {kind} at {at}"


_CHANGES: Final[dict[_Change, int]] = {
    _poke: 8,
    _nudge: 3,
    _flip: 3,
    _fill: 2,
    _reorder: 4,
    _exchange: 1,
    _names: 2,
    _resize: 2,
    _retype: 2,
    _offsets: 4,
    _order: 4,
    _hashes: 3,
    _same_id: 1,
    _text: 3,
    _codes: 4,
    _vectors: 3,
    _tree: 3,
}

_IN_HEADER: Final[list[Any]] = [
    *[None, True, -1, 0, 1, 1.5, 2**31, 2**53, 2**63 - 1, 2**63, 2**64, "", "0"],
    *[[], {}, [0], [[0]], {"a": 1}, [0, 2**62]],
]


def _file(chance: Chance, packed: Packed) -> tuple[bytes, str]:
    """The file with a damaged header, length or data."""
    kind = chance.kind("6 * entry, misaligned, twice, text, nested, length, tail, cut, 2 * header, 2 * bytes")
    text = json.dumps(packed.header, separators=(",", ":")).encode()
    whole = packed.dump()
    if kind == "entry":
        note = _entry(chance, packed)
        return packed.dump(), note
    if kind == "misaligned":
        return _misaligned(chance, packed)
    if kind == "twice":
        name = chance.choice([*packed.header])
        again = json.dumps({name: packed.header[name] | {"dtype": chance.kind("U8, I64, F32")}})
        return framed(
            text[:-1] + b"," + again[1:].encode(), packed.data
        ), f"{name} stands twice in the header"
    if kind == "text":
        others = [b"\xff", b"[]", b"null", b"{}", b""]
        near = [b"\xef\xbb\xbf" + text, text + b"\0", text + b"}", text[:-1]]
        wrong = chance.choice(others + near)
        return framed(
            wrong, packed.data
        ), f"a header that begins with {wrong[:10]!r} and ends with {wrong[-3:]!r}"
    if kind == "nested":
        depth = chance.choice([100, 1_000, 100_000])
        return framed(b'{"a":' + b"[" * depth + b"]" * depth + b"}", packed.data), f"a header {depth} deep"
    if kind == "length":
        length = chance.choice([0, 1, 2**31, 2**63, 2**64 - 1, len(whole), len(whole) - 8, 100_000_001])
        return length.to_bytes(8, "little") + whole[8:], f"a header of {length} bytes"
    if kind == "tail":
        return whole + bytes(chance.choice([1, 8, 64])), "more bytes at the end"
    if kind == "cut":
        stop = chance.choice([0, 4, 8, 9, len(whole) - 1, len(whole) - 64])
        return whole[:stop], f"cut off after {stop} bytes"
    if kind == "header":
        spoiled, note = chance.spoiled(text)
        return framed(spoiled, packed.data), f"header: {note}"
    return chance.spoiled(whole)


def _entry(chance: Chance, packed: Packed) -> str:
    """Damage an entry of the header; returns how."""
    header, size = packed.header, len(packed.data)
    kind = chance.kind("3 * value, offsets, shape, dtype, empty, metadata")
    name, value = chance.choice([*header]), chance.choice(_IN_HEADER)
    if kind == "metadata":
        metadata: Any = chance.choice([{}, {"format": "pt"}, {"a": 1}, [], None, {"item_vectors": "x"}])
        header["__metadata__"] = metadata
        return f"metadata {metadata}"
    if kind == "empty":
        shape = chance.choice([[0, 2**62], [2**32, 2**32, 0], [0] * 70, []])
        header["nothing"] = {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}
        return f"a table of shape {shape}"
    if kind == "offsets":
        offsets = [-1, 0, 1, size, size + 1, 2**62, 2**64 - 1]
        header[name]["data_offsets"][chance.randrange(2)] = chance.choice(offsets)
    elif kind == "shape":
        shape = header[name]["shape"]
        at = chance.randrange(len(shape) + 1)
        shape[at : at + chance.randrange(2)] = [chance.choice([0, -1, 1, 1, 2**32, 2**62, 2**63, 2**64])]
    elif kind == "dtype":
        header[name]["dtype"] = chance.kind("BF16, F8_E4M3, F64, I64, U8, I32, f32, C64, F4, BOOL")
    else:
        key = chance.choice(["dtype", "shape", "data_offsets", "new", ""])
        if key:
            header[name][key] = value
        if key and chance.one_in(4):
            del header[name][key]
        if not key:
            header[name] = value
    return f"{name}: {header[name]}"


def _misaligned(chance: Chance, packed: Packed) -> tuple[bytes, str]:
    """Every table begins some bytes later, which the format allows."""
    shift = chance.choice([1, 2, 4, 3, 7, 8, 32])
    moved = {
        name: about | {"data_offsets": [shift + each for each in about["data_offsets"]]}
        for name, about in packed.header.items()
    }
    first = {"dtype": "U8", "shape": [shift], "data_offsets": [0, shift]}
    header = {chance.kind("padding.x, first"): first, **moved}
    return Packed(header, bytes(shift) + packed.data).dump(), f"all tables begin {shift} bytes later"
