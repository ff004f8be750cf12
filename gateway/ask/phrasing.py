"""A request for a language model of the volume in an upstream's words, and its chunks in ours.

What a request leaves open is said to the upstream as the volume's model has it, so that it makes no difference where a
model runs. What vLLM has beyond OpenAI's protocol: `top_k`, usage with each chunk, a salt for its prefix cache.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from gateway.ask.frames import Chunk
from gateway.errors import LoadFailed
from gateway.host.wire import Likely, Logprob, Piece, Sampling, Turn
from gateway.model import Generation
from gateway.volume.conversation import DEFAULTS, TEMPLATE

CHAT: Final = "chat/completions"
CONTINUED: Final = "completions"
COUNTED: Final = {"include_usage": True, "continuous_usage_stats": True}


class Habits(NamedTuple):
    """How a model speaks when nobody says how."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0


def habits(generation: Generation) -> Habits:
    """As its generation_config.json has them, or greedy, as where the gateway runs it itself. Blocking."""
    whole = generation.base or generation
    try:
        with open(os.path.join(whole.path, whole.manifest.transformer_path, DEFAULTS), encoding="utf-8") as stream:
            config = json.load(stream)
    except (OSError, ValueError):  # it has none; it was read when the model was judged
        return Habits()
    if not config.get("do_sample"):
        return Habits()
    warmth = config.get("temperature")
    return Habits(1.0 if warmth is None else warmth, config.get("top_p") or 1.0, config.get("top_k") or 0)


def template(generation: Generation) -> str:
    """An adapter's own, which an upstream does not read from its folder; else empty. Blocking. Raises LoadFailed."""
    if generation.manifest.lora is None or not generation.manifest.lora.own_template:
        return ""
    try:
        with open(os.path.join(generation.path, TEMPLATE), encoding="utf-8") as stream:
            return stream.read()
    except (OSError, ValueError) as error:
        message = f"the chat template could not be read: {error}"
        raise LoadFailed(message, reason="file_unreadable", generation=generation.short) from error


def body(text: str, turns: Sequence[Turn], sampling: Sampling, known: Habits) -> dict[str, Any]:
    """What is asked."""
    chosen: dict[str, Any] = {
        "temperature": known.temperature if sampling.temperature is None else sampling.temperature,
        "top_p": known.top_p if sampling.top_p is None else sampling.top_p,
        "max_tokens": sampling.max_tokens or None,  # null: as many as fit; left out, vLLM continues a text by 16
        "stream_options": COUNTED,
    }
    top_k = known.top_k if sampling.top_k is None else sampling.top_k
    some: dict[str, Any] = {
        "top_k": top_k,
        "frequency_penalty": sampling.frequency_penalty,
        "presence_penalty": sampling.presence_penalty,
        "stop": sampling.stop,
    }
    chosen |= {name: value for name, value in some.items() if value}
    if sampling.seed is not None:
        chosen["seed"] = sampling.seed
    if turns:
        said: dict[str, Any] = {"messages": [{"role": turn.role, "content": turn.content} for turn in turns]}
        likely: dict[str, Any] = {"logprobs": True, "top_logprobs": sampling.logprobs}
    else:
        said, likely = {"prompt": text}, {"logprobs": sampling.logprobs}
    return said | chosen | (likely if sampling.logprobs is not None else {})


class Reader:
    """Of one answer: what was said until now, and how much that was. Where the upstream does not count with each chunk,
    a chunk with text is a token until it does."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.finish = ""
        self._prompt = 0
        self._tokens = 0

    def read(self, chunk: Chunk) -> Piece | None:
        """What is new, if anything is."""
        first = next((choice for choice in chunk.choices if choice.index == 0), None)
        before = self._prompt, self._tokens
        text = ""
        likely: list[Logprob] = []
        if first is not None:
            said = (first.delta or first.message or {}).get("content") if first.text is None else first.text
            text = said if isinstance(said, str) else ""
            likely = _logprobs(first.logprobs)
            self.finish = first.finish_reason or self.finish
        if chunk.usage is not None:
            self._prompt = chunk.usage.prompt_tokens or self._prompt
            self._tokens = max(self._tokens, chunk.usage.completion_tokens or 0)
        elif text:
            self._tokens += 1
        if not text and not likely and before == (self._prompt, self._tokens):
            return None
        return Piece(self.number, text, self._prompt, self._tokens, "", likely)

    def last(self) -> Piece:
        return Piece(self.number, "", self._prompt, self._tokens, self.finish)


def _logprobs(given: Mapping[str, Any] | None) -> list[Logprob]:
    """In either of OpenAI's two shapes."""
    if not given:
        return []
    if isinstance(content := given.get("content"), list):
        return [Logprob(_likely(each), [_likely(top) for top in each.get("top_logprobs") or ()]) for each in content]
    tokens, values = given.get("tokens") or (), given.get("token_logprobs") or ()
    tops = given.get("top_logprobs") or [None] * len(tokens)
    return [
        Logprob(_of(token, value), [_of(*top) for top in sorted((likeliest or {}).items(), key=_last, reverse=True)])
        for token, value, likeliest in zip(tokens, values, tops, strict=False)
    ]


def _likely(given: Mapping[str, Any]) -> Likely:
    text = str(given.get("token", ""))
    return Likely(text, list(given.get("bytes") or text.encode()), float(given.get("logprob", 0.0)))


def _of(token: str, value: float | None) -> Likely:
    return Likely(token, list(token.encode()), value or 0.0)


def _last(pair: tuple[str, float]) -> float:
    return pair[1]
