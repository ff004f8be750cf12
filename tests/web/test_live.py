"""What the console is told: whole at first, then what has changed, and nothing that the caller does not see."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from gateway.activity import Activity
from gateway.settings import Settings
from gateway.tenants.caller import OPEN, Caller
from gateway.web.live import Board, Reader
from tests.test_activity import Engine

MINE = Caller(tenant="a", key="0", role="use", namespaces=("a",))


class Catalog:
    """Rows as `GET /models` has them, as far as the console looks into them."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, Any]] = {}
        self.looked = asyncio.Event()
        self.usable = False
        self.ignored = ()

    def put(self, path: str, **fields: Any) -> None:
        self.rows[path] = {"id": f"huggingface:{path}", "state": "ready", "last_used": None, "load": None, **fields}

    def listing(self) -> list[dict[str, Any]]:
        return [{**row, "load": dict(row["load"]) if row["load"] else None} for row in self.rows.values()]

    def aliases(self) -> list[dict[str, Any]]:
        return []


class Serving:
    """As much of the service as the console asks for."""

    ready = True
    leaving = False

    def __init__(self, caller: Caller, catalog: Catalog, engine: Any) -> None:
        self.caller = caller
        self.catalog = catalog
        self.engine = engine
        self.settings = Settings(models_dir="/models", state_dir="/state")


class Rig:
    def __init__(self) -> None:
        self.catalog = Catalog()
        self.engine: Any = Engine()
        self.engine.ready = True
        self.now = 100.0
        self.activity = Activity(self.engine, lambda digest: (digest,), clock=lambda: self.now)
        serving: Any = Serving(OPEN, self.catalog, self.engine)
        self.board = Board(serving, self.activity, clock=lambda: self.now)

    def reader(self, caller: Caller = OPEN) -> Reader:
        serving: Any = Serving(caller, self.catalog, self.engine)
        return Reader(self.board, serving, closed=caller is not OPEN)

    def take(self, reader: Reader) -> tuple[str, dict[str, Any]]:
        self.now += 1
        text = reader.take().decode()
        if not text:
            return "", {}
        event, data = text.strip().split("\n")
        return event.removeprefix("event: "), json.loads(data.removeprefix("data: "))


def ids(told: dict[str, Any]) -> list[str]:
    return [row["id"].removeprefix("huggingface:") for row in told.get("models", [])]


async def test_all_is_told_once_and_then_only_what_has_changed() -> None:
    rig = Rig()
    rig.catalog.put("a/one")
    rig.catalog.put("b/two")
    reader = rig.reader()
    event, told = rig.take(reader)
    assert (event, ids(told), told["models_dir"], told["tenants"]) == ("state", ["a/one", "b/two"], "/models", False)
    assert rig.take(reader) == ("", {})
    rig.catalog.put("b/two", state="loaded")
    del rig.catalog.rows["a/one"]
    event, told = rig.take(reader)
    assert (event, ids(told), told["gone"]) == ("change", ["b/two"], ["huggingface:a/one"])
    assert set(told) == {"now", "models", "gone"}


async def test_a_slow_reader_is_given_the_sum_of_what_it_missed() -> None:
    rig = Rig()
    rig.catalog.put("a/one")
    quick, slow = rig.reader(), rig.reader()
    rig.take(quick)
    rig.take(slow)
    for state in ("loading", "loaded", "draining", "ready", "loaded"):
        rig.catalog.put("a/one", state=state)
        assert ids(rig.take(quick)[1]) == ["a/one"]
    _, told = rig.take(slow)
    assert [row["state"] for row in told["models"]] == ["loaded"]


async def test_a_tenant_is_told_of_its_own_models_and_of_no_device() -> None:
    rig = Rig()
    rig.engine.held = {"b/two": 10}
    rig.activity.sample()
    rig.catalog.put("a/one")
    rig.catalog.put("b/two")
    mine, everything = rig.reader(MINE), rig.reader()
    _, told = rig.take(mine)
    assert (ids(told), told["devices"], told["held"], told["watcher"]) == (["a/one"], [], [], None)
    assert (told["models_dir"], told["caller"]["tenant"], told["tenants"]) == (None, "a", True)
    assert "two" not in json.dumps(told)
    assert [sample["at"] for sample in rig.take(everything)[1]["held"]] == [100.0]
    rig.catalog.put("b/two", state="loaded")
    assert rig.take(mine) == ("", {})


async def test_the_age_that_a_host_reports_makes_no_news() -> None:
    rig = Rig()
    rig.catalog.put("a/one", last_used=50.0)
    reader = rig.reader()
    rig.take(reader)
    rig.catalog.put("a/one", last_used=50.4)
    assert rig.take(reader) == ("", {})
    rig.catalog.put("a/one", last_used=60.0)
    assert rig.take(reader)[1]["models"][0]["last_used"] == 60.0


async def test_many_who_look_cost_one_look() -> None:
    rig = Rig()
    rig.catalog.put("a/one")
    rows = rig.board.rows()
    rig.catalog.put("a/one", state="loaded")
    assert rig.board.rows() is rows
    rig.now += 1
    assert rig.board.rows() is not rows


async def test_a_load_is_told_with_its_beginning() -> None:
    rig = Rig()
    rig.catalog.put("a/one", load={"device": "cpu", "state": "loading", "seconds_left": 3.0})
    reader = rig.reader()
    since = rig.take(reader)[1]["models"][0]["load"]["since"]
    rig.catalog.put("a/one", load={"device": "cpu", "state": "loading", "seconds_left": 1.0})
    assert rig.take(reader)[1]["models"][0]["load"] == {
        "device": "cpu",
        "state": "loading",
        "seconds_left": 1.0,
        "since": since,
    }
