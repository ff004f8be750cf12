"""Values out of documents that somebody else wrote, of exactly the type that is wanted or none, and never too many."""

from __future__ import annotations

import math
import os
from datetime import datetime
from typing import Any, Final

import orjson

from gateway.volume.files import open_regular, read_up_to, where
from gateway.volume.reasons import Unfit

LONGEST: Final = 500  # characters of a text
MOST_ITEMS: Final = 64  # of a list or an object
DEEPEST: Final = 5
LARGEST: Final = 1e15  # beyond it a number is nothing that anybody has counted


def number(value: Any) -> float | None:
    """A finite number of a reasonable size."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) and abs(value) < LARGEST else None


def whole(value: Any) -> int | None:
    found = number(value)
    return int(found) if found is not None and found == int(found) else None


def text(value: Any, longest: int = LONGEST) -> str | None:
    """As much of it as somebody wants to read; halves of characters are told as such."""
    if not isinstance(value, str) or not value:
        return None
    readable = value[: longest + 1].encode(errors="backslashreplace").decode()
    return readable if len(readable) <= longest else readable[: longest - 1] + "…"


def moment(value: Any) -> float | None:
    """Unix seconds of a time in ISO 8601 with its zone."""
    try:
        found = datetime.fromisoformat(value) if isinstance(value, str) and len(value) <= 64 else None
        return found.timestamp() if found is not None and found.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None


def fields(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def plain(value: Any, depth: int = DEEPEST) -> Any:
    """The same, cut to what can be shown; what lies too deep is left out."""
    if isinstance(value, str):
        return text(value) or ""
    if isinstance(value, bool):
        return value
    if isinstance(value, dict):
        items = list(value.items())[:MOST_ITEMS] if depth else []
        return {text(str(key), 100) or "": plain(each, depth - 1) for key, each in items}
    if isinstance(value, list):
        return [plain(each, depth - 1) for each in value[:MOST_ITEMS]] if depth else []
    return number(value)


def read(folder: str, name: str, cap: int, *, end: bool = False) -> bytes | None:
    """A regular file in the folder, which is a real path, of at most `cap` bytes; of a larger one its `end`. None for
    all others, and for what a link leads to out of it."""
    path = os.path.join(folder, name)
    try:
        with open_regular(path, folder, name) as descriptor:
            size = os.fstat(descriptor).st_size
            inside = where(descriptor, path).startswith(folder + "/")  # the folder itself may be a link by now
            if not inside or (size > cap and not end):
                return None
            os.lseek(descriptor, max(0, size - cap), os.SEEK_SET)
            return read_up_to(descriptor, cap)
    except Unfit:
        return None


def document(content: bytes | None) -> dict[str, Any]:
    """{} for what is no object of JSON."""
    try:
        return fields(orjson.loads(content)) if content is not None else {}
    except orjson.JSONDecodeError:
        return {}
