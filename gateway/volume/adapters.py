"""Adapters: low-rank changes to the weights of a base, which is another model on the volume.

An adapter is judged by itself, whole and of one piece. That its base is there is another question: it may arrive later.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from gateway.model import Lora
from gateway.volume.documents import Document, shown
from gateway.volume.files import Folder
from gateway.volume.patterns import LONGEST_NAME, flaw, is_simple
from gateway.volume.pickles import read_pickle
from gateway.volume.reasons import Unfit, unfit
from gateway.volume.weights import Shape, Weights, read_safetensors

FILE: Final = "adapter_config.json"
METADATA: Final = "model_metadata.json"
WEIGHTS: Final = "adapter_model.safetensors"
PICKLE: Final = "adapter_model.bin"
CODE: Final = "adapter_invalid"
GENERATES: Final = "CAUSAL_LM"
GAIN: Final = "lora_magnitude_vector"
LARGEST_ALPHA: Final = 1e9
# base_model.model.encoder.layer.0.attention.self.query.lora_A.weight; with the adapter's name where it was not saved
# by peft itself. Source: peft/utils/save_and_load.py
PREFIX: Final = "base_model.model."
PART: Final = re.compile(
    r"(.+)\.(lora_(?:embedding_)?[AB]|lora_magnitude_vector)(?:\.(?!weight$|bias$)[^.]+)??(?:\.weight)?"
)
UNUSED: Final = re.compile(r"(?:.+\.)?pooler\..+")  # a head that sentence embeddings do not use
# Of peft 0.21: what changes the network in other ways than adding the product of two factors to a layer.
BEYOND: Final = (
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "layer_replication",
    "lora_bias",
    "monteclora_config",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_qalora",
)
PLAIN_STARTS: Final = (None, True, False, "gaussian", "orthogonal", "eva")  # all others change the base's weights too


@dataclass(frozen=True, slots=True)
class Change:
    """One layer: its factors A [rank, in] and B [out, rank]; `gain` is the shape of DoRA's, if there is one."""

    first: Shape
    second: Shape
    gain: Shape | None = None

    @property
    def rank(self) -> int:
        return self.first[0]


@dataclass(frozen=True, slots=True)
class Adapter:
    """`references` say which model the base is, the most telling one first; `task` is peft's, "" for none.

    `targets` are names of modules that are changed; empty where the configuration gives a pattern, which is then
    `pattern`. `changes` are by the name of the layer; None for pickles. `alphas` hold for the layers that their
    patterns match. `whole` says that every layer with the name of a target is changed.
    """

    task: str
    rank: int
    alpha: float
    targets: tuple[str, ...]
    pattern: str
    references: tuple[str, ...]
    weights: Weights
    changes: Mapping[str, Change] | None = None
    alphas: Mapping[str, float] | None = None
    rslora: bool = False
    dora: bool = False
    whole: bool = True

    @property
    def generates(self) -> bool:
        return self.task == GENERATES

    def targeted(self, module: str) -> bool:
        """Whether the configuration says that a layer of this name is changed; where that is not known, that it is
        not."""
        if not self.whole:
            return False
        if self.pattern:
            return (
                len(module) <= LONGEST_NAME
                and is_simple(self.pattern)
                and re.fullmatch(self.pattern, module) is not None
            )
        return _is_named(module, self.targets)


def read_adapter(folder: Folder, *, allow_pickle: bool = False) -> Adapter:
    """The adapter in a directory that has an adapter_config.json. Raises Unfit."""
    config = Document.read(folder, FILE, CODE)
    kind = config.text("peft_type", "")
    if kind != "LORA":
        raise unfit("adapter_not_supported", f"{FILE}: peft_type is {shown(kind)}, and LORA alone is served", FILE)
    task = config.text("task_type", "")
    targets, pattern = _targets(config)
    weights = _weights(folder, allow_pickle)
    changes = None
    _refuse_what_is_beyond(config)
    if weights.shapes is not None:
        changes = _changes(weights.shapes, weights.files[0])
        _check(changes, _ranks(config), targets, weights.files[0])
    alphas = _alphas(config)
    if alphas:
        _refuse_long_names(changes or {}, weights.files[0])
    return Adapter(
        task,
        config.count("r"),
        _alpha(config, config.fields.get("lora_alpha", 8)),
        targets,
        pattern,
        _references(folder, config),
        weights,
        changes,
        alphas,
        config.flag("use_rslora", False),
        config.flag("use_dora", False),
        not any(config.fields.get(key) for key in ("layers_to_transform", "exclude_modules", "modules_to_save")),
    )


def references(folder: Folder) -> tuple[str, ...]:
    """What the adapter in a directory says of its base; nothing, if there is none or it says nothing. Never raises."""
    try:
        return _references(folder, Document.read(folder, FILE, CODE)) if folder.has(FILE) else ()
    except Unfit:  # judging tells
        return ()


def part_of(tensor: str) -> tuple[str, str] | None:
    """Of a tensor's name: the layer that it changes, and which part of the change it is."""
    found = PART.fullmatch(tensor.removeprefix(PREFIX))
    return (found[1], found[2]) if found else None


def is_unused(tensor: str) -> bool:
    """Whether no vector depends on it."""
    return UNUSED.fullmatch(tensor.removeprefix(PREFIX)) is not None


def alpha_of(module: str, lora: Lora) -> float:
    """Of one layer. As peft: the first pattern that its name, or the end of it, matches."""
    found = (value for key, value in lora.alphas.items() if re.match(_at_the_end(key), module))
    return next(found, lora.alpha)


def _at_the_end(key: str) -> str:
    """The pattern of names that end as the pattern `key` says."""
    return rf"(.*\.)?({key})$"


def _refuse_what_is_beyond(config: Document) -> None:
    """Raises Unfit for what would be served wrong: peft does more with the adapter than we do."""
    found = [key for key in BEYOND if config.fields.get(key)]
    if config.fields.get("bias") not in (None, "none"):
        found.append("bias")
    start = config.fields.get("init_lora_weights")
    if not isinstance(start, str | bool | None) or start not in PLAIN_STARTS:
        found.append("init_lora_weights")
    if found:
        said = ", ".join(f"{key} is {shown(config.fields[key])}" for key in found)
        raise unfit("adapter_not_supported", f"{FILE}: {said}, which is not served", FILE)


def _targets(config: Document) -> tuple[tuple[str, ...], str]:
    value = config.fields.get("target_modules")
    if not isinstance(value, str):
        return config.texts("target_modules"), ""
    if wrong := flaw(value):
        raise config.fault(f"target_modules is {shown(value)}, which is no pattern: {wrong}")
    return (), value


def _is_named(module: str, targets: tuple[str, ...]) -> bool:
    return any(module == target or module.endswith("." + target) for target in targets)


def _alpha(config: Document, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < LARGEST_ALPHA:
        raise config.fault(f"lora_alpha is {shown(value)}, expected a number")
    return float(value)


def _alphas(config: Document) -> dict[str, float]:
    found = config.inner("alpha_pattern").fields
    for pattern in found:
        if wrong := flaw(pattern):
            raise config.fault(f"{shown(pattern)} in alpha_pattern is no pattern: {wrong}")
        if not is_simple(_at_the_end(pattern)):
            message = f"{FILE}: {shown(pattern)} in alpha_pattern is too intricate a pattern"
            raise unfit("adapter_not_supported", message, FILE)
    return {pattern: _alpha(config, value) for pattern, value in found.items()}


def _refuse_long_names(changes: Mapping[str, Change], file: str) -> None:
    """Raises Unfit for a layer that the patterns of alpha_pattern would take long to be matched against."""
    for module in changes:
        if len(module) > LONGEST_NAME:
            message = f"{file}: {shown(module)} is too long a name for a layer that alpha_pattern may mean"
            raise unfit("adapter_not_supported", message, file)


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


def _changes(shapes: Mapping[str, Shape], file: str) -> dict[str, Change]:
    """By layer. Whatever else is in the file is refused, but what no sentence embedding uses."""
    found: dict[str, dict[str, Shape]] = {}
    strange = []
    for tensor, shape in shapes.items():
        part = part_of(tensor)
        if is_unused(tensor):
            continue
        if part and (len(shape) >= 2 or part[1] == GAIN):
            found.setdefault(part[0], {})[part[1]] = shape
        else:
            strange.append(tensor)
    if not found:
        raise unfit("weights_mismatch", f"{file} holds no LoRA tensors", file)
    if strange:
        message = f"{file} holds {shown(strange[0])}, which is no factor of LoRA: this part of peft is not served"
        raise unfit("adapter_not_supported", message, file)
    return {module: _change(module, parts, file) for module, parts in found.items()}


def _change(module: str, parts: Mapping[str, Shape], file: str) -> Change:
    """Of both factors. Raises Unfit."""
    for kind in ("lora_", "lora_embedding_"):
        first, second = parts.get(kind + "A"), parts.get(kind + "B")
        if first is not None and second is not None:
            return Change(first, second, parts.get(GAIN))
    raise unfit("weights_mismatch", f"{file} has one of two factors of {shown(module)}", file)


def _check(changes: Mapping[str, Change], ranks: set[int], targets: tuple[str, ...], file: str) -> None:
    """Every layer has factors of a rank and a name that the configuration gives."""
    for module, change in changes.items():
        if change.rank != change.second[1] or change.rank not in ranks:
            named = ", ".join(map(str, sorted(ranks)))
            message = f"{file}: {shown(module)} has factors of rank {change.rank}, and {FILE} says {named}"
            raise unfit("weights_mismatch", message, file)
        if targets and not _is_named(module, targets):
            message = f"{file} changes {shown(module)}, which is not among the target_modules of {FILE}"
            raise unfit("weights_mismatch", message, file)
