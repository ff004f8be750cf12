"""Triton's health and repository over HTTP."""

from __future__ import annotations

from typing import Any

import pytest

from tests.running import RunningGateway

pytestmark = pytest.mark.asyncio(loop_scope="session")
MODEL = "/v2/repository/models/finetuned/prompted"


async def post(gateway: RunningGateway, path: str, data: bytes = b"") -> tuple[int, bytes]:
    async with gateway.session.post(path, data=data) as reply:
        return reply.status, await reply.read()


async def status_of(gateway: RunningGateway, path: str) -> int:
    async with gateway.session.get(path) as reply:
        return reply.status


async def index(gateway: RunningGateway, **body: Any) -> dict[str, dict[str, str]]:
    async with gateway.session.post("/v2/repository/index", json=body) as reply:
        assert reply.status == 200
        rows = await reply.json()
        assert all(row.keys() == {"name", "version", "state", "reason"} for row in rows)
        return {row["name"]: row for row in rows}


async def test_the_server_is_alive_and_ready_and_says_what_it_is(gateway: RunningGateway) -> None:
    for path in ("/v2/health/live", "/v2/health/ready"):
        async with gateway.session.get(path) as reply:
            assert (reply.status, await reply.read()) == (200, b"")
    async with gateway.session.get("/v2") as reply:
        assert (await reply.json())["extensions"] == ["model_repository"]


@pytest.mark.parametrize("name", ["finetuned/prompted", "huggingface%3Afinetuned/prompted"])
async def test_a_model_is_ready_from_its_load_to_its_unload(gateway: RunningGateway, name: str) -> None:
    for _ in range(2):  # twice is once
        assert await post(gateway, f"/v2/repository/models/{name}/load", b"{}") == (200, b"")
    row = (await index(gateway))["finetuned/prompted"]
    assert (row["version"], row["state"], row["reason"]) == ("1", "READY", "")
    assert await status_of(gateway, f"/v2/models/{name}/ready") == 200
    assert await status_of(gateway, f"/v2/models/{name}/versions/1/ready") == 200
    assert await status_of(gateway, f"/v2/models/{name}/versions/2/ready") == 404
    unload = b'{"parameters": {"unload_dependents": false}}'
    assert await post(gateway, f"/v2/repository/models/{name}/unload", unload) == (200, b"")
    row = (await index(gateway))["finetuned/prompted"]
    assert (row["state"], row["reason"]) == ("UNAVAILABLE", "unloaded; the next request loads it")
    assert await status_of(gateway, f"/v2/models/{name}/ready") == 503


async def test_the_index_says_why_a_model_is_not_ready(gateway: RunningGateway) -> None:
    rows = await index(gateway)
    assert rows["finetuned/half"]["state"] == "UNAVAILABLE"
    assert "model.safetensors" in rows["finetuned/half"]["reason"]
    async with gateway.session.get("/v2/repository/index") as reply:
        assert {row["name"] for row in await reply.json()} == rows.keys()
    async with gateway.session.post("/v2/repository/index") as reply:
        assert {row["name"] for row in await reply.json()} == rows.keys()
    assert (await post(gateway, "/v2/repository/models/rooted/load"))[0] == 200
    only = await index(gateway, ready=True)
    assert "rooted" in only
    assert {row["state"] for row in only.values()} == {"READY"}


@pytest.mark.parametrize(
    ("path", "data", "status"),
    [
        ("/v2/repository/models/finetuned/nothing/load", b"{}", 404),
        ("/v2/repository/models/finetuned/half/load", b"{}", 409),
        (f"{MODEL}/load", b'{"parameters": {"config": "{}"}}', 400),
        (f"{MODEL}/load", b'{"parameters": {"file:1/model.onnx": "AA=="}}', 400),
        (f"{MODEL}/load", b"{", 400),
        ("/v2/repository/index", b'{"ready": "yes"}', 400),
        ("/v2/nothing", b"", 404),
    ],
)
async def test_what_is_wrong_is_one_text(gateway: RunningGateway, path: str, data: bytes, status: int) -> None:
    async with gateway.session.post(path, data=data) as reply:
        error = await reply.json()
        assert (reply.status, error.keys()) == (status, {"error"})
        assert isinstance(error["error"], str)
