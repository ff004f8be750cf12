"""Loads that failed, each remembered for a while that doubles: what cannot be loaded is not tried with every request.

A failure is kept without its tracebacks, whose frames hold all that the load had read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from gateway.errors import GatewayError, LoadFailed

FIRST_BACKOFF: Final = 5.0
LAST_BACKOFF: Final = 300.0


@dataclass(frozen=True, slots=True)
class Failure:
    """`backoff` is the length of the time that ends at `until`, in seconds."""

    error: GatewayError
    until: float
    backoff: float


class Failures:
    """By digest; `clock` in seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._known: dict[str, Failure] = {}

    def refuse(self, digest: str) -> None:
        """Raises the error again while it is remembered, with what is left of its time."""
        failure = self._known.get(digest)
        if failure and self._clock() < failure.until:
            error = failure.error
            wait = failure.until - self._clock()
            raise type(error)(error.message, retry_after=wait, **error.details)

    def add(self, digest: str, error: GatewayError) -> GatewayError:
        """-> the error as it is remembered, and to be told."""
        known = self._known.get(digest)
        backoff = min(LAST_BACKOFF, known.backoff * 2) if known else FIRST_BACKOFF
        error.__cause__ = error.__context__ = None
        error = error.with_traceback(None)
        if error.retry_after is None and isinstance(error, LoadFailed):
            error.retry_after = backoff
        self._known[digest] = Failure(error, self._clock() + backoff, backoff)
        return error

    def forget(self, digest: str) -> None:
        self._known.pop(digest, None)

    def keep(self, live: frozenset[str]) -> None:
        """Forgets all others."""
        self._known = {digest: failure for digest, failure in self._known.items() if digest in live}
