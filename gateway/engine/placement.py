"""Which device a generation goes to: a pure function of what the devices hold."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec


class Site(msgspec.Struct, frozen=True):
    """A device as placement sees it. `holds`: the generation is there or on its way; `idle_seconds` of its idlest
    model; `load` in tokens that wait."""

    index: int
    up: bool
    holds: bool
    free: int
    load: int
    idle_seconds: float


def place(sites: Sequence[Site], size: int) -> int:
    """The index of the best site for a generation of `size` bytes: one that holds it already, else one with room
    and the least to do, else the one whose least recently used model has been idle longest. A host that is down is
    taken only when all are."""
    candidates = [site for site in sites if site.up] or list(sites)
    holders = [site for site in candidates if site.holds]
    if holders:
        return min(holders, key=lambda site: site.load).index
    roomy = [site for site in candidates if site.free >= size]
    if roomy:
        return min(roomy, key=lambda site: (site.load, -site.free)).index
    return max(candidates, key=lambda site: site.idle_seconds).index
