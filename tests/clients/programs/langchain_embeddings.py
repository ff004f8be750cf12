"""langchain-openai, with its check of lengths off and on.

On, it counts with tiktoken, unless that is off: tiktoken fetches its tables from the net, and its ids are those of
OpenAI's own models. Without tiktoken it counts with the model's own tokenizer, and sends text.
"""

from __future__ import annotations

from langchain_openai import OpenAIEmbeddings
from telling import Target, tell


def embed(embedder: OpenAIEmbeddings, texts: list[str]) -> list[list[float]]:
    return [embedder.embed_query(texts[0])] if len(texts) == 1 else embedder.embed_documents(texts)


def unchecked(target: Target, texts: list[str]) -> list[list[float]]:
    return embed(
        OpenAIEmbeddings(
            base_url=f"{target.url}/v1",
            api_key=target.key,
            model=target.model,
            check_embedding_ctx_length=False,
            max_retries=0,
        ),
        texts,
    )


def checked(target: Target, given: dict) -> list[list[float]]:
    """`tokenizer` is a directory that has it."""
    return embed(
        OpenAIEmbeddings(
            base_url=f"{target.url}/v1",
            api_key=target.key,
            model=target.model,
            tiktoken_enabled=False,
            tiktoken_model_name=given["tokenizer"],
            max_retries=0,
        ),
        given["texts"],
    )


tell(unchecked, checked)
