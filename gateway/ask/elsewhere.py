"""The engine with language models elsewhere: those that an annex serves run there, all others on this machine.

Whoever asks for one asks the same service, whatever protocol it speaks: what it may see, what it is charged and what it
is told is the same, wherever the model runs.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import itertools
import secrets
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import aclosing
from functools import partial
from typing import Final

from gateway.ask import frames, phrasing
from gateway.ask.annex import Annex
from gateway.engine.engine import Engine, Residence
from gateway.engine.through import Through
from gateway.errors import (
    GatewayError,
    InputTooLong,
    ProviderError,
    ProviderFailed,
    ProviderModelNotFound,
    ProviderTimeout,
)
from gateway.host.wire import Piece, Sampling, Turn
from gateway.lane import Lane
from gateway.model import Generation

TRIES: Final = 2  # of an upstream that has forgotten an adapter
ENDS: Final = frozenset({"stop", "length"})
Say = Callable[[str], AsyncGenerator[frames.Chunk]]
TOO_LONG: Final = "maximum context length"  # as vLLM says it


class Elsewhere(Through):
    """`local` is the engine of this machine."""

    def __init__(self, local: Engine, annexes: Sequence[Annex]) -> None:
        super().__init__(local)
        self._annexes = list(annexes)
        self._numbers = itertools.count(1)
        self._secret = secrets.token_bytes(32)
        self._disk = Lane("elsewhere")
        self._known: dict[str, Generation] = {}  # what is to be at some annex
        self._phrases: dict[str, tuple[phrasing.Habits, str]] = {}  # by digest

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
        annex = self._annex(generation)
        if annex is None:
            await self._engine.generate(generation, text, turns, sampling, tell, deadline=deadline, flow=flow)
            return
        known, template = await self._phrasing(generation)
        body = phrasing.body(text, turns, sampling, known) | {"cache_salt": self._salt(flow)}
        if turns and template:
            body["chat_template"] = template
        with annex.leased(generation):
            path = phrasing.CHAT if turns else phrasing.CONTINUED
            say = partial(annex.upstream.on_behalf_of(flow).say, body, path=path)
            await self._speak(annex, generation, say, tell)

    async def load(self, generation: Generation) -> None:
        annex = self._annex(generation)
        await (annex or self._engine).load(generation)

    async def unload(self, digest: str) -> None:
        generation = self._known.get(digest)
        annex = self._annex(generation) if generation else None
        await (annex or self._engine).unload(digest)

    def keep(self, live: Collection[Generation], pinned: Collection[Generation]) -> None:
        where = {each.digest: self._annex(each) for each in live}
        self._known = {each.digest: each for each in live if where[each.digest] is not None}
        self._phrases = {digest: found for digest, found in self._phrases.items() if digest in self._known}
        pins = frozenset(each.digest for each in pinned)
        for annex in self._annexes:
            annex.keep({d: each for d, each in self._known.items() if where[d] is annex}, pins)
        self._engine.keep(
            [each for each in live if each.digest not in self._known],
            [each for each in pinned if each.digest not in self._known],
        )

    def fits_beside(self, generation: Generation, digest: str) -> bool:
        return self._annex(generation) is not None or self._engine.fits_beside(generation, digest)

    def residences(self) -> dict[str, list[Residence]]:
        found = dict(self._engine.residences())
        for digest, generation in self._known.items():
            if annex := self._annex(generation):
                found[digest] = [annex.residence(generation), *found.get(digest, [])]
        return found

    def quarantined(self, digest: str) -> float | None:
        generation = self._known.get(digest)
        annex = self._annex(generation) if generation else None
        return annex.failing(digest) if annex else self._engine.quarantined(digest)

    async def _speak(self, annex: Annex, generation: Generation, say: Say, tell: Callable[[Piece], None]) -> None:
        """`say` takes the name of what is to speak. An upstream that has forgotten the adapter, since it was started
        anew, has it loaded and is asked again: what it does not know it says before its first token."""
        for left in reversed(range(TRIES)):
            await annex.ensure(generation)
            reader = phrasing.Reader(next(self._numbers))
            try:
                async with aclosing(say(annex.called(generation))) as chunks:
                    async for chunk in chunks:
                        if (piece := reader.read(chunk)) is not None:
                            tell(piece)
            except ProviderModelNotFound as error:
                annex.lost(generation)
                if not left:
                    raise ProviderFailed(_told(error, annex, generation), provider=annex.name) from error
                continue
            except ProviderError as error:
                if isinstance(error, ProviderFailed | ProviderTimeout):
                    annex.doubt()
                raise _ours(error, annex, generation) from error
            if reader.finish not in ENDS:
                raise ProviderFailed(f"{annex.name} gave up: {reader.finish}", provider=annex.name)
            tell(reader.last())
            return

    def _annex(self, generation: Generation) -> Annex | None:
        return next((annex for annex in self._annexes if annex.serves(generation)), None)

    async def _phrasing(self, generation: Generation) -> tuple[phrasing.Habits, str]:
        found = self._phrases.get(generation.digest)
        if found is None:
            known = await self._disk.run(phrasing.habits, generation)
            found = known, await self._disk.run(phrasing.template, generation)
            self._phrases[generation.digest] = found
        return found

    def _salt(self, flow: str) -> str:
        """What is in the upstream's prefix cache is found by the same tenant alone: how soon an answer begins tells
        nobody what others have asked. Nobody else can make this of a tenant's name."""
        return base64.b64encode(hmac.digest(self._secret, flow.encode(), hashlib.sha256)).decode()


def _ours(error: ProviderError, annex: Annex, generation: Generation) -> GatewayError:
    message = _told(error, annex, generation)
    if TOO_LONG in message:
        return InputTooLong(message, max_tokens=generation.manifest.max_tokens)
    return type(error)(message, retry_after=error.retry_after, **error.details)


def _told(error: GatewayError, annex: Annex, generation: Generation) -> str:
    """Without the adapter's name there: equal content of two tenants has one, which may be the other's."""
    return error.message.replace(annex.called(generation), generation.short)
