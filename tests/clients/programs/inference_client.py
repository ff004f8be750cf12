"""huggingface_hub's InferenceClient, as for text-embeddings-inference: by the URL of a route, or by a base URL."""

from __future__ import annotations

from typing import Any

from huggingface_hub import InferenceClient
from telling import Target, tell


def feature_extraction(target: Target, texts: list[str]) -> Any:
    given: Any = texts[0] if len(texts) == 1 else texts
    return InferenceClient(model=f"{target.tei}/embed", token=target.key).feature_extraction(given)


def base_url(target: Target, texts: list[str]) -> Any:
    """It posts to the base itself."""
    given: Any = texts[0] if len(texts) == 1 else texts
    return InferenceClient(base_url=target.tei, token=target.key).feature_extraction(given)


def uncut(target: Target, texts: list[str]) -> Any:
    client = InferenceClient(model=f"{target.tei}/embed", token=target.key)
    return client.feature_extraction(texts[0], truncate=False)


def similarity(target: Target, texts: list[str]) -> list[float]:
    client = InferenceClient(model=f"{target.tei}/similarity", token=target.key)
    return client.sentence_similarity(texts[0], other_sentences=texts[1:])


tell(feature_extraction, base_url, uncut, similarity)
