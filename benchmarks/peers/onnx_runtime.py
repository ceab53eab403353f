"""onnxruntime: a graph of ``MatMul`` and ``TopK`` over the whole table, as a server that exports both would run it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from benchmarks.peers.peer import Answer, Peer, Setup

_LARGEST: Final = (
    1 << 30
)  # bytes of a table inside the graph: protobuf ends at 2 GiB, and building takes four copies


def build(setup: Setup) -> list[Peer]:
    return [OnnxRuntime(setup)]


class OnnxRuntime(Peer):
    """The table, transposed, is a constant of the graph, which onnxruntime packs for its own kernel; above 1 GiB it is
    an input that is bound once. Both were faster than ``Gemm`` with ``transB`` and than ``MatMul(table, query)``.
    """

    name = "onnxruntime"

    def __init__(self, setup: Setup) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        table = np.ascontiguousarray(setup.vectors.T)
        inside = table.nbytes <= _LARGEST
        graph = _graph(table, setup.k, inside)
        self._session: Any = onnxruntime.InferenceSession(graph, options, ["CPUExecutionProvider"])
        self._table = None if inside else onnxruntime.OrtValue.ortvalue_from_numpy(table)

    def exact(self, query: NDArray[np.float32], ranges: NDArray[np.int64]) -> Answer:
        return Answer(self._best(query[None])[0])

    def batch(self, queries: NDArray[np.float32], ranges: Sequence[NDArray[np.int64]]) -> Answer:
        return Answer(self._best(queries))

    def _best(self, queries: NDArray[np.float32]) -> NDArray[np.int64]:
        binding = self._session.io_binding()
        binding.bind_cpu_input("queries", queries)
        if self._table is not None:
            binding.bind_ortvalue_input("table", self._table)
        binding.bind_output("rows")
        self._session.run_with_iobinding(binding)
        rows: NDArray[np.int64] = binding.get_outputs()[0].numpy()
        return rows


def _graph(table: NDArray[np.float32], k: int, inside: bool) -> bytes:
    """The graph for ``table`` float32 [d, n], which is a constant of it or an input."""
    inputs = [helper.make_tensor_value_info("queries", TensorProto.FLOAT, ["batch", table.shape[0]])]
    constants = [numpy_helper.from_array(np.array([k]), "k")]
    if inside:
        constants.append(numpy_helper.from_array(table, "table"))
    else:
        inputs.append(helper.make_tensor_value_info("table", TensorProto.FLOAT, table.shape))
    nodes = [
        helper.make_node("MatMul", ["queries", "table"], ["scores"]),
        helper.make_node("TopK", ["scores", "k"], ["best", "rows"]),
    ]
    outputs = [helper.make_tensor_value_info("rows", TensorProto.INT64, ["batch", k])]
    graph = helper.make_graph(nodes, "ranking", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return bytes(model.SerializeToString())
