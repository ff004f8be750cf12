"""Which replica of a cluster a generation's requests go to, as a pure function of what the replicas tell of themselves.

`place` knows its hosts within a tenth of a second and may evict the idlest model of all. Several gateways route over
one cluster without talking to each other, and what they know is older: where nothing holds a generation and nothing has
room, they have to agree by themselves, so a hash of both names says whose models make room.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from gateway.engine.demand import Lasting
from gateway.engine.placement import Site, spread

BOUND: Final = 1.5  # times the mean of what replicas have to do, above which the hash passes one by
PRESSED: Final = 1.0  # seconds for which texts have to wait before another replica gets a copy
REMEMBERED: Final = 10.0  # seconds after which a choice that no replica has confirmed is forgotten


class Told(msgspec.Struct, frozen=True):
    """What a replica last told. `name` is one that it keeps over its restarts, its node and device; `held` are digests
    in its memory or on their way there, of which `loaded` can answer; `free` in bytes; `wait`, `idle_seconds` and
    `stale` as in `placement.Site`."""

    name: str
    up: bool = True
    held: frozenset[str] = frozenset()
    loaded: frozenset[str] = frozenset()
    free: int = 0
    wait: float = 0.0
    idle_seconds: float = 0.0
    stale: int = 0


def route(sites: Sequence[Site], names: Sequence[str], digest: str, size: int) -> int:
    """The index of the best of the sites, which have these `names`, for a generation of `size` bytes: one that holds it
    already, and rather one where it is loaded, else one with room, the one with the most room of those that have the
    least to do, else the first by a hash of both names that has not much more to do than the others. A replica that is
    down is taken only when all are."""
    candidates = [site for site in sites if site.up] or list(sites)
    holders = [site for site in candidates if site.loaded] or [site for site in candidates if site.holds]
    if holders:
        return min(holders, key=lambda site: (site.load, -weight(names[site.index], digest))).index
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
        self._made: dict[str, Choice] = {}
        self._pressed = Lasting(clock)

    def choose(self, told: Sequence[Told], loads: Sequence[float], own: Sequence[float], digest: str, size: int) -> int:
        """As `route`, with what was chosen just now counted as held; and at times one more, to load it too, where its
        texts have waited for PRESSED seconds wherever it is. `loads` is what this gateway has asked of each and has no
        answer to, of which `own` is the generation's part."""
        self._forget(told)
        sites = self.sites(told, loads, own, digest)
        second = spread(sites, size)
        if second is not None and self._pressed.seconds(digest, True) >= PRESSED:
            self._pressed.seconds(digest, False)  # the next copy has to be wanted as long again
            index = second
        else:
            self._pressed.seconds(digest, second is not None)
            index = route(sites, [each.name for each in told], digest, size)
        if digest not in told[index].held:
            self._made[digest] = Choice(told[index].name, size, self._clock())
        return index

    def sites(self, told: Sequence[Told], loads: Sequence[float], own: Sequence[float], digest: str) -> list[Site]:
        """How the replicas stand to a generation."""
        made = self._made.get(digest)
        promised = [sum(each.size for each in self._made.values() if each.name == replica.name) for replica in told]
        return [
            Site(
                index,
                replica.up,
                digest in replica.held or (made is not None and made.name == replica.name),
                replica.free - promised[index],
                loads[index],
                replica.idle_seconds,
                digest in replica.loaded,
                own[index],
                replica.wait,
                replica.stale,
            )
            for index, replica in enumerate(told)
        ]

    def forget(self, digest: str) -> None:
        """Whoever it went to did not take it."""
        self._made.pop(digest, None)

    def _forget(self, told: Sequence[Told]) -> None:
        """What a replica has confirmed, what none has for long, and what went to a replica that is no more."""
        now, held = self._clock(), {replica.name: replica.held for replica in told}
        self._made = {
            digest: each
            for digest, each in self._made.items()
            if now - each.when < REMEMBERED and each.name in held and digest not in held[each.name]
        }
