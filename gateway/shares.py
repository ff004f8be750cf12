"""What share of a device the operator gives to a model when others want the device too: a weight, 1 unless a rule says
otherwise. Twice the weight is twice the tokens."""

from __future__ import annotations

import functools
import math
from fnmatch import fnmatchcase
from typing import Final

import msgspec

EQUAL: Final = 1.0


class Shares(msgspec.Struct, frozen=True):
    """Patterns of model ids, as a shell would match them, and their weights; the first that matches counts."""

    rules: tuple[tuple[str, float], ...] = ()

    def of(self, models: tuple[str, ...]) -> float:
        """The weight of content that these models share: that of the one with the largest."""
        return _largest(self, models) if self.rules else EQUAL

    def _weight(self, model: str) -> float:
        return next((weight for pattern, weight in self.rules if fnmatchcase(model, pattern)), EQUAL)


@functools.lru_cache(maxsize=4096)  # it is asked with every request
def _largest(shares: Shares, models: tuple[str, ...]) -> float:
    return max((shares._weight(model) for model in models), default=EQUAL)


def parse(text: str) -> Shares:
    """'finetuned/hot=4,org/*=0.5' -> shares. Raises ValueError."""
    return Shares(tuple(_rule(part.strip()) for part in text.split(",") if part.strip()))


def _rule(text: str) -> tuple[str, float]:
    pattern, _, number = (part.strip() for part in text.rpartition("="))
    try:
        weight = float(number)
    except ValueError:
        weight = math.nan
    if not pattern or not 0.001 <= weight <= 1000:
        raise ValueError(f"{text!r} is not PATTERN=WEIGHT, with a weight of 0.001 to 1000")
    return pattern.removeprefix("huggingface:"), weight
