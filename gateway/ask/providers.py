"""What a provider is: something that answers a conversation, a piece at a time. No HTTP here.

A client names one as `provider:model`. `extractive` is none: it quotes what was found, and no language model speaks.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, Final, Literal, Protocol

import msgspec

from gateway.errors import ProviderModelNotFound

EXTRACTIVE: Final = "extractive"
LOCAL: Final = "huggingface"  # language models on the volume
Role = Literal["system", "user", "assistant"]


class Message(msgspec.Struct, frozen=True):
    """One turn of a conversation."""

    role: Role
    content: str


class Sampling(msgspec.Struct, frozen=True, kw_only=True):
    """How a language model is to speak; None leaves it to the provider. A temperature of 0 is sent as 0."""

    temperature: float | None = None
    max_tokens: int | None = None


class Spent(msgspec.Struct, frozen=True):
    """Tokens, as the provider counts them."""

    prompt: int = 0
    completion: int = 0

    @property
    def total(self) -> int:
        return self.prompt + self.completion


class Delta(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of an answer. `finish` says why it ends, on the last piece that has text or behind it."""

    content: str = ""
    finish: str | None = None
    spent: Spent | None = None


class Provider(Protocol):
    """Each method raises what `gateway.errors` has below ProviderError, and nothing else. Leaving `chat` early ends the
    call behind it."""

    name: str
    context: int  # tokens that prompt and answer share

    def chat(self, messages: Sequence[Message], model: str, sampling: Sampling) -> AsyncGenerator[Delta]:
        """The answer as it is made. It ends after a `finish`, or raises ProviderFailed: nothing is cut off silently."""

    def stream(self, body: Mapping[str, Any], model: str) -> AsyncGenerator[dict[str, Any]]:
        """An OpenAI request, to the chunks of its answer."""

    async def complete(self, body: Mapping[str, Any], model: str) -> dict[str, Any]:
        """The same in one piece."""

    async def models(self) -> tuple[str, ...]:
        """What it offers, known for a while."""


class Named(msgspec.Struct, frozen=True):
    """`provider:model`, taken apart."""

    provider: str
    model: str

    def __str__(self) -> str:
        return f"{self.provider}:{self.model}"

    @classmethod
    def parse(cls, spelling: str) -> Named:
        """`openai:gpt-4o-mini`; a model's own colons, as of `ollama:llama3:8b`, belong to it. Raises
        ProviderModelNotFound for what names no model."""
        provider, _, model = spelling.strip().partition(":")
        if not model.strip():
            message = f"{spelling!r} names no language model: say {EXTRACTIVE}, or PROVIDER:MODEL"
            raise ProviderModelNotFound(message, llm=spelling)
        return cls(provider.strip().lower(), model.strip())
