"""Patterns of names that a stranger wrote. `re` goes back over every way in which one may match, and holds the
interpreter's lock meanwhile: a pattern is matched only where the ways are known to be few.
"""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import pairwise
from math import comb
from typing import Final

LONGEST_NAME: Final = 64  # characters of a name that is matched; the layers of what is served have about 40
LONGEST: Final = 512  # characters of a pattern
MOST_STEPS: Final = 10_000_000  # some 50 ms
WORDS: Final = re.compile(r"(?<!\\)\((?:\?:)?(\w+(?:\|\w+)*)\)")
# A group's begin, |, a group's end, or one character as often as what stands behind it says. Nothing else is counted.
TOKEN: Final = re.compile(
    r"(?P<begin>\((?:\?:)?)|(?P<other>\|)|(?P<end>\)(?:\?\??)?)|(?P<one>(?:\\\D|[\w.:^$])(?P<often>\*\??|\?\??)?)"
)

Ways = list[int]  # how many lead through a pattern, by the number of stars on them


@lru_cache(maxsize=256)  # asked for each layer
def is_simple(pattern: str) -> bool:
    """Whether matching it, also if it is none, is quick."""
    return len(pattern) <= LONGEST and steps(pattern) <= MOST_STEPS


def flaw(pattern: str) -> str:
    """Why it is none. "" also of what takes long to compile, and is not: long ones, and those with sets."""
    if len(pattern) > LONGEST or "[" in pattern:
        return ""
    try:
        re.compile(pattern)
    except (re.error, RecursionError) as error:
        return str(error).encode("ascii", "backslashreplace").decode()  # it may quote half a character
    return ""


def steps(pattern: str) -> float:
    """About how many it takes at most to match the longest name; infinite for what is not counted here."""
    if ")*" in pattern:
        return float("inf")
    ways = _ways(WORDS.sub(_one_of, pattern))
    if ways is None:
        return float("inf")
    # The stars on a way share the name's characters in order, each as many as it likes.
    return len(pattern) * sum(count * comb(LONGEST_NAME + stars, stars) for stars, count in enumerate(ways))


def _one_of(group: re.Match[str]) -> str:
    """A group of words of which one at most stands at any place counts as one character does."""
    words = sorted(group[1].split("|"))
    return group[0] if any(longer.startswith(word) for word, longer in pairwise(words)) else "x"


def _ways(pattern: str) -> Ways | None:
    """None where it is not made of what is counted."""
    groups: list[tuple[Ways, Ways]] = [([], [1])]  # the open ones: their alternatives that ended, and the last one
    reached = 0
    for token in TOKEN.finditer(pattern):
        if token.start() != reached:
            return None
        reached = token.end()
        others, here = groups[-1]
        if token["begin"]:
            groups.append(([], [1]))
            continue
        if token["other"]:
            groups[-1] = (_either(others, here), [1])
            continue
        if token["end"]:
            groups.pop()
            if not groups:
                return None
            inner = _either(others, here)
            others, here = groups[-1]
            here = _both(here, _either(inner, [1]) if "?" in token[0] else inner)
        elif token["often"]:
            here = _both(here, [0, 1] if "*" in token["often"] else [2])
        groups[-1] = (others, here)
    return _either(*groups[0]) if len(groups) == 1 and reached == len(pattern) else None


def _either(first: Ways, second: Ways) -> Ways:
    longer, shorter = sorted((first, second), key=len, reverse=True)
    return [count + (shorter[stars] if stars < len(shorter) else 0) for stars, count in enumerate(longer)]


def _both(first: Ways, second: Ways) -> Ways:
    """One after the other."""
    found = [0] * (len(first) + len(second) - 1)
    for stars, count in enumerate(first):
        for more, counts in enumerate(second):
            found[stars + more] += count * counts
    return found
