"""Other names for models: `aliases.toml` on the volume. One table is in force, and it changes in one assignment.

A table is taken whole or not at all: with a cycle, or a target that is not there, the last good one goes on. Whether a
request goes to an alias's canary depends on nothing but the alias and the client's key, so a client stays where it is,
and a larger share only moves clients to the canary.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

import msgspec

from gateway.errors import InvalidModelId
from gateway.model import ModelId, ModelRef
from gateway.volume.tables import read_table

FILE: Final = "aliases.toml"
TABLES: Final = frozenset({"aliases", "bases"})  # the second one is for adapters: `volume.bases` reads it
MOST: Final = 1000
Arm = Literal["main", "canary", "fallback"]


class AliasFault(Exception):
    """Why a table is not taken."""


class Alias(msgspec.Struct, frozen=True, kw_only=True):
    """`share` of the requests, between 0 and 1, go to `canary` instead of `to`."""

    name: ModelId
    to: ModelRef
    canary: ModelRef | None = None
    share: float = 0.0

    def arm(self, key: str) -> Arm:
        return "canary" if self.canary is not None and position(self.name, key) < self.share else "main"

    @property
    def targets(self) -> tuple[ModelRef, ...]:
        return (self.to, self.canary) if self.canary else (self.to,)


Table = Mapping[ModelId, Alias]


def position(name: ModelId, key: str) -> float:
    """Where a client stands between 0 and 1; elsewhere for every alias, so that no client is always the first."""
    digest = hashlib.blake2b(f"{name.path}\0{key}".encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2.0**64


def find(table: Table, ref: ModelRef) -> Alias | None:
    found = (table.get(candidate) for candidate in ref.candidates)
    return next((alias for alias in found if alias is not None), None)


def parse(content: bytes, root: str) -> dict[ModelId, Alias]:
    """The table in a file. Raises AliasFault, which names the alias."""
    try:
        document = read_table(content.decode())
    except (ValueError, RecursionError) as error:  # not TOML, or not even UTF-8
        raise AliasFault(f"{FILE}: {error}") from error
    found = document.get("aliases", {})
    if not isinstance(found, dict) or document.keys() - TABLES:
        raise AliasFault(f"{FILE} has the tables {', '.join(sorted(TABLES))} and nothing else")
    if len(found) > MOST:
        raise AliasFault(f"{FILE}: at most {MOST:,} aliases")
    table = {alias.name: alias for alias in (_alias(name, value, root) for name, value in found.items())}
    if len(table) != len(found):
        raise AliasFault(f"{FILE}: one alias is spelled in two ways")
    _refuse_cycles(table)
    return table


def _alias(text: str, value: Any, root: str) -> Alias:
    fields = {"to": value} if isinstance(value, str) else value
    if (
        not isinstance(fields, dict)
        or not isinstance(fields.get("to"), str)
        or fields.keys() - {"to", "canary", "share"}
    ):
        raise AliasFault(f"{FILE}: {text!r} is a model id, or {{ to = ..., canary = ..., share = ... }}")
    if ("canary" in fields) != ("share" in fields):
        raise AliasFault(f"{FILE}: {text!r} has a canary without a share, or a share without a canary")
    share = fields.get("share", 0.0)
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
        raise AliasFault(f"{FILE}: the share of {text!r} is not a number between 0 and 1")
    canary = _ref(text, fields["canary"], root) if "canary" in fields else None
    return Alias(name=_name(text, root), to=_ref(text, fields["to"], root), canary=canary, share=float(share))


def _name(text: str, root: str) -> ModelId:
    ref = _ref(text, text, root)
    path = text.removeprefix("huggingface:")
    if ref.generation is not None or path not in {candidate.path for candidate in ref.candidates}:
        raise AliasFault(f"{FILE}: {text!r} is no name for an alias: expected <namespace>/<name>, or <name>")
    return ModelId.of(path)


def _ref(alias: str, spelling: Any, root: str) -> ModelRef:
    try:
        return ModelRef.parse(spelling if isinstance(spelling, str) else "", root)
    except InvalidModelId as error:
        raise AliasFault(f"{FILE}: {alias!r}: {error.message}") from error


def _leads_to(table: Table, alias: Alias) -> set[ModelId]:
    """Other aliases."""
    return {found.name for target in alias.targets if (found := find(table, target))}


def _refuse_cycles(table: Table) -> None:
    """Aliases whose targets are settled are taken away until none is left; what stays leads to itself."""
    left = {name: _leads_to(table, alias) for name, alias in table.items()}
    while done := [name for name, targets in left.items() if not targets & left.keys()]:
        for name in done:
            del left[name]
    if left:
        path = [next(iter(left))]
        while path[-1] not in path[:-1]:
            path.append(next(name for name in left if name in left[path[-1]]))
        cycle = path[path.index(path[-1]) :]
        raise AliasFault(f"{FILE}: a cycle: {' -> '.join(each.path for each in cycle)}")


def check(table: Table, known: Callable[[ModelRef], str | None]) -> None:
    """`known` says what is wrong with a target that is no alias. Raises AliasFault."""
    for alias in table.values():
        for target in alias.targets:
            if find(table, target) is None and (wrong := known(target)):
                raise AliasFault(f"{FILE}: {alias.name.path!r}: {wrong}")
