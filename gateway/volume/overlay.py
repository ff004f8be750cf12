"""What an adapter and its base are together: the base's network, and of the rest what the adapter brings itself."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from gateway.model import Generation, Lora, Manifest
from gateway.volume import modules
from gateway.volume.adapters import FILE, Adapter
from gateway.volume.architectures import Architecture, read_architecture
from gateway.volume.bases import Base
from gateway.volume.conversation import TEMPLATE, read_conversation
from gateway.volume.files import Folder
from gateway.volume.fitting import check_base, check_fit
from gateway.volume.modules import Module, Pipeline, read_pipeline
from gateway.volume.prompts import Prompts, read_prompts
from gateway.volume.reasons import Findings, unfit
from gateway.volume.tokenizer import Tokenizer, read_tokenizer
from gateway.volume.transformer import Settings, max_tokens, read_settings
from gateway.wish import Wish


def overlay(
    folder: Folder,
    adapter: Adapter,
    base: Base,
    chain: Sequence[Module] | None,
    findings: Findings,
    *,
    allow_pickle: bool,
) -> Manifest | None:
    """The base's manifest, with what the adapter brings in its place; None where `findings` has why not. `chain` is
    what the adapter's own modules.json says. Raises Unfit."""
    check_base(base.generation, base.model.path, generates=adapter.generates)
    check_fit(adapter, base.generation, base.model.path)
    below = base.generation.manifest
    own_tokenizer = folder.has("tokenizer.json")
    tokenizer = Tokenizer((), None)
    if own_tokenizer:
        tokenizer = read_tokenizer(folder, "", below.vocab_size, findings, config_required=False)
    settings, prompts = Settings(), Prompts(None, below.prompts, below.default_prompt_name)
    pipeline, longest = Pipeline(below.stages, below.dim, (), ()), below.max_tokens
    if chain is not None:
        if adapter.generates:
            raise unfit("modules_invalid", f"{modules.FILE} makes vectors, and its base makes none", modules.FILE)
        if chain[0].path:
            raise unfit("modules_invalid", f"{modules.FILE} names a transformer in a folder of its own", modules.FILE)
        settings, prompts = read_settings(folder, ""), read_prompts(folder, findings)
        pipeline = read_pipeline(folder, chain, below.width, allow_pickle=allow_pickle)
        if own_tokenizer or settings.max_seq_length is not None:
            longest = max_tokens(settings, tokenizer.max_length, _architecture(base.generation))
    if findings.reasons:
        return None
    stored = (adapter.weights, *pipeline.weights)
    conversation = read_conversation(folder, "") if adapter.generates else ()
    files = {FILE, settings.file, prompts.file, *tokenizer.files, *pipeline.files, *conversation}
    files |= {file for held in stored for file in held.files} | ({modules.FILE} if chain is not None else set())
    return msgspec.structs.replace(
        below,
        library="sentence-transformers" if chain is not None else below.library,
        dim=pipeline.dim,
        max_tokens=longest,
        transformer_path="",
        tokenizer_path="" if own_tokenizer else below.tokenizer_path,
        stages=pipeline.stages,
        weights=adapter.weights.files,
        files=tuple(sorted(file for file in files if file is not None)),
        parameters=sum(held.parameters for held in stored),
        stored_bytes=sum(held.stored_bytes for held in stored),
        stored_dtype=adapter.weights.dtype,
        lower_case=settings.lower_case if chain is not None else below.lower_case,
        prompts=prompts.texts,
        default_prompt_name=prompts.default,
        warnings=tuple(findings.warnings),
        wish=Wish(),
        samples=(),
        cache_width=0,
        lora=Lora(
            base=base.model.path,
            rank=adapter.rank,
            alpha=adapter.alpha,
            alphas=dict(adapter.alphas or {}),
            rslora=adapter.rslora,
            dora=adapter.dora,
            own_stages=chain is not None,
            own_tokenizer=own_tokenizer,
            own_template=TEMPLATE in conversation,
        ),
    )


def _architecture(base: Generation) -> Architecture:
    """Raises Unfit."""
    manifest = base.manifest
    ours = manifest.library == "sentence-transformers"
    return read_architecture(Folder(base.path, base.path), manifest.transformer_path, Findings(), modules=ours)
