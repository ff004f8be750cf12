"""`GET /runs`: training runs on the volume. `GET /changes`: what changed between two generations of a model."""

from __future__ import annotations

import re
from typing import Any, Final

from aiohttp import web

from gateway.errors import InvalidBody
from gateway.runs.links import came_of
from gateway.runs.runs import Runs
from gateway.web import answers
from gateway.web.asking import SERVICE
from gateway.web.contract import says
from gateway.web.native import answer

RUNS: Final = web.AppKey("runs", Runs)
GENERATION: Final = re.compile("[0-9a-f]{6,64}")
routes: Final = web.RouteTableDef()


@routes.get("/runs")
@says(answer=answers.TrainingRuns)
async def runs(request: web.Request) -> web.Response:
    """Training runs, the newest first, and the models that say what they were trained from."""
    service, runs = request[SERVICE], request.app[RUNS]
    found, left_out = await runs.listing(service.caller)
    trained = service.catalog.trained()
    listed = [_linked(run, trained) for run in found]
    folder = runs.folder if service.caller.unrestricted else None
    return answer({"runs": listed, "models": trained, "left_out": left_out, "folder": folder})


@routes.get("/runs/{run:.+}")
async def run(request: web.Request) -> web.Response:
    """One run: how far it is, its curves, scores before and after, what it came from, the end of its log."""
    service = request[SERVICE]
    found = await request.app[RUNS].detail(service.caller, request.match_info["run"])
    return answer(_linked(found, service.catalog.trained()))


@routes.get("/changes")
@says(
    query={
        "model": "any spelling of a model; without it the default model",
        "from": "the beginning of a generation's digest; without it the one before",
        "to": "likewise; without it the live one",
    }
)
async def changes(request: web.Request) -> web.Response:
    """What changed between two generations of a model: files, manifest, metadata, lineage, scores; whether it breaks
    indexes."""
    service, spelling = request[SERVICE], request.query.get("model")
    model = service.resolve(spelling) if spelling else service.live(None)[0]
    before, after = (_generation(request, side) for side in ("from", "to"))
    return answer(await service.catalog.changes(model, before, after))


def _generation(request: web.Request, side: str) -> str | None:
    told = request.query.get(side)
    if told and not GENERATION.fullmatch(told):
        raise InvalidBody(f"`{side}` is the beginning of a digest: 6 to 64 hexadecimal digits", field=side)
    return told or None


def _linked(run: dict[str, Any], trained: list[dict[str, Any]]) -> dict[str, Any]:
    """With the models that came of it."""
    told = {key: value for key, value in run.items() if key != "made_from"}
    return {**told, "models": [model["id"] for model in trained if came_of(run, run["made_from"], model)]}
