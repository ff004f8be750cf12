"""What each tenant has used of each model. Kept over restarts: written whole, now and then and at the end, so that a
crash loses the last half minute."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Final

import msgspec

from gateway import atomic, events
from gateway.lane import Lane

FILE: Final = "usage.json"
INTERVAL: Final = 30.0  # seconds between writes
MOST: Final = 10_000  # rows; what was used the longest ago goes
LOOKING: Final = frozenset({"GET", "HEAD", "OPTIONS"})  # uses nothing
GONE: Final = 499  # the client, before it was answered


class Row(msgspec.Struct, kw_only=True):
    """One tenant's of one model; `model` is its path, empty for requests that reached none, and `tenant` is empty
    without keys. `refusals` counts what was answered with an error, of whatever kind. Times in Unix seconds."""

    tenant: str
    model: str
    first: float
    last: float = 0.0
    requests: int = 0
    texts: int = 0
    tokens: int = 0
    compute_seconds: float = 0.0
    refusals: int = 0


class Document(msgspec.Struct, kw_only=True):
    version: int = 1
    rows: list[Row] = []


class Usage:
    """`known` says of a tenant and a model whether both are there still."""

    def __init__(
        self,
        known: Callable[[str, str], bool] = lambda tenant, model: True,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._known = known
        self._clock = clock
        self._rows: dict[tuple[str, str], Row] = {}
        self.changed = False

    def __call__(self, event: events.Event) -> None:
        """Hears of every request, those of nobody being nobody's, and of what knowledge bases embed by themselves."""
        if isinstance(event, events.ChunksEmbedded):
            self._add(event)
        elif isinstance(event, events.RequestFinished) and event.tenant is not None and event.method not in LOOKING:
            self._count(event, event.tenant)

    def _count(self, event: events.RequestFinished, tenant: str) -> None:
        row = self._row(tenant, event.model or "")
        row.last = self._clock()
        row.requests += 1
        row.tokens += event.tokens
        row.compute_seconds += event.compute_seconds
        if event.status < 400:
            row.texts += event.texts
        elif event.status != GONE:
            row.refusals += 1
        self.changed = True

    def _add(self, event: events.ChunksEmbedded) -> None:
        """No request: it was acknowledged before, or nobody asked."""
        row = self._row(event.owner, event.model)
        row.last = self._clock()
        row.texts += event.texts
        row.tokens += event.tokens
        row.compute_seconds += event.compute_seconds
        self.changed = True

    def _row(self, tenant: str, model: str) -> Row:
        row = self._rows.get((tenant, model))
        if row is None:
            if len(self._rows) >= MOST:
                oldest = min(self._rows.values(), key=lambda row: row.last)
                del self._rows[oldest.tenant, oldest.model]
            row = self._rows[tenant, model] = Row(tenant=tenant, model=model, first=self._clock())
        return row

    def rows(self) -> list[Row]:
        """All that is kept, also of tenants and models that have gone; by name."""
        return [self._rows[key] for key in sorted(self._rows)]

    def current(self) -> Iterator[Row]:
        """Of tenants and models that are there."""
        return (row for row in self.rows() if self._known(row.tenant, row.model))

    def take(self, rows: list[Row]) -> None:
        """What was kept, before anything is counted."""
        self._rows = {(row.tenant, row.model): row for row in rows}


class UsageFile:
    """Blocking; for a lane of one thread."""

    def __init__(self, state_dir: str) -> None:
        self._path = os.path.join(state_dir, FILE)

    def read(self) -> list[Row]:
        """Nothing, when there is no file. Raises ValueError for one that is broken, and puts it aside."""
        try:
            with open(self._path, "rb") as stream:
                return msgspec.json.decode(stream.read(), type=Document).rows
        except FileNotFoundError:
            return []
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            with suppress(OSError):
                os.replace(self._path, self._path + ".broken")
            raise ValueError(f"{self._path}: {error}; it is kept as {FILE}.broken") from error

    def write(self, content: bytes) -> None:
        """Raises OSError; the old file stays when it does."""
        atomic.write(self._path, content)


class Keeper:
    """Reads the usage at the start, and writes it now and then."""

    def __init__(self, usage: Usage, file: UsageFile, tell: events.Events) -> None:
        self._usage = usage
        self._file = file
        self._events = tell
        self._lane = Lane("usage")

    async def restore(self) -> None:
        try:
            self._usage.take(await self._lane.run(self._file.read))
        except ValueError as error:
            self._events.emit(events.Notice(code="usage_unreadable", message=f"beginning anew: {error}"))

    async def follow(self) -> None:
        """For ever."""
        while True:
            await asyncio.sleep(INTERVAL)
            await self.write()

    async def write(self) -> None:
        """What has come since, if anything has."""
        if not self._usage.changed:
            return
        self._usage.changed = False
        content = msgspec.json.encode(Document(rows=self._usage.rows()))
        try:
            await self._lane.run(self._file.write, content)
        except OSError as error:
            self._usage.changed = True
            self._events.emit(events.Notice(code="usage_unwritable", message=str(error)))
