"""What can be asked of the service, and what it answers: plain values, whatever protocol a client speaks."""

from __future__ import annotations

import msgspec

from gateway.errors import InvalidBody
from gateway.host.wire import Ids, Payload, Sampling, Side, Token, Turn
from gateway.model import Generation, ModelId


def mistyped(error: msgspec.ValidationError) -> InvalidBody:
    """To be raised: what a client sent has another type somewhere than is asked for; the error names the field."""
    what, _, where = str(error).partition(" - at `")
    return InvalidBody(what, field=where.rstrip("`").removeprefix("$.") or None)


class EmbedRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a client asked for, whatever protocol it speaks. `model` is its spelling, None the default model.

    In place of texts there may be token ids of the model's own vocabulary: the whole input, with no prompt before it,
    to which the special tokens are added where they are not there. Texts and ids do not mix. What is too long is cut on
    the `truncation_side`, None for the model's own, which is nearly always the right one.
    """

    texts: list[str] | Ids
    model: str | None = None
    normalize: bool | None = None
    truncate: bool = True
    prompt: str | None = None
    prompt_name: str | None = None
    dimensions: int | None = None
    key: str = ""  # what an alias's canary knows the client by
    timeout: float | None = None  # seconds that the client will wait, where that is less than the settings allow
    truncation_side: Side | None = None


class RerankRequest(msgspec.Struct, frozen=True, kw_only=True):
    """How well does each text answer the query? `raw_scores`: without the model's activation, which is a sigmoid unless
    the model says otherwise."""

    query: str
    texts: list[str]
    model: str | None = None
    truncate: bool = True
    truncation_side: Side | None = None
    raw_scores: bool = False
    key: str = ""
    timeout: float | None = None


class TokenizeRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The prompt, by default the model's own as for `embed`, stands before each text, and its tokens are told too."""

    texts: list[str]
    model: str | None = None
    add_special_tokens: bool = True
    prompt: str | None = None
    prompt_name: str | None = None
    key: str = ""
    timeout: float | None = None


class DecodeRequest(msgspec.Struct, frozen=True, kw_only=True):
    ids: Ids
    model: str | None = None
    skip_special_tokens: bool = True
    key: str = ""
    timeout: float | None = None


class GenerateRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Continue the text, or the conversation where there are turns: see Sampling for how."""

    text: str = ""
    turns: list[Turn] = []
    sampling: Sampling = Sampling()
    model: str | None = None
    key: str = ""
    timeout: float | None = None


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """Of which model and generation; `alias` is what was asked for, if that was one."""

    model: ModelId
    generation: Generation
    alias: ModelId | None = None


class Computed(Answer, frozen=True, kw_only=True):
    """What it took. Times in seconds."""

    tokens: int = 0
    load_seconds: float = 0.0
    queue_seconds: float = 0.0
    compute_seconds: float = 0.0


class Embedding(Computed, frozen=True, kw_only=True):
    """`data` is little-endian float32 [rows, dim], row-major."""

    data: Payload
    rows: int
    dim: int
    normalized: bool


class TokenVectors(Computed, frozen=True, kw_only=True):
    """`data` is little-endian float32 [sum(counts), dim], row-major: for each text so many vectors, one for each of its
    tokens, special ones included."""

    data: Payload
    counts: list[int]
    dim: int


class Reranking(Computed, frozen=True, kw_only=True):
    """`scores` in the order of the texts."""

    scores: list[float]


class Tokenization(Answer, frozen=True, kw_only=True):
    """For each text its tokens. Where they lie is counted in characters of the prompt and the text together."""

    texts: list[list[Token]]


class Decoding(Answer, frozen=True, kw_only=True):
    texts: list[str]


Request = EmbedRequest | RerankRequest | TokenizeRequest | DecodeRequest | GenerateRequest
