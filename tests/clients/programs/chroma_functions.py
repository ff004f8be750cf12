"""chromadb's embedding functions for text-embeddings-inference and for Ollama."""

from __future__ import annotations

import os
from typing import Any

import chromadb
from chromadb.config import Settings
from chromadb.utils.embedding_functions.huggingface_embedding_function import HuggingFaceEmbeddingServer
from chromadb.utils.embedding_functions.ollama_embedding_function import OllamaEmbeddingFunction
from telling import Target, tell


def tei(target: Target, texts: list[str]) -> Any:
    return HuggingFaceEmbeddingServer(url=f"{target.tei}/embed", api_key=target.key)(texts)


def ollama(target: Target, texts: list[str]) -> Any:
    """The function has no argument for a key; ollama-python, which it uses, finds it in the environment."""
    os.environ["OLLAMA_API_KEY"] = target.key
    return OllamaEmbeddingFunction(url=target.url, model_name=target.model)(texts)


def collection(target: Target, texts: list[str]) -> list[str]:
    """The text that a collection finds nearest to the first, of the others."""
    client = chromadb.EphemeralClient(Settings(anonymized_telemetry=False))
    function = HuggingFaceEmbeddingServer(url=f"{target.tei}/embed", api_key=target.key)
    documents = client.create_collection("documents", embedding_function=function)
    documents.add(ids=[str(index) for index in range(1, len(texts))], documents=texts[1:])
    return documents.query(query_texts=texts[:1], n_results=1)["documents"][0]


tell(tei, ollama, collection)
