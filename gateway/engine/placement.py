"""Which devices a generation is on: pure functions of what the devices hold and have to do."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import msgspec

HOT: Final = 0.1  # seconds that texts wait on a device which cannot keep up
COLD: Final = 0.02  # seconds that they wait on one with time to spare
SHARE: Final = 0.25  # of what is asked of a device, for a generation to be what keeps it busy
STALE: Final = 10.0  # seconds after which an idle model may make room for a second copy of a busy one
LOAD_WEIGHT: Final = 2.0  # what a load counts beside waiting as long: who waits takes nothing from anybody
RESTED: Final = 1.0  # seconds after which a model may make room for a copy


class Site(msgspec.Struct, frozen=True):
    """A device as placement sees it, with regard to one generation. `holds`: the generation is there or on its way, and
    `loaded` that it can answer; `load` in seconds that the device needs for what was asked of it and is not answered
    yet, of which the generation has the part `own`; `wait` in seconds until what the device has is computed, as it told
    it itself; `idle_seconds` of what was used last of all that would have to go, 0 if something busy would; `stale` in
    bytes of models that have been idle for STALE seconds; `left` in seconds of a load that is under way. `free` in
    bytes is less than nothing where more was promised than there is."""

    index: int
    up: bool
    holds: bool
    free: int
    load: float
    idle_seconds: float
    loaded: bool = False
    own: float = 0.0
    wait: float = 0.0
    stale: int = 0
    left: float = math.inf


def place(sites: Sequence[Site], size: int, load: float) -> int:
    """The index of the best site for a generation of `size` bytes that takes `load` seconds to load: one that holds it
    already, and rather one where it is loaded, and of those the one with the least to do; else where it is there first,
    if what has to go counts as one load more, and as two if it was used a moment ago; of equals where there is most
    room, or where that has been idle longest. A host that is down is taken only when all are."""
    candidates = [site for site in sites if site.up] or list(sites)
    holders = [site for site in candidates if site.loaded] or [site for site in candidates if site.holds]
    if holders:
        return min(holders, key=lambda site: site.load).index

    def order(site: Site) -> tuple[float, float]:
        if site.free >= size:
            return site.load, -site.free
        return site.load + (load if site.idle_seconds >= RESTED else 2 * load), -site.idle_seconds

    return min(candidates, key=order).index


def crowded(holders: Sequence[Site]) -> bool:
    """Whether texts wait for a generation on every device that has it, these, and a good part of them for it."""
    up = [site for site in holders if site.up]
    return bool(up) and all(site.loaded and site.wait >= HOT and site.own >= SHARE for site in up)


def spreads(sites: Sequence[Site], size: int, most: int) -> list[int]:
    """The indices of the best `most` sites that should hold a generation too: wherever it is texts wait, a good part of
    them for it, while elsewhere there is time, and room: free, or of models that nobody has asked for in a while."""
    up = [site for site in sites if site.up]
    if not crowded([site for site in up if site.holds]):
        return []
    others = [site for site in up if not site.holds and site.wait <= COLD and site.free + site.stale >= size]
    others.sort(key=lambda site: (site.free < size, site.load, -site.free))
    return [site.index for site in others[:most]]


def soonest(sites: Sequence[Site], size: int, load: float, weight: float = LOAD_WEIGHT) -> Site:
    """The one that answers first, for a generation of `size` bytes that takes `load` seconds to load and that a site
    which is up has: after what there is to do, and a load where it is not. A load counts `weight` times, and as much
    again where something has to go, which somebody will want back."""

    def until(site: Site) -> float:
        if site.loaded:
            return site.load
        if site.holds:
            return site.load + min(site.left, load)
        if site.free >= size:
            return site.load + weight * load
        return site.load + 2 * weight * load if site.idle_seconds >= RESTED else math.inf

    return min((site for site in sites if site.up), key=until)


def surplus(sites: Sequence[Site]) -> int | None:
    """The index of the site whose copy of a generation is one too many, if one is: several have it loaded, and on none
    of them do its texts wait."""
    holders = [site for site in sites if site.up and site.loaded]
    if len(holders) < 2 or any(site.own and site.wait > COLD for site in holders):
        return None
    return max(holders, key=lambda site: (not site.own, -site.free, site.index)).index
