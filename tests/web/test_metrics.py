"""`GET /metrics`: it tells of all models and tenants, so it is for who may know of all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from gateway.telemetry import Metrics
from gateway.web import auth, metrics
from tests.web.test_auth import Door


class Nothing:
    """An engine without a device."""

    def devices(self) -> list[Any]:
        return []

    def residences(self) -> dict[str, Any]:
        return {}


def counted(base: Path, *, anybody: bool = False) -> Door:
    door = Door(base, open_paths=auth.OPEN_TO_ALL | ({"/metrics"} if anybody else set()))
    door.app[metrics.METRICS] = Metrics(Nothing(), lambda digest: ())  # type: ignore[arg-type]  # it asks for these alone
    door.app[metrics.OPEN_METRICS] = anybody
    door.app.add_routes(metrics.routes)
    return door


async def status(door: Door, secret: str = "") -> list[int]:
    """Of both forms."""
    found = []
    async with TestClient(TestServer(door.app)) as client:
        for form in ("text/plain", "application/json"):
            headers = {"Accept": form} | ({"X-API-Key": secret} if secret else {})
            async with client.get("/metrics", headers=headers) as answer:
                found.append(answer.status)
    return found


@pytest.mark.parametrize(
    ("role", "namespaces", "expected"),
    [
        ("use", ["*"], 403),
        ("operate", ["a"], 403),
        ("admin", ["a", "."], 403),
        ("operate", ["*"], 200),
        ("admin", ["*"], 200),
    ],
)
async def test_the_metrics_are_for_who_operates_everything(
    tmp_path: Path, role: str, namespaces: list[str], expected: int
) -> None:
    door = counted(tmp_path)
    secret = door.add("a", role=role, namespaces=namespaces)
    assert await status(door, secret) == [expected, expected]


async def test_without_keys_they_are_for_all(tmp_path: Path) -> None:
    assert await status(counted(tmp_path)) == [200, 200]


async def test_with_keys_they_need_one_unless_the_operator_opens_them(tmp_path: Path) -> None:
    door = counted(tmp_path)
    door.add("a")
    assert await status(door) == [401, 401]
    door = counted(tmp_path, anybody=True)
    door.add("b")
    assert await status(door) == [200, 200]
