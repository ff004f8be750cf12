"""Trying a generation before it goes live: it is loaded, probed by its host, and held against its golden vectors.

Where both do not fit on the device, the policy decides: `availability` lets the device make room as for any load and
the old one go on serving; `resource` takes the old one out first, and requests wait for the new one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from gateway.catalog import golden
from gateway.catalog.entry import Entry
from gateway.engine.engine import Engine
from gateway.errors import GatewayError
from gateway.model import Generation
from gateway.volume import reasons
from gateway.volume.copying import Refused


class Trial:
    """`publish` tells the engine what may stay, after something about an entry has changed."""

    def __init__(self, engine: Engine, policy: str, publish: Callable[[], None]) -> None:
        self._engine = engine
        self._policy = policy
        self._publish = publish

    async def run(self, entry: Entry, generation: Generation, expected: golden.Golden | None = None) -> None:
        """Returns with the generation loaded and proven; the caller makes it live, or says that it will not be, and
        then calls `entry.end_swap`. Raises Refused (golden_mismatch) and what the engine raises."""
        entry.successor = generation
        self._publish()
        old = entry.live
        try:
            if old is not None and self._must_make_way(old, generation):
                entry.swapping = asyncio.Event()
                self._publish()  # a pin would keep it
                await self._engine.unload(old.digest)
            await self._engine.load(generation)
            if expected is not None and generation.manifest.kind == "encoder":
                await golden.prove(self._engine, generation, expected)
        except Exception:
            entry.successor = None
            self._publish()
            if entry.swapping is not None and old is not None:
                with suppress(GatewayError):  # told as an event; a request tries again
                    await self._engine.load(old)
            raise

    def _must_make_way(self, old: Generation, new: Generation) -> bool:
        held = [each for each in self._engine.residences().get(old.digest, ()) if each.state != "parked"]
        return self._policy == "resource" and bool(held) and not self._engine.fits_beside(new, old.digest)


def refusal(error: GatewayError) -> Refused:
    return Refused((reasons.reason("load_failed", f"the new content could not be loaded: {error.message}"),))
