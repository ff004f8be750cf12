"""Cohere's client, for reranking: both versions of its API."""

from __future__ import annotations

import cohere
from telling import Target, tell


def rerank(target: Target, texts: list[str]) -> list[tuple[int, float]]:
    """The first text is the query."""
    client = cohere.ClientV2(target.key, base_url=target.url, max_retries=0)
    answer = client.rerank(model=target.model, query=texts[0], documents=texts[1:])
    return [(each.index, each.relevance_score) for each in answer.results]


def older(target: Target, texts: list[str]) -> list[tuple[int, float, str]]:
    client = cohere.Client(target.key, base_url=target.url, max_retries=0)
    answer = client.rerank(model=target.model, query=texts[0], documents=texts[1:], top_n=2, return_documents=True)
    return [(each.index, each.relevance_score, each.document.text) for each in answer.results]


tell(rerank, older)
