"""What is asked, and what is told while it is answered."""

from __future__ import annotations

from typing import Literal

import msgspec

from gateway.ask.citations import Citation
from gateway.ask.grounds import File, Ground
from gateway.ask.passage import Where
from gateway.ask.providers import Message, Sampling, Spent


class AskRequest(msgspec.Struct, frozen=True, kw_only=True):
    """`llm` is `extractive` or `provider:model`, None for the default; `fallback` another, that answers where it fails.

    Without `use_rag` nothing is retrieved. `without_grounds` says what to do where there is neither a passage nor a
    file: to refuse, without a call, or to ask the language model all the same. The others are as for retrieving.
    """

    query: str
    kb: str = "default"
    embedding_model: str | None = None
    llm: str | None = None
    fallback: str | None = None
    prompt: str | None = None
    use_rag: bool = True
    limit: int = 5
    threshold: float | None = None
    where: Where | None = None
    hybrid: bool = True
    rerank: str | None = None
    mmr: float | None = None
    files: tuple[File, ...] = ()
    history: tuple[Message, ...] = ()
    sampling: Sampling = Sampling()
    without_grounds: Literal["refuse", "answer"] = "refuse"
    key: str = ""
    timeout: float | None = None


class Timings(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds. `first_token` is counted from when the language model was asked."""

    retrieval: float = 0.0
    embedding: float = 0.0
    llm: float = 0.0
    first_token: float = 0.0
    total: float = 0.0


class Answered(msgspec.Struct, frozen=True, kw_only=True):
    """`refused`: it says that nobody knows. `supported`: some citation holds. `model` and `generation` are of what has
    embedded, None where nothing was."""

    text: str
    llm: str
    grounds: tuple[Ground, ...] = ()
    citations: tuple[Citation, ...] = ()
    refused: bool = False
    supported: bool = False
    left_out: tuple[str, ...] = ()
    finish: str | None = None
    spent: Spent = Spent()
    model: str | None = None
    generation: str | None = None
    timings: Timings = Timings()


class Status(msgspec.Struct, frozen=True):
    """What is being done, for people."""

    message: str


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What the answer will rest on."""

    grounds: tuple[Ground, ...]
    model: str | None
    generation: str | None
    seconds: float


class Said(msgspec.Struct, frozen=True):
    """The next piece of the answer."""

    content: str


class Cleared(msgspec.Struct, frozen=True):
    """What was said so far counts no more."""

    message: str


class Done(msgspec.Struct, frozen=True):
    """The last event."""

    answer: Answered


Event = Status | Found | Said | Cleared | Done
