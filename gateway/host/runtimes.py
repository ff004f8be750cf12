"""Which runtime computes a generation, and with which numbers: what was wished, where it works.

torch in float32 is what everything else is held against. Another runtime or number format is used only when its
vectors, measured at the load, stay as close to those as `wish.LEAST_COSINE` says; whatever goes wrong with it, torch
in float32 stands in, which is told once and remembered.
"""

from __future__ import annotations

import os
from typing import Final, NamedTuple

import msgspec
import numpy as np
import torch
from cachetools import LRUCache

from gateway.errors import LoadFailed
from gateway.host import causal, encoder, launcher, memory, openvino_runtime, precision, quantized, shelf
from gateway.host.encoder import Encoder, Runtime
from gateway.host.generator import Generator
from gateway.host.openvino_runtime import OpenVino
from gateway.host.quantized import Quantized
from gateway.host.tokenize import TokenIds, shared
from gateway.host.wire import FellBack, Numerics, Precision
from gateway.model import Generation, Manifest
from gateway.wish import AUTO, Wish

STORED: Final = {"F16": "float16", "BF16": "bfloat16"}  # as safetensors names them
HALVES: Final = ("bfloat16", "float16")
HOST_MEMORY: Final = "cpu"
MEASURED: Final = "precision.json"
REMEMBERED: Final = 1024  # failures
TOGETHER: Final = 8  # texts of one call, when they are measured


Embedding = Encoder | OpenVino | Quantized
Loaded = Embedding | Generator


class Choice(NamedTuple):
    runtime: str
    dtype: str


class Chosen(NamedTuple):
    """A runtime in host memory, and what it is."""

    runtime: Loaded
    numerics: Numerics


OPENVINO: Final = "openvino"  # as a manifest says of weights
EXACT: Final = Choice("torch", "float32")


class Failures:
    """Which wishes failed on which generations, in this process, and which of that has not been told yet."""

    def __init__(self) -> None:
        self._known: LRUCache[tuple[str, Wish], str] = LRUCache(REMEMBERED)
        self._untold: list[FellBack] = []

    def why(self, digest: str, wish: Wish) -> str:
        """Empty if it did not fail."""
        return self._known.get((digest, wish), "")

    def add(self, digest: str, wish: Wish, why: str) -> None:
        self._known[digest, wish] = why
        self._untold.append(FellBack(digest, wish.runtime, wish.dtype, why))

    def news(self) -> list[FellBack]:
        """What has been added since this was asked last."""
        told, self._untold = self._untold, []
        return told


def choose(wish: Wish, manifest: Manifest, device: str) -> Choice:
    """What `auto` means here. Raises LoadFailed for what this device never does."""
    if manifest.kind == "reranker":
        return _of_reranker(wish)
    if manifest.kind == "generator" and (wish.runtime not in (AUTO, "torch") or wish.dtype == "int8"):
        raise _unavailable("a language model is computed by torch, in float32, bfloat16 or float16")
    cuda = memory.on_cuda(device)
    dtype = wish.dtype
    if dtype == AUTO:
        dtype = STORED.get(manifest.stored_dtype, "float32") if cuda else "float32"
    runtime = wish.runtime
    if runtime == AUTO:
        runtime = "openvino" if dtype == "int8" and not cuda else "torch"
    if runtime == "openvino" and cuda:
        raise _unavailable("OpenVINO is served on the CPU alone")
    if runtime == "torch" and dtype not in ("float32", *HALVES):
        raise _unavailable(f"torch has no {dtype} here: ask for openvino, on the CPU")
    if runtime == "openvino" and dtype not in openvino_runtime.DTYPES:
        raise _unavailable(f"OpenVINO has no {dtype} here: it has {', '.join(openvino_runtime.DTYPES)}")
    return Choice(runtime, dtype)


def _of_reranker(wish: Wish) -> Choice:
    """What the others cost is measured on vectors, and of scores nothing is known yet."""
    if wish.runtime not in (AUTO, EXACT.runtime) or wish.dtype not in (AUTO, EXACT.dtype):
        raise _unavailable("a reranker is computed by torch in float32")
    return EXACT


def load(
    generation: Generation, wish: Wish, device: str, failures: Failures | None = None, cache_tokens: int = 0
) -> Chosen:
    """As wished, or in torch's float32: in host memory, from where `place` takes it to `device`. A language model has
    room for the keys and values of `cache_tokens`.

    Raises LoadFailed where the model itself is at fault, and memory.OutOfMemory. On the thread of loads: one at a time.
    """
    if generation.manifest.kind == "generator":
        return _generator(generation, wish, device, cache_tokens)
    failures = Failures() if failures is None else failures
    if generation.manifest.quantization is not None:
        return _as_stored(generation, wish, device, failures)
    why = failures.why(generation.digest, wish)
    if not why:
        try:
            choice = choose(wish, generation.manifest, device)
            if choice != EXACT:
                return _proven(generation, choice, device)
        except memory.OutOfMemory:
            raise
        except Exception as error:  # a library that is not there, a network that does not convert: no list is complete
            why = _said(error)
    exact = encoder.read(generation, device)
    if why and not failures.why(generation.digest, wish):
        failures.add(generation.digest, wish, why)
    return Chosen(exact, Numerics(*EXACT, None, why))


def _as_stored(generation: Generation, wish: Wish, device: str, failures: Failures) -> Chosen:
    """Weights that are stored in fewer bits have one way to be computed, whatever is wished; nothing stands in."""
    form = generation.manifest.quantization
    if memory.on_cuda(device):
        raise _unavailable(f"weights of {form} are served on the CPU alone: serve the model that they were made from")
    try:
        if form == OPENVINO:
            runtime: Loaded = openvino_runtime.opened(generation)
            choice = Choice("openvino", "float32")
        else:
            runtime = library = quantized.load(generation)
            choice = Choice("torch", library.dtype)
    except ImportError as error:
        raise _unavailable(_said(error)) from error
    why = ""
    if wish.runtime not in ("", AUTO, choice.runtime) or wish.dtype not in ("", AUTO, choice.dtype):
        why = f"its weights are of {form}, which has one way to be computed"
        if not failures.why(generation.digest, wish):
            failures.add(generation.digest, wish, why)
    return Chosen(runtime, Numerics(*choice, None, why))


def predict(generation: Generation, wish: Wish, device: str, cache_tokens: int = 0) -> int:
    """Bytes that a load takes. One that falls back may take more: others make room then."""
    if generation.manifest.quantization == OPENVINO:
        return int(memory.predict(generation.manifest) * openvino_runtime.SHARES["int8"])
    if generation.manifest.quantization is not None:
        return memory.predict(generation.manifest)
    try:
        choice = choose(wish, generation.manifest, device)
    except LoadFailed:
        choice = EXACT
    if generation.manifest.kind == "generator":
        return memory.predict(generation.manifest, choice.dtype) + _cache_bytes(generation, choice, cache_tokens)
    if choice.runtime == "openvino":
        return int(memory.predict(generation.manifest) * openvino_runtime.SHARES[choice.dtype])
    weights = memory.predict(generation.manifest, choice.dtype)
    return weights + launcher.GRAPH_BYTES if memory.on_cuda(device) else weights


def _generator(generation: Generation, wish: Wish, device: str, cache_tokens: int) -> Chosen:
    """As wished: what a number format costs a language model is for who wishes it to know."""
    choice = choose(wish, generation.manifest, device)
    network = causal.read(generation, encoder.DTYPES[_torch_dtype(choice)])
    return Chosen(Generator(network, _cache_bytes(generation, choice, cache_tokens)), Numerics(*choice))


def _cache_bytes(generation: Generation, choice: Choice, tokens: int) -> int:
    return tokens * generation.manifest.cache_width * encoder.DTYPES[_torch_dtype(choice)].itemsize


def _torch_dtype(choice: Choice) -> encoder.Dtype:
    return "bfloat16" if choice.dtype == "bfloat16" else "float16" if choice.dtype == "float16" else "float32"


def _proven(generation: Generation, choice: Choice, device: str) -> Chosen:
    """Loaded, and its vectors held against float32: now, or when it was loaded first."""
    name = f"precision-{_version(choice.runtime)}-{choice.dtype}"
    measured = _read(shelf.find(generation, name))
    if measured is not None:
        precision.demand(measured, *choice)
    runtime = _load(generation, choice, device)
    try:
        if measured is None:
            measured = _measure(runtime, generation)
            _keep(generation, name, measured)
            precision.demand(measured, *choice)
    except BaseException:
        runtime.close()
        raise
    return Chosen(runtime, Numerics(*choice, measured))


def _load(generation: Generation, choice: Choice, device: str) -> Encoder | OpenVino:
    if choice.runtime == "openvino":
        return openvino_runtime.load(generation, choice.dtype)
    return encoder.read(generation, device, "bfloat16" if choice.dtype == "bfloat16" else "float16")


def _measure(runtime: Runtime, generation: Generation) -> Precision:
    """On the processors, beside a float32 network that is loaded for this alone."""
    rows = shared(generation).encode(precision.texts(generation.manifest))
    exact = encoder.load(generation, HOST_MEMORY)
    try:
        return precision.compare(_embed(runtime, rows), _embed(exact, rows))
    finally:
        exact.close()


def _embed(runtime: Runtime, rows: list[TokenIds]) -> precision.Vectors:
    """In calls of texts of different lengths, so that a runtime that lets padding reach a vector is found out."""
    starts = range(0, len(rows), TOGETHER)
    return np.concatenate([runtime.embed(rows[start : start + TOGETHER]) for start in starts])


def _version(runtime: str) -> str:
    return f"openvino-{openvino_runtime.version()}" if runtime == "openvino" else f"torch-{torch.__version__}"


def _read(folder: str | None) -> Precision | None:
    if folder is None:
        return None
    try:
        with open(os.path.join(folder, MEASURED), "rb") as stream:
            return msgspec.json.decode(stream.read(), type=Precision)
    except (OSError, msgspec.DecodeError):
        return None


def _keep(generation: Generation, name: str, measured: Precision) -> None:
    def write(folder: str) -> None:
        with open(os.path.join(folder, MEASURED), "wb") as stream:
            stream.write(msgspec.json.encode(measured))

    shelf.keep(generation, name, write)


def _unavailable(message: str) -> LoadFailed:
    return LoadFailed(message, reason="runtime_unavailable")


def _said(error: Exception) -> str:
    """One line."""
    if isinstance(error, LoadFailed):
        return error.message
    if isinstance(error, ImportError):
        return f"{error.name or error} is not installed: pip install 'dropgate[openvino]'"
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"[:500]
