"""An engine that has another one do the work: what it is to do differently stands in who is derived from it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import AbstractAsyncContextManager, nullcontext

from gateway.engine.engine import DeviceState, Engine, Residence, Vectors
from gateway.host.wire import Ids, Options, Piece, Sampling, Token, Turn
from gateway.model import Generation


class Through:
    """Everything that `engine` does."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def _around(self, generation: Generation, deadline: float | None = None) -> AbstractAsyncContextManager[None]:
        """What lasts as long as something is done with the generation."""
        return nullcontext()

    @property
    def ready(self) -> bool:
        return self._engine.ready

    async def embed(
        self,
        generation: Generation,
        texts: list[str] | Ids,
        options: Options,
        deadline: float | None = None,
        *,
        flow: str = "",
    ) -> Vectors:
        async with self._around(generation, deadline):
            return await self._engine.embed(generation, texts, options, deadline, flow=flow)

    async def rerank(
        self,
        generation: Generation,
        query: str,
        texts: list[str],
        options: Options,
        *,
        raw: bool = False,
        deadline: float | None = None,
        flow: str = "",
    ) -> Vectors:
        async with self._around(generation, deadline):
            return await self._engine.rerank(generation, query, texts, options, raw=raw, deadline=deadline, flow=flow)

    async def tokenize(
        self,
        generation: Generation,
        texts: list[str],
        *,
        prompt: str = "",
        add_special_tokens: bool = True,
        flow: str = "",
    ) -> list[list[Token]]:
        async with self._around(generation):
            return await self._engine.tokenize(
                generation, texts, prompt=prompt, add_special_tokens=add_special_tokens, flow=flow
            )

    async def decode(
        self, generation: Generation, ids: Ids, *, skip_special_tokens: bool = True, flow: str = ""
    ) -> list[str]:
        async with self._around(generation):
            return await self._engine.decode(generation, ids, skip_special_tokens=skip_special_tokens, flow=flow)

    async def generate(
        self,
        generation: Generation,
        text: str,
        turns: list[Turn],
        sampling: Sampling,
        tell: Callable[[Piece], None],
        *,
        deadline: float | None = None,
        flow: str = "",
    ) -> None:
        async with self._around(generation, deadline):
            await self._engine.generate(generation, text, turns, sampling, tell, deadline=deadline, flow=flow)

    async def load(self, generation: Generation) -> None:
        async with self._around(generation):
            await self._engine.load(generation)

    async def unload(self, digest: str) -> None:
        await self._engine.unload(digest)

    def keep(self, live: Collection[Generation], pinned: Collection[Generation]) -> None:
        self._engine.keep(live, pinned)

    def fits_beside(self, generation: Generation, digest: str) -> bool:
        return self._engine.fits_beside(generation, digest)

    def residences(self) -> dict[str, list[Residence]]:
        return self._engine.residences()

    def quarantined(self, digest: str) -> float | None:
        return self._engine.quarantined(digest)

    def devices(self) -> list[DeviceState]:
        return self._engine.devices()
