"""How many calls to a provider are in flight at once, and whose turn it is when one more may be.

A place that becomes free goes to the tenant that holds fewest of those that wait, and of equals to the one that has
waited longest: a tenant with a thousand calls in its queue leaves the others their share.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque


class Places:
    """So many, shared by tenants. Changed only between awaits of one loop."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._held: Counter[str] = Counter()
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}  # in the order in which their first one came

    async def take(self, tenant: str, until: float) -> None:
        """Waits for a place, to be given back by the same name. `until` on the loop's clock. Raises TimeoutError."""
        if self._free:
            self._free -= 1
            self._held[tenant] += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(tenant, deque()).append(turn)
        try:
            async with asyncio.timeout_at(until):
                await turn
        except BaseException:
            if turn.done() and not turn.cancelled():  # it was given a place that nobody will use
                self.give_back(tenant)
            else:
                self._forget(tenant, turn)
            raise

    def give_back(self, tenant: str) -> None:
        self._held[tenant] -= 1
        if not self._held[tenant]:
            del self._held[tenant]
        while self._waiting:
            following = min(self._waiting, key=self._held.__getitem__)  # the first of equals
            turns = self._waiting.pop(following)
            turn = turns.popleft()
            if turns:
                self._waiting[following] = turns  # behind the others
            if not turn.done():  # else whoever waited has left
                self._held[following] += 1
                turn.set_result(None)
                return
        self._free += 1

    def _forget(self, tenant: str, turn: asyncio.Future[None]) -> None:
        """It is there no more where its turn came while it was leaving."""
        turns = self._waiting.get(tenant, deque())
        if turn in turns:
            turns.remove(turn)
        if not turns:
            self._waiting.pop(tenant, None)
