"""What people who look after a gateway see of its last minutes: `GET /events/recent`, `GET /console/health`."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from aiohttp import web

from gateway.history import Happened, History
from gateway.web import answers
from gateway.web.asking import SERVICE
from gateway.web.contract import says
from gateway.web.native import answer
from gateway.web.stream import seen

HISTORY: Final = web.AppKey("history", History)
NOTHING: Final[dict[str, Any]] = {"samples": [], "exits": []}
routes: Final = web.RouteTableDef()


@routes.get("/events/recent")
@says(query={"after": "the number of an event: those after it alone"}, answer=answers.RecentEvents)
async def recent(request: web.Request) -> web.Response:
    """The newest events that the caller sees, the oldest first, with their times."""
    caller, history = request[SERVICE].caller, request.app[HISTORY]
    given = request.query.get("after", "")
    after = int(given) if given.isascii() and given.isdecimal() and len(given) < 18 else 0
    known = [(each, seen(each.event, caller)) for each in history.happened() if each.number > after]
    told = [_told(each, event) for each, event in known if event is not None]
    newest = told[-1]["number"] if told else after
    return answer({"events": told, "newest": newest, "since": history.since})


@routes.get("/console/health")
@says(answer=answers.Health)
async def health(request: web.Request) -> web.Response:
    """Samples of the last quarter of an hour: latencies, queues, batches; and hosts that died. Only a caller who sees
    everything is shown them, since they count what others do."""
    if not request[SERVICE].caller.unrestricted:
        return answer({"restricted": True, **NOTHING})
    return answer({"restricted": False, **request.app[HISTORY].health()})


def _told(each: Happened, event: Any) -> dict[str, Any]:
    facts = msgspec.to_builtins(event)
    return {"number": each.number, "at": each.at, "event": event.name, "level": event.level, "facts": facts}
