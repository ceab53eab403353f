"""Target "tables": ``catalog.safetensors`` and ``delta.safetensors`` with wrong values, tables and headers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
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
        note = chance.choices([change for change, _ in _CHANGES], [weight for _, weight in _CHANGES])[0](chance, tables)
        if note is not None:
            notes.append(note)
    if chance.one_in(8) or len(notes) == 1:
        content, note = _file(chance, Packed.of(tables))
        notes.append(note)
    else:
        content = Packed.of(tables).dump()
    if chance.one_in(12):
        key = chance.choice(["items", "dimension", "max_length"])
        parts.config[key] = max(1, parts.config[key] + chance.choice([-1, 1, 16]))
        notes.append(f"config: {key} {parts.config[key]}")
    files = parts.content() | {name: content}
    options = opening(chance)
    notes.append(f"{name}, {options}")
    return BundleCase(notes, with_config(parts, files), parts.ids, chance, options)


def _table(chance: Chance, tables: Tables) -> str | None:
    """The name of a table, mostly one that indexes others."""
    if not tables:
        return None
    names = sorted(tables)
    telling = [name for name in names if not name.endswith(("vectors", ".bytes", "titles.offsets"))]
    return chance.choice(telling if telling and not chance.one_in(3) else names)


def _of(chance: Chance, tables: Tables, *suffixes: str) -> str | None:
    """The name of a table that ends so."""
    names = [name for name in sorted(tables) if name.endswith(suffixes)]
    return chance.choice(names) if names else None


def _near(tables: Tables) -> int:
    for name in ("item_vectors", "vectors"):
        if name in tables and tables[name].ndim:
            return len(tables[name])
    return 60


def _poke(chance: Chance, tables: Tables) -> str | None:
    name = _table(chance, tables)
    if name is None or not tables[name].size:
        return None
    table = tables[name].copy()
    flat, places, values = table.reshape(-1), [], []
    near = chance.choice([_near(tables), len(flat), 9])
    for _ in range(chance.choice([1, 1, 1, 2, 5])):
        at = chance.choice([0, len(flat) - 1, chance.randrange(len(flat)), chance.randrange(len(flat))])
        flat[at] = chance.extreme(table.dtype, near)
        places.append(at)
        values.append(flat[at].item())
    tables[name] = table
    return f"{name}: {values} at {places}"


def _nudge(chance: Chance, tables: Tables) -> str | None:
    name = _table(chance, tables)
    if name is None or not tables[name].size:
        return None
    table = tables[name].copy()
    begin = chance.randrange(table.size)
    stop = chance.choice([begin + 1, begin + 1, table.size, min(table.size, begin + 5)])
    step = chance.choice([-1, 1, 1, 2, -60])
    with np.errstate(all="ignore"):
        flat = table.reshape(-1)
        flat[begin:stop] = (flat[begin:stop].astype(np.float64 if table.dtype.kind == "f" else np.int64) + step).astype(
            table.dtype
        )
    tables[name] = table
    return f"{name}: {step} added to {begin} to {stop}"


def _flip(chance: Chance, tables: Tables) -> str | None:
    name = _table(chance, tables)
    if name is None or not tables[name].size:
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
    value = chance.extreme(tables[name].dtype, chance.choice([_near(tables), 9]))
    tables[name] = np.full_like(tables[name], value)
    return f"{name}: {value!s} throughout"


def _reorder(chance: Chance, tables: Tables) -> str | None:
    name = _table(chance, tables)
    if name is None or tables[name].size < 2 or not tables[name].ndim:
        return None
    table, kind = tables[name], chance.choice(["reversed", "shuffled", "sorted", "rolled", "columns exchanged", "swapped"])
    if kind == "reversed":
        table = table[::-1]
    elif kind == "shuffled":
        table = table[np.random.default_rng(chance.getrandbits(32)).permutation(len(table))]
    elif kind == "sorted":
        table = np.sort(table, axis=0)
    elif kind == "rolled":
        table = np.roll(table, 1, axis=0)
    elif kind == "columns exchanged":
        table = table[..., ::-1]
    else:
        one, other = chance.randrange(len(table)), chance.randrange(len(table))
        table = table.copy()
        table[[one, other]] = table[[other, one]]
    tables[name] = np.ascontiguousarray(table)
    return f"{name}: {kind}"


def _repeat(chance: Chance, tables: Tables) -> str | None:
    name = _table(chance, tables)
    if name is None or not tables[name].ndim or not len(tables[name]):
        return None
    table = tables[name].copy()
    to, source = chance.randrange(len(table)), chance.randrange(len(table))
    table[to] = table[source]
    tables[name] = table
    return f"{name}: row {source} copied to {to}"


def _exchange(chance: Chance, tables: Tables) -> str | None:
    one, other = _table(chance, tables), _table(chance, tables)
    if one is None or other is None or one == other:
        return None
    tables[one], tables[other] = tables[other], tables[one]
    return f"{one} and {other} exchanged"


def _names(chance: Chance, tables: Tables) -> str | None:
    name = _table(chance, tables)
    if name is None:
        return None
    kind = chance.choice(["dropped", "dropped", "renamed", "added", "copied"])
    if kind == "dropped":
        del tables[name]
        return f"{name} dropped"
    if kind == "renamed":
        new = chance.choice(["item_bias", "nobody", "titles.offsets", "", "a\0b", "ü", name + "x", name.upper()])
        tables[new] = tables.pop(name)
        return f"{name} renamed to {new!r}"
    if kind == "copied":
        new = chance.choice([*sorted(tables), "item_bias", "extra_rows", "extra_offsets", "base_user_bias", "titles.bytes"])
        tables[new] = tables[name]
        return f"{name} copied to {new}"
    new = chance.choice(["unheard-of", "item_bias", "extra_offsets", "extra_rows", "titles.offsets", "codes", "padding"])
    count = chance.choice([0, 1, 9, 10, 60, 61])
    tables[new] = np.zeros(count, dtype=chance.choice(_DTYPES))
    return f"{new} added: {tables[new].dtype} [{count}]"


def _resize(chance: Chance, tables: Tables) -> str | None:
    name = _table(chance, tables)
    if name is None:
        return None
    table = tables[name]
    kind = chance.choice(["shorter", "longer", "empty", "half", "one more axis", "flat", "transposed", "narrower", "scalar"])
    if kind == "shorter":
        table = table[: max(0, len(table) - chance.choice([1, 2, 17]))] if table.ndim else table
    elif kind == "longer":
        table = np.concatenate([table, table[-1:]]) if table.ndim and len(table) else table
    elif kind == "empty":
        table = table[:0] if table.ndim else table
    elif kind == "half":
        table = table[: len(table) // 2] if table.ndim else table
    elif kind == "one more axis":
        table = table[..., None] if chance.one_in(2) else table[None]
    elif kind == "flat":
        table = table.reshape(-1)
    elif kind == "transposed":
        table = table.T
    elif kind == "narrower":
        table = table[..., :-1] if table.ndim else table
    else:
        table = table.reshape(-1)[:1].reshape(()) if table.size else table
    tables[name] = table
    return f"{name}: {kind}, now {list(table.shape)}"


def _retype(chance: Chance, tables: Tables) -> str | None:
    name = _table(chance, tables)
    if name is None:
        return None
    dtype = chance.choice(_DTYPES)
    table = tables[name]
    if chance.one_in(2) and table.size and table.ndim and (table.shape[-1] * table.itemsize) % np.dtype(dtype).itemsize == 0:
        tables[name] = np.frombuffer(np.ascontiguousarray(table).tobytes(), dtype).reshape(*table.shape[:-1], -1)
        return f"{name}: taken for {dtype}"
    with np.errstate(all="ignore"):
        tables[name] = table.astype(dtype)
    return f"{name}: made {dtype}"


def _offsets(chance: Chance, tables: Tables) -> str | None:
    """Offsets that fall, begin or end elsewhere, or cut characters."""
    name = _of(chance, tables, "offsets")
    if name is None or tables[name].size < 3 or tables[name].dtype != np.int64 or tables[name].ndim != 1:
        return None
    table = tables[name].copy()
    at = chance.randrange(1, len(table) - 1)
    total = int(table[-1])
    kind = chance.choice(["beyond", "negative", "falls", "one more", "one less", "last", "first", "huge"])
    table[at] = {
        "beyond": total + chance.choice([1, 100, 2**40]),
        "negative": -chance.choice([1, 5, 2**40]),
        "falls": max(0, int(table[at - 1]) - 1),
        "one more": int(table[at]) + 1,
        "one less": int(table[at]) - 1,
        "huge": 2**63 - 1,
    }.get(kind, int(table[at]))
    if kind == "last":
        table[-1] = total + chance.choice([-1, 1, -total])
    if kind == "first":
        table[0] = chance.choice([1, -1])
    tables[name] = table
    return f"{name}: {kind} at {at}"


def _order(chance: Chance, tables: Tables) -> str | None:
    """Rows of an order, or other rows, negative, repeated or beyond the last."""
    name = _of(chance, tables, ".order", "_rows", "covisitation.rows", "deleted", "origin", "placement_id")
    if name is None or not tables[name].size:
        return None
    table, n = tables[name].copy(), _near(tables)
    flat = table.reshape(-1)
    for _ in range(chance.choice([1, 3, len(flat)])):
        at = chance.randrange(len(flat))
        with np.errstate(all="ignore"):
            flat[at] = np.array(
                chance.choice([-1, -2, -n, n, n + 1, 2**31 - 1, -(2**31), int(flat[0]), n - 1, 2**62])
            ).astype(table.dtype)
    tables[name] = table
    return f"{name}: rows that are not there"


def _hashes(chance: Chance, tables: Tables) -> str | None:
    """Hashes that collide, or belong to nobody; the order is kept or made anew."""
    if "item_ids.hashes" not in tables or tables["item_ids.hashes"].dtype != np.uint64:
        return None
    hashes = tables["item_ids.hashes"].copy()
    if len(hashes) < 3:
        return None
    kind = chance.choice(["all alike", "collide", "of nobody", "shifted", "of another id"])
    at = chance.randrange(len(hashes) - 1)
    if kind == "all alike":
        hashes[:] = hashes[at]
    elif kind == "collide":
        hashes[at : at + chance.choice([2, 5])] = hashes[at]
    elif kind == "of nobody":
        hashes[at] += np.uint64(1)
    elif kind == "shifted":
        hashes = np.roll(hashes, 1)
    else:
        digest = hashlib.blake2b(b"nobody's", digest_size=8).digest()
        hashes[at] = np.frombuffer(digest, np.uint64)[0]
    if chance.one_in(2):
        hashes = np.sort(hashes)
    tables["item_ids.hashes"] = hashes
    return f"item_ids.hashes: {kind} at {at}"


def _same_id(chance: Chance, tables: Tables) -> str | None:
    """Two items of one id; the index is made anew, so that nothing else is wrong."""
    if "item_ids" in tables and tables["item_ids"].dtype == np.int64 and len(tables["item_ids"]) > 2:
        ids = tables["item_ids"].copy()
        one, other = chance.sample(range(len(ids)), 2)
        ids[one] = ids[other]
        tables["item_ids"], tables["item_ids.order"] = ids, np.argsort(ids, kind="stable")
        return f"item_ids: rows {one} and {other} have one id"
    if "item_ids.hashes" not in tables or "item_ids.bytes" not in tables or "item_ids.offsets" not in tables:
        return None
    data, offsets = tables["item_ids.bytes"].tobytes(), tables["item_ids.offsets"].tolist()
    texts = [data[begin:end] for begin, end in zip(offsets, offsets[1:], strict=False)]
    if len(texts) < 3:
        return None
    one, other = chance.sample(range(len(texts)), 2)
    texts[one] = texts[other]
    digests = [int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") for text in texts]
    hashes = np.array(digests, dtype=np.uint64)
    order = np.argsort(hashes, kind="stable")
    tables["item_ids.bytes"] = np.frombuffer(b"".join(texts), np.uint8)
    tables["item_ids.offsets"] = np.cumsum([0, *map(len, texts)])
    tables["item_ids.order"], tables["item_ids.hashes"] = order, hashes[order]
    return f"item_ids: rows {one} and {other} have one id"


def _text(chance: Chance, tables: Tables) -> str | None:
    """Bytes that are no UTF-8, or a control character."""
    name = _of(chance, tables, ".bytes")
    if name is None or tables[name].dtype != np.uint8 or not tables[name].size:
        return None
    data = bytearray(tables[name].tobytes())
    at, bad = chance.randrange(len(data)), chance.choice(_BAD_UTF8)
    data[at : at + len(bad)] = bad[: len(data) - at]
    tables[name] = np.frombuffer(bytes(data), np.uint8)
    return f"{name}: {bad!r} at {at}"


def _codes(chance: Chance, tables: Tables) -> str | None:
    """Codes that disagree with the vectors."""
    if "codes" not in tables:
        return None
    name = _of(chance, tables, "codes", "codes.scales", ".suffix_norms", ".quantization_errors", ".max_norm", ".stage_ends")
    if name is None or not tables[name].size:
        return None
    table = tables[name].copy()
    flat = table.reshape(-1)
    kind = chance.choice(["zero", "one value", "shuffled", "half", "largest"])
    if kind == "zero":
        flat[:] = 0
    elif kind == "one value":
        at = chance.randrange(len(flat))
        flat[at] = chance.extreme(table.dtype, 128)
        kind = f"{flat[at].item()} at {at}"
    elif kind == "shuffled":
        flat[:] = flat[np.random.default_rng(chance.getrandbits(32)).permutation(len(flat))]
    elif kind == "half":
        flat[:] = flat // 2 if table.dtype.kind in "iu" else flat / 2
    else:
        flat[:] = np.inf if table.dtype.kind == "f" else np.iinfo(table.dtype).max
    tables[name] = table
    return f"{name}: {kind}"


def _vectors(chance: Chance, tables: Tables) -> str | None:
    """Other vectors than the codes know, or odd ones."""
    name = _of(chance, tables, "vectors", "_bias", "popularity", "_weight", "covisitation.weight")
    if name is None or not tables[name].size or tables[name].dtype.kind != "f":
        return None
    table = tables[name].copy()
    kind = chance.choice(["one value", "row doubled", "huge", "tiny", "zero row"])
    at = chance.randrange(len(table)) if table.ndim else 0
    with np.errstate(all="ignore"):
        if kind == "one value":
            table.reshape(-1)[chance.randrange(table.size)] = chance.extreme(table.dtype, 1)
        elif kind == "row doubled":
            table[at] = table[at] * 2
        elif kind == "huge":
            table *= np.array(1e38, table.dtype)
        elif kind == "tiny":
            table *= np.array(1e-38, table.dtype)
        else:
            table[at] = 0
    tables[name] = table
    return f"{name}: {kind} at {at}"


def _tree(chance: Chance, tables: Tables) -> str | None:
    """Ranges that overlap, cross or turn round; parents that do not exist, or in another order."""
    name = _of(chance, tables, *(f"category_ranges.{level}" for level in range(3)), *(f"parents.{level}" for level in range(3)))
    if name is None or not tables[name].size:
        return None
    table = tables[name].copy()
    at = chance.randrange(len(table)) if table.ndim else 0
    kind = chance.choice(["value", "exchanged", "boundary", "empty", "all in one"])
    if kind == "value" or table.ndim != 2:
        table.reshape(-1)[chance.randrange(table.size)] = chance.extreme(table.dtype, chance.choice([len(table), 60]))
    elif kind == "exchanged":
        table[at] = table[at][::-1]
    elif kind == "boundary" and at + 1 < len(table):
        moved = chance.choice([-1, 1, 60, -60])
        table[at, 1] += moved
        table[at + 1, 0] += moved
    elif kind == "empty":
        table[:] = 0
    else:
        table[:, 0], table[:, 1] = 0, table[-1, 1]
        table[1:, 0] = table[-1, 1]
    tables[name] = table
    return f"{name}: {kind} at {at}"


_CHANGES: Final[list[tuple[_Change, int]]] = [
    (_poke, 8),
    (_nudge, 3),
    (_flip, 3),
    (_fill, 2),
    (_reorder, 2),
    (_repeat, 2),
    (_exchange, 1),
    (_names, 2),
    (_resize, 2),
    (_retype, 2),
    (_offsets, 4),
    (_order, 4),
    (_hashes, 3),
    (_same_id, 1),
    (_text, 3),
    (_codes, 4),
    (_vectors, 3),
    (_tree, 3),
]

_HEADER_VALUES: Final[list[Any]] = [
    None, True, -1, 0, 1, 1.5, 2**31, 2**53, 2**63 - 1, 2**63, 2**64, "", "0", [], {}, [0], [[0]], {"a": 1}, [0, 2**62],
]  # fmt: skip


def _file(chance: Chance, packed: Packed) -> tuple[bytes, str]:
    """The file with a damaged header, length or data."""
    header, data = packed.header, packed.data
    names = [*header]
    kind = chance.choice(
        ["entry", "entry", "entry", "offsets", "shape", "dtype", "misaligned", "twice", "text", "length", "bytes", "bytes", "tail", "cut", "nested", "metadata", "product"]
    )
    if not names:
        kind = "bytes"
    name = chance.choice(names) if names else ""
    if kind == "entry":
        key, value = chance.choice(["dtype", "shape", "data_offsets", "new", ""]), chance.choice(_HEADER_VALUES)
        if key:
            header[name][key] = value
            if chance.one_in(4):
                del header[name][key]
        else:
            header[name] = value
        note = f"{name}: {key} {value!r}"
    elif kind == "offsets":
        at, value = chance.randrange(2), chance.choice([-1, 0, 1, len(data), len(data) + 1, 2**62, 2**64 - 1])
        header[name]["data_offsets"][at] = value
        note = f"{name}: data_offsets[{at}] is {value}"
    elif kind == "shape":
        shape = header[name]["shape"]
        value = chance.choice([0, -1, 1, 2**32, 2**62, 2**63, 2**64])
        if shape and chance.one_in(2):
            shape[chance.randrange(len(shape))] = value
        else:
            shape.insert(chance.randrange(len(shape) + 1), chance.choice([value, 1]))
        note = f"{name}: shape {shape}"
    elif kind == "dtype":
        header[name]["dtype"] = chance.choice(["BF16", "F8_E4M3", "F64", "I64", "U8", "I32", "", "f32", "C64", "F4", "BOOL"])
        note = f"{name}: dtype {header[name]['dtype']}"
    elif kind == "misaligned":
        return _misaligned(chance, packed)
    elif kind == "product":
        header["nothing"] = {"dtype": "F32", "shape": chance.choice([[0, 2**62], [2**32, 2**32, 0], [0] * 70, []]), "data_offsets": [0, 0]}
        note = f"a table of shape {header['nothing']['shape']}"
    elif kind == "metadata":
        header["__metadata__"] = chance.choice([{}, {"format": "pt"}, {"a": 1}, [], None, {"item_vectors": "x"}])
        note = f"metadata {header['__metadata__']}"
    else:
        return _framed_wrongly(chance, kind, name, packed)
    return framed(json.dumps(header, separators=(",", ":")).encode(), data), note


def _misaligned(chance: Chance, packed: Packed) -> tuple[bytes, str]:
    """Every table begins some bytes later, which the format allows."""
    shift = chance.choice([1, 2, 4, 3, 7, 8, 32])
    moved = {
        name: about | {"data_offsets": [shift + each for each in about["data_offsets"]]}
        for name, about in packed.header.items()
    }
    first = {"dtype": "U8", "shape": [shift], "data_offsets": [0, shift]}
    header = {chance.choice(["padding.x", "first"]): first, **moved}
    text = json.dumps(header, separators=(",", ":")).encode()
    return framed(text, bytes(shift) + packed.data), f"all tables begin {shift} bytes later"


def _framed_wrongly(chance: Chance, kind: str, name: str, packed: Packed) -> tuple[bytes, str]:
    text = json.dumps(packed.header, separators=(",", ":")).encode()
    whole = framed(text, packed.data)
    if kind == "twice":
        again = packed.header[name] | {"dtype": chance.choice(["U8", "I64", packed.header[name]["dtype"]])}
        text = text[:-1] + b"," + json.dumps({name: again}).encode()[1:]
        return framed(text, packed.data), f"{name} stands twice in the header"
    if kind == "text":
        wrong = chance.choice([b"\xff", b"[]", b"null", b"{}", b"\xef\xbb\xbf" + text, text + b"\0", text + b"}", b"", text[:-1]])
        return framed(wrong, packed.data), f"a header that begins with {wrong[:10]!r} and ends with {wrong[-3:]!r}"
    if kind == "nested":
        depth = chance.choice([100, 1_000, 100_000])
        return framed(b'{"a":' + b"[" * depth + b"]" * depth + b"}", packed.data), f"a header {depth} deep"
    if kind == "length":
        length = chance.choice([0, 1, 2**31, 2**63, 2**64 - 1, len(whole), len(whole) - 8, 100_000_001])
        return length.to_bytes(8, "little") + whole[8:], f"a header of {length} bytes"
    if kind == "tail":
        return whole + bytes(chance.choice([1, 8, 64])), "more bytes at the end"
    if kind == "cut":
        stop = chance.choice([0, 4, 8, 9, len(whole) - 1, len(whole) - 64, chance.randrange(len(whole))])
        return whole[:stop], f"cut off after {stop} bytes"
    if kind == "bytes" and chance.one_in(2):
        spoiled, note = chance.spoiled(text)
        return framed(spoiled, packed.data), f"header: {note}"
    return chance.spoiled(whole)


