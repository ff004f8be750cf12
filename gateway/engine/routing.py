"""Which replica of a cluster a generation's requests go to, as a pure function of what the replicas tell of themselves.

`place` knows its hosts within a tenth of a second and may evict the idlest model of all. Several gateways route over
one cluster without talking to each other, and what they know is older. What a gateway has asked of a replica it knows
at once, and that the other gateways have asked as much is the best guess there is. Where nothing holds a generation and
nothing has room, they have to agree by themselves, so a hash of both names says whose models make room.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from gateway.engine.placement import HOT, LOAD_WEIGHT, RESTED, Site, soonest

BOUND: Final = 1.5  # times the mean of what replicas have to do, above which the hash passes one by
REMEMBERED: Final = 10.0  # seconds after which a choice that no replica has confirmed is forgotten


class Told(msgspec.Struct, frozen=True):
    """What a replica last told. `name` is one that it keeps over its restarts, its node and device; `held` are digests
    in its memory or on their way there, of which `loaded` can answer; `free` in bytes, and `rested` those of models
    that may make room; `wait` in seconds until what it has is computed; so many `gateways` ask it."""

    name: str
    up: bool = True
    held: frozenset[str] = frozenset()
    loaded: frozenset[str] = frozenset()
    free: int = 0
    wait: float = 0.0
    rested: int = 0
    gateways: int = 1

    def work(self, age: float, asked: float) -> float:
        """Seconds that it has to do, as far as a gateway knows to which it told this `age` seconds ago, and which
        waits for `asked` seconds of its time."""
        return max(self.wait - age, self.gateways * asked)


def route(sites: Sequence[Site], names: Sequence[str], digest: str, size: int) -> int:
    """The index of the best of the sites, which have these `names`, for a generation of `size` bytes that none of them
    holds: the one with the most room, if that is enough, else the first by a hash of both names that has not much more
    to do than the others. A replica that is down is taken only when all are."""
    candidates = [site for site in sites if site.up] or list(sites)
    roomy = [site for site in candidates if site.free >= size]
    if roomy:
        return max(roomy, key=lambda site: (site.free, -site.load, weight(names[site.index], digest))).index
    most = BOUND * sum(site.load for site in candidates) / len(candidates)
    willing = [site for site in candidates if site.load <= most]
    return max(willing, key=lambda site: weight(names[site.index], digest)).index


def weight(name: str, digest: str) -> int:
    """Rendezvous hashing: whoever weighs most for a digest gets it, and one more name or one less moves only what that
    name gets."""
    return int.from_bytes(hashlib.blake2b(f"{name}\0{digest}".encode(), digest_size=8).digest(), "big")


class Choice(msgspec.Struct, frozen=True):
    name: str
    size: int
    when: float


class Choices:
    """The last choices of one gateway, which cover the delay of what replicas tell. `clock` in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._made: dict[tuple[str, str], Choice] = {}  # by digest and replica

    def choose(self, told: Sequence[Told], works: Sequence[float], digest: str, size: int, load: float) -> int:
        """The index of who answers first, by what each has to do, its `works`, and by what a load costs, which takes
        `load` seconds: with what was chosen just now counted as held. As `route`, where nobody has it."""
        self._forget(told)
        sites, names = self.sites(told, works, digest, size), [each.name for each in told]
        holders = [site for site in sites if site.up and site.holds]
        if not holders:
            index = route(sites, names, digest, size)
        else:
            if len(holders) > 1:  # of equals, everybody asks the same
                holders.sort(key=lambda site: weight(names[site.index], digest), reverse=True)
            here = soonest(holders, size, load)
            index = here.index
            if here.load > max(HOT, LOAD_WEIGHT * load):
                index = soonest([here, *(site for site in sites if not site.holds)], size, load).index
        if digest not in told[index].held:
            self._made[digest, told[index].name] = Choice(told[index].name, size, self._clock())
        return index

    def sites(self, told: Sequence[Told], works: Sequence[float], digest: str, size: int) -> list[Site]:
        """How the replicas stand to a generation."""
        promised = Counter[str]()
        for made in self._made.values():
            promised[made.name] += made.size

        def site(index: int, replica: Told) -> Site:
            free = replica.free - promised[replica.name]
            idle = RESTED if free + replica.rested >= size else 0.0
            holds = digest in replica.held or (digest, replica.name) in self._made
            return Site(index, replica.up, holds, free, works[index], idle, digest in replica.loaded)

        return [site(index, replica) for index, replica in enumerate(told)]

    def _forget(self, told: Sequence[Told]) -> None:
        """What a replica has confirmed, what none has for long, and what went to a replica that is no more."""
        now, held = self._clock(), {replica.name: replica.held for replica in told}
        self._made = {
            (digest, name): each
            for (digest, name), each in self._made.items()
            if now - each.when < REMEMBERED and name in held and digest not in held[name]
        }
