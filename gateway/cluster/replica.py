"""One device of a cluster: a supervised host process, and what several gateways far away ask of it.

The host is a process of its own here too, for the same reason as on one machine: what a model does to it is noticed at
once, by a supervisor that survives it and knows whose call it was. Nothing here knows Ray.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import tempfile
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from typing import Any, Final

import msgspec

from gateway import events
from gateway.cluster.keeps import Keeps, Kept
from gateway.cluster.messages import Asked, Died, Event, Happened, HostDied, Offered, State, asked
from gateway.cluster.stock import Stock
from gateway.engine.devices import find_devices
from gateway.engine.placement import RESTED
from gateway.engine.routing import Told
from gateway.engine.sites import Shelf
from gateway.engine.supervisor import HOST_COMMAND, Death, HostProcess
from gateway.errors import GatewayError, Internal
from gateway.host import wire
from gateway.lane import Lane
from gateway.model import Generation

REMEMBERED: Final = 4096  # things that happened, for gateways that have not heard of them yet
TICK: Final = 5.0  # seconds between looks at what nobody wants any more
PRUNE: Final = 60.0
STARTING: Final = 0.05
TAKING: Final = 2  # generations that are copied to the node at once
FORWARDED: Final = (wire.Batch, wire.Loaded, wire.Unloaded, wire.LoadFailure, wire.FellBack)
TEMPORARY: Final = "{tmp}"  # at the beginning of one: where the node keeps temporary files
NODE: Final = "{node}"  # in a path: what the node is called


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """What a gateway tells a replica when it deploys it. `host` is the host's own configuration, without its device;
    `models_dir` and `state_dir` are the node's, and may have NODE and TEMPORARY in them; `command` starts a host, ()
    ours."""

    host: dict[str, Any]
    device: str
    models_dir: str
    state_dir: str
    allow_pickle: bool
    copy_budget: int
    in_place: bool
    hang_timeout: float
    load_timeout: float
    command: tuple[str, ...] = ()


class Replica:
    """`node` is what its node is called, and `name` what this device of the node is. Made on a running loop."""

    def __init__(self, config: Config, node: str, name: str) -> None:
        self._name = name
        self._life = secrets.token_hex(8)
        self._keeps = Keeps()
        self._kept: Kept | None = None
        self._happened: deque[Happened] = deque(maxlen=REMEMBERED)
        self._number = 0
        self._disk = Lane("stock", TAKING)
        self._stock = Stock(
            config.models_dir.replace(NODE, node),
            config.state_dir.replace(NODE, node).replace(TEMPORARY, tempfile.gettempdir()),
            node,
            allow_pickle=config.allow_pickle,
            copy_budget=config.copy_budget,
            in_place=config.in_place,
        )
        self._taking: dict[str, asyncio.Task[Generation]] = {}
        self._known: dict[str, Generation] = {}
        tell = events.Events()
        tell.subscribe(self._hear)
        self._host = HostProcess(
            name,
            msgspec.json.encode(config.host | {"device": find_devices(config.device)[0]}),
            tell,
            hang_timeout=config.hang_timeout,
            load_timeout=config.load_timeout,
            command=config.command or HOST_COMMAND,
        )
        self._host.on_report = self._report
        self._host.on_death = self._died
        self._host.on_up = lambda host: self._apply(always=True)
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._host.supervise()), loop.create_task(self._tidy())]

    async def start(self) -> None:
        """Returns when its host is up. Raises HostFailed when it does not start, again and again."""
        while not self._host.up:
            self.check()
            await asyncio.sleep(STARTING)

    async def stop(self) -> None:
        for task in self._tasks[1:]:
            task.cancel()
        await self._host.stop()

    # What is asked of it.

    async def call(self, need: Sequence[Any], avoid: Sequence[str], frame: bytes) -> tuple[bytes, wire.Payload]:
        """A command, and its answer with the payload. What comes before the frame is for who chooses a replica."""
        reply, payload = await self._answer(asked.decode(frame), lambda piece: None)
        return wire.encoder.encode(reply), payload

    async def stream(self, need: Sequence[Any], avoid: Sequence[str], frame: bytes) -> AsyncIterator[bytes]:
        """The same, told in pieces, of which the answer is the last."""
        pieces: asyncio.Queue[wire.Piece | None] = asyncio.Queue()
        answer = asyncio.get_running_loop().create_task(self._answer(asked.decode(frame), pieces.put_nowait))
        answer.add_done_callback(lambda _: pieces.put_nowait(None))
        try:
            while (piece := await pieces.get()) is not None:
                yield wire.encoder.encode(piece)
            reply, _ = await answer
            yield wire.encoder.encode(reply)
        finally:
            answer.cancel()  # its caller has gone; it is over where it has not

    async def follow(self, gateway: str, told: Mapping[str, int]) -> bytes:
        """Its state, with what happened since that gateway has heard: `told` has a number for each life of a replica.
        Who has heard nothing of this life hears what is to come."""
        since = told.get(self._life, self._number)
        fresh = min(self._number - since, len(self._happened))
        happened = list(self._happened)[len(self._happened) - fresh :] if fresh > 0 else []
        return wire.encoder.encode(
            State(
                name=self._name,
                life=self._life,
                up=self._host.up,
                pid=self._host.pid,
                restarts=self._host.restarts,
                reported=self._host.reported,
                residency=self._host.residency,
                version=self._keeps.renew(gateway),
                told=self._number,
                happened=happened,
            )
        )

    async def keep(self, gateway: str, version: int, live: Collection[str], pinned: Collection[str]) -> None:
        """What that gateway wants kept from now on."""
        self._keeps.keep(gateway, version, live, pinned)
        self._apply()

    async def unload(self, digest: str) -> bool:
        """Whether it was there."""
        if not self._host.up or not (digest in self._host.residents or digest in self._host.parked):
            return False
        with contextlib.suppress(Death):  # then it holds nothing
            await self._host.call(lambda number: wire.Unload(number, digest))
        return True

    def told(self) -> Told:
        """What whoever chooses among replicas has to know."""
        host = self._host
        held = {*host.residents, *host.parked}  # and not what is copied to the node: it has no bytes yet
        loaded = frozenset(each.digest for each in host.residents.values() if each.state == "loaded")
        shelf = Shelf(host.residency)
        coming = sum(each.bytes for each in host.residents.values())  # what waits for its place uses nothing yet
        free = min(shelf.free, host.residency.budget - coming)
        return Told(
            self._name,
            host.up,
            frozenset(held),
            loaded,
            free,
            max(0.0, host.residency.queue_seconds - host.age),
            shelf.stale(RESTED - host.age),
            self._keeps.gateways,
        )

    def check(self) -> None:
        """Raises GatewayError when it is of no use as it is: its host does not start, or nobody looks after the host or
        the disk any more. Something else may have to be tried."""
        for task in self._tasks:
            if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                raise Internal(f"{type(error).__name__} while the replica looked after itself") from error
        self._host.check()

    # A command.

    async def _answer(
        self, command: Asked, tell: Callable[[wire.Piece], None]
    ) -> tuple[wire.Done | wire.Failed | Died, wire.Payload]:
        digest = command.offers[-1].generation.digest
        try:
            await self._offer(command.offers)
            await self._host.wait_until_up()
            return await self._host.call(
                lambda number: msgspec.structs.replace(command.command, id=number), digest, tell
            )
        except Death as death:
            return Died(death.suspect, death.sole), b""
        except GatewayError as error:
            return wire.Failed.of(0, error), b""

    async def _offer(self, offers: Sequence[Offered]) -> None:
        """Tells the host of the generations, which are here when this returns. Raises NodeStale."""
        for offered in offers:
            self._keeps.use(offered.generation.digest)
        wanted = offers[-1].generation.digest
        generation = self._known.get(wanted)
        if generation is None:
            generation = await asyncio.shield(self._take(wanted, offers))
        await self._host.wait_until_up()
        if self._kept is not None and any(each.digest not in self._kept.live for each in _chain(generation)):
            self._apply()  # the gateway's word has not come yet, and what is not kept goes when it has answered
        for offered, each in zip(offers, _chain(generation), strict=True):
            self._host.offer(each, offered.wish)

    def _take(self, digest: str, offers: Sequence[Offered]) -> asyncio.Task[Generation]:
        """Once for all who wait for it."""
        task = self._taking.get(digest)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._disk.run(self._stock.open, offers))
            self._taking[digest] = task
            task.add_done_callback(lambda done: self._taken(digest, done))
        return task

    def _taken(self, digest: str, done: asyncio.Task[Generation]) -> None:
        del self._taking[digest]
        if not done.cancelled() and done.exception() is None:
            self._known[digest] = done.result()

    # What happens to it.

    def _hear(self, event: events.Event) -> None:
        self._note(Event(event.name, msgspec.to_builtins(event)))

    def _report(self, host: HostProcess, report: wire.Report) -> None:
        if isinstance(report, FORWARDED):
            self._note(report)

    def _died(self, host: HostProcess, suspects: Mapping[str, float], sole: bool) -> None:
        self._note(HostDied(dict(suspects), sole, time.time()))

    def _note(self, what: Happened) -> None:
        self._number += 1
        self._happened.append(what)

    def _apply(self, *, always: bool = False) -> None:
        """Tells the host what may stay, when that has changed."""
        kept = self._keeps.union()
        if kept is None or (kept == self._kept and not always):
            return
        self._kept = kept
        self._known = {digest: each for digest, each in self._known.items() if digest in kept.live}
        self._host.keep(kept.live, kept.pinned)

    async def _tidy(self) -> None:
        pruned = time.monotonic()
        while True:
            await asyncio.sleep(TICK)
            self._apply()
            if self._kept is not None and time.monotonic() - pruned > PRUNE:
                pruned = time.monotonic()
                wanted = {*self._kept.live, *self._host.residents, *self._taking}
                try:
                    gone = await self._disk.run(self._stock.prune, wanted)
                except OSError as error:
                    self._hear(events.Notice(code="store_not_pruned", message=str(error)))
                    continue
                self._known = {digest: each for digest, each in self._known.items() if digest not in gone}


def _chain(generation: Generation) -> tuple[Generation, ...]:
    """A base before its adapter."""
    return (generation,) if generation.base is None else (generation.base, generation)
