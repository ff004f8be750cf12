"""What several gateways over one cluster want kept: the union, for as long as each of them is heard of.

A gateway that has gone wants nothing any more, after a while; one that knows less than another, since it has looked at
the volume earlier, takes nothing away from that other. So no gateway needs to know that there are others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Final

import msgspec

EXPIRES: Final = 60.0  # seconds without a word of a gateway, or a request for a generation


class Kept(msgspec.Struct, frozen=True):
    live: frozenset[str]
    pinned: frozenset[str]


class Keeps:
    """`clock` in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._heard: dict[str, float] = {}
        self._wanted: dict[str, tuple[int, Kept]] = {}
        self._used: dict[str, float] = {}

    def keep(self, gateway: str, version: int, live: Collection[str], pinned: Collection[str]) -> None:
        """An older word that comes late changes nothing."""
        if version > self.version(gateway):
            self._wanted[gateway] = version, Kept(frozenset(live), frozenset(pinned))
        self._heard[gateway] = self._clock()

    def renew(self, gateway: str) -> int:
        """It is there still. -> the version of what it wants, as far as that is known here; -1 if it is not."""
        if gateway in self._wanted:
            self._heard[gateway] = self._clock()
        return self.version(gateway)

    def version(self, gateway: str) -> int:
        return self._wanted[gateway][0] if gateway in self._wanted else -1

    @property
    def gateways(self) -> int:
        """How many are there, and at least whoever asks."""
        return max(1, len(self._wanted))

    def use(self, digest: str) -> None:
        """Something was asked of it: whoever asked wants it, whether its word about that has come or not."""
        self._used[digest] = self._clock()

    def union(self) -> Kept | None:
        """None as long as no gateway has said what it wants: then all may stay."""
        since = self._clock() - EXPIRES
        self._wanted = {name: wanted for name, wanted in self._wanted.items() if self._heard[name] > since}
        self._heard = {name: heard for name, heard in self._heard.items() if name in self._wanted}
        self._used = {digest: used for digest, used in self._used.items() if used > since}
        if not self._wanted:
            return None
        wants = [wanted for _, wanted in self._wanted.values()]
        live = frozenset(self._used).union(*(want.live for want in wants))
        return Kept(live, frozenset().union(*(want.pinned for want in wants)))
