"""`GET /console/live`: all that the console shows, whole at first and then what has changed, as server-sent events.

It is made at most twice a second however many look, and seldomer where it takes long. A reader that is slow is given
what has changed since it last took something: nothing waits for it, and nothing piles up.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final

import msgspec
import orjson
from aiohttp import web

from gateway import __version__
from gateway.activity import Activity
from gateway.model import PREFIX, ModelId
from gateway.service import Service
from gateway.tenants.caller import Caller
from gateway.web.asking import SERVICE
from gateway.web.contract import EVENTS, says
from gateway.web.stream import KEYRING, STOPPING

INTERVAL: Final = 0.5  # seconds between changes
SHARE: Final = 20  # and this many times as long as it took to find them: at most a twentieth of the loop
HEARTBEAT: Final = 15.0  # seconds of silence
JITTER: Final = 1.5  # seconds by which a last use must differ to be another one: hosts report its age
HEADERS: Final = {"Content-Type": EVENTS, "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
routes: Final = web.RouteTableDef()


class Row(msgspec.Struct, frozen=True):
    """A model, and its row as JSON."""

    model: ModelId
    text: bytes


class Board:
    """The rows of all models, for whoever looks."""

    def __init__(self, service: Service, activity: Activity, clock: Callable[[], float] = time.monotonic) -> None:
        self.activity = activity
        self._service = service
        self._clock = clock
        self._rows: dict[str, Row] = {}
        self._used: dict[str, float] = {}
        self._loads: dict[str, float] = {}  # models that are being loaded, and since when
        self._due = 0.0

    def rows(self) -> dict[str, Row]:
        """By id. To be left as it is."""
        began = self._clock()
        if began >= self._due:
            self._rows = self._look()
            self._due = began + max(INTERVAL / 2, SHARE * (self._clock() - began))
        return self._rows

    def _look(self) -> dict[str, Row]:
        rates = self.activity.rates()
        listing = self._service.catalog.listing()
        loads = {row["id"]: self._loads.get(row["id"], time.time()) for row in listing if row["load"]}
        self._loads = loads
        self._used = {row["id"]: self._last_used(row) for row in listing if row["last_used"] is not None}
        return {row["id"]: self._row(row, rates) for row in listing}

    def _last_used(self, row: dict[str, Any]) -> float:
        before, now = self._used.get(row["id"], 0.0), float(row["last_used"])
        return before if abs(now - before) < JITTER else now

    def _row(self, row: dict[str, Any], rates: dict[str, float]) -> Row:
        model = ModelId.of(row["id"].removeprefix(PREFIX))
        row["last_used"] = self._used.get(row["id"])
        row["requests_per_second"] = rates.get(model.path, 0.0)
        if row["load"]:
            row["load"]["since"] = self._loads[row["id"]]
        return Row(model, orjson.dumps(row))


BOARD: Final = web.AppKey("board", Board)


class Reader:
    """What one client has been told, so that it is told only what is new."""

    def __init__(self, board: Board, service: Service, *, closed: bool) -> None:
        self._board = board
        self._service = service
        self._closed = closed
        self._rows: dict[str, Row] = {}
        self._parts: dict[str, bytes] = {}
        self._sampled = 0.0
        self._begun = False

    def take(self) -> bytes:
        """Text of the stream; nothing where nothing has changed."""
        rows = self._seen()
        changed = [row.text for name, row in rows.items() if self._rows.get(name) != row]
        gone = [name for name in self._rows if name not in rows]
        self._rows = rows
        told: dict[str, Any] = {"models": [orjson.Fragment(text) for text in changed]} if changed else {}
        told |= {"gone": gone} if gone else {}
        told |= self._changed_parts()
        if samples := self._samples():
            told["held"] = samples
        if self._begun and not told:
            return b""
        name = b"change" if self._begun else b"state"
        if not self._begun:
            told = {**self._constant(), "models": [], "held": [], **told}
        self._begun = True
        return b"event: %s\ndata: %s\n\n" % (name, orjson.dumps({"now": time.time(), **told}))

    def _seen(self) -> dict[str, Row]:
        caller, rows = self._service.caller, self._board.rows()
        return rows if caller.unrestricted else {name: row for name, row in rows.items() if caller.sees(row.model)}

    def _changed_parts(self) -> dict[str, Any]:
        made = {name: orjson.dumps(part) for name, part in self._small_parts().items()}
        changed = {name: orjson.Fragment(text) for name, text in made.items() if self._parts.get(name) != text}
        self._parts = made
        return changed

    def _small_parts(self) -> dict[str, Any]:
        """What is told whole whenever it changes. Of the gateway as a whole only who sees everything is told."""
        service, catalog = self._service, self._service.catalog
        everything = service.caller.unrestricted
        checks = {"volume": catalog.usable, "host": service.engine.ready, "not_draining": not service.leaving}
        return {
            "ready": service.ready,
            "checks": checks,
            "aliases": catalog.aliases(),
            "ignored": msgspec.to_builtins(catalog.ignored),
            "devices": msgspec.to_builtins(service.engine.devices()) if everything else [],
            "watcher": msgspec.to_builtins(self._board.activity.watch) if everything else None,
        }

    def _samples(self) -> list[Any]:
        if not self._service.caller.unrestricted:
            return []
        fresh = [sample for sample in self._board.activity.samples if sample.at > self._sampled]
        if fresh:
            self._sampled = fresh[-1].at
        return [msgspec.to_builtins(sample) for sample in fresh]

    def _constant(self) -> dict[str, Any]:
        caller, settings = self._service.caller, self._service.settings
        return {
            "version": __version__,
            "tenants": self._closed,
            "caller": shown(caller),
            "models_dir": settings.models_dir if caller.unrestricted else None,
            "default_model": settings.default_model or None if caller.unrestricted else None,
        }


def shown(caller: Caller) -> dict[str, Any]:
    """Who asks, as they may know it."""
    return {
        "tenant": caller.tenant,
        "name": caller.name,
        "role": caller.role,
        "namespaces": list(caller.namespaces),
        "unrestricted": caller.unrestricted,
    }


@routes.get("/console/live")
@says(answer=str, media=(EVENTS,))
async def live(request: web.Request) -> web.StreamResponse:
    """What the console shows: whole at first (`state`), then what has changed (`change`), as the caller may see it."""
    service, keyring = request[SERVICE], request.app[KEYRING]
    reader = Reader(request.app[BOARD], service, closed=keyring.closed)
    response = web.StreamResponse(headers=HEADERS)
    stopping = asyncio.ensure_future(request.app[STOPPING].wait())
    quiet = 0.0
    try:
        await response.prepare(request)
        while not stopping.done() and keyring.holds(service.caller):
            text = reader.take()
            quiet = 0.0 if text else quiet + INTERVAL
            if quiet >= HEARTBEAT:
                text, quiet = b": nothing new\n\n", 0.0
            if text:
                await response.write(text)
            await asyncio.wait({stopping}, timeout=INTERVAL)
    except ConnectionError:
        pass  # the reader has gone
    finally:
        stopping.cancel()
    return response
