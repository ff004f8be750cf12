"""A network that OpenVINO wrote, in place of weights: is it whole, and is it made of nothing but arithmetic?

The .xml lists operations and where in the .bin their numbers lie. It is read as text, with a cap, and refused when it
declares entities, names an operation that no encoder needs (loops, states, extensions), or does not account for the
.bin to its last byte. Source of the format: https://docs.openvino.ai, "OpenVINO IR format".
"""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Final
from xml.parsers import expat

from gateway.volume.documents import LARGEST, shown
from gateway.volume.files import Folder
from gateway.volume.reasons import Unfit, unfit
from gateway.volume.weights import Shape, Weights

XML: Final = "openvino/openvino_model.xml"
BIN: Final = "openvino/openvino_model.bin"
CAP: Final = 64 * 1024**2  # bytes of the .xml: 57 kB for each layer of a BERT
MOST_LAYERS: Final = 100_000
DEEPEST: Final = 16  # elements
VERSION: Final = "11"
INPUTS: Final = ("input_ids", "attention_mask")
NATURAL: Final = re.compile(r"[0-9]{1,15}")
BITS: Final = {
    **dict.fromkeys(("u4", "i4"), 4),
    **dict.fromkeys(("boolean", "u8", "i8"), 8),
    **dict.fromkeys(("f16", "bf16"), 16),
    **dict.fromkeys(("f32", "i32", "u32"), 32),
    **dict.fromkeys(("f64", "i64", "u64"), 64),
}
STORED: Final = {"f32": "F32", "f16": "F16", "bf16": "BF16", "i8": "I8", "u8": "U8", "i4": "I4", "u4": "U4"}
OPERATIONS: Final = frozenset(
    (
        *("Abs", "Add", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "Broadcast", "Clamp", "Concat", "Const"),
        *("Convert", "ConvertLike", "Cos", "CumSum", "Divide", "Elu", "Equal", "Erf", "Exp", "FakeQuantize"),
        *("Floor", "Gather", "GatherElements", "GatherND", "Gelu", "Greater", "GreaterEqual", "HSwish", "Less"),
        *("LessEqual", "Log", "LogicalAnd", "LogicalNot", "LogicalOr", "MVN", "MatMul", "Maximum", "Minimum"),
        *("Mod", "Multiply", "Negative", "NonZero", "NotEqual", "Pad", "Parameter", "Power", "Range", "ReduceMax"),
        *("ReduceMean", "ReduceProd", "ReduceSum", "ReLU", "Reshape", "Result", "ScaledDotProductAttention"),
        *("ScatterUpdate", "Select", "ShapeOf", "Sigmoid", "Sign", "Sin", "Slice", "SoftPlus", "Softmax", "Split"),
        *("Sqrt", "SquaredDifference", "Squeeze", "StridedSlice", "Subtract", "Swish", "Tanh", "Tile", "Transpose"),
        *("Unsqueeze", "VariadicSplit"),
    )
)


@dataclass(slots=True)
class _Layer:
    name: str
    type: str
    data: dict[str, str] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)  # of its outputs


def has_network(folder: Folder, path: str) -> bool:
    return folder.has(_under(path, XML))


def read_network(folder: Folder, path: str) -> Weights:
    """The network in the sub-folder `path` of a model, as weights. Raises Unfit (network_invalid, network_not_served,
    file_missing, weights_truncated, reading)."""
    xml, binary = _under(path, XML), _under(path, BIN)
    layers = _layers(folder.read(xml, CAP), xml)
    if not folder.has(binary):
        raise unfit("file_missing", f"{binary} is missing", binary)
    with folder.open(binary) as descriptor:
        size = os.fstat(descriptor).st_size
    _check_operations(layers, xml)
    return _accounted([layer for layer in layers if layer.type == "Const"], size, xml, binary)


def _under(path: str, name: str) -> str:
    return f"{path}/{name}" if path else name


def _layers(content: bytes, name: str) -> list[_Layer]:
    reading = _Reading(name)
    try:
        reading.parser.Parse(content, True)
    except expat.ExpatError as error:
        raise unfit("network_invalid", f"{name} does not parse as XML: {error}", name) from error
    return reading.layers


class _Reading:
    """What the parser calls."""

    def __init__(self, name: str) -> None:
        self.layers: list[_Layer] = []
        self._name = name
        self._path: list[str] = []
        self.parser = expat.ParserCreate()
        self.parser.StartDoctypeDeclHandler = self._refuse_doctype
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end

    def _refuse_doctype(self, *declared: object) -> None:
        raise unfit("network_invalid", f"{self._name} declares a document type, which OpenVINO never does", self._name)

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        self._path.append(tag)
        if len(self._path) > DEEPEST or len(self.layers) > MOST_LAYERS:
            raise unfit("network_invalid", f"{self._name} is nested too deeply, or has too many layers", self._name)
        if self._path == ["net"] and attributes.get("version") != VERSION:
            message = f"{self._name} is of version {shown(attributes.get('version'))}; {VERSION} is read"
            raise unfit("network_not_served", message, self._name)
        match self._path:
            case ["net", "layers", "layer"]:
                self.layers.append(_Layer(attributes.get("name", ""), attributes.get("type", "")))
            case ["net", "layers", "layer", "data"]:
                self.layers[-1].data = attributes
            case ["net", "layers", "layer", "output", "port"]:
                self.layers[-1].names.update(attributes.get("names", "").split(","))

    def _end(self, tag: str) -> None:
        self._path.pop()


def _check_operations(layers: list[_Layer], name: str) -> None:
    """Raises Unfit (network_not_served)."""
    odd = sorted({layer.type for layer in layers} - OPERATIONS)
    if odd:
        raise unfit("network_not_served", f"{name} has operations that are not served: {shown(', '.join(odd))}", name)
    inputs = [layer for layer in layers if layer.type == "Parameter"]
    named = [next((known for known in INPUTS if known in {layer.name, *layer.names}), "") for layer in inputs]
    shapes = [(layer.data.get("shape"), layer.data.get("element_type")) for layer in inputs]
    outputs = sum(layer.type == "Result" for layer in layers)
    if tuple(named) != INPUTS or set(shapes) != {("?,?", "i64")} or outputs != 1:
        asked = f"asks for {shown(', '.join(layer.name for layer in inputs))} and has {outputs} outputs"
        message = f"{name} {asked}; served are networks of {' and '.join(INPUTS)}, texts of any length, and one output"
        raise unfit("network_not_served", message, name)


def _accounted(constants: list[_Layer], size: int, xml: str, binary: str) -> Weights:
    """All numbers lie in the .bin, and the last of them ends where it does."""
    numbers: Counter[str] = Counter()
    shapes: dict[str, Shape] = {}
    spans: set[tuple[int, int]] = set()
    for layer in constants:
        begin, end, kind, shape = _span(layer, xml)
        if (begin, end) not in spans:  # equal constants share their bytes
            numbers[kind] += math.prod(shape)
        spans.add((begin, end))
        shapes[layer.name] = shape
    reached = max((end for _, end in spans), default=0)
    if not reached:
        raise unfit("network_invalid", f"{xml} has no numbers", xml)
    if size < reached:
        raise unfit("weights_truncated", f"{binary} has {size:,} of {reached:,} bytes", binary)
    if size > reached:
        raise unfit("network_invalid", f"{binary} has {size - reached:,} bytes after its last number", binary)
    stored = Counter({kind: count for kind, count in numbers.items() if kind in STORED})
    most = stored.most_common(1)[0][0] if stored else "f32"
    return Weights((xml, binary), stored.total(), size, STORED[most], shapes)


def _span(layer: _Layer, name: str) -> tuple[int, int, str, Shape]:
    kind, data = layer.data.get("element_type", ""), layer.data
    shape = _shape(data.get("shape", ""))
    sizes = [data.get(key, "") for key in ("offset", "size")]
    if kind not in BITS or shape is None or not all(map(NATURAL.fullmatch, sizes)):
        raise _odd(layer, name)
    begin, length = map(int, sizes)
    if length != -(-math.prod(shape) * BITS[kind] // 8):
        raise _odd(layer, name)
    return begin, begin + length, kind, shape


def _odd(layer: _Layer, name: str) -> Unfit:
    message = f"{name}: type, shape and place of the constant {shown(layer.name)} do not agree"
    return unfit("network_invalid", message, name)


def _shape(text: str) -> Shape | None:
    """`30522, 384`; of a single number nothing at all."""
    parts = [part.strip() for part in text.split(",")] if text.strip() else []
    if len(parts) > 16 or not all(map(NATURAL.fullmatch, parts)):
        return None
    shape = tuple(map(int, parts))
    return shape if math.prod(shape) <= LARGEST else None
