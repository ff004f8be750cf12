"""`GET /metrics`: Prometheus text, or the four numbers that an older system's clients read as JSON."""

from __future__ import annotations

from typing import Final

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from gateway.telemetry import Metrics
from gateway.web.asking import SERVICE
from gateway.web.contract import JSON, TEXT, says
from gateway.web.native import answer

METRICS: Final = web.AppKey("metrics", Metrics)
OPEN_METRICS: Final = web.AppKey("open_metrics", bool)  # whether anybody may read them
routes: Final = web.RouteTableDef()


@routes.get("/metrics")
@says(media=(TEXT, JSON))
async def metrics(request: web.Request) -> web.Response:
    """Prometheus text; JSON with `Accept: application/json`. With keys, for one that operates all namespaces."""
    if not request.app[OPEN_METRICS]:
        request[SERVICE].caller.must_see_everything("operate", "reading the metrics")
    if "application/json" in request.headers.get("Accept", ""):
        return answer(request.app[METRICS].older())
    return web.Response(body=request.app[METRICS].text(), headers={"Content-Type": CONTENT_TYPE_LATEST})
