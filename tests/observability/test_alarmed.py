"""Every alert is made to fire, and to clear, by what it is for: a real Prometheus judges a real gateway by our rules.

Only their minutes are seconds here; that they wait as long as they say is seen in `test_rules`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests import making, ports
from tests.e2e.clients import FaultyGateway
from tests.observability.busy import MODELS, heal, volume
from tests.observability.files import rules
from tests.observability.prometheus import RunningPrometheus, hurry, needs_prometheus
from tests.running import DEADLINE, GLANCE, RunningGateway, descendants

UNFIT: Final = "finetuned/unfit"
DEADLY: Final = "finetuned/deadly"
SPLIT: Final = "prod/split"
LONG: Final = "alpha beta gamma " * 40
DRIVEN: Final[dict[str, set[str]]] = {  # by the tests below
    "directories": {"ModelRejected", "ModelNotWhole", "LoadsFail", "ModelsThrash", "AuditLost", "VolumeNotFollowed"},
    "hosts": {"ModelQuarantined", "CanaryFails", "RequestsFail", "Bug", "HostsKeepDying", "HostDown"},
    "load": {"RequestsWait", "Overloaded"},
    "process": {"WatcherDeaf", "Down"},
}


def test_every_alert_is_caused_in_some_test() -> None:
    caused = [f"Dropgate{name}" for names in DRIVEN.values() for name in names]
    assert sorted(caused) == sorted(rule["alert"] for rule in rules())


def test_a_hurried_alert_is_the_same_but_for_its_times() -> None:
    """What Prometheus is given has no minute left in it, and asks for the same series."""
    text = (Path(__file__).parents[2] / "deploy/observability/alerts.yml").read_text(encoding="utf-8")
    assert "[5m]" in text
    assert "for: 1h" in text
    hurried = hurry(text)
    assert not [line for line in hurried.splitlines() if "m]" in line or "h]" in line or "> 120" in line]
    assert hurried.count("for: 1s") == text.count("for: ")
    assert len(hurried.splitlines()) == len(text.splitlines())


class Watch:
    """What Prometheus has said of the alerts so far."""

    def __init__(self, prometheus: RunningPrometheus) -> None:
        self.prometheus = prometheus

    async def fires(self, names: set[str], cause: Callable[[], Awaitable[Any]] | None = None) -> None:
        """Goes on causing it until every one of them has fired. Looks meanwhile: on a slow machine an alert has
        cleared by the time that its cause is through."""
        missing = {f"Dropgate{name}" for name in names}
        found: dict[str, str] = {}
        try:
            async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as group:
                causing = group.create_task(_again(cause)) if cause is not None else None
                while missing:
                    found = await self.prometheus.alerts()
                    missing -= {name for name, state in found.items() if state == "firing"}
                    await asyncio.sleep(GLANCE)
                if causing is not None:
                    causing.cancel()
        except TimeoutError:
            pytest.fail(f"{sorted(missing)} never fired: {found}")

    async def clears(self, names: set[str]) -> None:
        """Nothing causes them any more."""
        found: set[str] = {""}
        try:
            async with asyncio.timeout(DEADLINE):
                while found:
                    found = {f"Dropgate{name}" for name in names} & (await self.prometheus.alerts()).keys()
                    await asyncio.sleep(GLANCE)
        except TimeoutError:
            pytest.fail(f"{sorted(found)} did not clear")


async def _again(cause: Callable[[], Awaitable[Any]]) -> None:
    while True:
        await cause()
        await asyncio.sleep(GLANCE)


@asynccontextmanager
async def watched(folder: Path, gateway: RunningGateway) -> AsyncIterator[Watch]:
    async with gateway, RunningPrometheus(folder / "prometheus", gateway.url, hurried=True) as prometheus:
        watch = Watch(prometheus)
        async with asyncio.timeout(DEADLINE):
            while not await prometheus.query("up == 1"):
                await asyncio.sleep(GLANCE)
        yield watch


async def post(gateway: RunningGateway, text: str, model: str, **headers: str) -> int:
    async with gateway.session.post("/embed", json={"inputs": text, "model": model}, headers=headers) as answer:
        await answer.read()
        return answer.status


def unfit(root: Path, model: str) -> None:
    """Whole in form; the probe finds out that it makes no numbers."""
    weights = os.path.join(making.encoder(root / model, seed=22), "model.safetensors")
    tensors = {name: torch.full_like(tensor, float("nan")) for name, tensor in load_file(weights).items()}
    save_file(tensors, weights, metadata={"format": "pt"})


@needs_prometheus
async def test_what_is_wrong_with_directories_and_disks_is_told_and_cleared(tmp_path: Path) -> None:
    root = volume(tmp_path)
    unfit(root, UNFIT)
    half = root / "finetuned" / "half"
    half.mkdir()
    (half / "model.safetensors.partial").write_bytes(b"half")
    log = tmp_path / "audit"
    log.symlink_to("/dev/full")
    options = ("--device=cpu", "--compute-threads=1", "--max-loaded-models=1", "--scan-interval=1")
    gateway = FaultyGateway(root, tmp_path / "state", *options, f"--audit-log={log}")

    async def work() -> None:
        assert [await post(gateway, "x", model) for model in MODELS] == [200, 200]  # each evicts the other
        await post(gateway, "x", UNFIT)

    async with watched(tmp_path, gateway) as watch:
        await watch.fires({"ModelRejected", "ModelNotWhole"})
        await watch.fires({"ModelsThrash", "LoadsFail", "AuditLost"}, work)
        os.rename(root, tmp_path / "unmounted")
        await watch.fires({"VolumeNotFollowed"})
        assert await post(gateway, "x", MODELS[0]) == 200
        os.rename(tmp_path / "unmounted", root)
        heal(root)
        shutil.rmtree(half)
        await watch.clears(DRIVEN["directories"])


@needs_prometheus
async def test_what_is_wrong_with_hosts_and_requests_is_told_and_cleared(tmp_path: Path) -> None:
    root = volume(tmp_path)
    making.encoder(root / DEADLY, seed=20)
    line = f'[aliases]\n"{SPLIT}" = {{ to = "{MODELS[0]}", canary = "{DEADLY}", share = 1.0 }}\n'
    (root / "aliases.toml").write_text(line, encoding="utf-8")
    gateway = FaultyGateway(root, tmp_path / "state", "--device=cpu", "--compute-threads=1")

    async def ask() -> None:
        assert await post(gateway, "please crash", SPLIT, **{"X-Canary-Key": "me"}) == 503  # in quarantine, or again
        assert await post(gateway, "please err", MODELS[0]) == 500

    async def kill() -> None:
        for pid in descendants(gateway.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    async with watched(tmp_path, gateway) as watch:
        assert await post(gateway, "please crash", DEADLY) == 503
        await watch.fires({"ModelQuarantined"})
        await watch.fires({"CanaryFails", "RequestsFail", "Bug"}, ask)
        await watch.fires({"HostsKeepDying", "HostDown"}, kill)
        await watch.clears(DRIVEN["hosts"])
        assert await post(gateway, "x", MODELS[0]) == 200


@needs_prometheus
async def test_more_than_a_device_computes_is_told_and_cleared(tmp_path: Path) -> None:
    root = tmp_path / "models"
    shutil.copytree(making.minilm(), root / MODELS[0])
    options = ("--device=cpu", "--compute-threads=1", "--max-queue-tokens=60000", f"--request-timeout={DEADLINE}")
    gateway = RunningGateway(root, tmp_path / "state", *options)

    async def crowd() -> None:
        answered = await asyncio.gather(*(gateway.try_embed([LONG] * 16, MODELS[0]) for _ in range(24)))
        assert {status for status, _ in answered} <= {200, 429}

    async with watched(tmp_path, gateway) as watch:
        await watch.fires(DRIVEN["load"], crowd)
        await watch.clears(DRIVEN["load"])


LIMIT: Final = "/proc/sys/user/max_inotify_watches"  # of a user namespace of its own: nobody else is short


@needs_prometheus
async def test_a_gateway_that_is_deaf_or_dead_is_told_and_cleared(tmp_path: Path) -> None:
    within = ["unshare", "-Ur", "sh", "-c", f'echo 1 >{LIMIT} && exec "$@"', "sh"]
    if subprocess.run([*within, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this kernel gives us no user namespace")
    root = volume(tmp_path)
    held = ports.reserved()
    listening = f"--port={ports.number(held)}"
    deaf = RunningGateway(root, tmp_path / "state", "--device=cpu", "--scan-interval=1", listening)
    deaf.command = [*within, *deaf.command]
    async with watched(tmp_path, deaf) as watch:
        await watch.fires({"WatcherDeaf"})
        enter = ["nsenter", "--preserve-credentials", "--user", f"--target={deaf.pid}"]
        subprocess.run([*enter, "sh", "-c", f"echo 10000 >{LIMIT}"], check=True)
        await watch.clears({"WatcherDeaf"})
        await deaf.kill()
        await watch.fires({"Down"})
        async with RunningGateway(root, tmp_path / "state", "--device=cpu", listening):
            await watch.clears({"Down"})
    held.close()
