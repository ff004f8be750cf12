"""Pulling models from a hub over HTTP. The answer does not wait for the model: it says where to look."""

from __future__ import annotations

from typing import Final

import msgspec
from aiohttp import web

from gateway.service import Service
from gateway.volume.pulls import Pull, show
from gateway.web.asking import SERVICE
from gateway.web.body import decode, read
from gateway.web.contract import says
from gateway.web.errors import LINE
from gateway.web.native import answer

routes: Final = web.RouteTableDef()


class PullBody(msgspec.Struct):
    """`POST /models/pull`."""

    model: str
    revision: str | None = None


_body: Final = msgspec.json.Decoder(PullBody)


@routes.post("/models/pull")
@says(body=PullBody, example={"model": "intfloat/e5-small-v2"}, status=202)
async def pull(request: web.Request) -> web.Response:
    """Brings a model from the hub to the volume; 202, and `Location` says how far it is. Twice is once."""
    body = decode(_body, await read(request))
    started = _service(request).pull(body.model, body.revision)
    request[LINE]["model"] = started.model.path
    response = answer(_shown(started), 202)
    response.headers["Location"] = _where(started)
    return response


@routes.get("/models/pulls")
async def pulls(request: web.Request) -> web.Response:
    """The pulls under way and the last ones that have ended, with their bytes."""
    return answer({"pulls": [_shown(found) for found in _service(request).list_pulls()]})


@routes.get("/models/pulls/{model:.+}")
async def progress(request: web.Request) -> web.Response:
    """One pull: how far it is, or why it failed."""
    return answer(_shown(_service(request).find_pull(request.match_info["model"])))


def _service(request: web.Request) -> Service:
    return request[SERVICE]


def _shown(pull: Pull) -> dict[str, object]:
    return show(pull) | {"progress": _where(pull)}


def _where(pull: Pull) -> str:
    return f"/models/pulls/{pull.model.path}"
