"""The catalog as one caller sees it. What it may not see is not in the maps that are looked up, so that every answer,
suggestion and listing is made as if it were not there."""

from __future__ import annotations

import asyncio
from typing import Any

from gateway.catalog.catalog import Catalog
from gateway.catalog.lookup import Found, live_of
from gateway.errors import ModelNotFound
from gateway.model import Generation, ModelId, ModelRef
from gateway.tenants.caller import Caller
from gateway.volume.source import Ignored


class View:
    """Made for a request, and cheap to make."""

    def __init__(self, catalog: Catalog, caller: Caller) -> None:
        self._catalog = catalog
        self._caller = caller
        self._lookup = catalog.lookup(caller)

    @property
    def looked(self) -> asyncio.Event:
        return self._catalog.looked

    @property
    def usable(self) -> bool:
        return self._catalog.usable

    @property
    def ignored(self) -> tuple[Ignored, ...]:
        """Names that are no models belong to nobody."""
        return self._catalog.ignored if self._caller.unrestricted else ()

    def parse(self, spelling: str) -> ModelRef:
        """Raises InvalidModelId."""
        return self._catalog.parse(spelling)

    async def find(self, ref: ModelRef, key: str = "") -> Found:
        """As `Lookup.find`."""
        return await self._lookup.find(ref, key)

    def live(self, ref: ModelRef) -> tuple[ModelId, Generation]:
        """What is live now, without canaries. Raises what `find` does."""
        entry, _ = self._lookup.entry(ref)
        return entry.model, live_of(entry)

    def resolve(self, ref: ModelRef) -> ModelId:
        """The id of a model that is there, whatever its state. Raises ModelNotFound."""
        return self._lookup.entry(ref)[0].model

    def leads_somewhere(self, ref: ModelRef) -> bool:
        return self._lookup.leads_somewhere(ref)

    def listing(self) -> list[dict[str, Any]]:
        """Every model seen, in order of its name."""
        return self._catalog.shown(self._lookup.models())

    def show(self, model: ModelId) -> dict[str, Any]:
        """Raises ModelNotFound when it has gone meanwhile."""
        self._must_see(model)
        return self._catalog.show(model)

    def trained(self) -> list[dict[str, Any]]:
        """The models that say what they were trained from, in order of their names."""
        return [told for model, told in self._catalog.trained() if self._caller.sees(model)]

    async def changes(self, model: ModelId, before: str | None, after: str | None) -> dict[str, Any]:
        """As the catalog's."""
        self._must_see(model)
        return await self._catalog.changes(model, before, after)

    def aliases(self) -> list[dict[str, Any]]:
        """The table in force, with what each alias leads to now."""
        return self._lookup.aliases()

    def _must_see(self, model: ModelId) -> None:
        if not self._caller.sees(model):
            raise ModelNotFound(f"{model} has gone from the volume", model=str(model), closest=[])

    def owns(self, digest: str) -> bool:
        """Whether a generation is nobody's whom this caller does not see: equal content is loaded once for all."""
        return all(self._caller.sees_path(owner) for owner in self._catalog.owners(digest))
