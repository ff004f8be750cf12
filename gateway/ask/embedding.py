"""Texts to unit vectors with exactly one generation, each side with the prompt that its model was trained with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from gateway import events
from gateway.ask.passage import Index
from gateway.ask.store import Vectors
from gateway.errors import DeadlineExceeded, TooManyTokens
from gateway.requests import Embedding, EmbedRequest, Reranking
from gateway.service import Service

QUERY: Final = ("query",)  # names that models give to the prompts of the two sides
DOCUMENT: Final = ("document", "passage")


async def embed_query(service: Service, index: Index, text: str, patience: float | None = None) -> Vectors:
    """[dim], within `patience` seconds. Raises what `Service.embed` does: GenerationNotFound when the generation has
    gone."""
    return (await _embed(service, index, [text], QUERY, patience)).reshape(-1)


async def embed_documents(service: Service, index: Index, texts: Sequence[str]) -> Vectors:
    """[len(texts), dim]."""
    return await _embed(service, index, texts, DOCUMENT, None)


async def embed_all(service: Service, index: Index, texts: Sequence[str]) -> Vectors:
    """As `embed_documents`, in two halves where it is too much for one request: where the operator allows no request of
    so many tokens, or the device is too slow or too busy for them."""
    try:
        return await embed_documents(service, index, texts)
    except (TooManyTokens, DeadlineExceeded):
        if len(texts) < 2:
            raise
    middle = len(texts) // 2
    first = await embed_all(service, index, texts[:middle])
    return np.concatenate([first, await embed_all(service, index, texts[middle:])])


def charged(service: Service, tell: events.Events, kb: str) -> Service:
    """The same service, whose work is charged to whoever owns the base of this key."""
    owner, _, name = kb.rpartition("/")

    def charge(done: Embedding | Reranking) -> None:
        texts = done.rows if isinstance(done, Embedding) else len(done.scores)
        tell.emit(
            events.ChunksEmbedded(
                kb=name,
                owner=owner,
                model=done.model.path,
                texts=texts,
                tokens=done.tokens,
                compute_seconds=done.compute_seconds,
            )
        )

    return service.metered(charge)


def spelling(index: Index) -> str:
    """Names the one generation that belongs to an index."""
    return f"{index.model}@{index.generation}"


def prompt_name(prompts: Mapping[str, str], names: Sequence[str]) -> str | None:
    """None where the model has no prompt of its own for that side."""
    return next((name for name in names if name in prompts), None)


async def _embed(
    service: Service, index: Index, texts: Sequence[str], names: Sequence[str], patience: float | None
) -> Vectors:
    found = await service.find(spelling(index))
    name = prompt_name(found.generation.manifest.prompts, names)
    request = EmbedRequest(texts=list(texts), model=spelling(index), normalize=True, prompt_name=name, timeout=patience)
    embedding = await service.embed(request)
    return np.frombuffer(embedding.data, dtype="<f4").reshape(embedding.rows, embedding.dim)
