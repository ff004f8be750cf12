"""The last minutes, in a bounded piece of memory: what happened, and how long requests took and waited.

For people who look now. What must be kept for longer is in the log and in the metrics.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import msgspec

from gateway import events
from gateway.engine.engine import Engine
from gateway.events import Event

MOST_EVENTS: Final = 500
MOST_EXITS: Final = 20
PERIOD: Final = 5.0  # seconds of a sample
SAMPLES: Final = 180  # a quarter of an hour
BOUNDS: Final = tuple(0.0005 * 1.2**step for step in range(68))  # seconds; the last one is 101


class Happened(msgspec.Struct, frozen=True):
    """An event, and when it was: `at` in Unix seconds. `number` rises, and is that time in microseconds: a number that
    counted would tell a tenant how much happens to the others."""

    number: int
    at: float
    event: Event


class Window:
    """What is counted between two samples, of requests that were for a model."""

    def __init__(self) -> None:
        self.requests = self.errors = self.texts = self.tokens = self.calls = self.call_texts = 0
        self.busy = self.slowest = self.waited = 0.0
        self._latencies = [0] * (len(BOUNDS) + 1)

    def request(self, event: events.RequestFinished) -> None:
        self.requests += 1
        self.errors += event.status >= 500 or event.status == 429
        self.waited += event.queue_seconds
        self.slowest = max(self.slowest, event.seconds)
        self._latencies[bisect_left(BOUNDS, event.seconds)] += 1

    def call(self, event: events.DeviceCall) -> None:
        self.calls += 1
        self.call_texts += event.texts
        self.tokens += event.tokens
        self.busy += event.seconds

    def quantile(self, share: float) -> float | None:
        """The latency, to a tenth, that this share of the requests did not exceed."""
        wanted, seen = share * self.requests, 0
        for count, bound in zip(self._latencies, (*BOUNDS, self.slowest), strict=True):
            seen += count
            if count and seen >= wanted:
                return min(bound, self.slowest)
        return None


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """`seconds` up to `at`. Latencies in seconds, None where there was no request; `queue_tokens` by device, as it was
    at the end; `batch_texts` is the mean over device calls; `busy` is the share of the time in these, all devices
    together, so that two may reach 2."""

    at: float
    seconds: float
    requests: int
    errors: int
    p50: float | None
    p95: float | None
    slowest: float | None
    waited: float | None
    calls: int
    batch_texts: float | None
    tokens: int
    busy: float
    queue_tokens: dict[str, int]
    rows_waiting: int


class History:
    """Told all events; `follow` makes a sample now and then, and hands it to nobody."""

    def __init__(self, engine: Engine, *, wall: Callable[[], float] = time.time) -> None:
        self._engine = engine
        self._wall = wall
        self._happened: deque[Happened] = deque(maxlen=MOST_EVENTS)
        self._exits: deque[dict[str, Any]] = deque(maxlen=MOST_EXITS)
        self._samples: deque[Sample] = deque(maxlen=SAMPLES)
        self._window = Window()
        self._since = time.monotonic()
        self._newest = 0  # number of the last event
        self.since = wall()

    def __call__(self, event: Event) -> None:
        match event:
            case events.RequestFinished():
                if event.model is not None:
                    self._window.request(event)
            case events.DeviceCall():
                self._window.call(event)
            case _:
                self._keep(event)

    def _keep(self, event: Event) -> None:
        if isinstance(event, events.HostExited):
            told = {"device": event.device, "pid": event.pid, "status": event.status, "why": event.why}
            self._exits.append({"at": self._wall(), **told})
        if event.public:
            now = self._wall()
            self._newest = max(self._newest + 1, int(now * 1e6))
            self._happened.append(Happened(self._newest, now, event))

    def happened(self) -> list[Happened]:
        """The newest last."""
        return list(self._happened)

    def health(self) -> dict[str, Any]:
        """Of the gateway as a whole; times in Unix seconds."""
        return {
            "at": self._wall(),
            "period": PERIOD,
            "samples": msgspec.to_builtins([*self._samples, *self._beginning()]),
            "exits": list(self._exits),
        }

    def _beginning(self) -> list[Sample]:
        """The window that goes on, once it says something."""
        return [self._sample()] if time.monotonic() - self._since >= PERIOD / 2 or not self._samples else []

    def sample(self) -> None:
        """Ends one window and begins the next."""
        self._samples.append(self._sample())
        self._window, self._since = Window(), time.monotonic()

    def _sample(self) -> Sample:
        window, seconds = self._window, max(1e-3, time.monotonic() - self._since)
        held = self._engine.residences().values()
        return Sample(
            at=self._wall(),
            seconds=seconds,
            requests=window.requests,
            errors=window.errors,
            p50=window.quantile(0.5),
            p95=window.quantile(0.95),
            slowest=window.slowest if window.requests else None,
            waited=window.waited / window.requests if window.requests else None,
            calls=window.calls,
            batch_texts=window.call_texts / window.calls if window.calls else None,
            tokens=window.tokens,
            busy=window.busy / seconds,
            queue_tokens={device.device: device.queue_tokens for device in self._engine.devices()},
            rows_waiting=sum(residence.rows_waiting for each in held for residence in each),
        )

    async def follow(self) -> None:
        """To be run once, as a task."""
        while True:
            await asyncio.sleep(PERIOD)
            self.sample()
