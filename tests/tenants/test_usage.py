"""What tenants have used: counted once, kept over restarts, and bounded."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from gateway import events
from gateway.telemetry import Metrics
from gateway.tenants import usage
from gateway.tenants.usage import Keeper, Row, Usage, UsageFile


def request(
    tenant: str | None = "a", model: str | None = "a/m", status: int = 200, **fields: Any
) -> events.RequestFinished:
    made = {"request_id": "r", "method": "POST", "route": "/embed", "seconds": 1.0, "texts": 2, "tokens": 5}
    made |= {"compute_seconds": 0.25, "tenant": tenant, "model": model, "status": status}
    return events.RequestFinished(**(made | fields))


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Rig:
    def __init__(self, base: Path) -> None:
        self.clock = Clock()
        self.usage = Usage(clock=self.clock)
        self.told: list[Any] = []
        tell = events.Events()
        tell.subscribe(self.told.append)
        self.file = UsageFile(str(base))
        self.keeper = Keeper(self.usage, self.file, tell)


@pytest.fixture
async def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


async def test_a_row_for_each_tenant_and_model(rig: Rig) -> None:
    for event in (request(), request("b"), request(model="a/other"), request(), request("a", None, 404, tokens=0)):
        rig.usage(event)
        rig.clock.now += 1
    rows = {(row.tenant, row.model): row for row in rig.usage.rows()}
    assert list(rows) == [("a", ""), ("a", "a/m"), ("a", "a/other"), ("b", "a/m")]
    assert rows["a", "a/m"] == Row(
        tenant="a", model="a/m", first=100.0, last=103.0, requests=2, texts=4, tokens=10, compute_seconds=0.5
    )
    assert (rows["a", ""].requests, rows["a", ""].refusals, rows["a", ""].texts) == (1, 1, 0)


async def test_what_a_base_embeds_by_itself_is_its_owners_and_no_request(rig: Rig) -> None:
    rig.usage(request())
    rig.clock.now += 1
    for kb in ("papers", "notes"):
        rig.usage(events.ChunksEmbedded(kb=kb, owner="a", model="a/m", texts=3, tokens=40, compute_seconds=0.5))
    (row,) = rig.usage.rows()
    assert (row.requests, row.texts, row.tokens, row.compute_seconds, row.last) == (1, 8, 85, 1.25, 101.0)
    assert rig.usage.changed


async def test_looking_and_who_is_nobody_are_not_counted(rig: Rig) -> None:
    rig.usage(request(method="GET"))
    rig.usage(request(None, status=401))
    rig.usage(events.Notice(code="c", message="m"))
    assert rig.usage.rows() == []


async def test_a_client_that_has_gone_was_not_refused_and_what_was_computed_for_it_counts(rig: Rig) -> None:
    rig.usage(request(status=499))
    (row,) = rig.usage.rows()
    assert (row.requests, row.refusals, row.texts, row.tokens) == (1, 0, 0, 5)


async def test_usage_is_kept_over_a_restart(rig: Rig, tmp_path: Path) -> None:
    rig.usage(request())
    await rig.keeper.write()
    again = Rig(tmp_path)
    await again.keeper.restore()
    assert again.usage.rows() == rig.usage.rows()
    again.usage(request())
    assert again.usage.rows()[0].requests == 2


async def test_what_has_not_changed_is_not_written(rig: Rig, tmp_path: Path) -> None:
    await rig.keeper.write()
    assert list(tmp_path.iterdir()) == []


async def test_a_disk_that_fails_is_told_and_tried_again(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.usage(request())
    write = rig.file.write

    def full(content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(rig.file, "write", full)
    await rig.keeper.write()
    assert [event.code for event in rig.told] == ["usage_unwritable"]
    monkeypatch.setattr(rig.file, "write", write)
    await rig.keeper.write()
    assert (tmp_path / "usage.json").exists()


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"rows": [{"tenant": 3}]}', b"\xff"])
async def test_a_broken_file_is_put_aside_and_told(rig: Rig, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "usage.json").write_bytes(content)
    await rig.keeper.restore()
    assert rig.usage.rows() == []
    assert [event.code for event in rig.told] == ["usage_unreadable"]
    assert (tmp_path / "usage.json.broken").read_bytes() == content


async def test_rows_are_bounded_and_what_was_used_the_longest_ago_goes(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage, "MOST", 2)
    for tenant in ("a", "b", "a", "c"):
        rig.clock.now += 1
        rig.usage(request(tenant))
    assert [row.tenant for row in rig.usage.rows()] == ["a", "c"]


async def test_series_go_with_the_tenants_key_and_with_the_model(rig: Rig) -> None:
    there = {("a", "a/m"), ("a", "")}
    counted = Usage(lambda tenant, model: (tenant, model) in there)
    for event in (request(), request("gone"), request(model="a/gone"), request("a", None, 404)):
        counted(event)
    metrics = Metrics(Nothing(), lambda digest: (), counted)  # type: ignore[arg-type]  # it asks for these two alone
    lines = [line for line in metrics.text().decode().splitlines() if line.startswith("dropgate_tenant_requests_total")]
    assert lines == [
        'dropgate_tenant_requests_total{model="",tenant="a"} 1.0',
        'dropgate_tenant_requests_total{model="a/m",tenant="a"} 1.0',
    ]
    assert len(counted.rows()) == 4


class Nothing:
    """An engine without a device."""

    def devices(self) -> list[Any]:
        return []

    def residences(self) -> dict[str, Any]:
        return {}
