"""Adapters: low-rank changes to the weights of a base, which is another model on the volume.

An adapter is judged by itself, whole and of one piece. That its base is there is another question: it may arrive later.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from gateway.volume.documents import Document, shown
from gateway.volume.files import Folder
from gateway.volume.pickles import read_pickle
from gateway.volume.reasons import Unfit, unfit
from gateway.volume.weights import Shape, Weights, read_safetensors

FILE: Final = "adapter_config.json"
METADATA: Final = "model_metadata.json"
WEIGHTS: Final = "adapter_model.safetensors"
PICKLE: Final = "adapter_model.bin"
CODE: Final = "adapter_invalid"
GENERATES: Final = "CAUSAL_LM"
# base_model.model.encoder.layer.0.attention.self.query.lora_A.weight; with the adapter's name where it was not saved
# by peft itself. Source: peft/utils/save_and_load.py
PAIR: Final = re.compile(r"(.+)\.lora_(?:embedding_)?([AB])(?:\.[^.]+)??(?:\.weight)?")


@dataclass(frozen=True, slots=True)
class Adapter:
    """`references` say which model the base is, the most telling one first; `task` is peft's, "" for none.

    `targets` are names of modules that are changed; empty where the configuration gives a pattern.
    """

    task: str
    rank: int
    targets: tuple[str, ...]
    references: tuple[str, ...]
    weights: Weights

    @property
    def generates(self) -> bool:
        return self.task == GENERATES


def read_adapter(folder: Folder, *, allow_pickle: bool = False) -> Adapter:
    """The adapter in a directory that has an adapter_config.json. Raises Unfit."""
    config = Document.read(folder, FILE, CODE)
    kind = config.text("peft_type", "")
    if kind != "LORA":
        raise unfit("adapter_not_supported", f"{FILE}: peft_type is {shown(kind)}, and LORA alone is served", FILE)
    targets = _targets(config)
    weights = _weights(folder, allow_pickle)
    if weights.shapes is not None and not config.given("target_parameters"):
        _check_pairs(_pairs(weights.shapes, weights.files[0]), _ranks(config), targets, weights.files[0])
    return Adapter(config.text("task_type", ""), config.count("r"), targets, _references(folder, config), weights)


def _targets(config: Document) -> tuple[str, ...]:
    value = config.fields.get("target_modules")
    return () if isinstance(value, str) else config.texts("target_modules")


def _ranks(config: Document) -> set[int]:
    pattern = config.inner("rank_pattern")
    return {config.count("r"), *(pattern.count(key) for key in pattern.fields)}


def _references(folder: Folder, config: Document) -> tuple[str, ...]:
    """What the adapter says of its base: the path or id that it was trained on, and the logical name that a trainer
    may have written into the metadata."""
    found = [config.text("base_model_name_or_path", "")]
    try:
        metadata = Document.read(folder, METADATA, "metadata_invalid")
        found.append(metadata.text("base_model", ""))
    except Unfit:  # it never blocks a model
        pass
    given = tuple(dict.fromkeys(reference.strip() for reference in found if reference.strip()))
    if not given:
        raise config.fault("base_model_name_or_path is missing: nothing says which base this is for")
    return given


def _weights(folder: Folder, allow_pickle: bool) -> Weights:
    if folder.has(WEIGHTS):
        return read_safetensors(folder, WEIGHTS)
    if not folder.has(PICKLE):
        raise unfit("weights_missing", f"{WEIGHTS} is missing", WEIGHTS)
    if not allow_pickle:
        raise unfit("pickle_weights", f"{PICKLE} is a pickle, and there are no safetensors", PICKLE)
    pickle = read_pickle(folder, PICKLE)
    return Weights((PICKLE,), pickle.parameters, pickle.stored_bytes, pickle.dtype, None)


def _pairs(shapes: Mapping[str, Shape], file: str) -> dict[str, dict[str, Shape]]:
    """Module -> its two factors, A [rank, in] and B [out, rank]."""
    found: dict[str, dict[str, Shape]] = {}
    for tensor, shape in shapes.items():
        if (part := PAIR.fullmatch(tensor)) and len(shape) >= 2:
            found.setdefault(part[1], {})[part[2]] = shape
    if not found:
        raise unfit("weights_mismatch", f"{file} holds no LoRA tensors", file)
    return found


def _check_pairs(pairs: dict[str, dict[str, Shape]], ranks: set[int], targets: tuple[str, ...], file: str) -> None:
    """Every module has both factors, of a rank and with a name that the configuration gives."""
    for module, factors in pairs.items():
        if factors.keys() != {"A", "B"}:
            raise unfit("weights_mismatch", f"{file} has one of two factors of {shown(module)}", file)
        rank = factors["A"][0]
        if rank != factors["B"][1] or rank not in ranks:
            named = ", ".join(map(str, sorted(ranks)))
            message = f"{file}: {shown(module)} has factors of rank {rank}, and {FILE} says {named}"
            raise unfit("weights_mismatch", message, file)
        if targets and not any(module == target or module.endswith("." + target) for target in targets):
            message = f"{file} changes {shown(module)}, which is not among the target_modules of {FILE}"
            raise unfit("weights_mismatch", message, file)
