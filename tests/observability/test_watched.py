"""A real gateway at work is asked for what alerts and panels ask for; where there is a Prometheus, by Prometheus."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.observability.busy import busy_gateway, say, work
from tests.observability.files import alerts, exposed, panels, unknown
from tests.observability.prometheus import RunningPrometheus, needs_prometheus
from tests.running import DEADLINE


async def test_everything_that_alerts_and_panels_ask_for_is_in_the_metrics_of_a_gateway_at_work(tmp_path: Path) -> None:
    async with busy_gateway(tmp_path) as gateway:
        for _ in range(2):
            await work(gateway)
        await say(gateway)
        known: dict[str, set[str]] = {}
        async with asyncio.timeout(DEADLINE):
            while "dropgate_model_rows" not in known:  # while it is loaded; its host tells of it a moment later
                async with gateway.session.get("/metrics") as answer:
                    known = exposed(await answer.text())
    wrong = {each.where: found for each in [*alerts(), *panels()] if (found := unknown(each, known))}
    assert wrong == {}


@needs_prometheus
async def test_every_panel_has_data_from_a_gateway_at_work(tmp_path: Path) -> None:
    async with (
        busy_gateway(tmp_path) as gateway,
        RunningPrometheus(tmp_path / "prometheus", gateway.url, gateway.headers["X-API-Key"]) as prometheus,
    ):
        empty = list(panels())
        assert len(empty) > 30
        try:
            async with asyncio.timeout(DEADLINE):
                while empty:
                    await work(gateway)
                    empty = await prometheus.without_data(empty)
        except TimeoutError:
            pytest.fail(f"no data: {[each.where for each in empty]}")
