"""The beginning of a long text, when it alone decides the tokens that are kept of it.

The cut is always before a space that stands behind an ASCII letter or digit. There no character is composed with
the next, no word of any of the pre-tokenizers below reaches over it, and the tokens of the beginning are the first
tokens of the whole. For every other kind of tokenizer nothing is cut.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

from tokenizers import Tokenizer, models

CUT: Final = re.compile(r"[A-Za-z0-9](?= )")
# Each of these looks at one character, or at characters that no space separates.
NORMALIZERS: Final = frozenset(
    {
        *("BertNormalizer", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "Precompiled", "Prepend"),
        *("Replace", "Sequence", "Strip", "StripAccents"),
    }
)
SPACES: Final = ({"String": " "}, {"Regex": " {2,}"})  # what a Replace may look for
# Each of these ends a word where a space follows it.
PRE_TOKENIZERS: Final = frozenset({"BertPreTokenizer", "ByteLevel", "Metaspace", "Sequence", "WhitespaceSplit"})


def excerpt(text: str, characters: int) -> str:
    """The text up to the first cut behind `characters`; all of it where there is none."""
    found = CUT.search(text, characters)
    return text[: found.end()] if found else text


def can_be_cut(backend: Tokenizer) -> bool:
    """Whether the tokens of an excerpt are the first tokens of the text. `backend` cuts on the right, if at all."""
    truncation = backend.truncation
    if truncation is not None and truncation["direction"] != "right":
        return False
    if isinstance(backend.model, models.BPE) and backend.model.dropout:
        return False
    if any(" " in token.content for token in backend.get_added_tokens_decoder().values()):
        return False
    return all(map(_normalizes_locally, _parts(backend.normalizer, "normalizers"))) and _ends_words(backend)


def _ends_words(backend: Tokenizer) -> bool:
    parts = _parts(backend.pre_tokenizer, "pretokenizers")
    plain = all(part["type"] in PRE_TOKENIZERS for part in parts)
    split = all(part.get("use_regex", True) and part.get("split", True) for part in parts)
    return bool(parts) and plain and split


def _normalizes_locally(part: dict[str, Any]) -> bool:
    return part["type"] in NORMALIZERS and (part["type"] != "Replace" or part["pattern"] in SPACES)


def _parts(component: Any, key: str) -> list[dict[str, Any]]:
    """A normalizer or pre-tokenizer, and those inside it."""
    if component is None:
        return []
    found, waiting = [], [json.loads(component.__getstate__())]
    while waiting:
        part = waiting.pop()
        found.append(part)
        waiting += part.get(key, [])
    return found
