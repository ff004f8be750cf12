"""What schemathesis is told of this gateway: names of models, knowledge bases and documents that are there, so that not
every request ends at an unknown one. Half of the names stay as they were made."""

from __future__ import annotations

import hashlib
import zlib
from typing import Any, Final

import schemathesis

MODELS: Final = ("finetuned/physics", "finetuned/prompted", "finetuned/long", "finetuned/judge", "finetuned/half")


BASES: Final = ("papers", "notes")  # each is made again by the next document, once it was deleted
NOTE: Final = "note.md"  # in each of them
DOCUMENTS: Final = (hashlib.sha256(NOTE.encode()).hexdigest()[:32],)
KNOWN: Final = {
    "model": MODELS,
    "embedding_model": MODELS[:1],
    "rerank": ("finetuned/judge",),
    "rerank_model": ("finetuned/judge",),
    "name": BASES,
    "knowledge_base": BASES,
    "document": DOCUMENTS,
}


def known(field: str, given: Any) -> Any:
    """By chance that the seed decides."""
    number = zlib.crc32(repr(given).encode(errors="backslashreplace"))
    return KNOWN[field][number // 2 % len(KNOWN[field])] if number % 2 else given


@schemathesis.hook
def map_path_parameters(context: Any, path_parameters: Any) -> Any:
    if isinstance(path_parameters, dict):
        return {field: known(field, given) if field in KNOWN else given for field, given in path_parameters.items()}
    return path_parameters


@schemathesis.hook
def map_body(context: Any, body: Any) -> Any:
    if isinstance(body, dict):
        return {
            field: known(field, given) if field in KNOWN and isinstance(given, str) else given
            for field, given in body.items()
        }
    return body
