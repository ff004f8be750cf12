"""The text forms of settings: each parser raises ValueError, which says what was expected."""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

from gateway import shares, wish

BUCKET: Final = "s3://"
TRUE: Final = {"1", "true", "t", "yes", "y", "on"}
FALSE: Final = {"0", "false", "f", "no", "n", "off", ""}
UNITS: Final = {"": 1, "K": 1000, "M": 1000**2, "G": 1000**3, "KI": 1024, "MI": 1024**2, "GI": 1024**3}
LARGEST: Final = 2**63 - 1  # what the hosts, and JSON, can be told


def parse_bytes(text: str) -> int:
    """'2GiB', '500MB', '1000000' -> bytes."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]I?)?B?", text.strip().upper())
    if not found:
        raise ValueError("expected bytes, such as 2GiB or 500MB")
    value = int(Fraction(found[1]) * UNITS[found[2] or ""])
    if value > LARGEST:
        raise ValueError("expected fewer bytes: there is no such memory")
    return value


def _switch(text: str) -> bool:
    if text.strip().lower() in TRUE:
        return True
    if text.strip().lower() in FALSE:
        return False
    raise ValueError("expected true or false")


def _count(text: str) -> int:
    if not text.strip().isdecimal():
        raise ValueError("expected a whole number, 0 or more")
    if len(text) > 18:
        raise ValueError("expected a smaller number")
    return int(text)


def _positive(text: str) -> int:
    value = _count(text)
    if value == 0:
        raise ValueError("expected a whole number, 1 or more")
    return value


def _port(text: str) -> int:
    value = _count(text)
    if value > 65535:
        raise ValueError("expected a port, 0 to 65535")
    return value


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 10**9:
        raise ValueError("expected seconds, 0 or more")
    return value


def _cosine(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 2.0
    if not -1 <= value <= 1:
        raise ValueError("expected a cosine, -1 to 1")
    return value


def _path(text: str) -> str:
    if not text.strip() or "\0" in text:
        raise ValueError("expected a path")
    try:
        return str(Path(text).expanduser().absolute())
    except RuntimeError as error:  # ~user, and there is no such user
        raise ValueError(str(error)) from error


def _bucket(text: str) -> str:
    if not re.fullmatch(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](?:/[^\s?#]*)?", text.strip()):
        raise ValueError("expected s3://BUCKET or s3://BUCKET/PATH")
    return text.strip().rstrip("/")


def _origins(text: str) -> str:
    found = [origin.strip().lower().rstrip("/") for origin in text.split(",") if origin.strip()]
    if not all(re.fullmatch(r"https?://[^\s/?#@*,]+", origin) for origin in found):
        raise ValueError("expected origins, such as https://app.example or http://localhost:3000")
    return ",".join(found)


def _url(text: str) -> str:
    url = text.strip().rstrip("/")
    if not re.fullmatch(r"https?://[^\s/?#]+(?:/[^\s?#]*)?", url):
        raise ValueError("expected http://HOST or https://HOST")
    return url


def _rules(text: str) -> str:
    wish.parse_rules(text)
    return text.strip()


def _shares(text: str) -> str:
    shares.parse(text)
    return text.strip()


PARSERS: Final[dict[str, Callable[[str], Any]]] = {
    "text": str.strip,
    "path": _path,
    "place": lambda text: _bucket(text) if text.strip().startswith(BUCKET) else PARSERS["maybe_path"](text),
    "volume": lambda text: _bucket(text) if text.strip().startswith(BUCKET) else _path(text),
    "maybe_path": lambda text: _path(text) if text.strip() else "",
    "origins": _origins,
    "bytes": parse_bytes,
    "bytes_or_auto": lambda text: None if text.strip().lower() == "auto" else parse_bytes(text),
    "switch": _switch,
    "maybe": lambda text: None if text.strip().lower() == "auto" else _switch(text),
    "count": _count,
    "positive": _positive,
    "port": _port,
    "seconds": _seconds,
    "url": _url,
    "maybe_url": lambda text: _url(text) if text.strip() else "",
    "cosine": _cosine,
    "rules": _rules,
    "shares": _shares,
}
