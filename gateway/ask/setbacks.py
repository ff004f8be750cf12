"""What stands in the way at an upstream: it cannot be reached, or it refuses an adapter. Each is told once, shown until
it is over, and not tried again at once: the pauses double."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Final

import msgspec

from gateway import events
from gateway.ask.registrar import Refusal
from gateway.errors import GatewayError, LoadFailed, ProviderUnavailable
from gateway.model import Generation, Reason
from gateway.volume import reasons

FIRST_AWAY: Final = 1.0  # seconds until an upstream that cannot be reached is looked for again
LAST_AWAY: Final = 30.0
FIRST_FAILURE: Final = 5.0  # seconds until what it has refused is tried again
LAST_FAILURE: Final = 300.0


class Setback(msgspec.Struct, frozen=True):
    """Until when it is not tried again (monotonic), and after how long that was."""

    reason: Reason
    until: float
    wait: float


class Setbacks:
    """Of one upstream. `models` has those of a digest."""

    def __init__(
        self,
        name: str,
        tell: events.Events,
        models: Callable[[str], tuple[str, ...]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._events = tell
        self._models = models
        self._clock = clock
        self._wanted: Collection[str] = ()
        self._failures: dict[str, Setback] = {}  # by digest
        self._away: Setback | None = None

    @property
    def is_away(self) -> bool:
        return self._away is not None

    def of(self, digest: str) -> Setback | None:
        """What keeps it from being there."""
        return self._failures.get(digest) or self._away

    def failing(self, digest: str) -> float | None:
        """Seconds until what was refused is tried again; None where nothing was."""
        failure = self._failures.get(digest)
        return None if failure is None else max(0.0, failure.until - self._clock())

    def pause(self, interval: float) -> float:
        """Seconds until the next look."""
        now = self._clock()
        if self._away is not None:
            return max(0.0, self._away.until - now)
        return min([interval, *(max(0.05, each.until - now) for each in self._failures.values())])

    def keep(self, wanted: Collection[str]) -> None:
        self._wanted = wanted
        self._failures = {digest: each for digest, each in self._failures.items() if digest in wanted}

    def demand_there(self) -> None:
        """Raises ProviderUnavailable while the upstream cannot be reached."""
        if self._away is not None:
            left = max(0.1, self._away.until - self._clock())
            raise ProviderUnavailable(self._away.reason.message, retry_after=left, provider=self._name)

    def demand_untried(self, digest: str) -> None:
        """Raises LoadFailed while what was refused is not tried again."""
        failure = self._failures.get(digest)
        if failure is not None and failure.until > self._clock():
            raise self._told(digest, failure)

    def forget(self, digest: str) -> None:
        self._failures.pop(digest, None)

    def refused(self, generation: Generation, refusal: Refusal) -> LoadFailed:
        """To be raised."""
        digest, now = generation.digest, self._clock()
        known = self._failures.get(digest)
        if known is None or known.until <= now:
            wait = min(LAST_FAILURE, known.wait * 2) if known else FIRST_FAILURE
            known = Setback(reasons.reason(refusal.code, refusal.message), now + wait, wait)
            self._failures[digest] = known
            self._events.emit(
                events.LoadFailed(
                    generation=generation.short,
                    models=self._models(digest),
                    device=self._name,
                    code=LoadFailed.code,
                    message=refusal.message,
                    retry_after=wait,
                )
            )
        return self._told(digest, known)

    def lost(self, error: GatewayError) -> None:
        """The upstream cannot be reached: a look has failed. One load that fails says nothing of the others."""
        before, now = self._away, self._clock()
        if before is not None and now < before.until:
            return
        wait = min(LAST_AWAY, before.wait * 2) if before else FIRST_AWAY
        self._away = Setback(reasons.reason("upstream_unreachable", error.message), now + wait, wait)
        if before is None:
            self._events.emit(events.UpstreamLost(provider=self._name, models=self._all(), message=error.message))

    def found(self) -> None:
        """It answers. One that was away may have been started anew, and take what it refused before."""
        if self._away is not None:
            self._away = None
            self._failures.clear()
            self._events.emit(events.UpstreamFound(provider=self._name, models=self._all()))

    def _told(self, digest: str, failure: Setback) -> LoadFailed:
        left = max(0.1, failure.until - self._clock())
        reason = failure.reason
        return LoadFailed(reason.message, retry_after=left, reason=reason.code, generation=digest[:12])

    def _all(self) -> tuple[str, ...]:
        return tuple(sorted({model for digest in self._wanted for model in self._models(digest)}))
