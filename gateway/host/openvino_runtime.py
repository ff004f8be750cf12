"""The OpenVINO runtime of an encoder, on the CPU: its network is converted from torch once for each generation, and
kept beside it. Pooling and what follows is the torch runtime's own code.

Numbers are what was asked for and nothing else: left to itself OpenVINO computes in bfloat16 where the processor can.
bfloat16 computes with weights that stay float32; int8 is calibrated by nncf on texts of the model's own kind.
"""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from gateway.errors import LoadFailed
from gateway.host import memory, padded, planes, precision, shelf, stages, threads
from gateway.host.pooling import pool
from gateway.host.tokenize import TokenIds, shared
from gateway.model import Generation, Manifest, Pooling

DTYPES: Final = ("float32", "bfloat16", "int8")
# Bytes of a loaded network as shares of its weights in float32: as they are stored, and packed for the arithmetic.
SHARES: Final = {"float32": 2.0, "bfloat16": 1.5, "int8": 1.25}
HINTS: Final = {"float32": "f32", "bfloat16": "bf16", "int8": "f32"}  # int8 stands in the network itself
SCALING: Final = ("Convert", "Multiply", "Subtract", "Reshape", "FakeQuantize", "Transpose")  # of a weight, on its way
NETWORK: Final = "network.xml"  # and network.bin beside it
PAD_ID: Final = ["dropgate", "pad_id"]
DYNAMIC: Final = [-1, -1]  # batch, length
SHAPES: Final = 64  # operations prepared for a shape that are kept; thousands by default, each with memory of its own
ALLOCATION: Final = ("bad_alloc", "allocate")  # in what OpenVINO says when there is no memory

Vectors = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]


class OpenVino:
    """`model` is a converted network, `tail` what follows the pooling."""

    def __init__(self, model: Any, tail: nn.Sequential, manifest: Manifest, dtype: str) -> None:
        self.device = "cpu"
        self.dim = manifest.dim
        self.packed = False  # a device call costs its texts times the longest of them
        self._pooling = next((stage for stage in manifest.stages if isinstance(stage, Pooling)), Pooling(("mean",)))
        self._pad_id = int(model.get_rt_info(PAD_ID).value)
        self._tail = tail
        self._request = _compile(model, dtype)
        self.bytes = _bytes(model, dtype) + memory.tensor_bytes(tail)

    def place(self, device: str) -> None:
        """It is where it runs."""
        assert device == self.device, "OpenVINO runs on the CPU"

    def park(self) -> None:
        """It is in host memory."""

    def embed(self, batch: Sequence[TokenIds], prompt_tokens: Sequence[int] | int = 0) -> Vectors:
        """See encoder.Runtime."""
        if not batch:
            return np.empty((0, self.dim), dtype=np.float32)
        with memory.guarded(), _guarded(), torch.inference_mode():
            left_out = 0 if self._pooling.include_prompt else prompt_tokens
            counts = np.broadcast_to(np.asarray(left_out, dtype=np.int64), len(batch))
            laid = planes.block(batch, counts, (len(batch), max(map(len, batch))), self._pad_id)
            # token vectors [batch, length, width], in memory that the next call writes to
            tokens = self._request.infer([laid.ids, laid.mask], share_inputs=True, share_outputs=True)[0]
            found = torch.from_numpy(tokens)
            if not laid.mask.all():  # attention that sees nothing is not a number, which pooling must not meet
                found[torch.from_numpy(laid.mask) == 0] = 0.0
            pooled = pool(found, torch.from_numpy(laid.kept), self._pooling.modes)
            vectors: Tensor = self._tail(pooled)
            return vectors.numpy()

    def token_vectors(self, batch: Sequence[TokenIds]) -> list[Vectors]:
        """See encoder.Runtime."""
        with memory.guarded(), _guarded():
            ids, mask = _padded(batch, self._pad_id)
            tokens = self._request.infer([ids, mask], share_inputs=True, share_outputs=True)[0]
            return [row[: len(ids)].copy() for row, ids in zip(tokens, batch, strict=True)]

    def close(self) -> None:
        """Frees the network. Nothing runs any more."""
        self._request = None
        self._tail = nn.Sequential()
        self.bytes = 0
        memory.release(self.device)


class Tokens(nn.Module):
    """What is converted: ids and mask in, token vectors out."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        found: Tensor = self.network(input_ids=input_ids, attention_mask=attention_mask, return_dict=True)[0]
        return found


def _padded(batch: Sequence[TokenIds], pad_id: int) -> tuple[Integers, Integers]:
    """Ids and mask, both [len(batch), longest], padded on the right."""
    block = planes.block(batch, np.zeros(len(batch), dtype=np.int64), (len(batch), max(map(len, batch))), pad_id)
    return block.ids, block.mask


def version() -> str:
    """Of the library, which is in the name of all that is kept. Raises ImportError without it."""
    return str(_library().__version__).split("-")[0]


def load(generation: Generation, dtype: str) -> OpenVino:
    """The network as it is kept, or converted now. Raises LoadFailed, ImportError, memory.OutOfMemory, and whatever the
    library raises, which has no list."""
    with memory.guarded(), _guarded():
        tail = stages.build(generation.path, generation.manifest.stages, mapped=generation.place is None)
        name = f"openvino-{version()}-{'int8' if dtype == 'int8' else 'float32'}"
        if kept := shelf.find(generation, name):
            with contextlib.suppress(RuntimeError):  # it was damaged: it is made anew
                return _opened(kept, tail, generation.manifest, dtype)
            shelf.remove(generation, name)
        model = _converted(generation)
        if dtype == "int8":
            model = _calibrated(model, generation)
        if kept := shelf.keep(generation, name, lambda folder: _save(model, folder)):
            del model
            _forget_others(generation, name)
            return _opened(kept, tail, generation.manifest, dtype)
        return OpenVino(model, tail.eval(), generation.manifest, dtype)


def opened(generation: Generation) -> OpenVino:
    """A network that the model itself brings, as it is, computed in float32. Raises LoadFailed, ImportError,
    memory.OutOfMemory."""
    manifest = generation.manifest
    xml, weights = (os.path.join(generation.path, name) for name in manifest.weights)
    with memory.guarded(), _guarded():
        tail = stages.build(generation.path, manifest.stages, mapped=generation.place is None)
        try:
            model = _library().Core().read_model(xml, weights)
            model.set_rt_info(str(_pad_id(generation)), PAD_ID)
            return OpenVino(model, tail.eval(), manifest, "float32")
        except RuntimeError as error:
            if any(word in str(error) for word in ALLOCATION):
                raise
            said = str(error).strip().splitlines()[-1:] or [""]
            message = f"OpenVINO does not load the network: {said[0][:300]}"
            raise LoadFailed(message, reason="weights_unreadable", generation=generation.short) from error


def _pad_id(generation: Generation) -> int:
    path = os.path.join(generation.path, generation.manifest.transformer_path, "config.json")
    with open(path, "rb") as stream:
        told = msgspec.json.decode(stream.read(), type=dict[str, Any]).get("pad_token_id")
    return told if isinstance(told, int) else 0


def _library() -> Any:
    # A package beside it tells the library's maker of each conversion, over the network; without it nothing is told.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # None: it is not to be found
    import openvino  # noqa: PLC0415 - an extra, and imported only where it is chosen

    return openvino


def _opened(folder: str, tail: nn.Sequential, manifest: Manifest, dtype: str) -> OpenVino:
    """Its weights stay mapped: pages that only a packed copy is used of are the page cache's."""
    model = _library().Core().read_model(os.path.join(folder, NETWORK))
    return OpenVino(model, tail.eval(), manifest, dtype)


def _converted(generation: Generation) -> Any:
    """The transformers network, traced over two texts of different lengths."""
    openvino = _library()
    network = padded.network(generation, torch.float32)
    pad_id = getattr(network.config, "pad_token_id", None) or 0
    example = [np.array([pad_id + 1] * length, dtype=np.int64) for length in (5, 3)]
    ids, mask = (torch.from_numpy(array) for array in _padded(example, pad_id))
    names = ("input_ids", "attention_mask")
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # advice on tracing: what it would get wrong, the measuring finds
        model = openvino.convert_model(
            Tokens(network.eval()),
            example_input=dict(zip(names, (ids, mask), strict=True)),
            input=[(name, DYNAMIC, openvino.Type.i64) for name in names],
        )
    model.set_rt_info(str(pad_id), PAD_ID)
    return model


def _calibrated(model: Any, generation: Generation) -> Any:
    """In int8, scaled by what the layers make of texts of the model's kind."""
    _library()
    import logging  # noqa: PLC0415 - nncf's level is one of logging's

    import nncf  # noqa: PLC0415 - an extra, and slow to import

    nncf.set_log_level(logging.ERROR)
    pad_id = int(model.get_rt_info(PAD_ID).value)
    rows = shared(generation).encode(precision.calibration(generation.manifest))
    samples = [dict(zip(("input_ids", "attention_mask"), _padded([row], pad_id), strict=True)) for row in rows]
    quantized = nncf.quantize(
        model,
        nncf.Dataset(samples),
        model_type=nncf.ModelType.TRANSFORMER,
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(samples),
    )
    quantized.set_rt_info(str(pad_id), PAD_ID)
    return quantized


def _save(model: Any, folder: str) -> None:
    try:
        _library().save_model(model, os.path.join(folder, NETWORK), compress_to_fp16=False)
    except RuntimeError as error:  # the disk, for one
        raise OSError(str(error)) from error


def _forget_others(generation: Generation, name: str) -> None:
    """What an older version of the library made."""
    kind = name.rpartition("-")[2]
    for other in shelf.names(generation):
        if other != name and other.startswith("openvino-") and other.endswith(f"-{kind}"):
            shelf.remove(generation, other)


def _compile(model: Any, dtype: str) -> Any:
    """Raises LoadFailed where the processor would compute with other numbers than those asked for."""
    config = {
        "INFERENCE_PRECISION_HINT": HINTS[dtype],
        "INFERENCE_NUM_THREADS": threads.count(),
        "NUM_STREAMS": 1,
        "CPU_RUNTIME_CACHE_CAPACITY": SHAPES,
        "ENABLE_CPU_PINNING": False,  # the cores are shared with the gateway, and with who knows whom
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,  # else int8 weights have each call's numbers rounded to int8 too
    }
    compiled = _library().Core().compile_model(model, "CPU", config)
    got = compiled.get_property("INFERENCE_PRECISION_HINT")
    if got != getattr(_library().Type, HINTS[dtype]):
        raise LoadFailed(f"OpenVINO computes in {got.get_type_name()} on this processor", reason="dtype_not_available")
    return compiled.create_infer_request()


def _bytes(model: Any, dtype: str) -> int:
    """The weights as they are stored, which are mapped, and the packed copies that the matrix products work on."""
    width = 2 if dtype == "bfloat16" else 4
    stored = packed = 0
    for node in model.get_ordered_ops():
        if node.get_type_name() == "Constant":
            stored += node.get_byte_size()
            if node.get_element_type().get_type_name() in ("i8", "u8") and not _feeds_product(node):
                packed += 4 * int(np.prod(node.get_output_shape(0)))  # the table of word vectors, unpacked to float32
        elif node.get_type_name() == "MatMul":
            weights, itself = _weights(node)
            packed += weights * min(width, itself)
    return stored + packed


def _feeds_product(constant: Any) -> bool:
    """Whether a matrix product reads it, behind what scales it."""
    readers = [target.get_node() for output in constant.outputs() for target in output.get_target_inputs()]
    return any(
        node.get_type_name() == "MatMul" or (node.get_type_name() in SCALING and _feeds_product(node))
        for node in readers
    )


def _weights(product: Any) -> tuple[int, int]:
    """How many numbers a matrix product has for weights, and the bytes of each as they are stored."""
    node = product.input_value(1).get_node()
    while node.get_type_name() in SCALING:
        node = node.input_value(0).get_node()
    if node.get_type_name() != "Constant":
        return 0, 0
    size = int(node.get_byte_size())
    count = int(np.prod(node.get_output_shape(0)))
    return count, size // max(1, count)


@contextlib.contextmanager
def _guarded() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if any(word in str(error) for word in ALLOCATION):
            raise memory.OutOfMemory(str(error)) from error
        raise
