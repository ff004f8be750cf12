"""Where generations are, as hosts tell it and as they were told to load it: what placement goes by.

A request asks only about the devices that have its generation, however many there are. What a host has told is as old
as it is, so it is aged here, and what it was promised since then is counted.
"""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Iterator, Sequence
from typing import Final

from gateway.engine.demand import Demand
from gateway.engine.placement import HOT, STALE, Site
from gateway.engine.supervisor import HostProcess
from gateway.host import wire

ENOUGH: Final = (
    64  # devices that are looked at for one without a copy: the best of them is among the best 5% of any number
)


class Shelf:
    """What one report says of evicting. `free` counts what waits for room as if it had it; `idle` are the seconds and
    bytes of what may be evicted, in the order in which it would be."""

    def __init__(self, residency: wire.Residency) -> None:
        self.residency = residency
        waiting = sum(each.bytes for each in residency.residents if each.state == "waiting")
        self.free = residency.budget - residency.used - waiting
        idle = ((each.idle_seconds, each.bytes) for each in residency.residents if _is_idle(each))
        self.idle = sorted(idle, reverse=True)

    def youngest(self, missing: int) -> float | None:
        """How long the last one has been idle that has to leave for so many bytes; None if something busy has to."""
        for seconds, size in self.idle:
            missing -= size
            if missing <= 0:
                return seconds
        return None

    def stale(self, seconds: float) -> int:
        """Bytes of what has been idle for so long."""
        return sum(size for idle, size in self.idle if idle >= seconds)


class Sites:
    """By digest. `hosts` by index; an index is what everything here answers with."""

    def __init__(self, hosts: Sequence[HostProcess], demand: Demand, stale: float = STALE) -> None:
        self._hosts = hosts
        self._demand = demand
        self._stale = stale
        self._indices = {id(host): index for index, host in enumerate(hosts)}
        self._where: dict[str, set[int]] = {}  # on a device, on its way there, or behind it
        self._told: list[set[str]] = [set() for _ in hosts]
        self._shelves: list[Shelf | None] = [None for _ in hosts]
        self._assigned: dict[str, set[int]] = {}  # hosts that were told to load it, before their reports say so
        self._promised: list[dict[str, int]] = [{} for _ in hosts]  # and the bytes of those, by host
        self._leaving: set[tuple[int, str]] = set()
        self._chance = random.Random(0)  # which of many devices are looked at: nobody gains by guessing it
        for host in hosts:
            self.told(host)

    def index(self, host: HostProcess) -> int:
        return self._indices[id(host)]

    # What changes.

    def told(self, host: HostProcess) -> None:
        """A host has told its state anew, or has died."""
        index = self.index(host)
        before, now = self._told[index], host.residents.keys() | host.parked.keys()
        for digest in now - before:
            self._where.setdefault(digest, set()).add(index)
            self._promised[index].pop(digest, None)
        for digest in before - now:
            where = self._where[digest]
            where.discard(index)
            if not where:
                del self._where[digest]
        self._told[index] = now

    def assign(self, digest: str, index: int, size: int) -> None:
        """That host is about to be asked for it, and will load it."""
        self._assigned.setdefault(digest, set()).add(index)
        if index not in self._where.get(digest, ()):
            self._promised[index][digest] = size

    def settled(self, digest: str, host: HostProcess) -> None:
        """A request that it was assigned for has an answer: it has been loaded, and told, or it was not for want of
        something else."""
        index = self.index(host)
        self._promised[index].pop(digest, None)
        if len(self._assigned.get(digest, ())) > 1 and index not in self._where.get(digest, ()):
            self._assigned[digest].discard(index)  # one has to stay, so that everybody asks the same

    def dismiss(self, digest: str, host: HostProcess) -> None:
        """It is not on its way there any more."""
        index = self.index(host)
        self._promised[index].pop(digest, None)
        where = self._assigned.get(digest, set())
        where.discard(index)
        if not where:
            self._assigned.pop(digest, None)

    def died(self, host: HostProcess) -> None:
        index = self.index(host)
        for digest in [digest for digest, where in self._assigned.items() if index in where]:
            self.dismiss(digest, host)

    def keep(self, known: Collection[str]) -> None:
        """Only these are remembered."""
        for digest in [digest for digest in self._assigned if digest not in known]:
            for index in self._assigned.pop(digest):
                self._promised[index].pop(digest, None)

    def leaving(self, index: int, digest: str, *, so: bool) -> None:
        """That host is about to give its copy away: nothing new goes there."""
        (self._leaving.add if so else self._leaving.discard)((index, digest))

    # What is so.

    def holding(self, digest: str) -> list[int]:
        """Where it is, or behind, or told to be."""
        return sorted(self._where.get(digest, set()) | self._assigned.get(digest, set()))

    def answering(self, digest: str) -> list[int]:
        """The hosts that can compute with it now, and go on to."""
        return [index for index in sorted(self._where.get(digest, ())) if self._answers(index, digest)]

    def several(self) -> list[str]:
        """What is on more than one device, or on its way to one more."""
        return [digest for digest in self._where if len(self.holding(digest)) > 1]

    def residents(self, digest: str) -> Iterator[tuple[HostProcess, wire.Resident]]:
        for index in sorted(self._where.get(digest, ())):
            host = self._hosts[index]
            if resident := host.residents.get(digest):
                yield host, resident

    def holders(self, digest: str) -> list[Site]:
        """The devices that have it; `idle_seconds` and room are not asked there."""
        return [self._site(index, digest, 0) for index in self.holding(digest)]

    def some(self, digest: str, size: int) -> list[Site]:
        """How the devices stand to a generation of so many bytes: all that are up, or as many of them as it takes to
        find one that is nearly the best; where none is up, all."""
        up = [index for index, host in enumerate(self._hosts) if host.up] or list(range(len(self._hosts)))
        chosen = up if len(up) <= ENOUGH else self._chance.sample(up, ENOUGH)
        return [self._site(index, digest, size) for index in chosen]

    def _site(self, index: int, digest: str, size: int) -> Site:
        host = self._hosts[index]
        shelf = self._shelf(index)
        resident = host.residents.get(digest)
        wait = host.residency.queue_seconds
        if resident is not None and resident.rows_waiting:  # answers, which take longer than any text
            wait = max(wait, HOT)
        promised = self._promised[index]
        free = shelf.free - sum(promised.values()) + promised.get(digest, 0)
        age, youngest = host.age, shelf.youngest(size - free)
        return Site(
            index,
            host.up,
            index in self._where.get(digest, ()) or index in self._assigned.get(digest, ()),
            free,
            self._demand.load(index),
            youngest + age if youngest is not None else 0.0,
            self._answers(index, digest),
            self._demand.share(index, digest),
            wait,
            shelf.stale(self._stale - age),
            self._left(index, digest),
        )

    def _left(self, index: int, digest: str) -> float:
        host = self._hosts[index]
        if digest in host.parked:  # it is back within milliseconds
            return 0.0
        resident = host.residents.get(digest)
        if resident is None or resident.state == "leaving" or (index, digest) in self._leaving:
            return math.inf
        return max(0.0, resident.seconds_left - host.age)

    def _shelf(self, index: int) -> Shelf:
        """Of the last report; made when it is asked for."""
        residency, shelf = self._hosts[index].residency, self._shelves[index]
        if shelf is None or shelf.residency is not residency:
            shelf = self._shelves[index] = Shelf(residency)
        return shelf

    def _answers(self, index: int, digest: str) -> bool:
        host = self._hosts[index]
        resident = host.residents.get(digest)
        loaded = host.up and resident is not None and resident.state == "loaded"
        return loaded and (index, digest) not in self._leaving


def _is_idle(resident: wire.Resident) -> bool:
    """It may be evicted. An adapter is counted too, though it is in nobody's way: it is small."""
    return resident.state == "loaded" and not resident.leases and not resident.pinned
