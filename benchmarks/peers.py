"""Who ranks: our kernel and its peers. A peer that is not installed is left out, with a line that says so.

Every peer is told in one function what it needs: how it is built, how it answers, what it has to read. Beside its time
stands what it reads at least. Where a library counts that itself (faiss: Panorama, IVF, HNSW), it is its own count;
otherwise it is the size of what a scan goes through, once for a batch.

A table may have an item bias. Peers that can add one add it; for the others it is one more dimension of the table, the
first, in which every query has a 1.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.vectors import empty
from hiersrec_sdk.ranking import Backend, Codes, Request, Table, available_backends, get_backend
from hiersrec_sdk.ranking.row_ranges import complement

Work = Literal["candidates", "exact", "batch"]
Floats = NDArray[np.float32]
Ranges = NDArray[np.int64]

READ: Final = "plain-read"
OURS: Final = "hiersrec"
_CHUNK: Final = 1 << 16  # rows that are added to an index at once
_LARGEST_CONSTANT: Final = 1 << 30  # bytes: protobuf ends at 2 GiB, and building takes four copies
_PROBES: Final = (1, 4, 16, 64)  # lists that IVF ranks
_VISITS: Final = (32, 128, 512)  # efSearch of HNSW
_RESCORED: Final = (5, 20, 100)  # candidates of RaBitQ that are rescored with float32, as a multiple of k


class Answer(NamedTuple):
    """``rows`` int64 [b, k] of the best, best first; ``bytes_read`` for all b queries together."""

    rows: NDArray[np.int64]
    bytes_read: int


@dataclass(frozen=True, eq=False)
class Setup:
    """What a peer is built from: ``vectors`` float32 [n, d], ``bias`` float32 [n] or None, how many are asked for."""

    vectors: Floats
    bias: Floats | None
    k: int
    report: Callable[[str], object] = lambda line: None

    def rows_with_bias(self, width: int = 0) -> Iterator[Floats]:
        """The table in parts, the bias as its first dimension; zeros up to ``width`` dimensions."""
        n, d = self.vectors.shape
        first = self.bias is not None
        for start in range(0, n, _CHUNK):
            part = np.zeros((min(_CHUNK, n - start), max(width, first + d)), np.float32)
            part[:, first : first + d] = self.vectors[start : start + _CHUNK]
            if self.bias is not None:
                part[:, 0] = self.bias[start : start + _CHUNK]
            yield part

    @property
    def width(self) -> int:
        """Dimensions with that of the bias."""
        return int(self.vectors.shape[1]) + (self.bias is not None)


@dataclass(frozen=True, eq=False)
class Peer:
    """Ranks a table on one thread.

    Attributes:
        name: of its rows.
        exact: the best of all rows for queries float32 [b, d], and the candidate ranges of each, which are a hint.
        candidates: the best of some ranges for queries float32 [1, d]; None: it ranks all rows, as a server without
            our layout has to.
        works: what it is asked.
        width: dimensions of its queries, where the bias is one of them; None: it adds the bias.
    """

    name: str
    exact: Callable[[Floats, Sequence[Ranges]], Answer]
    candidates: Callable[[Floats, Ranges], Answer] | None = None
    works: Sequence[Work] = ("candidates", "exact", "batch")
    width: int | None = None


def _hiersrec(setup: Setup) -> list[Peer]:
    """The C kernel over int8 codes, and over float32 alone; one query of a batch after the other; its Numba twin."""
    codes = Codes.of(setup.vectors)
    aligned = Codes(*(_aligned(getattr(codes, field.name)) for field in fields(codes)))
    table = Table(setup.vectors, setup.bias, aligned)
    n = len(setup.vectors)

    def peer(name: str, backend: Backend, table: Table) -> Peer:
        def search(requests: list[Request]) -> Answer:
            found = backend.search(table, requests, setup.k)
            return Answer(np.stack([each.rows for each in found]), sum(each.bytes_read for each in found))

        def exact(queries: Floats, ranges: Sequence[Ranges]) -> Answer:
            asked = zip(queries, ranges, strict=True)
            return search([Request(query, some, complement(some, n)) for query, some in asked])

        return Peer(name, exact, lambda queries, ranges: search([Request(queries[0], ranges)]))

    ours = peer(OURS, get_backend("c"), table)

    def one_by_one(queries: Floats, ranges: Sequence[Ranges]) -> Answer:
        each = [ours.exact(query[None], [some]) for query, some in zip(queries, ranges, strict=True)]
        return Answer(np.concatenate([one.rows for one in each]), sum(one.bytes_read for one in each))

    found = [
        ours,
        peer(f"{OURS}-without-codes", get_backend("c"), Table(setup.vectors, setup.bias)),
        Peer(f"{OURS}-one-by-one", one_by_one, works=["batch"]),
    ]
    if "numba" in available_backends():
        found.append(peer(f"{OURS}-numba", get_backend("numba"), table))
    return found


def _aligned(array: NDArray[Any]) -> NDArray[Any]:
    made = empty(array.shape, array.dtype)
    made[...] = array
    return made


def _plain_read(setup: Setup) -> list[Peer]:
    """The limit: a sum over the int8 codes that a work covers, and nothing else.

    Four streams: on one thread of an AMD EPYC (Zen 5) they read 36 GB/s, np.add.reduce 29.
    """
    from numba import njit, types

    @njit(types.int64(types.int64[::1], types.Array(types.int64, 2, "C", readonly=True)), nogil=True)
    def read(words: Any, ranges: Any) -> Any:
        total = np.int64(0)
        for r in range(len(ranges)):
            some = words[
                ranges[r, 0] : ranges[r, 1]
            ]  # a view: an index from 0 on needs no check for its sign
            part = len(some) // 4
            a = b = c = d = np.int64(0)
            for i in range(part):
                a += some[i]
                b += some[part + i]
                c += some[2 * part + i]
                d += some[3 * part + i]
            for i in range(4 * part, len(some)):
                a += some[i]
            total += a + b + c + d
        return total

    n, d = setup.vectors.shape
    words = _aligned(np.ones(n * d // 8, np.int64))  # untouched pages of zeros would be one and the same page
    whole, nothing = np.array([[0, len(words)]]), np.empty((0, 0), np.int64)

    def candidates(queries: Floats, ranges: Ranges) -> Answer:
        read(words, ranges * d // 8)
        return Answer(nothing, d * _size(ranges))

    def exact(queries: Floats, ranges: Sequence[Ranges]) -> Answer:
        read(words, whole)
        return Answer(nothing, words.nbytes)

    return [Peer(READ, exact, candidates)]


def _numpy(setup: Setup) -> list[Peer]:
    """A matrix product, then ``argpartition``; for candidates a gather of their rows, or a product for each range."""
    vectors, bias, k = setup.vectors, setup.bias, setup.k
    row = 4 * setup.width

    def best(scores: Floats, rows: Any) -> NDArray[np.int64]:
        if bias is not None:
            scores += bias[rows]
        some = np.argpartition(scores, len(scores) - k)[len(scores) - k :]
        return some[np.argsort(-scores[some], kind="stable")]

    def exact(queries: Floats, ranges: Sequence[Ranges]) -> Answer:
        scores = queries @ vectors.T if len(queries) > 1 else (vectors @ queries[0])[None]
        return Answer(np.stack([best(each, slice(None)) for each in scores]), row * len(vectors))

    def gather(queries: Floats, ranges: Ranges) -> Answer:
        rows = _rows_in(ranges)
        return Answer(rows[best(vectors[rows] @ queries[0], rows)][None], row * len(rows))

    def slices(queries: Floats, ranges: Ranges) -> Answer:
        rows = _rows_in(ranges)
        scores = np.concatenate([vectors[start:stop] @ queries[0] for start, stop in ranges.tolist()])
        return Answer(rows[best(scores, rows)][None], row * len(rows))

    return [Peer("numpy", exact, gather), Peer("numpy-slices", exact, slices, ["candidates"])]


def _torch(setup: Setup) -> list[Peer]:
    """A matrix product over the whole table, then ``topk``."""
    import torch

    torch.set_num_threads(1)
    table = torch.from_numpy(setup.vectors).T  # queries @ table.T was faster than table @ query
    bias = None if setup.bias is None else torch.from_numpy(setup.bias)

    @torch.inference_mode()
    def exact(queries: Floats, ranges: Sequence[Ranges]) -> Answer:
        scores = torch.from_numpy(queries) @ table
        if bias is not None:
            scores += bias
        return Answer(torch.topk(scores, setup.k).indices.numpy(), 4 * setup.width * len(setup.vectors))

    return [Peer("torch", exact)]


def _implicit(setup: Setup) -> list[Peer]:
    """implicit's own top-k: a matrix product and a heap for each query."""
    from implicit.cpu.topk import topk

    table = setup.vectors
    if setup.bias is not None:
        table = np.empty((len(table), setup.width), np.float32)
        for place, part in enumerate(setup.rows_with_bias()):  # no second copy is in memory
            table[place * _CHUNK : (place + 1) * _CHUNK] = part

    def exact(queries: Floats, ranges: Sequence[Ranges]) -> Answer:
        return Answer(topk(table, queries, setup.k, num_threads=1)[0].astype(np.int64), table.nbytes)

    return [Peer("implicit", exact, width=setup.width)]


def _onnxruntime(setup: Setup) -> list[Peer]:
    """A graph of ``MatMul`` and ``TopK`` (and ``Add``, of a bias), as a server that exports both would run it.

    The table, transposed, is a constant of the graph, which onnxruntime packs for its own kernel; above 1 GiB it is an
    input that is bound once. Both were faster than ``Gemm`` with ``transB`` and than ``MatMul(table, query)``.
    """
    from onnx import numpy_helper, parser

    from hiersrec_sdk.encoders.runtime import import_onnxruntime

    onnxruntime = import_onnxruntime()
    table = np.ascontiguousarray(setup.vectors.T)
    d, n = table.shape
    tensors = {"k": np.array([setup.k]), "table": table}
    nodes, scores = "products = MatMul (queries, table)", "products"
    if setup.bias is not None:
        tensors["bias"] = setup.bias
        nodes, scores = f"{nodes} scores = Add (products, bias)", "scores"
    bound = None
    inputs = f"float[batch, {d}] queries"
    if table.nbytes > _LARGEST_CONSTANT:
        inputs += f", float[{d}, {n}] table"
        bound = onnxruntime.OrtValue.ortvalue_from_numpy(tensors.pop("table"))
    model = parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : 20]> ranking ({inputs}) => (int64[batch, {setup.k}] rows) '
        f"{{ {nodes} best, rows = TopK ({scores}, k) }}"
    )
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in tensors.items())
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])

    def exact(queries: Floats, ranges: Sequence[Ranges]) -> Answer:
        binding = session.io_binding()
        binding.bind_cpu_input("queries", queries)
        if bound is not None:
            binding.bind_ortvalue_input("table", bound)
        binding.bind_output("rows")
        session.run_with_iobinding(binding)
        return Answer(binding.get_outputs()[0].numpy(), 4 * setup.width * n)

    return [Peer("onnxruntime", exact)]


def _faiss(name: str, index: Any, setup: Setup, reads: Callable[[int], float], **parameters: Any) -> Peer:
    """An index of faiss. ``reads`` tells the bytes of the last search, of so many queries."""

    def exact(queries: Floats, ranges: Sequence[Ranges]) -> Answer:
        rows = index.search(queries, setup.k, **parameters)[1]
        return Answer(rows, round(reads(len(queries))))

    return Peer(name, exact, width=index.d)


def _filled(index: Any, setup: Setup, width: int = 0) -> Any:
    for part in setup.rows_with_bias(width):
        index.add(part)
    return index


def _counted(statistics: Any, count: Callable[[Any, int], float]) -> Callable[[int], float]:
    """What faiss counted in the last search, which was of so many queries."""

    def taken(queries: int) -> float:
        found = count(statistics, queries)
        statistics.reset()
        return found

    return taken


def _faiss_flat(setup: Setup) -> list[Peer]:
    """Every row; and the candidates alone, by a bitmap that is made for each query."""
    import faiss

    index = _filled(faiss.IndexFlatIP(setup.width), setup)
    n, row = len(setup.vectors), 4 * setup.width

    def selected(queries: Floats, ranges: Ranges) -> Answer:
        chosen = np.zeros(n, bool)
        for start, stop in ranges.tolist():
            chosen[start:stop] = True
        selector = faiss.IDSelectorBitmap(np.packbits(chosen, bitorder="little"))
        rows = index.search(queries, setup.k, params=faiss.SearchParameters(sel=selector))[1]
        return Answer(rows, row * _size(ranges))

    flat = _faiss("faiss-flat", index, setup, lambda queries: row * n)
    return [flat, Peer("faiss-flat-selected", flat.exact, selected, ["candidates"], index.d)]


def _faiss_sq8(setup: Setup) -> list[Peer]:
    """8 bits a dimension. Filled up to a multiple of 16 dimensions: with 129 it takes fifteen times as long."""
    import faiss

    faiss.omp_set_num_threads(1)
    width = -(-setup.width // 16) * 16
    index = faiss.IndexScalarQuantizer(width, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT)
    index.train(next(setup.rows_with_bias(width)))
    _filled(index, setup, width)
    return [_faiss("faiss-sq8", index, setup, lambda queries: width * len(setup.vectors))]


def _faiss_panorama(setup: Setup) -> list[Peer]:
    """Exact: dimensions in 8 levels, rows dropped by a bound on what the other levels can add.

    It likes what a bundle's table is: rotated to its principal axes. The bias as the first dimension suits it too.
    """
    import faiss

    index = _filled(faiss.IndexFlatIPPanorama(setup.width, 8, 512), setup)
    # a norm a level is beside the dimensions
    table = (4 * setup.width + 4 * index.n_levels) * len(setup.vectors)
    reads = _counted(
        faiss.cvar.indexPanorama_stats, lambda stats, queries: stats.ratio_dims_scanned * table * queries
    )
    return [_faiss("faiss-panorama", index, setup, reads)]


def _faiss_rabitq(setup: Setup) -> list[Peer]:
    """Approximate: one bit a dimension after a random rotation, then the most promising rows once more in float32."""
    import faiss

    faiss.omp_set_num_threads(1)
    rotation = faiss.RandomRotationMatrix(setup.width, setup.width)
    rotation.init(0)
    quantized = faiss.IndexRaBitQFastScan(setup.width, faiss.METRIC_INNER_PRODUCT)
    index = faiss.IndexRefineFlat(faiss.IndexPreTransform(rotation, quantized))
    index.train(next(setup.rows_with_bias()))
    _filled(index, setup)
    found = []
    for times in _RESCORED:
        rescored = 4 * setup.width * setup.k * times

        def reads(queries: int, rescored: int = rescored) -> float:
            return float(quantized.codes.size() + rescored * queries)

        parameters = faiss.IndexRefineSearchParameters(k_factor=times)
        found.append(_faiss(f"faiss-rabitq-{times}", index, setup, reads, params=parameters))
    return found


def _faiss_ivf(setup: Setup) -> list[Peer]:
    """Approximate: the lists of the centroids nearest to the query are ranked."""
    import faiss

    faiss.omp_set_num_threads(1)
    n, width = len(setup.vectors), setup.width
    lists = 1 << max(4, round(math.log2(2 * math.sqrt(n))))  # twice the root of the rows: 2,048 of a million
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(width), width, lists, faiss.METRIC_INNER_PRODUCT)
    index.cp.min_points_per_centroid = 1  # no warning about tiny tables
    index.cp.max_points_per_centroid = 50
    step = max(1, n // (50 * lists))
    index.train(np.concatenate([part[::step].copy() for part in setup.rows_with_bias()]))
    _filled(index, setup)
    reads = _counted(
        faiss.cvar.indexIVF_stats, lambda stats, queries: 4 * width * (stats.ndis + lists * queries)
    )
    return [
        _faiss(f"faiss-ivf-{p}", index, setup, reads, params=faiss.SearchParametersIVF(nprobe=p))
        for p in _PROBES
    ]


def _faiss_hnsw(setup: Setup) -> list[Peer]:
    """Approximate: a walk through a graph of 32 neighbors a row. Built on every core."""
    import faiss

    faiss.omp_set_num_threads(os.cpu_count() or 1)
    index = _filled(faiss.IndexHNSWFlat(setup.width, 32, faiss.METRIC_INNER_PRODUCT), setup)
    faiss.omp_set_num_threads(1)
    row = 4 * setup.width
    reads = _counted(faiss.cvar.hnsw_stats, lambda stats, _: row * stats.ndis + 4 * 64 * stats.nhops)
    return [
        _faiss(f"faiss-hnsw-{v}", index, setup, reads, params=faiss.SearchParametersHNSW(efSearch=v))
        for v in _VISITS
    ]


def _rows_in(ranges: Ranges) -> NDArray[np.int64]:
    return np.concatenate([np.arange(start, stop) for start, stop in ranges.tolist()])


def _size(ranges: Ranges) -> int:
    return int((ranges[:, 1] - ranges[:, 0]).sum())


_BUILDERS: Final[dict[str, Callable[[Setup], list[Peer]]]] = {
    READ: _plain_read,
    OURS: _hiersrec,
    "onnxruntime": _onnxruntime,
    "numpy": _numpy,
    "torch": _torch,
    "implicit": _implicit,
    "faiss-flat": _faiss_flat,
    "faiss-sq8": _faiss_sq8,
    "faiss-panorama": _faiss_panorama,
    "faiss-rabitq": _faiss_rabitq,
    "faiss-ivf": _faiss_ivf,
    "faiss-hnsw": _faiss_hnsw,
}
PEERS: Final = tuple(name for name in _BUILDERS if name not in (READ, OURS))
SLOW: Final = ("faiss-hnsw",)  # to build: many minutes for a million rows


def build(name: str, setup: Setup) -> list[Peer]:
    """The peers ``name``, ready to be asked; none where their package is missing."""
    try:
        return _BUILDERS[name](setup)
    except ModuleNotFoundError as error:
        setup.report(
            f"{name} is left out: {error.name} is missing (pip install -c constraints.txt -e '.[bench]')"
        )
        return []
