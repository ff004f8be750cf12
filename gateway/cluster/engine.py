"""The engine of a cluster: generations run on whatever devices it has, behind the same seam as on one machine.

Nodes and replicas may go at any time, and what they were asked goes to others, until the request's deadline. What a
generation does to the host of a replica counts as it does on one machine: two deaths, and it is kept away. Whatever
other gateways there are, this one needs to know nothing of them: what is live it has from the volume, and what is where
from the replicas.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, Final, Protocol, TypeVar

import msgspec

from gateway import events
from gateway.cluster.messages import (
    Asked,
    Died,
    Event,
    Happened,
    HostDied,
    Lost,
    Need,
    Offered,
    Reply,
    State,
    replies,
    states,
    streamed,
)
from gateway.cluster.sight import Sight
from gateway.engine.commands import Answer, Commands, Request, Told, event_of
from gateway.engine.costs import Costs
from gateway.engine.engine import DeviceState, Residence
from gateway.engine.quarantine import FIRST, STRIKES, Quarantine
from gateway.engine.refusals import Inputs
from gateway.errors import DeadlineExceeded, GatewayError, HostFailed, Internal, NodeStale
from gateway.host import wire
from gateway.model import Generation
from gateway.wish import Wish

T = TypeVar("T")

LOOK: Final = 0.5  # seconds between two looks at the replicas
AGAIN: Final = 5.0  # seconds until the cluster is joined again, where that failed
MARGIN: Final = 0.25  # seconds before the deadline, so that who waits hears why
PAUSE: Final = 0.1  # seconds before another try, twice as long each time
LONGEST_PAUSE: Final = 1.0
NEVER: Final = 1e9  # seconds


class Fleet(Protocol):
    """The replicas. All of it may raise Lost, and what asks one of them Overloaded and TimeoutError too."""

    async def join(self, *, again: bool = False) -> None:
        """Joins the cluster, and has replicas deployed unless they are; `again`, those that somebody has deployed since
        are as good."""

    async def call(self, need: Need, avoid: Sequence[str], frame: bytes, seconds: float) -> tuple[bytes, wire.Payload]:
        """Of the replica that answers first; of those to `avoid` only where there is no other."""

    def stream(self, need: Need, avoid: Sequence[str], frame: bytes, seconds: float) -> AsyncIterator[bytes]: ...

    async def follow(self, gateway: str, told: Mapping[str, int]) -> list[bytes]:
        """The states of those replicas that answer."""

    async def keep(self, gateway: str, version: int, live: Collection[str], pinned: Collection[str]) -> None: ...

    async def unload(self, digest: str) -> None: ...

    async def leave(self) -> None: ...


class RayEngine(Commands):
    """`names` says which models a digest is, `sources` which directories may have its content, `predict` how many bytes
    it will take; `patience` in seconds is that of a request without a deadline. The rest is as in ProcessEngine."""

    def __init__(
        self,
        fleet: Fleet,
        tell: events.Events,
        *,
        names: Callable[[str], tuple[str, ...]],
        sources: Callable[[str], tuple[str, ...]],
        predict: Callable[[Generation], int],
        wish: Callable[[Generation], Wish],
        weight: Callable[[str], float],
        patience: float,
    ) -> None:
        super().__init__(weight)
        self._fleet = fleet
        self._events = tell
        self._names = names
        self._sources = sources
        self._predict = predict
        self._wish = wish
        self._patience = patience
        self._me = secrets.token_hex(8)
        self._sight = Sight()
        self._strange = ""  # what a replica's state was last not understood for
        self._quarantine = Quarantine()
        self._costs = Costs()
        self._live: tuple[int, tuple[str, ...], tuple[str, ...]] = (0, (), ())  # version, live and pinned
        self._pins: dict[str, Generation] = {}
        self._preloads: dict[str, asyncio.Task[None]] = {}

    @property
    def ready(self) -> bool:
        """Whether replicas answer: what Serve says of itself is something else, and with one node less it is unwell."""
        return any(state.up for state in self._sight.states())

    async def load(self, generation: Generation) -> None:
        self._quarantine.forgive(generation)
        await self._ask(generation, lambda alone, number: wire.Load(number, generation.digest, alone))
        await self._look_once()

    async def unload(self, digest: str) -> None:
        with contextlib.suppress(Lost, TimeoutError):  # then nothing holds it, or nobody can say so
            await self._fleet.unload(digest)
        await self._look_once()

    def keep(self, live: Collection[Generation], pinned: Collection[Generation]) -> None:
        self._pins = {generation.digest: generation for generation in pinned}
        known = {generation.digest for generation in live}
        self._quarantine.keep(known)
        self._costs.keep(known)
        wanted = tuple(sorted(known)), tuple(sorted(self._pins))
        if self._live[1:] != wanted:
            self._live = self._live[0] + 1, *wanted

    def fits_beside(self, generation: Generation, digest: str) -> bool:
        size = self._predict(generation)
        up = [state for state in self._sight.states() if state.up]
        return not up or any(_has_room(size, state, digest) for state in up)

    def residences(self) -> dict[str, list[Residence]]:
        return self._sight.residences()

    def quarantined(self, digest: str) -> float | None:
        return self._quarantine.left(digest)

    def devices(self) -> list[DeviceState]:
        return self._sight.devices()

    # A request, over the deaths of hosts, replicas and nodes.

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
        return await self._ask(generation, request, deadline, told, inputs if computes else ())

    async def _ask(
        self,
        generation: Generation,
        request: Request,
        deadline: float | None = None,
        told: Told | None = None,
        inputs: Inputs = (),
    ) -> Answer:
        need = self._need(generation, inputs)
        now = asyncio.get_running_loop().time
        until = (now() + self._patience if deadline is None else deadline) - MARGIN
        strikes, tries, avoid = 0, 0, set[str]()
        last: Exception | None = None
        while True:
            self._quarantine.refuse(generation)
            if now() >= until:
                raise self._late(last)
            try:
                async with asyncio.timeout_at(until):
                    reply, payload = await self._send(
                        need, generation, request(strikes > 0, 0), avoid, seconds=until - now(), told=told
                    )
            except (Lost, TimeoutError) as gone:  # the second may be of something in between, long before the deadline
                reply, payload, last = None, b"", gone if isinstance(gone, Lost) else last or gone
                if now() >= until:
                    raise self._late(last) from None
            if isinstance(reply, wire.Done):
                return reply, payload
            if told is not None and told.some:  # what was said cannot be taken back, and more would be something else
                raise HostFailed("what was answering died in the middle of the answer", retry_after=1.0)
            if isinstance(reply, wire.Failed):
                last = error = reply.error()
                if not isinstance(error, NodeStale):
                    raise error
                avoid = _next(avoid, str(error.details.get("node", "")))
            elif isinstance(reply, Died):
                strikes += reply.suspect
                if strikes >= STRIKES and reply.sole:
                    raise HostFailed("the host process died twice while it worked on this request", retry_after=FIRST)
                await self._look_once()  # whether it is the generation's fault
            tries += 1
            if not avoid or reply is None:
                await _pause(min(LONGEST_PAUSE, PAUSE * 2 ** min(tries, 10)), until, now())

    def _need(self, generation: Generation, inputs: Inputs) -> Need:
        base = generation.base or generation
        size = self._predict(base)
        computing = self._costs.computing(generation, size, inputs)
        # how long an answer takes nobody knows, and so not whether a load would be worth it
        loading = self._costs.loading(base, size) if base.manifest.kind != "generator" else NEVER
        return Need(base.digest, size, computing, loading)

    async def _send(
        self,
        need: Need,
        generation: Generation,
        command: wire.Command,
        avoid: Collection[str],
        *,
        seconds: float,
        told: Told | None,
    ) -> tuple[Reply, wire.Payload]:
        chain = (generation,) if generation.base is None else (generation.base, generation)
        offers = tuple(Offered(each, self._wish(each), self._sources(each.digest)) for each in chain)
        frame = wire.encoder.encode(Asked(offers, command))
        if told is None or not isinstance(command, wire.Generate):
            header, payload = await self._fleet.call(need, sorted(avoid), frame, seconds)
            return _understood(replies, header), payload
        async for header in self._fleet.stream(need, sorted(avoid), frame, seconds):
            reply = _understood(streamed, header)
            if not isinstance(reply, wire.Piece):
                return reply, b""
            told(reply)
        raise Internal("a replica's answer had no end")

    def _late(self, last: Exception | None) -> GatewayError:
        if isinstance(last, NodeStale):
            return last
        if not self.ready:
            return HostFailed("no replica of the cluster answers", retry_after=AGAIN)
        if isinstance(last, Lost):
            return HostFailed(f"the replicas that were asked went away: {last}"[:300], retry_after=1.0)
        return DeadlineExceeded("the deadline passed before a replica had answered")

    # Looking after the replicas.

    async def follow(self) -> None:
        """Joins the cluster, and knows what its replicas do, for ever. To be run once, as a task."""
        joined, was_joined, told = False, False, ""
        while True:
            try:
                if not joined:
                    await self._fleet.join(again=was_joined)
                    joined, was_joined, told = True, True, ""
                await self._look()
            except Lost as error:
                if not joined and told != (told := str(error)[:500]):
                    self._events.emit(events.Notice(code="cluster_unreachable", message=told))
                await asyncio.sleep(0.0 if joined else AGAIN)
                joined = False  # with no replica left, what is deployed may be something else by now
            except (TimeoutError, GatewayError):
                pass  # nobody answers: that shows in what is ready
            await asyncio.sleep(LOOK)

    async def close(self) -> None:
        for task in self._preloads.values():
            task.cancel()
        await self._fleet.leave()

    async def _look_once(self) -> None:
        """Now, and once for all who want it."""
        with contextlib.suppress(Lost, TimeoutError, GatewayError):
            await self._look()

    async def _look(self) -> None:
        seen = self._states(await self._fleet.follow(self._me, self._sight.told))
        for name, what in self._sight.see(seen):
            self._hear(name, what)
        version, live, pinned = self._live
        if version and any(state.version != version for state in seen):
            await self._fleet.keep(self._me, version, live, pinned)
        self._load_pinned()

    def _states(self, told: Sequence[bytes]) -> list[State]:
        """Replicas may be of another version than this gateway: one that it does not understand is not there."""
        seen, strange = [], ""
        for state in told:
            try:
                seen.append(states.decode(state))
            except msgspec.DecodeError as error:
                strange = str(error)[:300]
        if strange and strange != self._strange:
            message = f"a replica of another version than this gateway: {strange}"
            self._events.emit(events.Notice(code="replica_not_understood", message=message))
        self._strange = strange
        return seen

    def _load_pinned(self) -> None:
        held = self._sight.residences()
        for digest, generation in self._pins.items():
            if self.ready and digest not in held and digest not in self._preloads:
                task = asyncio.get_running_loop().create_task(_quietly(self.load(generation)))
                self._preloads[digest] = task
                task.add_done_callback(lambda _, digest=digest: self._preloads.pop(digest, None))  # type: ignore[misc]

    def _hear(self, name: str, what: Happened) -> None:
        """Of one replica: what everybody may know of it, in the words of one machine."""
        if isinstance(what, HostDied):
            ago = max(0.0, time.time() - what.when)
            for digest, since in what.suspects.items():
                if (seconds := self._quarantine.strike(digest, sole=what.sole, since=since, ago=ago)) is not None:
                    message = f"it was running on a host that died, {STRIKES} times"
                    told = events.GenerationQuarantined(
                        generation=digest[:12], models=self._names(digest), message=message, retry_after=seconds
                    )
                    self._events.emit(told)
            return
        if isinstance(what, Event):
            if kind := events.kinds().get(what.name):
                facts: dict[str, Any] = what.facts | ({"device": name} if "device" in what.facts else {})
                with contextlib.suppress(msgspec.ValidationError):  # another version's event of this name
                    self._events.emit(msgspec.convert(facts, kind))
            return
        if isinstance(what, wire.Batch):
            self._quarantine.survived(what.digest)
            self._costs.called(what)
        if isinstance(what, wire.Loaded):
            self._costs.loaded(what)
        if (event := event_of(what, self._names, name)) is not None:
            self._events.emit(event)


def _understood(decoder: msgspec.msgpack.Decoder[T], header: bytes) -> T:
    """Raises Lost: whoever speaks otherwise is as good as not there."""
    try:
        return decoder.decode(header)
    except msgspec.DecodeError as error:
        raise Lost(f"a replica of another version than this gateway: {error}") from error


def _next(avoid: set[str], node: str) -> set[str]:
    """Replicas of that node are not asked again, until all have been asked."""
    return set() if node in avoid else {*avoid, node}


async def _pause(seconds: float, until: float, now: float) -> None:
    await asyncio.sleep(max(0.0, min(seconds, until - now)))


async def _quietly(work: Awaitable[None]) -> None:
    with contextlib.suppress(GatewayError):  # told as an event by whoever noticed
        await work


def _has_room(size: int, state: State, digest: str) -> bool:
    """Beside that generation and what is pinned, which no load may evict."""
    staying = sum(each.bytes for each in state.residency.residents if each.pinned or each.digest == digest)
    return size + staying <= state.residency.budget
