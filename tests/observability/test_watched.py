"""A real gateway at work is asked for what alerts and panels ask for; where there is a Prometheus, by Prometheus."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests import making
from tests.e2e.clients import FaultyGateway
from tests.observability.busy import MODELS, busy_gateway, heal, say, volume, work
from tests.observability.files import alerts, exposed, panels, unknown
from tests.observability.prometheus import RunningPrometheus, needs_prometheus
from tests.running import DEADLINE, GLANCE, RunningGateway


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


async def told(prometheus: RunningPrometheus, alert: str, *states: str) -> None:
    """Returns when the alert is in one of these states; without any, when it is not there."""
    found: dict[str, str] = {}
    try:
        async with asyncio.timeout(DEADLINE):
            while True:
                found = await prometheus.alerts()
                if (alert not in found) if not states else (found.get(alert) in states):
                    return
                await asyncio.sleep(GLANCE)
    except TimeoutError:
        pytest.fail(f"{alert} is not {states or 'gone'}: {found}")


async def post(gateway: RunningGateway, text: str, model: str) -> int:
    async with gateway.session.post("/embed", json={"inputs": text, "model": model}) as answer:
        await answer.read()
        return answer.status


def unfit(root: Path, model: str) -> None:
    """Whole in form; the probe finds out that it makes no numbers."""
    weights = os.path.join(making.encoder(root / model, seed=22), "model.safetensors")
    tensors = {name: torch.full_like(tensor, float("nan")) for name, tensor in load_file(weights).items()}
    save_file(tensors, weights, metadata={"format": "pt"})


@needs_prometheus
async def test_what_alerts_are_for_makes_them_fire(tmp_path: Path) -> None:
    """Those that wait for it to last are seen to wait; the time is promtool's to tell."""
    root = volume(tmp_path)
    unfit(root, "finetuned/unfit")
    making.encoder(root / "finetuned" / "deadly", seed=20)
    half = root / "finetuned" / "half"
    half.mkdir()
    (half / "model.safetensors.partial").write_bytes(b"half")
    (tmp_path / "audit").symlink_to("/dev/full")
    options = ("--device=cpu", "--compute-threads=1", "--max-loaded-models=1", f"--audit-log={tmp_path / 'audit'}")
    async with (
        FaultyGateway(root, tmp_path / "state", *options) as gateway,
        RunningPrometheus(tmp_path / "prometheus", gateway.url) as prometheus,
    ):
        await told(prometheus, "DropgateModelRejected", "pending")
        await told(prometheus, "DropgateModelNotWhole", "pending")
        for _ in range(12):
            assert [await post(gateway, "x", model) for model in MODELS] == [200, 200]  # each evicts the other
        await told(prometheus, "DropgateModelsThrash", "pending")
        await told(prometheus, "DropgateAuditLost", "firing")
        assert await post(gateway, "x", "finetuned/unfit") == 503
        await told(prometheus, "DropgateLoadsFail", "firing")
        assert await post(gateway, "please crash", "finetuned/deadly") == 503
        await told(prometheus, "DropgateModelQuarantined", "firing")
        host = await gateway.wait_for_log("host_started", after=len(gateway.log) - 1)
        os.kill(host["pid"], signal.SIGKILL)
        await told(prometheus, "DropgateHostsKeepDying", "firing")
        while "DropgateRequestsFail" not in await prometheus.alerts():
            assert await post(gateway, "x", "finetuned/deadly") == 503  # in quarantine
        heal(root)
        await told(prometheus, "DropgateModelRejected")
        await gateway.kill()
        await told(prometheus, "DropgateDown", "pending")
