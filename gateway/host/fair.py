"""Who is next: start-time fair queueing (Goyal, Vin, Cheng 1996) among those that wait, each with a weight.

A tag counts the units that its owner has had, over its weight; the least tag is next. While two of them wait, what they
have had over their weights differs by no more than one serving of each. Who stops waiting keeps its tag until the
others have caught up, so coming and going gains nothing; who was away has saved up nothing either.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class Fair(Generic[K]):
    """Those that wait, each known by a key. Every operation is linear in their number, which is small."""

    def __init__(self) -> None:
        self._weights: dict[K, float] = {}  # of those that wait, in the order in which they came
        self._tags: dict[K, float] = {}
        self._virtual = 0.0  # the tag of whoever was served last

    def __len__(self) -> int:
        return len(self._weights)

    def __contains__(self, key: K) -> bool:
        return key in self._weights

    def enter(self, key: K, weight: float = 1.0) -> None:
        """`key` waits from now on; one that waits already only gets its weight."""
        if key not in self._weights:
            self._tags[key] = max(self._virtual, self._tags.get(key, 0.0))
        self._weights[key] = weight

    def next(self) -> K | None:
        """Whose turn it is; of equals, who has waited longest."""
        return min(self._weights, key=self._tags.__getitem__, default=None)

    def in_order(self) -> list[K]:
        """All that wait, as their turns would come."""
        return sorted(self._weights, key=self._tags.__getitem__)

    def charge(self, key: K, units: float, *, early: bool = False) -> None:
        """`key`, which waits, was served so much; `early` before its turn, which then is the later."""
        if not early:
            self._virtual = max(self._virtual, self._tags[key])
        self._tags[key] += units / self._weights[key]

    def leave(self, key: K) -> None:
        """`key` waits no more. Tags that the others have caught up with are forgotten; when nobody waits, all are."""
        del self._weights[key]
        if not self._weights:
            self._tags.clear()
            self._virtual = 0.0
        else:
            kept = {name: tag for name, tag in self._tags.items() if name in self._weights or tag > self._virtual}
            self._tags = kept
