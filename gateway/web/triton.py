"""Triton's health and repository protocol
(https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_model_repository.md).

`READY` is what is in memory, as in Triton, whose scripts load, ask, unload and wait for it to be gone. Here the next
request loads a model that is not, and `reason` says so.
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec
from aiohttp import web

from gateway import __version__, errors
from gateway.errors import InvalidBody, ModelLoading, ModelNotFound, Starting
from gateway.model import PREFIX
from gateway.web import answers, asking
from gateway.web.asking import SERVICE
from gateway.web.body import decode, read
from gateway.web.contract import says
from gateway.web.errors import LINE, Dialect
from gateway.web.native import answer

routes: Final = web.RouteTableDef()
STATES: Final = {"loaded": "READY", "loading": "LOADING", "draining": "UNLOADING"}
ON_DEMAND: Final = "unloaded; the next request loads it"


class IndexBody(msgspec.Struct):
    """`POST /v2/repository/index`, which needs none."""

    ready: bool = False


class LoadBody(msgspec.Struct):
    """`POST /v2/repository/models/{model}/load` and `/unload`, which need none."""

    parameters: dict[str, Any] | None = None


_index_body: Final = msgspec.json.Decoder(IndexBody)
_load_body: Final = msgspec.json.Decoder(LoadBody)


@routes.get("/v2")
async def server(request: web.Request) -> web.Response:
    """What runs here."""
    return answer({"name": "dropgate", "version": __version__, "extensions": ["model_repository"]})


@routes.get("/v2/health/live")
@says(answer=None)
async def live(request: web.Request) -> web.Response:
    """200 while the process turns."""
    return web.Response()


@routes.get("/v2/health/ready")
@says(answer=None)
async def ready(request: web.Request) -> web.Response:
    """200 when requests may be sent here."""
    if not request[SERVICE].ready:
        raise Starting("the gateway is not ready; /readyz says why", retry_after=1.0)
    return web.Response()


@routes.get("/v2/models/{model:.+}/ready")
@routes.get("/v2/models/{model:.+}/versions/{version:[0-9]+}/ready")  # the lower one is matched first
@says(answer=None)
async def model_ready(request: web.Request) -> web.Response:
    """200 when the model, or that version of it, is in memory."""
    row = _row(asking.show(request, request.match_info["model"]))
    wanted = request.match_info.get("version", row["version"])
    if row["version"] != wanted:
        raise ModelNotFound(f"{row['name']} has no version {wanted} that is served", model=row["name"])
    if row["state"] != "READY":
        raise ModelLoading(f"{row['name']} is not ready: {row['reason']}", retry_after=1.0)
    return web.Response()


@routes.get("/v2/repository/index")
@routes.post("/v2/repository/index")
@says(body=IndexBody, example={"ready": True}, optional=True, answer=list[answers.TritonModel])
async def index(request: web.Request) -> web.Response:
    """Every model, with its state and why it is not ready."""
    raw = await read(request)
    body = decode(_index_body, raw) if raw.strip() else IndexBody()
    rows = [_row(entry) for entry in asking.listing(request)]
    return answer([row for row in rows if row["state"] == "READY" or not body.ready])


@routes.post("/v2/repository/models/{model:.+}/{verb:load|unload}")
@says(body=LoadBody, example={}, optional=True, answer=None)
async def operate(request: web.Request) -> web.Response:
    """Loads a model now, or frees its memory when the last request has ended. 200 without a body."""
    raw = await read(request)
    body = decode(_load_body, raw) if raw.strip() else LoadBody()
    if strange := sorted(set(body.parameters or ()) - {"unload_dependents"}):
        message = f"a model is changed by dropping its directory, not by the parameters {', '.join(strange)}"
        raise InvalidBody(message, field="parameters")
    service, spelling = request[SERVICE], request.match_info["model"]
    loads = request.match_info["verb"] == "load"
    done = await (service.load(spelling) if loads else service.unload(spelling))
    request[LINE]["model"] = done.path
    return web.Response()


def _row(entry: dict[str, Any]) -> dict[str, str]:
    state = STATES.get(entry["state"], "UNAVAILABLE")
    return {
        "name": entry["id"].removeprefix(PREFIX),
        "version": str(entry["version"] or 1),
        "state": state,
        "reason": "" if state == "READY" else _reason(entry),
    }


def _reason(entry: dict[str, Any]) -> str:
    if entry["state"] == "ready":
        return str(entry["load_error"] or ON_DEMAND)
    if entry["reasons"]:
        return "{message} ({remedy})".format(**entry["reasons"][0])
    return str(entry["pending"]["why"] if entry["pending"] else entry["state"])


def refusal(error: errors.GatewayError, status: int) -> dict[str, Any]:
    return {"error": error.message}


DIALECT: Final = Dialect("Triton", re.compile(r"/v2(?:/|$)"), refusal, answers.ErrorText)
