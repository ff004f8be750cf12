"""`GET /usage`: what a tenant has used, of which models."""

from __future__ import annotations

from typing import Any, Final

from aiohttp import web

from gateway.model import ModelId
from gateway.tenants.caller import Caller
from gateway.tenants.usage import Row, Usage
from gateway.web.asking import SERVICE
from gateway.web.native import answer

USAGE: Final = web.AppKey("usage", Usage)
routes: Final = web.RouteTableDef()


@routes.get("/usage")
async def usage(request: web.Request) -> web.Response:
    """What the caller's tenant has used of each model; an administrator of everything sees all, or `?tenant=`."""
    caller, wanted = request[SERVICE].caller, request.query.get("tenant")
    rows = [row for row in request.app[USAGE].rows() if wanted in {None, row.tenant} and _sees(caller, row)]
    return answer({"usage": [_shown(row) for row in rows]})


def _sees(caller: Caller, row: Row) -> bool:
    if caller.unrestricted and caller.may("admin"):
        return True
    return row.tenant == caller.tenant and (not row.model or caller.sees_path(row.model))


def _shown(row: Row) -> dict[str, Any]:
    return {
        "tenant": row.tenant,
        "model": str(ModelId.of(row.model)) if row.model else None,
        "requests": row.requests,
        "texts": row.texts,
        "tokens": row.tokens,
        "compute_seconds": round(row.compute_seconds, 6),
        "refusals": row.refusals,
        "first": row.first,
        "last": row.last,
    }
