"""How many devices a generation is on: a second copy where one device cannot keep up, until one can again."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Container, Sequence
from typing import Final

from gateway import events
from gateway.engine.demand import Lasting
from gateway.engine.placement import LOAD_WEIGHT, Site, crowded, soonest, spreads, surplus
from gateway.engine.sites import Sites
from gateway.engine.supervisor import Death, HostProcess
from gateway.errors import GatewayError
from gateway.host import wire
from gateway.model import Generation

LOOK: Final = 0.1  # seconds between two looks at a generation; what hosts report is not newer
BUSY: Final = 0.3  # seconds for which texts have to wait before another device gets a copy
GLANCE: Final = 0.005  # seconds between two looks at all devices for the sake of a single request
CALM: Final = 30.0  # seconds without waiting after which a copy goes


class Replicas:
    """`most` devices hold one generation. `sites` says how they stand to it, `load` has it loaded on one of them, and
    `names` says which models a digest is. `busy` and `calm` are in seconds; a load counts `load_weight` times as much
    as waiting as long."""

    def __init__(
        self,
        hosts: Sequence[HostProcess],
        tell: events.Events,
        *,
        names: Callable[[str], tuple[str, ...]],
        sites: Sites,
        load: Callable[[Generation, HostProcess], Awaitable[object]],
        most: int,
        busy: float = BUSY,
        calm: float = CALM,
        load_weight: float = LOAD_WEIGHT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._hosts = hosts
        self._events = tell
        self._names = names
        self._sites = sites
        self._load = load
        self._most = min(most or len(hosts), len(hosts))
        self._busy = busy
        self._calm = calm
        self._load_weight = load_weight
        self._pressed = Lasting(clock)
        self._eased = Lasting(clock)
        self._looked: dict[str, float] = {}
        self._looked_around = 0.0
        self._coming: dict[str, asyncio.Task[None]] = {}
        self._going: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None

    def look(self, generation: Generation, size: int) -> None:
        """Something is asked of the generation, of so many bytes: is what holds it enough? Costs next to nothing on
        most calls."""
        digest, now = generation.digest, asyncio.get_running_loop().time()
        if self._most < 2 or digest in self._coming or now - self._looked.get(digest, 0.0) < LOOK:
            return
        self._looked[digest] = now
        holders = self._sites.holders(digest)
        # twice as many each time: a crowd does not wait for its turn
        more = min(len(holders), self._most - len(holders))
        targets = self._spread(digest, size, holders, more) if more and crowded(holders) else []
        if self._pressed.seconds(digest, bool(targets)) >= self._busy and targets:
            self._add(generation, [self._hosts[target] for target in targets], min(site.wait for site in holders))

    def soonest(self, generation: Generation, size: int, load: float) -> int:
        """Where the generation, which is loaded somewhere but has to wait there, answers first, by what a load of so
        many seconds costs: perhaps on one device more, which it is on its way to then."""
        digest = generation.digest
        sites = self._sites.holders(digest)
        here = soonest(sites, size, load)
        if (
            here.load <= self._load_weight * load
            or sum(site.up for site in sites) >= self._most
            or not self._may_look()
        ):
            return here.index
        target = soonest([here, *self._others(digest, size)], size, load, self._load_weight)
        if not target.holds:
            self._sites.assign(digest, target.index, size)
            self._tell(generation, self._hosts[target.index], here.load)
            self._watch()
        return target.index

    def _may_look(self) -> bool:
        """Looking at others costs more than most requests, where all devices are as busy."""
        now = asyncio.get_running_loop().time()
        if now - self._looked_around < GLANCE:
            return False
        self._looked_around = now
        return True

    def keep(self, known: Container[str]) -> None:
        """Only these are remembered."""
        self._looked = {digest: when for digest, when in self._looked.items() if digest in known}
        self._pressed.keep(known)
        self._eased.keep(known)

    def _spread(self, digest: str, size: int, holders: Sequence[Site], most: int) -> list[int]:
        return spreads([*holders, *self._others(digest, size)], size, most)

    def _others(self, digest: str, size: int) -> list[Site]:
        return [site for site in self._sites.some(digest, size) if not site.holds]

    def _add(self, generation: Generation, hosts: Sequence[HostProcess], wait: float) -> None:
        digest = generation.digest

        async def load() -> None:
            await asyncio.gather(*(load_on(host) for host in hosts))

        async def load_on(host: HostProcess) -> None:
            with contextlib.suppress(GatewayError, Death):  # told as an event by whoever noticed
                await self._load(generation, host)

        def loaded(_: asyncio.Task[None]) -> None:
            self._coming.pop(digest, None)
            self._pressed.seconds(digest, False)  # the next copy has to be wanted as long again
            self._watch()

        for host in hosts:
            self._tell(generation, host, wait)
        task = self._coming[digest] = asyncio.get_running_loop().create_task(load())
        task.add_done_callback(loaded)

    def _tell(self, generation: Generation, host: HostProcess, wait: float) -> None:
        names = self._names(generation.digest)
        self._events.emit(
            events.GenerationReplicated(
                generation=generation.digest[:12], models=names, device=host.device, wait_seconds=wait
            )
        )

    def _watch(self) -> None:
        """Looks after the copies for as long as there are any."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._calm / 8, self._look_after)

    def _look_after(self) -> None:
        self._timer = None
        held = self._sites.several()
        for digest in held:
            target = surplus(self._sites.holders(digest))
            if self._eased.seconds(digest, target is not None) >= self._calm and target is not None:
                self._eased.seconds(digest, False)
                self._remove(digest, target)
        if held:
            self._watch()

    def _remove(self, digest: str, index: int) -> None:
        async def unload() -> None:
            with contextlib.suppress(Death):  # then it holds nothing
                await self._hosts[index].call(lambda number: wire.Unload(number, digest, "drawn_back"))

        def unloaded(task: asyncio.Task[None]) -> None:
            self._going.discard(task)
            self._sites.leaving(index, digest, so=False)

        self._sites.leaving(index, digest, so=True)
        task = asyncio.get_running_loop().create_task(unload())
        self._going.add(task)
        task.add_done_callback(unloaded)
