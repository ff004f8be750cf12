"""Texts of a known number of tokens. Every word is one token of an uncased BERT vocabulary, and no two texts are
alike, so that no cache answers for the model."""

from __future__ import annotations

import random
from typing import Final

SENTENCE: Final = (
    "the beam is stored in a ring for many hours and its life ends when gas atoms throw it out of orbit while people "
    "watch light fall on a screen with open eyes under cold water near high walls of stone where birds sing at night"
)
SPECIAL: Final = 2  # the tokens that the model adds around a text
MIXED: Final = (8, 256)  # tokens of the shortest and the longest of the mixed texts


def of_tokens(tokens: int, count: int, seed: int = 0) -> list[str]:
    """`count` texts of exactly `tokens` tokens each, those that are added around a text counted."""
    chance = random.Random(f"{seed} {tokens}")
    return [" ".join(chance.choices(SENTENCE.split(), k=tokens - SPECIAL)) for _ in range(count)]


def mixed(count: int, seed: int = 0) -> list[str]:
    """Lengths from 8 to 256 tokens, short ones more often: evenly spread in their logarithm."""
    chance = random.Random(f"{seed} mixed")
    shortest, longest = MIXED
    lengths = [round(shortest * (longest / shortest) ** chance.random()) for _ in range(count)]
    return [of_tokens(length, 1, seed=chance.randrange(1 << 30))[0] for length in lengths]
