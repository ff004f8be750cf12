"""A disk that is full, read-only or closed to us: said with what heals it, and what was served goes on being served."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests import making
from tests.e2e.clients import drop
from tests.running import RunningGateway

pytestmark = pytest.mark.asyncio(loop_scope="module")
NAME = "huggingface:finetuned/m"
TEXTS = ["the beam is stored in the ring"]
QUICK = ("--settle-seconds=0.2", "--settle-in-place-seconds=0.4", "--settle-writer-seconds=0.1", "--scan-interval=1")
# without the right of root to read and write what nobody may, so that the tests hold for root too
AS_ANYBODY = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")
STATE_BYTES = 32 * 1024**2  # a little more than the store keeps free, and two small models


def mount(*arguments: str) -> bool:
    return subprocess.run(["mount", *arguments], capture_output=True, check=False).returncode == 0


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """`state` is a small file system of its own, and `models` one that can be made read-only."""
    base = tmp_path_factory.mktemp("disk")
    (base / "models/finetuned").mkdir(parents=True)
    (base / "state").mkdir()
    if not shutil.which("setpriv") or not mount(
        "-t", "tmpfs", "-o", f"size={STATE_BYTES}", "none", str(base / "state")
    ):
        pytest.skip("only root can mount a small file system")
    bound = mount("--bind", str(base / "models"), str(base / "models"))
    try:
        assert bound
        yield base
    finally:
        for name in ("models", "state"):
            subprocess.run(["umount", "-l", str(base / name)], capture_output=True, check=False)


@pytest.fixture(scope="module")
def made(base: Path) -> Iterator[Path]:
    """The next model of the name, each time: no two have the same weights."""
    return (
        Path(making.encoder(base / "made" / str(seed), seed=seed, dim=16, layers=1, heads=2))
        for seed in itertools.count()
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(base: Path, made: Iterator[Path]) -> AsyncIterator[RunningGateway]:
    running = RunningGateway(base / "models", base / "state", "--device=cpu", "--log-level=debug", *QUICK)
    running.command = [*AS_ANYBODY, *running.command]
    async with running:
        put(base, next(made))
        await running.wait_for(NAME, "ready", "loaded")
        yield running


def put(base: Path, model: Path) -> Path:
    """The model is on the volume under its name."""
    place = base / "models/finetuned/m"
    drop(model, place)
    return place


async def serving(gateway: RunningGateway) -> str:
    """The generation that answers; the gateway says that it is ready."""
    async with gateway.session.get("/readyz") as ready:
        assert ready.status == 200, await ready.text()
    return (await gateway.embed(TEXTS, NAME))[1]


async def refusal(gateway: RunningGateway, after: int, generation: str) -> dict[str, Any]:
    """The one reason for which the new content was refused, while `generation` goes on serving."""
    told = await gateway.wait_for_log("model_rejected", after=after, model="finetuned/m")
    assert told["serving"] == generation
    (reason,) = told["reasons"]
    listed = (await gateway.models())[NAME]
    assert reason["code"] in {each["code"] for each in listed["reasons"]}
    assert await serving(gateway) == generation
    return dict(reason)


async def healed(gateway: RunningGateway, after: int, generation: str) -> None:
    swapped = await gateway.wait_for_log("model_swapped", after=after, model="finetuned/m")
    assert swapped["previous"] == generation
    assert await serving(gateway) == swapped["generation"]
    assert (await gateway.models())[NAME]["reasons"] == []


async def test_a_full_disk_is_said_with_its_bytes_and_the_old_generation_serves(
    gateway: RunningGateway, base: Path, made: Iterator[Path]
) -> None:
    before, after = await serving(gateway), len(gateway.log)
    ballast = base / "state/ballast"
    ballast.write_bytes(bytes(shutil.disk_usage(base / "state").free - 1024**2))
    place = put(base, next(made))
    reason = await refusal(gateway, after, before)
    assert (reason["code"], reason["kind"]) == ("disk_full", "unreadable")
    assert "free" in reason["message"]
    assert "--state-dir" in reason["remedy"]
    ballast.unlink()
    os.utime(place / "config.json")
    await healed(gateway, after, before)


async def test_a_state_directory_that_became_read_only_is_said_and_the_old_generation_serves(
    gateway: RunningGateway, base: Path, made: Iterator[Path]
) -> None:
    before, after = await serving(gateway), len(gateway.log)
    store = str(base / "state/generations")  # the lock above it is open, and a file system with such a file stays
    assert mount("--bind", store, store)
    try:
        assert mount("-o", "remount,bind,ro", store)
        place = put(base, next(made))
        reason = await refusal(gateway, after, before)
        assert (reason["code"], reason["kind"]) == ("store_unwritable", "unreadable")
        assert "Read-only file system" in reason["message"]
    finally:
        subprocess.run(["umount", store], check=True)
    os.utime(place / "config.json")
    await healed(gateway, after, before)


async def test_a_volume_that_became_read_only_changes_nothing(gateway: RunningGateway, base: Path) -> None:
    before, after = await serving(gateway), len(gateway.log)
    assert mount("-o", "remount,bind,ro", str(base / "models"))
    try:
        with pytest.raises(OSError, match="Read-only"):
            (base / "models/finetuned/x").mkdir()
        await gateway.wait_for_log("volume_scanned", after=after, why="timer")
        assert await serving(gateway) == before
        told = [each["event"] for each in gateway.log[after:] if each.get("level") in {"warning", "error"}]
        assert set(told) <= {"watcher_rebuilt"}  # what was dropped before may cost watchdog a thread
    finally:
        assert mount("-o", "remount,bind,rw", str(base / "models"))


async def test_weights_that_nobody_may_read_are_said_with_their_chmod_and_the_old_generation_serves(
    gateway: RunningGateway, base: Path, made: Iterator[Path]
) -> None:
    before, after = await serving(gateway), len(gateway.log)
    model = next(made)
    (model / "model.safetensors").chmod(0)
    place = put(base, model)
    reason = await refusal(gateway, after, before)
    assert (reason["code"], reason["file"]) == ("file_unreadable", "model.safetensors")
    assert "chmod a+r model.safetensors" in reason["remedy"]
    (place / "model.safetensors").chmod(0o644)
    await healed(gateway, after, before)


async def test_a_volume_that_is_closed_to_us_takes_no_model_away(gateway: RunningGateway, base: Path) -> None:
    before, after = await serving(gateway), len(gateway.log)
    (base / "models").chmod(0)
    try:
        told = await gateway.wait_for_log("volume_unreadable", after=after)
        assert "Permission denied" in told["message"]
        assert await serving(gateway) == before
    finally:
        (base / "models").chmod(0o755)
    await gateway.wait_for_log("volume_scanned", after=len(gateway.log))
    assert await serving(gateway) == before
    assert [each for each in gateway.log[after:] if each.get("event") == "model_removed"] == []
