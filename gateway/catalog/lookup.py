"""From a client's reference to what is to be run: through aliases and canaries, to a model's live generation, or to the
version or generation that was asked for. Reads the entries and changes none."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any

import msgspec

from gateway.catalog import names
from gateway.catalog.aliases import Alias, Arm, Table, find
from gateway.catalog.entry import Entry, Version
from gateway.catalog.sight import SeenAliases, SeenEntries
from gateway.errors import GatewayError, ModelCopying, ModelRejected, NotFound, NotServable, Starting
from gateway.model import Generation, ModelId, ModelRef
from gateway.tenants.caller import Caller


class Found(msgspec.Struct, frozen=True):
    """What is to be run for a request: `model` is the canonical id, `alias` the one that was asked for, and `arm` the
    side of its canary."""

    model: ModelId
    generation: Generation
    alias: ModelId | None = None
    arm: Arm | None = None


class Lookup:
    """`summon` has a generation that is not live stay loaded; it answers None for one that the disk has lost."""

    def __init__(
        self,
        entries: Mapping[ModelId, Entry],
        table: Callable[[], Table],
        looked: asyncio.Event,
        summon: Callable[[str], Awaitable[Generation | None]],
    ) -> None:
        self._entries = entries
        self._table = table
        self._looked = looked
        self._summon = summon

    def of(self, caller: Caller) -> Lookup:
        """The same, where there is nothing but what this caller may see."""
        if caller.unrestricted:
            return self
        entries = SeenEntries(self._entries, caller)
        aliases = SeenAliases(self._table(), entries, caller)
        return Lookup(entries, lambda: aliases, self._looked, self._summon)

    async def find(self, ref: ModelRef, key: str = "") -> Found:
        """What is to be run for a client's reference; `key` is what a canary knows the client by. Waits for a swap
        that had to unload the old generation first. Raises ModelNotFound, GenerationNotFound, ModelCopying or
        ModelRejected, which say what was looked for and what would help."""
        alias = self._alias(ref)
        if alias is None:
            return await self._run(ref)
        arm = alias.arm(key)
        if arm == "canary" and alias.canary is not None:
            with suppress(NotFound, NotServable, Starting):  # a canary that is not there costs nobody an answer
                found = await self.find(_passing_on(ref, alias.canary), key)
                return msgspec.structs.replace(found, alias=alias.name, arm=arm)
            arm = "fallback"
        found = await self.find(_passing_on(ref, alias.to), key)
        return msgspec.structs.replace(found, alias=alias.name, arm=arm if alias.canary else found.arm)

    def entry(self, ref: ModelRef) -> tuple[Entry, int | None]:
        """The model, and the version that was asked for. Raises ModelNotFound, or Starting."""
        while (alias := self._alias(ref)) is not None:
            ref = alias.to
        if (found := names.exact(self._entries, ref)) is not None:
            return found
        if not self._looked.is_set():
            raise Starting("the volume has not been looked at yet", retry_after=1.0)
        if (entry := names.bare(self._entries, ref)) is not None:
            return entry, None
        raise names.not_found(self._entries, self._table(), ref)

    def unknown(self, ref: ModelRef) -> str | None:
        """What is wrong with an alias's target."""
        try:
            entry, _ = self.entry(ref)
        except (NotFound, Starting) as error:
            return error.message
        short = ref.generation
        if short is not None and not any(kept.digest.startswith(short) for kept in entry.generations()):
            return entry.not_found(f"no generation {short}").message
        return None

    def models(self) -> list[ModelId]:
        """Every model there is, in order of its name."""
        return sorted(self._entries, key=lambda model: model.path)

    def leads_somewhere(self, ref: ModelRef) -> bool:
        return self._leads_to(ref) is not None

    def aliases(self) -> list[dict[str, Any]]:
        """The table in force, with what each alias leads to now."""
        table = self._table()
        return [self._show(table[name]) for name in sorted(table, key=lambda name: name.path)]

    def shadowed(self) -> frozenset[str]:
        """Paths of aliases that a directory has the name of."""
        return frozenset(name.path for name in self._table() if self._shadows(name))

    def _shadows(self, name: ModelId) -> bool:
        return names.exact(self._entries, ModelRef(name.path, (name,))) is not None

    def _alias(self, ref: ModelRef) -> Alias | None:
        """A directory of the same name wins."""
        table = self._table()
        if not table or names.exact(self._entries, ref) is not None:
            return None
        return find(table, ref)

    async def _run(self, ref: ModelRef) -> Found:
        entry, version = self.entry(ref)
        while entry.swapping is not None:
            await entry.swapping.wait()
            entry, version = self.entry(ref)  # either may have gone meanwhile
        if ref.generation is not None:
            return Found(entry.model, await self._pinpoint(entry, ref.generation, version))
        if version is not None and (entry.serving is None or entry.serving.version != version):
            return Found(entry.model, await self._of_version(entry, version))
        return Found(entry.model, live_of(entry))

    async def _of_version(self, entry: Entry, number: int) -> Generation:
        version = entry.versions[number]
        if version.content is None:
            raise _not_servable(entry, version)
        return await self._pinpoint(entry, version.content.digest, number)

    async def _pinpoint(self, entry: Entry, short: str, version: int | None) -> Generation:
        for kept in entry.generations():
            if kept.digest.startswith(short) and version in (None, kept.version):
                if entry.serving is not None and kept.digest == entry.serving.digest:
                    return kept.generation
                if (generation := await self._summon(kept.digest)) is not None:
                    return generation
        raise entry.not_found(f"no generation {short[:12]}", without=short)

    def _show(self, alias: Alias) -> dict[str, Any]:
        return {
            "id": str(alias.name),
            "to": alias.to.spelling,
            "canary": alias.canary.spelling if alias.canary else None,
            "share": alias.share if alias.canary else None,
            "model": self._leads_to(alias.to),
            "warning": "a directory has this name, and wins" if self._shadows(alias.name) else None,
        }

    def _leads_to(self, ref: ModelRef) -> str | None:
        try:
            return str(self.entry(ref)[0].model)
        except (NotFound, Starting):
            return None


def live_of(entry: Entry) -> Generation:
    """Raises Starting, ModelCopying or ModelRejected."""
    if entry.live is not None:
        return entry.live
    if all(version.directory is None for version in entry.versions.values()):  # known from an earlier run alone
        raise Starting("the volume has not been looked at yet", retry_after=1.0)
    raise _not_servable(entry, entry.newest)


def _passing_on(ref: ModelRef, target: ModelRef) -> ModelRef:
    """`alias@generation` asks for that generation of what the alias leads to."""
    return target if ref.generation is None else msgspec.structs.replace(target, generation=ref.generation)


def _not_servable(entry: Entry, version: Version | None) -> GatewayError:
    """To be raised: why nothing of a model, or of one of its versions, is served."""
    if version is None or version.copying or not version.reasons:
        waiting = version.waiting if version else ""
        return ModelCopying(
            f"{entry.model} is being copied: {waiting or 'it is being checked'}", model=str(entry.model)
        )
    return ModelRejected(
        f"{entry.model} is on the volume and may not be served: {version.reasons[0].message}",
        model=str(entry.model),
        reasons=msgspec.to_builtins(version.reasons),
    )
