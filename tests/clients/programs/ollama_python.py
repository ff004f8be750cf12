"""ollama-python."""

from __future__ import annotations

from typing import Any

import ollama
from telling import Target, tell


def client(target: Target) -> ollama.Client:
    return ollama.Client(host=target.url, headers={"Authorization": f"Bearer {target.key}"})


def embed(target: Target, texts: list[str]) -> Any:
    return client(target).embed(target.model, texts[0] if len(texts) == 1 else texts).embeddings


def uncut(target: Target, texts: list[str]) -> Any:
    return client(target).embed(target.model, texts, truncate=False).embeddings


def shortened(target: Target, texts: list[str]) -> Any:
    return client(target).embed(target.model, texts, dimensions=64).embeddings


def older(target: Target, texts: list[str]) -> Any:
    """The call that `embed` has replaced, for one text."""
    return [client(target).embeddings(target.model, texts[0]).embedding]


def listed(target: Target, _: None) -> list[str]:
    return [model.model for model in client(target).list().models]


def shown(target: Target, _: None) -> dict[str, Any]:
    shown = client(target).show(target.model)
    return {"capabilities": shown.capabilities, "family": shown.details.family}


def kept(target: Target, texts: list[str]) -> dict[str, Any]:
    """What is in memory after a request, and after one that was the last for a while."""
    here = client(target)
    here.embed(target.model, texts, keep_alive="5m")
    before = [model.model for model in here.ps().models]
    here.embed(target.model, texts, keep_alive=0)
    return {"before": before, "after": [model.model for model in here.ps().models]}


def chat(target: Target, text: str) -> dict[str, Any]:
    """Whole, and in pieces."""
    asked: dict[str, Any] = {"messages": [{"role": "user", "content": text}], "options": {"num_predict": 8}}
    whole = client(target).chat(target.model, **asked)
    pieces = list(client(target).chat(target.model, **asked, stream=True))
    return {
        "content": whole.message.content,
        "pieces": "".join(each.message.content or "" for each in pieces),
        "reasons": [whole.done_reason, pieces[-1].done_reason],
        "tokens": [whole.eval_count, pieces[-1].eval_count],
    }


def generate(target: Target, text: str) -> dict[str, Any]:
    asked: dict[str, Any] = {"prompt": text, "options": {"num_predict": 8}, "raw": True}
    whole = client(target).generate(target.model, **asked)
    pieces = client(target).generate(target.model, **asked, stream=True)
    return {"content": whole.response, "pieces": "".join(each.response for each in pieces)}


tell(embed, uncut, shortened, older, listed, shown, kept, chat, generate)
