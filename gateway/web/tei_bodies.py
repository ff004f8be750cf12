"""The bodies of text-embeddings-inference's requests."""

from __future__ import annotations

from typing import Literal

import msgspec

from gateway.host.wire import Side
from gateway.web.body import Inputs, Int64, TokenId

Direction = Literal["Right", "Left", "right", "left"]


class TeiEmbedBody(msgspec.Struct):
    """`POST /tei/{model}/embed`."""

    inputs: Inputs
    truncate: bool | None = None
    truncation_direction: Direction | None = None
    normalize: bool = True
    prompt_name: str | None = None
    dimensions: Int64 | None = None


class TeiEmbedAllBody(msgspec.Struct):
    """`POST /tei/{model}/embed_all`."""

    inputs: Inputs
    truncate: bool | None = None
    truncation_direction: Direction | None = None
    prompt_name: str | None = None


class TeiSentences(msgspec.Struct):
    source_sentence: str
    sentences: list[str]


class TeiParameters(msgspec.Struct):
    truncate: bool | None = None
    truncation_direction: Direction | None = None
    prompt_name: str | None = None


class TeiSimilarityBody(msgspec.Struct):
    """`POST /tei/{model}/similarity`."""

    inputs: TeiSentences
    parameters: TeiParameters | None = None


class TeiRerankBody(msgspec.Struct):
    """`POST /tei/{model}/rerank`."""

    query: str
    texts: list[str]
    truncate: bool | None = None
    truncation_direction: Direction | None = None
    raw_scores: bool = False
    return_text: bool = False


class TeiTokenizeBody(msgspec.Struct):
    """`POST /tei/{model}/tokenize`."""

    inputs: str | list[str]
    add_special_tokens: bool = True
    prompt_name: str | None = None


class TeiDecodeBody(msgspec.Struct):
    """`POST /tei/{model}/decode`."""

    ids: list[TokenId | list[TokenId]]
    skip_special_tokens: bool = True


def side(direction: Direction | None) -> Side | None:
    """Which end is cut off, in our word."""
    match direction:
        case "Left" | "left":
            return "left"
        case "Right" | "right":
            return "right"
        case _:
            return None
