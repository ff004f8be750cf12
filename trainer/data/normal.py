"""When two texts are the same: NFKC, without case, with every run of space as one."""

from __future__ import annotations

import unicodedata


def normal(text: str) -> str:
    if not text.isascii():  # NFKC changes no ASCII
        text = unicodedata.normalize("NFKC", text)
    return " ".join(text.casefold().split())
