"""TOML that somebody else wrote. The time and memory that tomllib takes grow with the square of a key's parts."""

from __future__ import annotations

import re
import tomllib
from typing import Any, Final

CAP: Final = 1024**2  # bytes
MOST_PARTS: Final = 16  # of a key; what is read here has three
# In this order: strings of several lines, which may end in two more quotes, strings of one, comments. What has no end
# goes on to where the parser says so.
HIDDEN: Final = re.compile(
    r'''"""(?:[^"\\]++|\\.|"(?!""))*+"{0,5}+|\'\'\'(?:[^']++|'(?!''))*+'{0,5}+'''
    r"""|"(?:[^"\\\n]++|\\[^\n])*+"?+|'[^'\n]*+'?+|#[^\n]*+""",
    re.DOTALL,
)
LONG: Final = re.compile(rf"(?:\.[^.,=\[\]{{}}\n]*+){{{MOST_PARTS}}}")  # no other dots follow one another like this


def read_table(text: str) -> dict[str, Any]:
    """Raises ValueError, and RecursionError for what is nested too deeply."""
    if LONG.search(HIDDEN.sub("", text)):
        raise ValueError(f"a key of more than {MOST_PARTS} parts")
    return tomllib.loads(text)
