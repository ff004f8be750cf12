"""Whether a call is made again, and after how long: a few times, before the first byte of an answer and never after."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import Final

TRIES: Final = 3
AGAIN: Final = frozenset({408, 409, 429, *range(500, 600)})
FIRST: Final = 0.25  # seconds
LONGEST: Final = 8.0  # more than that is for the client to wait, who is told how long


def wait(headers: Mapping[str, str], now: Callable[[], float] = time.time) -> float | None:
    """Seconds that an answer asks to wait, by `retry-after-ms` or by `Retry-After`, which has seconds or a date; None
    where it does not, or not in earnest."""
    milliseconds = _number(headers.get("retry-after-ms", ""))
    if milliseconds is not None:
        return milliseconds / 1000
    text = headers.get("Retry-After", "")
    seconds = _number(text)
    if seconds is None and text:
        try:
            seconds = max(0.0, parsedate_to_datetime(text).timestamp() - now())
        except (ValueError, TypeError, OverflowError):
            return None
    return seconds


def pause(tried: int, asked: float | None, chance: Callable[[], float] = random.random) -> float | None:
    """Seconds until the next try after `tried` of them; None when there is none. What a provider asks for is kept;
    otherwise the pause doubles, and chance spreads those who failed together."""
    if tried >= TRIES or (asked is not None and asked > LONGEST):
        return None
    if asked is not None:
        return asked
    return float(FIRST * 2 ** (tried - 1) * (0.5 + chance() / 2))


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 <= value < 10**6 else None
