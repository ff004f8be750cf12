"""What is this directory? Everything that can be known without reading a tensor is read, and told in one verdict.

A directory is accepted only when every file that it needs is whole and all of them agree, so that a copy caught
half way is never taken for a model. All reasons are collected: a person heals them in one go. `judge` never raises.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from gateway.model import SUBMODULE, Accepted, Generation, Kind, Manifest, Pooling, Rejected, Verdict
from gateway.volume import adapters, modules
from gateway.volume.adapters import Adapter, read_adapter
from gateway.volume.architectures import CAUSAL, SCORING, Architecture, generates, head, read_architecture
from gateway.volume.bases import Base, search
from gateway.volume.conversation import read_conversation
from gateway.volume.documents import shown
from gateway.volume.files import Folder
from gateway.volume.heads import Head, check_head, read_head
from gateway.volume.metadata import read_metadata, read_samples, read_wish
from gateway.volume.modules import Module, Pipeline, read_modules, read_pipeline
from gateway.volume.networks import XML, has_network, read_network
from gateway.volume.overlay import overlay
from gateway.volume.prompts import PROMPTS, Prompts, read_prompts
from gateway.volume.quantized import OPENVINO, demand_library
from gateway.volume.reasons import Findings, Unfit, unfit
from gateway.volume.tokenizer import Tokenizer, read_tokenizer
from gateway.volume.transformer import ENCODER, NAMES, RERANKER, Settings, max_tokens, read_settings
from gateway.volume.weights import Weights, find_weights

README: Final = "README.md"
README_BYTES: Final = 64 * 1024
FRONT_MATTER: Final = re.compile(rb"\A\s*---[^\S\n]*\n(.*?)\n---", re.DOTALL)
LIBRARY: Final = re.compile(rb"^library_name:\s*[\"']?sentence-transformers\b", re.MULTILINE)
WORD_EMBEDDING: Final = re.compile(r"(?:^|\.)(?:word_embeddings|tok_embeddings|embed_tokens|shared)\.weight")

Library = Literal["sentence-transformers", "transformers"]


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the parts are. `chain` is what modules.json says, None where there is none that can be read."""

    kind: Kind
    library: Library
    transformer: str
    chain: Sequence[Module] | None


@dataclass(frozen=True, slots=True)
class Parts:
    """All that a whole model has, each part fit by itself."""

    architecture: Architecture
    weights: Weights
    tokenizer: Tokenizer
    settings: Settings
    prompts: Prompts
    pipeline: Pipeline
    head: Head | None  # of a reranker
    conversation: tuple[str, ...]  # files of a generator that say how it is spoken to

    @property
    def stored(self) -> tuple[Weights, ...]:
        """The transformer's weights, then those of the modules."""
        return (self.weights, *self.pipeline.weights)


def judge(directory: str, *, root: str | None = None, allow_pickle: bool = False, base: Base | None = None) -> Verdict:
    """The verdict on a model directory, from its files alone. Never raises; blocks on the disk.

    `root` is the volume: where links may lead, and where the base of an adapter is looked for. Without it links stay in
    the directory, and no base is looked for. `base` is one that was found already. `allow_pickle` lets `.bin` weights
    count.
    """
    folder = Folder(directory, os.path.realpath(root if root is not None else directory))
    findings = Findings()
    if folder.has(adapters.FILE):
        manifest = findings.attempt(_judge_adapter, folder, root, findings, allow_pickle, base)
        return Accepted(manifest) if manifest and not findings.reasons else Rejected(tuple(findings.reasons))
    layout = findings.attempt(_layout, folder, findings)
    parts = _read(folder, layout, findings, allow_pickle) if layout else None
    if layout is None or parts is None or findings.reasons:
        return Rejected(tuple(findings.reasons))
    metadata, _ = read_metadata(directory, folder.root)
    return Accepted(_manifest(layout, parts, metadata, findings.warnings))


def _judge_adapter(
    folder: Folder, root: str | None, findings: Findings, allow_pickle: bool, base: Base | None
) -> Manifest | None:
    """What an adapter and its base are together. Raises Unfit; None where `findings` has why not."""
    adapter = findings.attempt(read_adapter, folder, allow_pickle=allow_pickle)
    entries = folder.entries()
    chain = None
    if modules.FILE in entries:
        chain = findings.attempt(read_modules, folder)
    elif hint := _hint(folder, entries):
        findings.attempt(_missing_modules, hint)
    if "tokenizer.json" in entries:  # one without a tokenizer takes that of its base
        read_tokenizer(folder, "", None, findings, config_required=False)
    if adapter is None or findings.reasons:
        return None
    return overlay(
        folder, adapter, base or _base(adapter, root, allow_pickle), chain, findings, allow_pickle=allow_pickle
    )


def _base(adapter: Adapter, root: str | None, allow_pickle: bool) -> Base:
    """As it lies on the volume. Raises Unfit."""
    named = shown(adapter.references[0])
    found = search(adapter.references, root) if root is not None else None
    if found is None:
        where = "is not on the volume by its id, in base/ or in aliases.toml"
        raise unfit("base_missing", f"it waits for its base {named}, which {where}", adapters.FILE)
    verdict = judge(found.directory.path, root=root, allow_pickle=allow_pickle)
    if isinstance(verdict, Rejected):
        raise not_ready(found.model.path, verdict.reasons[0].message)
    return Base(found.model, Generation(digest="", path=found.directory.path, manifest=verdict.manifest))


def not_ready(base: str, why: str) -> Unfit:
    """To be raised: the base is on the volume, and is not served."""
    return unfit("base_not_ready", f"it waits for its base {base}, which is not served: {why}", adapters.FILE)


def _layout(folder: Folder, findings: Findings) -> Layout:
    """Raises Unfit where nothing else is worth looking at."""
    entries = folder.entries()
    if modules.FILE in entries:
        chain = read_modules(folder)
        return Layout(_kind(folder, chain), "sentence-transformers", chain[0].path, chain)
    named = head(folder, "") or ""
    scores = named.endswith(SCORING)
    hint = _hint(folder, entries)
    if scores and hint == README:  # a CrossEncoder had no modules.json before 5.4, and said in its README who made it
        hint = None
    kind: Kind = "reranker" if scores else "encoder"
    if hint is None:
        return Layout("generator" if named.endswith(CAUSAL) else kind, "transformers", "", None)
    findings.attempt(_missing_modules, hint)
    path = "0_Transformer" if "0_Transformer" in entries else ""
    return Layout(kind, "sentence-transformers", path, None)


def _kind(folder: Folder, chain: Sequence[Module]) -> Kind:
    """A transformer alone scores; one with a pooling makes vectors, whatever head its config.json names."""
    if any(module.kind == "Pooling" for module in chain):
        return "encoder"
    named = head(folder, chain[0].path)
    if named is not None and not named.endswith(SCORING):
        raise modules.disordered(chain)
    return "reranker"


def _hint(folder: Folder, entries: list[str]) -> str | None:
    """What shows that sentence-transformers wrote this directory, so that its modules.json has yet to arrive."""
    for entry in entries:
        if entry == PROMPTS or entry in NAMES:
            return entry
        if SUBMODULE.fullmatch(entry) and os.path.isdir(folder.path(entry)):
            return entry + "/"
    try:
        with folder.open(README) as descriptor:
            front = FRONT_MATTER.match(os.pread(descriptor, README_BYTES, 0))
    except Unfit:  # a README decides nothing but this, and most models have none
        return None
    return README if front and LIBRARY.search(front[1]) else None


def _missing_modules(hint: str) -> None:
    raise unfit("modules_missing", f"{modules.FILE} is missing, and {hint} says that there is one", modules.FILE)


def _read(folder: Folder, layout: Layout, findings: Findings, allow_pickle: bool) -> Parts | None:
    """Every part, so that all that is wrong is found; None when one is unfit."""
    ours = layout.library == "sentence-transformers"
    path = layout.transformer
    scores = layout.kind == "reranker"
    generator = layout.kind == "generator"
    architecture = findings.attempt(read_architecture, folder, path, findings, modules=ours, headed=scores or generator)
    if any(found.code == "kind_not_served" for found in findings.reasons):
        if generates(folder, path):  # it will be served one day, and whether it is whole is of interest today
            findings.attempt(find_weights, folder, path, allow_pickle=allow_pickle)
            read_tokenizer(folder, path, None, findings, config_required=False)
        return None
    weights = findings.attempt(_weights, folder, path, allow_pickle)
    vocab_size = architecture.vocab_size if architecture else None
    tokenizer = read_tokenizer(folder, path, vocab_size, findings, config_required=ours)
    form = RERANKER if scores else ENCODER
    settings = findings.attempt(read_settings, folder, path, form) if ours else Settings()
    prompts = findings.attempt(read_prompts, folder, findings, layout.kind) if ours else Prompts()
    read_of_head = findings.attempt(read_head, folder, path, findings) if scores else None
    conversation = findings.attempt(read_conversation, folder, path) if generator else ()
    if architecture is None:
        return None
    if weights is not None:
        findings.attempt(_check_form, layout, architecture, weights)
        findings.attempt(_check_embedding, architecture, weights)
        if read_of_head is not None:
            findings.attempt(check_head, weights)
    pipeline = findings.attempt(_pipeline, folder, layout, architecture.hidden, allow_pickle)
    if weights is None or settings is None or prompts is None or pipeline is None or conversation is None:
        return None
    if ours and settings.file is None:
        findings.warn("there is no sentence_bert_config.json: texts may be as long as tokenizer and model allow")
    return Parts(architecture, weights, tokenizer, settings, prompts, pipeline, read_of_head, conversation)


def _weights(folder: Folder, path: str, allow_pickle: bool) -> Weights:
    """As safetensors or pickles; a network of OpenVINO's counts where there are none. Raises Unfit."""
    try:
        return find_weights(folder, path, allow_pickle=allow_pickle)
    except Unfit as error:
        if error.reason.code != "weights_missing" or not has_network(folder, path):
            raise
    demand_library(OPENVINO, f"{path}/{XML}" if path else XML)
    return read_network(folder, path)


def _check_form(layout: Layout, architecture: Architecture, weights: Weights) -> None:
    """Whether weights that are no plain numbers go with the rest of it. Raises Unfit (quantization_not_served)."""
    form = OPENVINO if _is_network(weights) else architecture.quantization
    if form is None:
        return
    file = weights.files[0]
    if architecture.quantization and _is_network(weights):
        raise unfit("quantization_not_served", f"config.json says {architecture.quantization}, beside {file}", file)
    if layout.kind != "encoder":
        raise unfit("quantization_not_served", f"a {layout.kind} whose weights are of {form} is not served", file)
    if not _is_network(weights) and not all(name.endswith(".safetensors") for name in weights.files):
        raise unfit("quantization_not_served", f"weights of {form} are served as safetensors alone", file)


def _is_network(weights: Weights) -> bool:
    return weights.files[0].endswith(".xml")


def _manifest(layout: Layout, parts: Parts, metadata: Mapping[str, Any], warnings: Sequence[str]) -> Manifest:
    architecture = parts.architecture
    wish, _ = read_wish(metadata)
    return Manifest(
        kind=layout.kind,
        library=layout.library,
        model_type=architecture.model_type,
        architecture=architecture.name,
        dim=parts.pipeline.dim,
        max_tokens=_longest(layout, parts),
        vocab_size=architecture.vocab_size,
        transformer_path=layout.transformer,
        tokenizer_path=layout.transformer,
        stages=parts.pipeline.stages,
        weights=parts.weights.files,
        files=_files(layout, parts),
        parameters=sum(held.parameters for held in parts.stored),
        stored_bytes=sum(held.stored_bytes for held in parts.stored),
        stored_dtype=parts.weights.dtype,
        quantization=OPENVINO if _is_network(parts.weights) else architecture.quantization,
        lower_case=parts.settings.lower_case,
        prompts=parts.prompts.texts,
        default_prompt_name=parts.prompts.default,
        warnings=tuple(warnings),
        wish=wish,
        samples=read_samples(metadata),
        activation=parts.head.activation if parts.head else "",
        cache_width=architecture.cache_width,
    )


def _longest(layout: Layout, parts: Parts) -> int:
    """Tokens of a text; of a conversation and its answer as many as the model has positions, whatever its tokenizer
    says."""
    if layout.kind == "generator":
        return parts.architecture.max_position_embeddings
    return max_tokens(parts.settings, parts.tokenizer.max_length, parts.architecture)


def _files(layout: Layout, parts: Parts) -> tuple[str, ...]:
    """What is loaded or decides the vectors, sorted; nothing else may change a generation."""
    files = {parts.architecture.file, parts.settings.file, parts.prompts.file}
    files |= {*parts.tokenizer.files, *parts.pipeline.files, *parts.conversation}
    for held in parts.stored:
        files |= {*held.files, held.index}
    if layout.chain is not None:
        files.add(modules.FILE)
    return tuple(sorted(file for file in files if file is not None))


def _pipeline(folder: Folder, layout: Layout, hidden: int, allow_pickle: bool) -> Pipeline:
    if layout.kind != "encoder":
        return Pipeline((), 1 if layout.kind == "reranker" else hidden, (), ())
    if layout.chain is None:  # the mean of all tokens, as sentence-transformers does for a plain directory
        return Pipeline((Pooling(("mean",)),), hidden, (), ())
    return read_pipeline(folder, layout.chain, hidden, allow_pickle=allow_pickle)


def _check_embedding(architecture: Architecture, weights: Weights) -> None:
    """The table of token vectors has the size that config.json says, so that the two are of one model."""
    if weights.shapes is None:
        return
    file = weights.index or weights.files[0]
    expected = {(architecture.vocab_size, width) for width in (architecture.hidden, architecture.embedding)}
    if _is_network(weights):  # whose constants may have any name
        if not expected & set(weights.shapes.values()):
            message = f"{file} has no table of {list(min(expected))}, which the configuration says"
            raise unfit("weights_mismatch", message, file)
        return
    tables = [shape for name, shape in weights.shapes.items() if WORD_EMBEDDING.search(name) and len(shape) == 2]
    if not tables:
        raise unfit("weights_mismatch", f"{file} has no word embedding, which every text encoder has", file)
    if tables[0] not in expected:
        message = f"{file} has a word embedding of {list(tables[0])}, and the configuration says {list(min(expected))}"
        raise unfit("weights_mismatch", message, file)
