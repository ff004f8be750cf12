"""Which requests stand in the audit log, and what it says of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from gateway.tenants.audit import Audit, AuditFile
from gateway.web import asking, audit
from gateway.web.errors import LINE
from tests.web.test_auth import Door


class Watched(Door):
    """A door whose visitors are written down."""

    def __init__(self, base: Path, *, texts: bool = False) -> None:
        super().__init__(base)
        self.audit = Audit(AuditFile(str(base / "audit.jsonl"), 10**6, 2), self.tell)
        self.app.middlewares.insert(0, audit.middleware(self.audit, texts=texts))
        self.app.router.add_post("/use/{model}", self.use)
        self.log = base / "audit.jsonl"

    async def use(self, request: web.Request) -> web.Response:
        asking.count(request, ["a beam", "a ring"])
        request[LINE].update(model=request.match_info["model"], generation="0123456789ab", tokens=9)
        return web.Response(headers={"X-Secret": "no"})

    async def lines(self) -> list[dict[str, Any]]:
        await self.audit.close()
        return [json.loads(text) for text in self.log.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("texts", [False, True])
async def test_a_use_says_who_what_how_much_and_what_came_of_it(tmp_path: Path, texts: bool) -> None:
    door = Watched(tmp_path, texts=texts)
    async with TestClient(TestServer(door.app)) as client:
        secret = door.add("org")
        await client.post("/use/m%20n", headers={"X-API-Key": secret, "X-Request-Id": "mine"})
        (line,) = await door.lines()
    assert line.pop("time").endswith("Z")
    assert line.pop("seconds") >= 0
    assert line.pop("inputs", None) == (["a beam", "a ring"] if texts else None)
    assert line == {
        "request_id": "mine", "remote": "127.0.0.1", "method": "POST", "route": "/use/{model}", "path": "/use/m n",
        "status": 200, "tenant": "org", "key": secret.split("_")[1], "model": "m n", "generation": "0123456789ab",
        "texts": 2, "tokens": 9,
    }  # fmt: skip


async def test_changes_and_refusals_stand_there_and_looking_does_not(tmp_path: Path) -> None:
    door = Watched(tmp_path)
    async with TestClient(TestServer(door.app)) as client:
        secret = door.add("org")
        known = {"X-API-Key": secret}
        await client.get("/who", headers=known)
        await client.get("/models", headers=known)
        await client.get("/healthz")
        await client.get("/who")  # no key
        await client.get("/who", headers={"X-API-Key": "dg_0123456789ab_" + "a" * 43})
        await client.post("/models/x/load", headers=known)  # nothing was looked at yet
        await client.post("/embed", headers=known, data=b"{")
        lines = await door.lines()
    found = [(line["route"], line["status"], line.get("code"), line.get("tenant")) for line in lines]
    assert found == [
        ("/who", 401, "unauthenticated", None),
        ("/who", 401, "unauthenticated", None),
        ("/models/{model}/{verb}", 503, "starting", "org"),
        ("/embed", 400, "invalid_json", "org"),
    ]


async def test_no_secret_stands_in_the_log(tmp_path: Path) -> None:
    door = Watched(tmp_path, texts=True)
    async with TestClient(TestServer(door.app)) as client:
        secret = door.add("org")
        await client.post("/use/m", headers={"X-API-Key": secret})
        await client.post("/use/m", headers={"Authorization": f"Bearer {secret[:-1]}"})
        await door.lines()
    assert secret[:-1] not in door.log.read_text(encoding="utf-8")
