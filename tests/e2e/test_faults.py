"""What must not cost others anything, over HTTP: hosts that crash, hang and are killed, loads that fail, a device with
room for three models of ten, and more work than it can take."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
import torch
from prometheus_client.parser import text_string_to_metric_families
from safetensors.torch import load_file, save_file

from tests import making
from tests.e2e.clients import TEXTS, Clients, FaultyGateway, until
from tests.engine.faulty_host import HANGING
from tests.running import RunningGateway, is_running

pytestmark = pytest.mark.asyncio(loop_scope="module")
MODELS = [f"finetuned/m{number}" for number in range(10)]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("faults") / "models"
    for number, model in enumerate(MODELS):
        making.encoder(root / model, seed=number)
    making.encoder(root / "finetuned" / "deadly", seed=20)
    making.encoder(root / "finetuned" / "large", seed=21, dim=128, layers=6)
    broken = making.encoder(root / "finetuned" / "broken", seed=22)
    weights = os.path.join(broken, "model.safetensors")
    tensors = {name: torch.full_like(tensor, float("nan")) for name, tensor in load_file(weights).items()}
    save_file(tensors, weights, metadata={"format": "pt"})  # whole in form, and found out by the probe alone
    return root


@pytest.fixture(scope="module")
def budget(root: Path) -> int:
    """Three models, and half of one."""
    return making.generation(str(root / MODELS[0])).manifest.parameters * 4 * 7 // 2


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(root: Path, budget: int) -> AsyncIterator[RunningGateway]:
    options = ("--device=cpu", f"--memory-budget={budget}", "--compute-threads=1", "--request-timeout=300")
    async with FaultyGateway(root, root.parent / "state", *options) as running:
        yield running


async def post(
    gateway: RunningGateway, text: str, model: str, seconds: float | None = None
) -> tuple[int, dict[str, Any], int]:
    """Status, error (or the whole answer) and `Retry-After` in seconds, 0 if there is none. `seconds` that the client
    waits for at most, where that is less than the gateway allows."""
    headers = {} if seconds is None else {"X-Request-Timeout": str(seconds)}
    async with gateway.session.post("/embed", json={"inputs": text, "model": model}, headers=headers) as answer:
        body = await answer.json()
        return answer.status, body.get("error", body), int(answer.headers.get("Retry-After", 0))


async def devices(gateway: RunningGateway) -> list[dict[str, Any]]:
    async with gateway.session.get("/info", params={"model": MODELS[0]}) as answer:
        found: list[dict[str, Any]] = (await answer.json())["devices"]
        return found


async def test_ten_models_under_a_budget_of_three_are_served_in_any_order_and_never_exceed_it(
    gateway: RunningGateway, budget: int
) -> None:
    chance = random.Random(3)
    alone = {model: (await gateway.embed(TEXTS, model))[0] for model in MODELS}
    assert all(np.abs(alone[one] - alone[other]).max() > 1e-3 for one in MODELS for other in MODELS if one < other)
    seen: list[float] = []
    ended = asyncio.Event()

    async def watch() -> None:
        while not ended.is_set():
            async with gateway.session.get("/metrics") as answer:
                families = text_string_to_metric_families(await answer.text())
            seen.extend(
                s.value for family in families for s in family.samples if s.name == "dropgate_device_model_bytes"
            )

    async def client(order: list[str]) -> None:
        for model in order:
            vectors, _ = await gateway.embed(TEXTS, model)
            np.testing.assert_allclose(vectors, alone[model], atol=1e-5)

    watching = asyncio.create_task(watch())
    await asyncio.gather(*(client([chance.choice(MODELS) for _ in range(30)]) for _ in range(5)))
    ended.set()
    await watching
    assert 0 < max(seen) <= budget


async def test_a_model_that_is_larger_than_the_device_is_refused_with_both_sizes(
    gateway: RunningGateway, budget: int
) -> None:
    status, error, _ = await post(gateway, "x", "finetuned/large")
    assert (status, error["code"]) == (507, "model_does_not_fit")
    assert error["bytes"] > error["budget"] == budget
    assert (await gateway.embed(TEXTS, MODELS[0]))[0].shape == (4, 32)


async def test_a_load_that_fails_is_told_with_the_time_of_the_next_try_and_shown(gateway: RunningGateway) -> None:
    for _ in range(2):
        status, error, retry_after = await post(gateway, "x", "finetuned/broken")
        assert (status, error["code"]) == (503, "load_failed")
        assert "not finite" in error["message"]
        assert retry_after >= 1
    assert len([record for record in gateway.log if record.get("event") == "load_failed"]) == 1
    listed = (await gateway.models())["huggingface:finetuned/broken"]
    assert "not finite" in listed["load_error"]
    async with gateway.session.post("/models/finetuned/broken/load") as answer:
        assert (answer.status, (await answer.json())["error"]["code"]) == (503, "load_failed")


async def test_a_host_that_is_killed_under_load_costs_no_client_its_request(gateway: RunningGateway) -> None:
    restarts = (await devices(gateway))[0]["restarts"]
    async with Clients(gateway, MODELS[:2] * 4) as clients:
        for number in range(2):
            await clients.more(30)
            (device,) = await devices(gateway)
            os.kill(device["pid"], signal.SIGKILL)
            await gateway.wait_for_log("host_exited", pid=device["pid"])
            await clients.until(lambda model, status, body: status == 200, 30)
            assert (await devices(gateway))[0]["restarts"] == restarts + number + 1
    assert clients.statuses() == {200}


async def test_a_model_that_crashes_its_host_is_quarantined_and_others_are_answered(gateway: RunningGateway) -> None:
    async with Clients(gateway, MODELS[:4]) as clients:
        await clients.more(4)
        status, error, retry_after = await post(gateway, "please crash", "finetuned/deadly")
        assert (status, error["code"]) == (503, "host_failed")
        assert retry_after >= 1
        status, error, retry_after = await post(gateway, "harmless", "finetuned/deadly")
        assert (status, error["code"]) == (503, "model_quarantined")
        assert retry_after > 1
        await clients.more(20)
    assert clients.statuses() == {200}
    assert (await gateway.models())["huggingface:finetuned/deadly"]["load_error"]
    told = await gateway.wait_for_log("generation_quarantined")
    assert told["models"] == ["finetuned/deadly"]

    async with gateway.session.post("/models/finetuned/deadly/load") as answer:  # an operator knows better
        assert answer.status == 200
        assert (await answer.json())["load_error"] is None
    assert (await post(gateway, "harmless", "finetuned/deadly"))[0] == 200


async def test_too_much_work_is_refused_early_and_what_takes_too_long_is_given_up(root: Path, tmp_path: Path) -> None:
    """A device call hangs. What fits into the queue waits until its deadline, the rest is told at once; a client that
    leaves is taken out of the queue; and when the host was restarted all goes on."""
    options = ("--device=cpu", "--max-queue-tokens=40", "--request-timeout=300", "--log-level=debug")
    async with FaultyGateway(root, tmp_path / "state", *options) as gateway:
        await until(lambda: answered(gateway))
        hanging = asyncio.create_task(post(gateway, "please hang", MODELS[0], 20))  # on the device by then
        stuck = await gateway.wait_for_log("host_output", line=HANGING)

        text = "the beam of the ring " * 5  # 27 tokens: one fits, and two do not
        waiting = {asyncio.create_task(post(gateway, text, MODELS[0])) for _ in range(3)}
        for _ in range(2):
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for status, error, retry_after in [task.result() for task in done]:
                assert (status, error["code"]) == (429, "overloaded")
                assert 20 < error["queued"] < 40  # what is not tokenized yet is counted by its length
                assert retry_after >= 1
            if len(waiting) == 1:
                break
        (leaving,) = waiting
        leaving.cancel()
        left = await gateway.wait_for_log("request", status=499)
        assert left["route"] == "/embed"
        status = 429
        while status == 429:  # the host hears of it a moment later, and then there is room again
            status, error, _ = await post(gateway, text, MODELS[0], 1)
        assert (status, error["code"]) == (504, "deadline_exceeded")
        status, error, _ = await hanging
        assert (status, error["code"]) == (504, "deadline_exceeded")
        assert "20 s" in error["message"]

        os.kill(stuck["pid"], signal.SIGKILL)
        await until(lambda: answered(gateway))
        await until(lambda: unqueued(gateway))


async def unqueued(gateway: RunningGateway) -> bool:
    """Whether nothing waits; reports come a moment late."""
    return (await devices(gateway))[0]["queue_tokens"] == 0


async def answered(gateway: RunningGateway) -> bool:
    """Whether a plain request is."""
    return (await post(gateway, "a", MODELS[0]))[0] == 200


async def test_no_process_is_left_of_the_hosts_that_died(gateway: RunningGateway) -> None:
    """Runs last."""
    died = [record["pid"] for record in gateway.log if record.get("event") == "host_exited"]
    assert len(died) >= 4
    assert not [pid for pid in died if is_running(pid)]
