"""aliases.toml with one line changed, or one more: comments and everything else in it stay as somebody wrote them."""

from __future__ import annotations

import json
import re
import tomllib
from typing import Any, Final

import msgspec

from gateway.catalog.aliases import FILE, AliasFault
from gateway.model import PREFIX
from gateway.volume.tables import read_table

HEADER: Final = re.compile(r"\s*\[\s*aliases\s*\]\s*(#.*)?")
ANY_HEADER: Final = re.compile(r"\s*\[")


class Pointer(msgspec.Struct, frozen=True):
    """What an alias is to lead to, in spellings; `share` of the clients, between 0 and 1, get `canary`."""

    to: str
    canary: str | None = None
    share: float = 0.0

    def toml(self) -> str:
        if self.canary is None:
            return _string(self.to)
        return f"{{ to = {_string(self.to)}, canary = {_string(self.canary)}, share = {self.share:.6g} }}"


def edited(text: str, name: str, pointer: Pointer) -> str:
    """Raises AliasFault where the line is written in a way that cannot be edited safely."""
    try:
        document = read_table(text)
    except (ValueError, RecursionError) as error:
        raise AliasFault(f"{FILE}: {error}") from error
    found = document.get("aliases", {})
    key = next((key for key in found if key.removeprefix(PREFIX) == name), name)
    made = _with(text.splitlines(), key, pointer.toml())
    if not _is(made, _expected(document, key, pointer)):
        raise AliasFault(f"{FILE}: {key!r} is written in a way that is not edited here; by hand: {pointer.toml()}")
    return made


def _expected(document: dict[str, Any], key: str, pointer: Pointer) -> dict[str, Any]:
    value = tomllib.loads(f"it = {pointer.toml()}")["it"]
    return {**document, "aliases": {**document.get("aliases", {}), key: value}}


def _is(text: str, expected: dict[str, Any]) -> bool:
    try:
        return read_table(text) == expected
    except (ValueError, RecursionError):
        return False


def _with(lines: list[str], key: str, value: str) -> str:
    lines = list(lines)
    start = next((number for number, line in enumerate(lines) if HEADER.fullmatch(line)), None)
    if start is None:
        lines += [*([""] if lines else []), "[aliases]"]
        start = len(lines) - 1
    end = next((number for number in range(start + 1, len(lines)) if ANY_HEADER.match(lines[number])), len(lines))
    spellings = [each for each in (_string(key), f'"{key}"', f"'{key}'", key) if _is(f"{each} = 1", {key: 1})]
    spelled = re.compile(rf"\s*(?:{'|'.join(map(re.escape, spellings))})\s*=\s*")
    for number in range(start + 1, end):
        if matched := spelled.match(lines[number]):
            lines[number] = matched[0] + value + _comment(lines[number])
            break
    else:
        last = max(number for number in range(start, end) if lines[number].strip())
        lines.insert(last + 1, f"{_string(key)} = {value}")
    return "\n".join(lines) + "\n"


def _comment(line: str) -> str:
    """What stands behind a value: from the first # on before which the line is whole."""
    for found in re.finditer(r"\s*#", line):
        try:
            tomllib.loads(line[: found.start()])
        except ValueError:
            continue
        return line[found.start() :]
    return ""


def _string(text: str) -> str:
    """JSON's strings are TOML's too, but for what JSON writes as two surrogates, and for DEL."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
