"""What an ONNX file may hold, checked before onnxruntime sees it.

A graph of a bundle is a straight line of arithmetic whose weights lie in the file itself. It has no loops or branches,
which can keep a process busy for ever; no weights in other files; and no functions, and no operators but
:data:`OPERATORS`, so that little of onnxruntime has to withstand a hostile file.

An ONNX file is a protocol buffer. This reader knows the fields that such a graph needs. It refuses any other one, and
a second value of a field that has one value. So it need not know how protocol buffers skip and merge, and messages nest
as deep as the tables below, no deeper.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from hiersrec_sdk.errors import BundleCorruptError

_ELEMENT_BY_ELEMENT: Final = (
    "Abs Add And Cast Clip Div Equal Erf Exp Gelu Greater GreaterOrEqual Identity Less LessOrEqual Log Max Min Mul Neg "
    "Not Or Pow Reciprocal Relu Sigmoid Sqrt Sub Tanh Where"
)
_LAYERS: Final = "Attention LayerNormalization LpNormalization RMSNormalization Softmax"
_PRODUCTS: Final = "Gemm MatMul ReduceL2 ReduceMax ReduceMean ReduceMin ReduceSum"
_SHAPES: Final = (
    "Concat Constant ConstantOfShape Expand Gather GatherElements GatherND Range Reshape Shape Slice Split Squeeze "
    "Transpose Unsqueeze"
)
OPERATORS: Final = frozenset(f"{_ELEMENT_BY_ELEMENT} {_LAYERS} {_PRODUCTS} {_SHAPES}".split())
"""The operators that a graph may hold, all of ONNX's own domain: those that ``hiersrec export`` writes, and their near
relatives, which PyTorch's exporter writes in their place."""

# A division of integers by zero, or of the smallest one by -1, ends the process; onnxruntime catches the first alone.
_DIVIDE: Final = frozenset({"Div", "ReduceMean"})
_FLOAT_FUNCTIONS: Final = "Erf Exp Gelu Log Reciprocal Sigmoid Sqrt Tanh"
_GIVE_FLOATS: Final = frozenset(f"{_LAYERS} {_FLOAT_FUNCTIONS}".split())
_LOGICAL: Final = "And Equal Greater GreaterOrEqual Less LessOrEqual Not Or"
_GIVE_OTHERS: Final = frozenset(f"{_LOGICAL} Shape".split())  # not of the type of an input
_FLOAT_INPUTS: Final = frozenset(
    {b"session_vectors", b"vectors"}
)  # no graph runs where they are anything else
_FLOAT_VALUES: Final = frozenset({("value_float", 1), ("value_floats", 6)})  # AttributeProto: name and type
_TENSOR_VALUE: Final = ("value", 4)
_FLOAT_TYPES: Final = frozenset({1, 10, 11, 16})  # of TensorProto.DataType: float, float16, double, bfloat16

_MOST_FIELDS: Final = 300_000  # a model of 100 layers has about 50,000
_MOST_NODES: Final = 20_000

_VARINT, _BYTES, _FIXED32 = 0, 2, 5  # wire types


class _Field(NamedTuple):
    """A field of a message: its name in onnx.proto, the wire types that it may have, whether it may come again."""

    name: str
    wires: tuple[int, ...]
    repeated: bool = False


_Message = dict[str, list[memoryview]]  # the bytes of the values of a message, by the name of their field


def _integer(name: str) -> _Field:
    return _Field(name, (_VARINT,))


def _bytes(name: str) -> _Field:  # text, a message, or numbers in one piece
    return _Field(name, (_BYTES,))


def _several(name: str, *wires: int) -> _Field:
    return _Field(name, (*wires, _BYTES), repeated=True)


def _refused(name: str) -> _Field:
    return _Field(name, ())


_MODEL: Final = {
    1: _integer("ir_version"),
    2: _bytes("producer_name"),
    3: _bytes("producer_version"),
    4: _bytes("domain"),
    5: _integer("model_version"),
    6: _bytes("doc_string"),
    7: _bytes("graph"),
    8: _several("opset_import"),
    14: _refused("metadata_props"),
    20: _refused("training_info"),
    25: _refused("functions"),
}
_GRAPH: Final = {
    1: _several("node"),
    2: _bytes("name"),
    5: _several("initializer"),
    10: _bytes("doc_string"),
    11: _several("input"),  # onnxruntime checks these types
    12: _several("output"),
    13: _several("value_info"),
    14: _refused("quantization_annotation"),
    15: _refused("sparse_initializer"),
    16: _refused("metadata_props"),
}
_NODE: Final = {
    1: _several("input"),
    2: _several("output"),
    3: _bytes("name"),
    4: _bytes("op_type"),
    5: _several("attribute"),
    6: _bytes("doc_string"),
    7: _bytes("domain"),
    8: _refused("overload"),
    9: _refused("metadata_props"),
}
_ATTRIBUTE: Final = {
    1: _bytes("name"),
    2: _Field("f", (_FIXED32,)),
    3: _integer("i"),
    4: _bytes("s"),
    5: _bytes("t"),
    6: _refused("a subgraph"),
    7: _several("floats", _FIXED32),
    8: _several("ints", _VARINT),
    9: _refused("strings"),
    10: _refused("tensors"),
    11: _refused("subgraphs"),
    13: _bytes("doc_string"),
    14: _refused("a type"),
    15: _refused("types"),
    20: _integer("type"),
    21: _refused("a reference to an attribute"),
    22: _refused("a sparse tensor"),
    23: _refused("sparse tensors"),
}
_TENSOR: Final = {
    1: _several("dims", _VARINT),
    2: _integer("data_type"),
    3: _refused("a segment"),
    4: _bytes("float_data"),
    5: _bytes("int32_data"),
    6: _refused("strings"),
    7: _bytes("int64_data"),
    8: _bytes("name"),
    9: _bytes("raw_data"),
    10: _bytes("double_data"),
    11: _bytes("uint64_data"),
    12: _bytes("doc_string"),
    13: _refused("external data, which lies in another file"),
    14: _refused("a data location, as external data have"),
}


def check_graph(content: bytes, name: str) -> list[str]:
    """The operators of the nodes of a graph, in the order of the file.

    Args:
        content: of the ONNX file.
        name: what messages call the file.

    Raises:
        BundleCorruptError: it is no ONNX file, or holds what a graph of a bundle may not; names the node.
    """
    try:
        return _Reader().operators(memoryview(content))
    except _RefusedError as refused:
        raise BundleCorruptError(f"{name} cannot be loaded: {refused}") from None


class _RefusedError(Exception):
    """Why the file is refused."""


class _Reader:
    """Reads one file."""

    def __init__(self) -> None:
        self._fields = 0
        self._values = set(_FLOAT_INPUTS)  # names of the initializers and outputs until here
        self._floats = set(_FLOAT_INPUTS)  # those that are certainly floating-point

    def operators(self, content: memoryview) -> list[str]:
        model = self._read("the file", content, _MODEL)
        if "graph" not in model:
            raise _RefusedError("it holds no graph")
        graph = self._read("the graph", model["graph"][0], _GRAPH)
        for at, tensor in enumerate(graph.get("initializer", [])):
            found = self._read(f"initializer {at}", tensor, _TENSOR)
            self._define(found.get("name", []), is_float=_number(found, "data_type") in _FLOAT_TYPES)
        nodes = graph.get("node", [])
        if len(nodes) > _MOST_NODES:
            raise _RefusedError(f"it has {len(nodes):,} nodes; a graph may have {_MOST_NODES:,}")
        return [self._operator(node, at) for at, node in enumerate(nodes)]

    def _operator(self, content: memoryview, at: int) -> str:
        node = self._read(f"node {at}", content, _NODE)
        operator, domain, name = (_text(node, field) for field in ("op_type", "domain", "name"))
        where = f"node {at}, {operator[:40]} {name[:40]!r},"
        if operator not in OPERATORS:
            raise _RefusedError(f"{where} is of an operator that no graph of a bundle may hold")
        if domain:
            raise _RefusedError(f"{where} is of the domain {domain[:40]!r}, not of ONNX's own")
        attributes = [self._read(where, attribute, _ATTRIBUTE) for attribute in node.get("attribute", [])]
        tensors = [
            self._read(where, tensor, _TENSOR) for found in attributes for tensor in found.get("t", [])
        ]
        if operator == "Constant" and len(attributes) != 1:  # onnxruntime takes one of them
            raise _RefusedError(f"{where} has {len(attributes)} attributes; it must have one")
        inputs = [bytes(name) for name in node.get("input", [])]
        if operator in _DIVIDE and self._floats.isdisjoint(inputs):
            raise _RefusedError(f"{where} may divide integers, which no graph of a bundle may")
        self._define(
            node.get("output", []), is_float=self._gives_floats(operator, inputs, attributes, tensors)
        )
        return operator

    def _define(self, names: list[memoryview], *, is_float: bool) -> None:
        for name in map(bytes, names):
            if name in self._values:  # onnxruntime takes one of them
                raise _RefusedError(f"it defines {str(name[:40], 'utf-8', 'replace')!r} twice")
            if name:  # else an output that nobody reads
                self._values.add(name)
                if is_float:
                    self._floats.add(name)

    def _gives_floats(
        self, operator: str, inputs: list[bytes], attributes: list[_Message], tensors: list[_Message]
    ) -> bool:
        """Whether the outputs are certainly floating-point. Inputs of one type are, if one of them is."""
        if operator in _GIVE_FLOATS:
            return True
        if operator in _GIVE_OTHERS:
            return False
        if operator == "Cast":
            types = [_number(each, "i") for each in attributes if _text(each, "name") == "to"]
            return bool(types) and _FLOAT_TYPES.issuperset(types)
        is_float_tensor = all(_number(tensor, "data_type") in _FLOAT_TYPES for tensor in tensors)
        if operator == "Constant":
            # by its type alone onnxruntime knows which of the fields is meant
            kind = _text(attributes[0], "name"), _number(attributes[0], "type")
            return kind in _FLOAT_VALUES or (kind == _TENSOR_VALUE and bool(tensors) and is_float_tensor)
        if operator == "ConstantOfShape":
            return is_float_tensor
        if operator == "Pow":  # the exponent may have another type
            inputs = inputs[:1]
        return not self._floats.isdisjoint(inputs)

    def _read(self, what: str, data: memoryview, fields: Mapping[int, _Field]) -> _Message:
        """The message in ``data``, all of it."""
        found: _Message = {}
        at = 0
        while at < len(data):
            tag, at = _varint(what, data, at)
            field = fields.get(tag >> 3)
            if field is None:
                raise _RefusedError(f"{what} has the field {tag >> 3}, which no graph of a bundle may hold")
            name, wires, repeated = field
            if not wires:
                raise _RefusedError(f"{what} has {name}, which no graph of a bundle may hold")
            wire = tag & 7
            if wire not in wires or (name in found and not repeated):
                raise _RefusedError(f"{what} is damaged at its field {name}")
            self._fields += 1
            if self._fields > _MOST_FIELDS:
                raise _RefusedError(f"it has more than {_MOST_FIELDS:,} fields")
            start = at
            if wire == _VARINT:
                _, at = _varint(what, data, at)
            elif wire == _FIXED32:
                at += 4
            else:
                length, start = _varint(what, data, at)
                at = start + length
            if at > len(data):
                raise _RefusedError(f"{what} is truncated at its field {name}")
            found.setdefault(name, []).append(data[start:at])
        return found


def _varint(what: str, data: memoryview, at: int) -> tuple[int, int]:
    """The number at a position, and the position behind it."""
    value = 0
    for shift in range(0, 70, 7):
        if at == len(data):
            break
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise _RefusedError(f"{what} is damaged: a number in it does not end")


def _number(message: _Message, field: str) -> int | None:
    return _varint(field, message[field][0], 0)[0] if field in message else None


def _text(message: _Message, field: str) -> str:
    return str(message[field][0], "utf-8", "replace") if field in message else ""
