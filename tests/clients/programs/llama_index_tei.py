"""llama-index's client of text-embeddings-inference. It looks at no status: an error is a body that is no list."""

from __future__ import annotations

from llama_index.embeddings.text_embeddings_inference import TextEmbeddingsInference
from telling import Target, tell


def embeddings(target: Target, texts: list[str]) -> list[list[float]]:
    client = TextEmbeddingsInference(model_name=target.model, base_url=target.tei, auth_token=target.key)
    if len(texts) == 1:
        return [client.get_query_embedding(texts[0])]
    return client.get_text_embedding_batch(texts)


tell(embeddings)
