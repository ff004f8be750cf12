"""What a generation may be asked for, as commands of the wire: the same for every engine that runs hosts, wherever they
are. How a command gets to a host, and over the host's death to another, is each engine's own.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Final, TypeAlias, cast

import msgspec

from gateway import events
from gateway.engine.engine import Vectors
from gateway.engine.refusals import Inputs
from gateway.host import wire
from gateway.model import Generation

TOLD: Final[dict[type[wire.Report], type[events.Event]]] = {  # the event has the report's fields, and who it is about
    wire.Batch: events.DeviceCall,
    wire.Loaded: events.GenerationLoaded,
    wire.Unloaded: events.GenerationUnloaded,
    wire.LoadFailure: events.LoadFailed,
    wire.FellBack: events.RuntimeFellBack,
}
Answer: TypeAlias = tuple[wire.Done, wire.Payload]
Request: TypeAlias = Callable[[bool, int], wire.Command]  # of whether it must be alone, and its number


class Told:
    """Hands pieces of an answer on, and knows whether there were any."""

    def __init__(self, tell: Callable[[wire.Piece], None] = lambda piece: None) -> None:
        self._tell = tell
        self.some = False

    def __call__(self, piece: wire.Piece) -> None:
        self.some = True
        self._tell(piece)


class Commands(ABC):
    """`weight` says what share of its device a digest has beside others."""

    def __init__(self, weight: Callable[[str], float]) -> None:
        self._weight = weight

    @abstractmethod
    async def _work(
        self,
        generation: Generation,
        inputs: Inputs,
        request: Request,
        flow: str,
        deadline: float | None = None,
        *,
        told: Told | None = None,
        computes: bool = True,
    ) -> Answer:
        """Has it done, over the deaths of hosts. Pieces of the answer are told meanwhile. `computes`: it takes the
        device's time."""

    async def embed(
        self,
        generation: Generation,
        texts: list[str] | wire.Ids,
        options: wire.Options,
        deadline: float | None = None,
        *,
        flow: str = "",
    ) -> Vectors:
        digest = generation.digest

        def request(alone: bool, number: int) -> wire.Command:
            words, ids = apart(texts)
            weight, left = self._weight(digest), left_until(deadline)
            return wire.Embed(number, digest, words, options, alone, flow, weight, left, ids)

        return vectors(*await self._work(generation, texts, request, flow, deadline))

    async def rerank(
        self,
        generation: Generation,
        query: str,
        texts: list[str],
        options: wire.Options,
        *,
        raw: bool = False,
        deadline: float | None = None,
        flow: str = "",
    ) -> Vectors:
        digest = generation.digest

        def request(alone: bool, number: int) -> wire.Command:
            weight, left = self._weight(digest), left_until(deadline)
            return wire.Rerank(number, digest, query, texts, options, raw, alone, flow, weight, left)

        pairs = [query] * len(texts) + texts
        return vectors(*await self._work(generation, pairs, request, flow, deadline))

    async def tokenize(
        self,
        generation: Generation,
        texts: list[str],
        *,
        prompt: str = "",
        add_special_tokens: bool = True,
        flow: str = "",
    ) -> list[list[wire.Token]]:
        digest = generation.digest

        def request(alone: bool, number: int) -> wire.Command:
            weight = self._weight(digest)
            return wire.Tokenize(number, digest, texts, prompt, add_special_tokens, alone, flow, weight)

        _, payload = await self._work(generation, texts, request, flow, computes=False)
        return wire.tokens.decode(payload)

    async def decode(
        self, generation: Generation, ids: wire.Ids, *, skip_special_tokens: bool = True, flow: str = ""
    ) -> list[str]:
        digest = generation.digest

        def request(alone: bool, number: int) -> wire.Command:
            return wire.Decode(number, digest, ids, skip_special_tokens, alone, flow, self._weight(digest))

        _, payload = await self._work(generation, ids, request, flow, computes=False)
        return wire.texts.decode(payload)

    async def generate(
        self,
        generation: Generation,
        text: str,
        turns: list[wire.Turn],
        sampling: wire.Sampling,
        tell: Callable[[wire.Piece], None],
        *,
        deadline: float | None = None,
        flow: str = "",
    ) -> None:
        digest = generation.digest
        told = Told(tell)

        def request(alone: bool, number: int) -> wire.Command:
            weight, left = self._weight(digest), left_until(deadline)
            return wire.Generate(number, digest, text, turns, sampling, alone, flow, weight, left)

        said = [text, *(turn.content for turn in turns)]
        await self._work(generation, said, request, flow, deadline, told=told)


def apart(texts: list[str] | wire.Ids) -> tuple[list[str], wire.Ids | None]:
    """All inputs of a request are of one type."""
    if texts and not isinstance(texts[0], str):
        return [], texts
    return cast(list[str], texts), None


def left_until(deadline: float | None) -> float | None:
    return None if deadline is None else deadline - asyncio.get_running_loop().time()


def vectors(done: wire.Done, payload: wire.Payload) -> Vectors:
    return Vectors(
        payload,
        done.rows,
        done.dim,
        done.tokens,
        done.load_seconds,
        done.queue_seconds,
        done.compute_seconds,
        done.counts,
    )


def event_of(report: wire.Report, names: Callable[[str], tuple[str, ...]], device: str) -> events.Event | None:
    """What everybody may hear of what a host tells; `names` says which models a digest is. None of what is between the
    two alone."""
    kind = TOLD.get(type(report))
    if kind is None:
        return None
    facts = msgspec.structs.asdict(report)
    digest = facts.pop("digest")
    return kind(generation=digest[:12], models=names(digest), device=device, **facts)
