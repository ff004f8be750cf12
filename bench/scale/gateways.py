"""Several gateways in front of the same hosts. Each knows what it has asked for itself; what the hosts hold it hears
from time to time, and of the other gateways it hears nothing."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Sequence
from typing import Any, Final

from bench.scale.hosts import Process
from bench.scale.rivals import BOUND, Ring, Still
from gateway.engine.demand import Demand
from gateway.engine.placement import RESTED
from gateway.engine.process import ProcessEngine
from gateway.engine.refusals import Inputs
from gateway.engine.routing import Choices, Told
from gateway.engine.sites import Shelf
from gateway.engine.supervisor import HostProcess
from gateway.model import Generation

GATEWAYS: Final = 8


class Front:
    """What one gateway has asked for and chosen."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.demand = Demand()
        self.choices = Choices(clock)


class Several(Still):
    """A request comes to any of them."""

    def __init__(self, hosts: Sequence[Process], size: Callable[[Generation], int], **options: Any) -> None:
        super().__init__(hosts, size, **options)
        self._fronts = [Front(hosts[0]._clock) for _ in range(GATEWAYS)]
        self._from = random.Random(0)
        self._front = self._fronts[0]

    def _place(self, generation: Generation) -> HostProcess:
        self._front = self._from.choice(self._fronts)
        return self._choose(generation.base or generation)

    def _choose(self, generation: Generation) -> HostProcess:
        raise NotImplementedError

    def _asked(
        self, host: HostProcess, generation: Generation, inputs: Inputs
    ) -> contextlib.AbstractContextManager[None]:
        base = generation.base or generation
        return self._front.demand.of(self._sites.index(host), base.digest, self._seconds(generation, inputs))


class Routed(Several):
    """The router of `dropgate[ray]`: `routing.Choices`, over what hosts told `period` seconds ago at most. Whether a
    host is up is known at once."""

    period = 1.0

    def __init__(self, hosts: Sequence[Process], size: Callable[[Generation], int], **options: Any) -> None:
        super().__init__(hosts, size, **options)
        self._told: list[Told] = []
        self._told_at = -self.period

    def _choose(self, generation: Generation) -> HostProcess:
        now = asyncio.get_running_loop().time()
        if now - self._told_at >= self.period:
            self._told, self._told_at = [_told(host) for host in self._hosts], now
        told = [
            each if each.up == host.up else Told(each.name, up=host.up)
            for each, host in zip(self._told, self._hosts, strict=True)
        ]
        age, size = now - self._told_at, self._predict(generation)
        works = [each.work(age, self._front.demand.load(index)) for index, each in enumerate(told)]
        load = self._costs.loading(generation, size)
        return self._hosts[self._front.choices.choose(told, works, generation.digest, size, load)]

    def _seconds(self, generation: Generation, inputs: Inputs) -> float:
        return ProcessEngine._seconds(self, generation, inputs)  # and not in characters


class Fresh(Routed):
    period = 0.1


class Late(Routed):
    period = 10.0


class Hashed(Ring, Several):
    """Consistent hashing with bounded loads at every gateway, each by its own requests: a proxy for each."""

    def _choose(self, generation: Generation) -> HostProcess:
        return Ring._place(self, generation)

    def _place(self, generation: Generation) -> HostProcess:
        return Several._place(self, generation)

    def _look(self) -> None:
        count = len(self._hosts)
        self._most = BOUND * sum(self._front.demand.load(each) for each in range(count)) / count

    def _takes(self, index: int) -> bool:
        return self._front.demand.load(index) <= self._most


def _told(host: HostProcess) -> Told:
    shelf, age = Shelf(host.residency), host.age
    loaded = frozenset(digest for digest, each in host.residents.items() if each.state == "loaded")
    return Told(
        host.device,
        host.up,
        frozenset(host.residents),
        loaded,
        shelf.free,
        host.residency.queue_seconds,
        shelf.stale(RESTED - age),
        GATEWAYS,
    )


FRESH: Final = "router, told every 0.1 s"
ROUTED: Final = "router, told every 1 s"
LATE: Final = "router, told every 10 s"
HASHED: Final = "hashing, bounded loads, each gateway"
FRONTS: Final[dict[str, type[Still]]] = {FRESH: Fresh, ROUTED: Routed, LATE: Late, HASHED: Hashed}
