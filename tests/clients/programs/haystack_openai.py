"""haystack's embedders for the OpenAI API: one for a query, one for documents. They ask for floats."""

from __future__ import annotations

from typing import Any

from haystack import Document
from haystack.components.embedders import OpenAIDocumentEmbedder, OpenAITextEmbedder
from haystack.utils import Secret
from telling import Target, tell


def embeddings(target: Target, texts: list[str]) -> list[list[float]]:
    options: dict[str, Any] = {
        "api_base_url": f"{target.url}/v1",
        "api_key": Secret.from_token(target.key),
        "model": target.model,
        "max_retries": 0,
    }
    if len(texts) == 1:
        return [OpenAITextEmbedder(**options).run(texts[0])["embedding"]]
    embedder = OpenAIDocumentEmbedder(**options, progress_bar=False, raise_on_failure=True)
    return [document.embedding for document in embedder.run([Document(content=text) for text in texts])["documents"]]


tell(embeddings)
