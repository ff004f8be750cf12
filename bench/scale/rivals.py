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
from gateway.engine.placement import Site
from gateway.engine.process import ProcessEngine
from gateway.engine.refusals import Inputs
from gateway.engine.refusals import size as characters
from gateway.engine.replicas import Replicas
from gateway.engine.sites import Sites
from gateway.engine.supervisor import HostProcess
from gateway.model import Generation
from gateway.wish import AUTO, Wish

POINTS: Final = 100  # of each device on the ring
BOUND: Final = 1.5  # times the mean of what is asked of all devices: HAProxy's hash-balance-factor 150
NEVER: Final = 1e9  # times a load: nothing is worth one
WISH: Final = Wish(AUTO, AUTO)


class Engine(ProcessEngine):
    """The gateway's own, on simulated hosts."""

    def __init__(
        self,
        hosts: Sequence[Process],
        size: Callable[[Generation], int],
        *,
        tell: events.Events | None = None,
        **options: Any,
    ) -> None:
        told, clock = tell or events.Events(), hosts[0]._clock
        super().__init__(hosts, told, lambda digest: (), size, wish=lambda generation: WISH, clock=clock, **options)


class Doubling(Engine):
    """Copies of what has waited for a while wherever it is, as the hosts tell it, twice as many each time: what the
    gateway does for answers, whose length nobody knows, done for texts too."""

    def __init__(self, hosts: Sequence[Process], size: Callable[[Generation], int], **options: Any) -> None:
        super().__init__(hosts, size, load_weight=NEVER, **options)

    def _place(self, generation: Generation) -> HostProcess:
        base = generation.base or generation
        self._replicas.look(base, self._predict(base))
        return super()._place(generation)


class Counting(Engine):
    """What is asked of a device is counted in characters, whatever they cost."""

    def _seconds(self, generation: Generation, inputs: Inputs) -> float:
        return characters(inputs)


class Still(Counting):
    """No second copies."""

    def __init__(self, hosts: Sequence[Process], size: Callable[[Generation], int], **options: Any) -> None:
        super().__init__(hosts, size, replicas=1, **options)


class Random(Engine):
    """Any device that is up for what is loaded nowhere; with the gateway's own replication."""

    def __init__(self, hosts: Sequence[Process], size: Callable[[Generation], int], **options: Any) -> None:
        super().__init__(hosts, size, **options)
        self._chance = random.Random(0)

    def _first(self, digest: str, size: int, load: float) -> int:
        return self._chance.choice(
            [index for index, host in enumerate(self._hosts) if host.up] or range(len(self._hosts))
        )


class Earlier(Counting):
    """The gateway's own rules as they were before they were simulated. Every request asks about every device; what a
    host told last is taken as it is, what it was promised since then is not counted, and copies come one by one."""

    def __init__(self, hosts: Sequence[Process], size: Callable[[Generation], int], **options: Any) -> None:
        super().__init__(hosts, size, **{"busy": 1.0} | options)
        self._sites = Sites(self._hosts, self._demand, stale=60.0)
        self._replicas = OneByOne(
            self._hosts,
            self._events,
            names=self._names,
            sites=self._sites,
            load=self._load_on,
            most=0,
            busy=1.0,
            clock=hosts[0]._clock,
        )
        for host in self._hosts:
            host.on_state = self._sites.told

    def _place(self, generation: Generation) -> HostProcess:
        generation = generation.base or generation
        digest, size = generation.digest, self._predict(generation)
        self._replicas.look(generation, size)
        loaded = [index for index, host in enumerate(self._hosts) if host.up and _loaded(host, digest)]
        holders = loaded or [index for index in self._sites.holding(digest) if self._hosts[index].up]
        if holders:
            return self._hosts[min(holders, key=self._demand.load)]
        index = earlier([self._told(index, host) for index, host in enumerate(self._hosts)], size)
        self._sites.assign(digest, index, size)
        return self._hosts[index]

    def _told(self, index: int, host: HostProcess) -> Site:
        residents = [each for each in host.residents.values() if not each.leases and not each.pinned]
        idlest = max((each.idle_seconds for each in residents), default=0.0)
        free = host.residency.budget - host.residency.used
        return Site(index, host.up, holds=False, free=free, load=self._demand.load(index), idle_seconds=idlest)


class OneByOne(Replicas):
    def _spread(self, digest: str, size: int, holders: Sequence[Site], most: int) -> list[int]:
        return super()._spread(digest, size, holders, 1)


def _loaded(host: HostProcess, digest: str) -> bool:
    return digest in host.residents and host.residents[digest].state == "loaded"


def earlier(sites: Sequence[Site], size: int) -> int:
    """Where nobody holds it: room and the least to do, else the device whose idlest model has been idle longest."""
    candidates = [site for site in sites if site.up] or list(sites)
    roomy = [site for site in candidates if site.free >= size]
    if roomy:
        return min(roomy, key=lambda site: (site.load, -site.free)).index
    return max(candidates, key=lambda site: site.idle_seconds).index


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
        self._look()
        for step in range(len(self._ring)):
            index = self._ring[(start + step) % len(self._ring)][1]
            if self._hosts[index].up and self._takes(index):
                return self._hosts[index]
        return self._hosts[self._ring[start % len(self._ring)][1]]

    def _look(self) -> None:
        """Before a choice."""

    def _takes(self, index: int) -> bool:
        return True


class Bounded(Ring):
    """The same with bounded loads (Mirrokni, Thorup, Zadimoghaddam 2018): a device with more than its share of what is
    asked now passes on to the next of the ring."""

    def _look(self) -> None:
        count = len(self._hosts)
        self._most = BOUND * sum(self._demand.load(each) for each in range(count)) / count

    def _takes(self, index: int) -> bool:
        return self._demand.load(index) <= self._most


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


OURS: Final = "Dropgate"
BEFORE: Final = "Dropgate, as it was"
RANDOM: Final = "random placement"
HASHING: Final = "consistent hashing"
BOUNDED: Final = "hashing, bounded loads"
COUNT: Final = "LRU by count"
DOUBLING: Final = "copies after 0.3 s of waiting"
POLICIES: Final[dict[str, type[Engine]]] = {
    OURS: Engine,
    BEFORE: Earlier,
    RANDOM: Random,
    COUNT: Engine,
    DOUBLING: Doubling,
    HASHING: Ring,
    BOUNDED: Bounded,
}
