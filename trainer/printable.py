"""Texts of strangers, made fit to be shown: on a terminal or a page they can do nothing but be read."""

from __future__ import annotations

import unicodedata
from typing import Final

SPACES: Final = "\n\r\t\v\f\u2028\u2029"
TURNING: Final = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f"  # they reorder what stands around
REPLACED: Final = "\ufffd"


def printable(text: str) -> str:
    """One line: what controls a terminal, reorders a line or cannot be written is replaced."""
    return "".join(_printable(character) for character in text)


def _printable(character: str) -> str:
    if character in SPACES:
        return " "
    if character in TURNING or unicodedata.category(character) in ("Cc", "Cs"):
        return REPLACED
    return character
