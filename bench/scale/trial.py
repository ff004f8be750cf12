"""One run: a world, a policy, a seed; and its figures.

Before the clock counts, the models that are asked for most are loaded, the most popular last, and a part of the trace
is played. What must be conserved is asserted: every request has one answer, every token that was answered was computed
once, and no device ever held more than its budget.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any, Final, cast

from bench.scale import clock
from bench.scale.costs import Costs
from bench.scale.figures import Figures, Seen, figures
from bench.scale.gateways import FRONTS
from bench.scale.hosts import Ground, Ledger, Process, failed
from bench.scale.rivals import COUNT, POLICIES, Engine
from bench.scale.world import Asked, Cell, World
from gateway import events
from gateway.errors import GatewayError
from gateway.host.wire import Options

PLAIN: Final = Options()
WARM_UP: Final = 0.2  # of the requests: played and not counted
AT_ONCE: Final = 4  # loads for each device before the clock counts


class Trial:
    """`policy` is a name of `rivals.POLICIES` or of `gateways.FRONTS`; `options` are the engine's."""

    def __init__(self, cell: Cell, policy: str, seed: int, costs: Costs, **options: Any) -> None:
        self.cell = cell
        self.world = World(cell, seed, costs)
        self.ledger = Ledger(cell.devices)
        limit = _limit(self.world) if policy == COUNT else 0
        self.bus = events.Events()
        ground = Ground(self.world, costs, self.ledger)
        self.hosts = [Process(index, ground, self.bus, limit) for index in range(cell.devices)]
        self.engine: Engine = (POLICIES | FRONTS)[policy](
            self.hosts, self.world.size, tell=self.bus, limit=limit, **options
        )
        self.seen = Seen()
        self.tokens = 0
        self.outcomes: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> Figures:
        """The whole story. To be run on the simulated clock."""
        loop = asyncio.get_running_loop()
        for host in self.hosts:
            host.begin()
        await asyncio.sleep(0)
        if self.cell.swaps:
            self.engine.keep(self.world.models, [])
        await self._load_popular()
        trace = self.world.asked()
        first = int(WARM_UP * len(trace))
        start = loop.time()
        mishaps = [loop.create_task(each) for each in self._mishaps(start)]
        for number, asked in enumerate(trace):
            await clock.until(start + asked.when)
            if number == first:
                self.seen.begin(loop.time(), self.ledger)
            self._spawn(asked)
        self.seen.end(loop.time(), self.ledger)
        for mishap in mishaps:
            await mishap
        while self._tasks:
            await asyncio.wait(self._tasks)
        self._check(len(trace))
        for host in self.hosts:
            host.close()
        turn = self.cell.dies if self.cell.deaths else self.cell.crowd_from
        return figures(self.cell, self.seen, self.ledger, self.outcomes, start + turn * self.world.seconds)

    def _spawn(self, asked: Asked) -> None:
        task = asyncio.get_running_loop().create_task(self._ask(asked, counted=self.seen.counting))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _ask(self, asked: Asked, *, counted: bool) -> None:
        loop = asyncio.get_running_loop()
        began, ids = loop.time(), cast(list[list[int]], self.world.texts(asked.rows))  # they are only counted
        try:
            answer = await self.engine.embed(self.world.models[asked.number], ids, PLAIN)
        except GatewayError as error:
            self.outcomes[failed(error)] += 1
            return
        assert answer.rows == asked.rows
        self.outcomes["answered"] += 1
        self.tokens += answer.tokens
        if counted:
            self.seen.answered(began, loop.time() - began - answer.compute_seconds, hit=answer.load_seconds == 0.0)

    def _check(self, asked: int) -> None:
        assert sum(self.outcomes.values()) == asked, "a request has one answer"
        lost = self.ledger.tokens - self.tokens
        assert lost >= 0, "what was answered was computed"
        if not self.cell.deaths:
            assert not lost, "and it was computed once"

    async def _load_popular(self) -> None:
        """As many as there is room for, and some more."""
        room, chosen = 1.2 * self.cell.budget * self.cell.devices, 0
        for number in self.world.popular(self.cell.models)[::-1]:
            if room <= 0:
                break
            room -= self.world.size(self.world.models[number])
            chosen += 1
        turn = asyncio.Semaphore(AT_ONCE * self.cell.devices)

        async def load(number: int) -> None:
            async with turn:
                await self.engine.load(self.world.models[number])

        await asyncio.gather(*(load(number) for number in self.world.popular(chosen)))
        self.ledger.loads.clear()

    def _mishaps(self, start: float) -> list[Any]:
        made: list[Any] = []
        if self.cell.deaths:
            made.append(self._deaths(start))
        if self.cell.swaps:
            made.append(self._swaps(start))
        return made

    async def _deaths(self, start: float) -> None:
        dying = self.hosts[: self.cell.deaths]
        await clock.until(start + self.cell.dies * self.world.seconds)
        for host in dying:
            host.die()
        await clock.until(start + self.cell.back * self.world.seconds)
        for host in dying:
            host.begin()

    async def _swaps(self, start: float) -> None:
        """As the catalog does it: the new beside the old, then the old goes."""
        loop = asyncio.get_running_loop()
        version = 0
        while loop.time() < start + self.world.seconds:
            await asyncio.sleep(1 / self.cell.swaps)
            version += 1
            number = self.world.any_popular()
            renewed = self.world.renew(number, version)
            if renewed is not None:
                await self.engine.load(renewed)
                self.world.models[number] = renewed
                self.engine.keep(self.world.models, [])


def _limit(world: World) -> int:
    """As many as fit if each is as large as the average: who counts models counts no bytes."""
    sizes = [kind.bytes for kind in world.kinds if not kind.adapter]
    return max(1, round(world.cell.budget * len(sizes) / sum(sizes)))


def run(cell: Cell, policy: str, seed: int, costs: Costs, **options: Any) -> Figures:
    """The figures of one run. The same arguments give the same figures."""

    async def story() -> Figures:
        return await Trial(cell, policy, seed, costs, **options).run()

    return clock.run(story())
