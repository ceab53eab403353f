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

_ELEMENT_BY_ELEMENT: Final = "Add Cast Div Gelu Greater Identity Less Max Mul Neg Sigmoid"
_LAYERS: Final = "Attention LayerNormalization RMSNormalization Softmax"
_PRODUCTS: Final = "Gemm MatMul ReduceL2 ReduceMax ReduceMin ReduceSum"
_SHAPES: Final = (
    "Concat ConstantOfShape Expand Gather GatherElements GatherND Range Reshape Shape Slice Split Squeeze Transpose "
    "Unsqueeze"
)
OPERATORS: Final = frozenset(f"{_ELEMENT_BY_ELEMENT} {_LAYERS} {_PRODUCTS} {_SHAPES}".split())
"""The operators that a graph may hold, all of ONNX's own domain: those that ``hiersrec export`` writes, and a few more
for graphs that are written by hand."""

_OPSETS: Final = range(17, 24)  # the first with layer normalization, to the one that is written
_IR_VERSIONS: Final = range(8, 12)

_GIVE_FLOATS: Final = frozenset(f"{_LAYERS} Gelu Sigmoid".split())
_GIVE_OTHERS: Final = frozenset({"Greater", "Less", "Shape"})  # not of the type of an input
_CLICKS: Final = b"session_vectors"  # [batch, length, width]
_LENGTHS: Final = b"session_lengths"  # [batch]
_FLOAT_INPUTS: Final = frozenset({_CLICKS, b"vectors"})  # no graph runs where they are anything else
_FLOAT_TYPES: Final = frozenset({1, 10, 11, 16})  # of TensorProto.DataType: float, float16, double, bfloat16
# No vector is wider; onnxruntime cuts greater numbers to 32 bits, which may be 0.
_HEADS: Final = range(1, 65_537)
_INT: Final = 2  # of AttributeProto.AttributeType
_LAST_AXIS: Final = 2**64 - 1  # -1, as a file has it

_MOST_FIELDS: Final = 300_000  # a model of 100 layers has about 50,000
_MOST_NODES: Final = 20_000
_MOST_BYTES: Final = 100  # of the lengths of a tensor, in one piece: they are read one by one

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
_OPSET_IMPORT: Final = {1: _bytes("domain"), 2: _integer("version")}
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
        self._values = {*_FLOAT_INPUTS, _LENGTHS}  # names of the initializers and outputs until here
        self._floats = set(_FLOAT_INPUTS)  # those that are certainly floating-point
        self._shapes: dict[bytes, list[int]] = {}  # of the initializers
        self._of_clicks = {_CLICKS}  # those that are certainly [batch, length, any width]
        self._of_sessions: set[bytes] = set()  # those that are certainly [batch, 1], looked up by length
        self._thirds: set[tuple[bytes, ...]] = set()  # outputs of splits of the last axis in three

    def operators(self, content: memoryview) -> list[str]:
        model = self._read("the file", content, _MODEL)
        if "graph" not in model:
            raise _RefusedError("it holds no graph")
        graph = self._read("the graph", model["graph"][0], _GRAPH)
        for at, tensor in enumerate(graph.get("initializer", [])):
            found = self._read(f"initializer {at}", tensor, _TENSOR)
            names = [bytes(name) for name in found.get("name", [])]
            self._define(names, is_float=_number(found, "data_type") in _FLOAT_TYPES)
            self._shapes.update(dict.fromkeys(names, _numbers(found, "dims")))
        nodes = graph.get("node", [])
        if len(nodes) > _MOST_NODES:
            raise _RefusedError(f"it has {len(nodes):,} nodes; a graph may have {_MOST_NODES:,}")
        operators = [self._operator(node, at) for at, node in enumerate(nodes)]
        self._check_versions(model)
        return operators

    def _check_versions(self, model: _Message) -> None:
        """What operators mean, and so what is checked here, depends on them."""
        imported = [self._read("an opset", each, _OPSET_IMPORT) for each in model.get("opset_import", [])]
        opsets = [(_text(each, "domain"), _number(each, "version")) for each in imported]
        if len(opsets) != 1 or opsets[0][0] or opsets[0][1] not in _OPSETS:
            raise _RefusedError(
                f"it has {_listed(opsets)}; it must have ONNX's own opset alone, from {_OPSETS[0]} to {_OPSETS[-1]}"
            )
        version = _number(model, "ir_version")
        if version not in _IR_VERSIONS:
            raise _RefusedError(
                f"it is of the IR version {version}; it must be from {_IR_VERSIONS[0]} to {_IR_VERSIONS[-1]}"
            )

    def _operator(self, content: memoryview, at: int) -> str:
        node = self._read(f"node {at}", content, _NODE)
        operator, domain, name = (_text(node, field) for field in ("op_type", "domain", "name"))
        where = f"node {at}, {operator[:40]} {name[:40]!r},"
        if operator not in OPERATORS:
            raise _RefusedError(f"{where} is of an operator that no graph of a bundle may hold")
        if domain:
            raise _RefusedError(f"{where} is of the domain {domain[:40]!r}, not of ONNX's own")
        attributes: dict[str, _Message] = {}
        for each in node.get("attribute", []):
            attribute = self._read(where, each, _ATTRIBUTE)
            # onnxruntime takes one of them
            if attributes.setdefault(_text(attribute, "name"), attribute) is not attribute:
                raise _RefusedError(f"{where} has two attributes of one name")
        inputs, outputs = ([bytes(name) for name in node.get(field, [])] for field in ("input", "output"))
        self._check_use(where, operator, inputs, outputs, attributes)
        is_float = self._gives_floats(where, operator, inputs, attributes)
        self._define(outputs, is_float=is_float)
        self._note_shapes(operator, inputs, outputs, attributes)
        return operator

    def _check_use(
        self,
        where: str,
        operator: str,
        inputs: list[bytes],
        outputs: list[bytes],
        attributes: Mapping[str, _Message],
    ) -> None:
        """Refuse uses of operators that end the process, or read past an array, in some onnxruntime."""
        if operator == "Div" and self._floats.isdisjoint(inputs):
            # by zero, or the smallest integer by -1; onnxruntime catches the first alone
            raise _RefusedError(f"{where} may divide integers, which no graph of a bundle may")
        if operator == "Attention":
            heads = [_integer_of(attributes, name) for name in ("q_num_heads", "kv_num_heads")]
            if len(attributes) > 2 or heads[0] != heads[1] or heads[0] not in _HEADS:
                raise _RefusedError(
                    f"{where} must have q_num_heads and kv_num_heads, both the same from {_HEADS[0]} to "
                    f"{_HEADS[-1]:,}, and no other attribute"
                )
            if len(inputs) > 4 or tuple(inputs[:3]) not in self._thirds or len(outputs) != 1:
                raise _RefusedError(
                    f"{where} must read the three outputs of one Split of the last axis, in their order, and at most a "
                    "mask, and give one output"
                )
        if operator == "GatherND" and not (
            len(inputs) == 2
            and inputs[0] in self._of_clicks
            and inputs[1] in self._of_sessions
            and _integer_of(attributes, "batch_dims") == 1
        ):
            raise _RefusedError(
                f"{where} must have batch_dims 1, and take a click from layers that keep the shape of session_vectors, "
                "at what a Gather finds for session_lengths in a table [lengths, 1]"
            )

    def _note_shapes(
        self, operator: str, inputs: list[bytes], outputs: list[bytes], attributes: Mapping[str, _Message]
    ) -> None:
        """What is certain of the shapes of the outputs."""
        if operator == "Gather" and inputs[1:] == [_LENGTHS] and not attributes:
            if self._shapes.get(inputs[0], [])[1:] == [1]:
                self._of_sessions.update(outputs)
        elif operator == "Split":
            if len(inputs) == 1 and all(outputs) and _integer_of(attributes, "axis") == _LAST_AXIS:
                if inputs[0] in self._of_clicks:
                    self._of_clicks.update(outputs)
                if len(outputs) == _integer_of(attributes, "num_outputs") == 3:
                    self._thirds.add(tuple(outputs))
        elif len(outputs) == 1 and inputs and inputs[0] in self._of_clicks:
            rest = inputs[1:]
            if (
                operator in ("Attention", "Gelu", "LayerNormalization")
                or (operator == "MatMul" and all(self._has_rank(name, 2) for name in rest))
                or (
                    operator == "Add"
                    and all(name in self._of_clicks or self._has_rank(name, 1) for name in rest)
                )
            ):
                self._of_clicks.update(outputs)

    def _has_rank(self, name: bytes, rank: int) -> bool:
        """Whether it is an initializer of this rank."""
        return name in self._shapes and len(self._shapes[name]) == rank

    def _define(self, names: list[bytes], *, is_float: bool) -> None:
        for name in names:
            if name in self._values:  # onnxruntime takes one of them
                raise _RefusedError(f"it defines {str(name[:40], 'utf-8', 'replace')!r} twice")
            if name:  # else an output that nobody reads
                self._values.add(name)
                if is_float:
                    self._floats.add(name)

    def _gives_floats(
        self, where: str, operator: str, inputs: list[bytes], attributes: Mapping[str, _Message]
    ) -> bool:
        """Whether the outputs are certainly floating-point. Inputs of one type are, if one of them is."""
        tensors = [
            self._read(where, tensor, _TENSOR)
            for found in attributes.values()
            for tensor in found.get("t", [])
        ]
        if operator in _GIVE_FLOATS:
            return True
        if operator in _GIVE_OTHERS:
            return False
        if operator == "Cast":
            return _integer_of(attributes, "to") in _FLOAT_TYPES
        if operator == "ConstantOfShape":
            return all(_number(tensor, "data_type") in _FLOAT_TYPES for tensor in tensors)
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


def _numbers(message: _Message, field: str) -> list[int]:
    """The numbers of a repeated field, each alone or several in one piece."""
    found = []
    for piece in message.get(field, []):
        if len(piece) > _MOST_BYTES:
            raise _RefusedError(f"it has a tensor of more than {_MOST_BYTES} bytes of {field}")
        at = 0
        while at < len(piece):
            number, at = _varint(field, piece, at)
            found.append(number)
    return found


def _integer_of(attributes: Mapping[str, _Message], name: str) -> int | None:
    """The value of an attribute, as if it were unsigned; None where it is not there, or no integer."""
    found = attributes.get(name, {})
    return _number(found, "i") if _number(found, "type") == _INT else None


def _listed(opsets: list[tuple[str, int | None]]) -> str:
    return ", ".join(f"opset {version} of {domain[:40]!r}" for domain, version in opsets[:5]) or "no opset"


def _text(message: _Message, field: str) -> str:
    return str(message[field][0], "utf-8", "replace") if field in message else ""
