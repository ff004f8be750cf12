"""Does an adapter fit its base? What it changes must be there, of the same shape, in a network that adapters are
served over; and every layer that it says it changes must be changed, so that nobody gets the base's vectors unawares.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from gateway.model import Generation, Kind, Manifest
from gateway.volume.adapters import FILE, UNUSED, Adapter
from gateway.volume.architectures import GENERATORS
from gateway.volume.documents import shown
from gateway.volume.files import Folder
from gateway.volume.reasons import Unfit, unfit
from gateway.volume.weights import Shape, find_weights

KINDS: Final[dict[Kind, str]] = {"encoder": "an encoder", "reranker": "a reranker", "generator": "a language model"}
# model_type -> what stands before the names of the tensors where the network was saved with a head
SERVED: Final = {
    "bert": "bert.",
    "roberta": "roberta.",
    "xlm-roberta": "roberta.",
    "camembert": "roberta.",
    "distilbert": "distilbert.",
    "mpnet": "mpnet.",
}
SPEAKING: Final = dict.fromkeys(sorted(GENERATORS), "model.")
LAYER: Final = re.compile(r"(?:(?:encoder|transformer)\.layer|layers)\.\d+\..+")


def prefix(manifest: Manifest) -> str:
    """Of a base that adapters are served over."""
    return (SPEAKING if manifest.kind == "generator" else SERVED)[manifest.model_type]


def check_base(base: Generation, named: str, *, generates: bool) -> None:
    """Whether such adapters are served over it at all. Raises Unfit."""
    manifest = base.manifest
    if generates != (manifest.kind == "generator"):
        what = "a language model" if generates else "an encoder"
        message = f"it is for {what}, and its base {named} is {KINDS[manifest.kind]}"
        raise unfit("base_mismatch", message, FILE)
    what = ""
    if manifest.kind == "reranker":
        what = KINDS[manifest.kind]
    elif manifest.model_type not in (SPEAKING if generates else SERVED):
        what = f"of type {manifest.model_type}"
    elif manifest.quantization is not None:
        what = "quantized"
    elif not all(name.endswith(".safetensors") for name in manifest.weights):
        what = "a pickle"
    if what:
        message = (
            f"its base {named} is {what}, and adapters are served over encoders of {', '.join(SERVED)} and over "
            "language models alone"
        )
        raise unfit("base_not_supported", message, FILE)


def check_fit(adapter: Adapter, base: Generation, named: str) -> None:
    """Raises Unfit."""
    if adapter.changes is None:  # a pickle, whose tensors are seen when they are loaded
        return
    layers = _layers(base)
    for module, change in adapter.changes.items():
        plain = _bare(module, base)
        shape = layers.get(plain)
        if shape is None:
            raise _misfit(f"it changes {shown(module)}, and {named} has no such layer", named)
        if not LAYER.fullmatch(plain):
            message = f"it changes {shown(module)}; only linear layers of the transformer's blocks may be changed here"
            raise unfit("adapter_not_supported", message, FILE)
        found = (change.second[0], *change.first[1:])
        if found != shape or (change.gain is not None and change.gain != shape[:1]):
            message = f"{shown(module)} is {list(shape)} in {named}, and the adapter is for {list(found)}"
            raise _misfit(message, named)
        if (change.gain is not None) != adapter.dora:
            message = (
                f"{shown(module)} {'has' if change.gain else 'lacks'} DoRA's magnitudes, and {FILE} says otherwise"
            )
            raise unfit("weights_mismatch", message, FILE)
    _demand_all(adapter, layers, base)


def _demand_all(adapter: Adapter, layers: Mapping[str, Shape], base: Generation) -> None:
    """An adapter that was cut, or put together of two, has layers left out."""
    changed = {_bare(module, base) for module in adapter.changes or ()}
    wanted = {layer for layer in layers if adapter.targeted(layer) and LAYER.fullmatch(layer)}
    if missing := sorted(wanted - changed):
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        message = f"{adapter.weights.files[0]} has no factors for {missing[0]}{more}, which {FILE} says are changed"
        raise unfit("weights_mismatch", message, adapter.weights.files[0])


def _layers(base: Generation) -> dict[str, Shape]:
    """The linear layers of the network, by name. Raises Unfit when its files have gone."""
    manifest = base.manifest
    found = find_weights(Folder(base.path, base.path), manifest.transformer_path).shapes or {}
    plain = {_bare(name.removesuffix(".weight"), base): shape for name, shape in found.items() if len(shape) == 2}
    return {name: shape for name, shape in plain.items() if not UNUSED.fullmatch(name)}


def _bare(module: str, base: Generation) -> str:
    return module.removeprefix(prefix(base.manifest))


def _misfit(message: str, named: str) -> Unfit:
    return unfit("base_mismatch", f"it does not fit its base {named}: {message}", FILE)
