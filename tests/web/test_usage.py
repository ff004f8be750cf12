"""`GET /usage`: whose usage is shown to whom."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from gateway import events
from gateway.tenants.usage import Usage
from gateway.web import usage
from tests.web.test_auth import Door

Client = TestClient[web.Request, web.Application]
Shown = list[tuple[str, str | None]]


class Counted(Door):
    """A door behind which tenants a and b have used models."""

    def __init__(self, base: Path) -> None:
        super().__init__(base)
        self.usage = self.app[usage.USAGE] = Usage()
        self.app.add_routes(usage.routes)
        for tenant, model in (("a", "a/m"), ("a", "b/m"), ("a", None), ("b", "b/m"), ("", "a/m")):
            self.usage(
                events.RequestFinished(
                    request_id="r", method="POST", route="/embed", status=200, seconds=0, tenant=tenant, model=model
                )
            )


@pytest_asyncio.fixture
async def counted(tmp_path: Path) -> AsyncIterator[tuple[Counted, Client]]:
    door = Counted(tmp_path)
    async with TestClient(TestServer(door.app)) as client:
        yield door, client


async def shown(client: Client, secret: str = "", query: str = "") -> Shown:
    async with client.get(f"/usage{query}", headers={"X-API-Key": secret} if secret else {}) as answer:
        assert answer.status == 200, await answer.text()
        return [(row["tenant"], row["model"]) for row in (await answer.json())["usage"]]


MINE: Shown = [("a", None), ("a", "huggingface:a/m")]
ALL: Shown = [("", "huggingface:a/m"), *MINE, ("a", "huggingface:b/m"), ("b", "huggingface:b/m")]


async def test_without_keys_everybody_sees_all(counted: tuple[Counted, Client]) -> None:
    assert await shown(counted[1]) == ALL


async def test_a_key_sees_its_tenant_and_of_that_the_models_that_it_sees(counted: tuple[Counted, Client]) -> None:
    door, client = counted
    for role in ("use", "operate", "admin"):
        secret = door.add("a", name=role, role=role, namespaces=["a"])
        assert await shown(client, secret) == MINE
        assert await shown(client, secret, "?tenant=a") == MINE
        assert await shown(client, secret, "?tenant=b") == await shown(client, secret, "?tenant=none") == []


async def test_seeing_all_models_is_not_seeing_all_tenants(counted: tuple[Counted, Client]) -> None:
    door, client = counted
    secret = door.add("a", role="operate")
    assert await shown(client, secret) == [row for row in ALL if row[0] == "a"]


async def test_an_administrator_of_everything_sees_all_or_one_tenant(counted: tuple[Counted, Client]) -> None:
    door, client = counted
    secret = door.add("root", role="admin")
    assert await shown(client, secret) == ALL
    assert await shown(client, secret, "?tenant=b") == [("b", "huggingface:b/m")]
