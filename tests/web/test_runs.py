"""`GET /runs`, `GET /changes`, `GET /console/health`, `GET /events/recent`: what is shown to whom."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from gateway import events
from gateway.history import History
from gateway.runs.runs import Runs
from gateway.settings import Settings
from gateway.web import health, runs
from tests.catalog.world import Engine
from tests.trainer.runs import finished
from tests.web.test_auth import Door

Client = TestClient[web.Request, web.Application]


class House(Door):
    def __init__(self, base: Path) -> None:
        super().__init__(base)
        self.history = self.app[health.HISTORY] = History(Engine())
        self.app[runs.RUNS] = Runs(Settings(models_dir=str(base / "models"), state_dir=str(base / "state")))
        self.app.add_routes([*health.routes, *runs.routes])
        self.tell.subscribe(self.history)


@pytest_asyncio.fixture
async def house(tmp_path: Path) -> AsyncIterator[tuple[House, Client]]:
    for name in ("acme/one", "globex/one"):
        finished(tmp_path / "runs" / name)
    house = House(tmp_path)
    async with TestClient(TestServer(house.app)) as client:
        yield house, client


async def get(client: Client, path: str, secret: str = "", status: int = 200) -> dict[str, Any]:
    async with client.get(path, headers={"X-API-Key": secret} if secret else {}) as answer:
        assert answer.status == status, await answer.text()
        found: dict[str, Any] = await answer.json()
        return found


async def test_runs_are_listed_and_told_to_those_who_see_their_namespace(house: tuple[House, Client]) -> None:
    door, client = house
    everything = await get(client, "/runs")
    assert {run["id"] for run in everything["runs"]} == {"runs/acme/one", "runs/globex/one"}
    assert everything["folder"].endswith("/runs")
    assert all("made_from" not in run for run in everything["runs"])
    secret = door.add("acme", namespaces=["acme"])
    mine = await get(client, "/runs", secret)
    assert [run["id"] for run in mine["runs"]] == ["runs/acme/one"]
    assert mine["folder"] is None
    assert (await get(client, "/runs/runs/acme/one", secret))["curves"]["loss"]["step"]
    hidden = await get(client, "/runs/runs/globex/one", secret, status=404)
    never = await get(client, "/runs/runs/acme/none", secret, status=404)
    assert hidden["error"]["code"] == never["error"]["code"] == "run_not_found"
    assert hidden["error"]["message"] == never["error"]["message"]


async def test_recent_events_are_those_that_a_caller_sees_with_their_times(house: tuple[House, Client]) -> None:
    door, client = house
    door.tell.emit(events.ModelCopying(model="acme/m"))
    door.tell.emit(events.ModelCopying(model="globex/m"))
    door.tell.emit(events.HostOutput(device="cpu", pid=1, line="a path of this machine"))
    door.tell.emit(events.HostExited(device="cpu", pid=1, status=-9, why="killed"))
    everything = await get(client, "/events/recent")
    assert [each["event"] for each in everything["events"]] == ["model_copying", "model_copying", "host_exited"]
    assert all(each["at"] > 0 for each in everything["events"])
    numbers = [each["number"] for each in everything["events"]]
    assert numbers == sorted(set(numbers))
    assert everything["newest"] == numbers[-1]
    later = await get(client, f"/events/recent?after={numbers[1]}")
    assert [each["number"] for each in later["events"]] == numbers[2:]
    assert len((await get(client, "/events/recent?after=-9x"))["events"]) == 3
    secret = door.add("acme", namespaces=["acme"])
    mine = await get(client, "/events/recent", secret)
    assert [each["facts"]["model"] for each in mine["events"]] == ["acme/m"]


async def test_health_is_for_those_who_see_everything(house: tuple[House, Client]) -> None:
    door, client = house
    door.tell.emit(events.HostExited(device="cpu", pid=1, status=-9, why="killed"))
    everything = await get(client, "/console/health")
    assert [exit["why"] for exit in everything["exits"]] == ["killed"]
    assert everything["samples"][-1]["queue_tokens"] == {"cpu": 0}
    mine = await get(client, "/console/health", door.add("acme", namespaces=["acme"]))
    assert mine == {"restricted": True, "samples": [], "exits": []}


async def test_what_is_asked_to_be_compared_must_be_a_generation(house: tuple[House, Client]) -> None:
    _, client = house
    assert (await get(client, "/changes?model=none/such", status=503))["error"]["code"] == "starting"
