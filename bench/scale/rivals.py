"""Other ways to say where a model goes, over the same hosts and the same trace. Each changes the one decision of the
engine, or what a host keeps, and nothing else."""

from __future__ import annotations

import bisect
import hashlib
import random
from collections.abc import Callable, Sequence
from typing import Any, Final

from bench.scale.hosts import Process
from gateway import events
from gateway.engine.placement import Site, place
from gateway.engine.process import ProcessEngine
from gateway.engine.supervisor import HostProcess
from gateway.model import Generation
from gateway.wish import AUTO, Wish

POINTS: Final = 100  # of each device on the ring
BOUND: Final = 1.5  # times the mean of what is asked of all devices: HAProxy's hash-balance-factor 150
WISH: Final = Wish(AUTO, AUTO)


class Engine(ProcessEngine):
    """The gateway's own, on simulated hosts."""

    def __init__(self, hosts: Sequence[Process], size: Callable[[Generation], int], **options: Any) -> None:
        clock = hosts[0]._clock
        super().__init__(
            hosts, events.Events(), lambda digest: (), size, wish=lambda generation: WISH, clock=clock, **options
        )


class Still(Engine):
    """No second copies."""

    def __init__(self, hosts: Sequence[Process], size: Callable[[Generation], int], **options: Any) -> None:
        super().__init__(hosts, size, replicas=1, **options)


class Random(Engine):
    """Any device that is up for what is loaded nowhere; with the gateway's own replication."""

    def __init__(self, hosts: Sequence[Process], size: Callable[[Generation], int], **options: Any) -> None:
        super().__init__(hosts, size, **options)
        self._chance = random.Random(0)

    def _place(self, generation: Generation) -> HostProcess:
        generation = generation.base or generation
        digest = generation.digest
        self._replicas.look(generation, self._predict(generation))
        held = [index for index in self._sites.holding(digest) if self._hosts[index].up]
        if held:
            return self._hosts[min(held, key=self._demand.load)]
        up = [index for index, host in enumerate(self._hosts) if host.up] or list(range(len(self._hosts)))
        index = self._chance.choice(up)
        self._sites.assign(digest, index, self._predict(generation))
        return self._hosts[index]


class Earlier(Engine):
    """The gateway's own rule as it was before it was simulated: what a host told last is taken as it is, and what it
    was promised since then is not counted."""

    def _place(self, generation: Generation) -> HostProcess:
        generation = generation.base or generation
        digest, size = generation.digest, self._predict(generation)
        self._replicas.look(generation, size)
        holders = [index for index in self._sites.holding(digest) if self._hosts[index].up]
        if holders:
            loaded = self._sites.answering(digest)
            return self._hosts[min(loaded or holders, key=self._demand.load)]
        index = place([self._told(index, host) for index, host in enumerate(self._hosts)], size)
        self._sites.assign(digest, index, size)
        return self._hosts[index]

    def _told(self, index: int, host: HostProcess) -> Site:
        residents = [each for each in host.residents.values() if not each.leases and not each.pinned]
        idlest = max((each.idle_seconds for each in residents), default=0.0)
        free = host.residency.budget - host.residency.used
        return Site(index, host.up, holds=False, free=free, load=self._demand.load(index), idle_seconds=idlest)


class Ring(Still):
    """Consistent hashing on the model's digest: what a proxy does that knows nothing of the devices."""

    def __init__(self, hosts: Sequence[Process], size: Callable[[Generation], int], **options: Any) -> None:
        super().__init__(hosts, size, **options)
        points = [(_hash(f"{index}:{number}"), index) for index in range(len(hosts)) for number in range(POINTS)]
        self._ring = sorted(points)
        self._keys = [key for key, _ in self._ring]

    def _place(self, generation: Generation) -> HostProcess:
        digest = (generation.base or generation).digest
        start = bisect.bisect(self._keys, _hash(digest))
        for step in range(len(self._ring)):
            index = self._ring[(start + step) % len(self._ring)][1]
            if self._hosts[index].up and self._takes(index):
                return self._hosts[index]
        return self._hosts[self._ring[start % len(self._ring)][1]]

    def _takes(self, index: int) -> bool:
        return True


class Bounded(Ring):
    """The same with bounded loads (Mirrokni, Thorup, Zadimoghaddam 2018): a device with more than its share of what is
    asked now passes on to the next of the ring."""

    def _takes(self, index: int) -> bool:
        count = len(self._hosts)
        everything = sum(self._demand.load(each) for each in range(count))
        return self._demand.load(index) <= BOUND * everything / count


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


OURS: Final = "Dropgate"
COUNT: Final = "LRU by count"
POLICIES: Final[dict[str, type[Engine]]] = {
    OURS: Engine,
    "Dropgate, as it was": Earlier,
    "random placement": Random,
    COUNT: Engine,
    "consistent hashing": Ring,
    "hashing, bounded loads": Bounded,
}
