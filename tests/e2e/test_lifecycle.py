"""How a gateway begins and ends: refused at once where it cannot serve, drained when it is told to stop, followed into
death by its hosts, and back where it was when it is started again."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import making
from tests.e2e.clients import TEXTS, FaultyGateway, until
from tests.engine.faulty_host import HANGING
from tests.running import DEADLINE, GLANCE, RunningGateway, descendants, is_running

MODEL = "huggingface:finetuned/physics"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    making.encoder(tmp_path / "models" / "finetuned" / "physics", seed=1)
    return tmp_path / "models"


async def start_in_vain(root: Path, state: Path, *options: str) -> tuple[int, str]:
    """Exit status and what it said of a gateway that cannot start."""
    command = [sys.executable, "-m", "gateway", "serve", f"--models-dir={root}", f"--state-dir={state}", *options]
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    _, said = await asyncio.wait_for(process.communicate(), DEADLINE)
    assert process.returncode is not None
    return process.returncode, said.decode()


async def test_a_second_gateway_is_refused_the_first_ones_state_directory_and_port(root: Path, tmp_path: Path) -> None:
    async with RunningGateway(root, tmp_path / "state", "--device=cpu") as gateway:
        status, said = await start_in_vain(root, tmp_path / "state", "--port=0", "--device=cpu")
        assert status == 2
        assert "used by another gateway" in said
        assert "Traceback" not in said
        port = gateway.url.rpartition(":")[2]
        status, said = await start_in_vain(root, tmp_path / "other", f"--port={port}", "--device=cpu")
        assert status == 2
        assert port in said
        assert "--port" in said
        assert "Traceback" not in said
        assert (await gateway.embed(TEXTS, MODEL))[0].shape == (4, 32)


async def test_a_gateway_whose_ledger_cannot_be_read_says_so_and_does_not_start(root: Path, tmp_path: Path) -> None:
    (tmp_path / "state/catalog.json").mkdir(parents=True)
    status, said = await start_in_vain(root, tmp_path / "state", "--port=0", "--device=cpu")
    assert status == 2
    assert "the ledger cannot be read" in said
    assert "Traceback" not in said


async def test_a_gateway_that_is_told_to_stop_answers_what_is_in_flight(root: Path, tmp_path: Path) -> None:
    """A request waits behind a device call that hangs, and is answered by the next host, long after the signal; a new
    one is refused; and nothing is left running. Hosts that hang are killed here, when the rest has been seen."""
    options = ("--device=cpu", "--hang-timeout=600", "--drain-timeout=300", "--request-timeout=300")
    making.encoder(root / "finetuned" / "other", seed=2)
    async with FaultyGateway(root, tmp_path / "state", *options) as gateway:
        expected, _ = await gateway.embed(TEXTS, "finetuned/other")
        hanging = asyncio.create_task(gateway.try_embed(["please hang"], MODEL))
        await gateway.wait_for_log("host_output", line=HANGING)
        behind, writer = await sent(gateway, {"inputs": TEXTS, "model": "finetuned/other"})
        async with gateway.session.get("/healthz") as answer:  # read after the request before it
            assert answer.status == 200

        stopping = asyncio.create_task(gateway.stop())
        await gateway.wait_for_log("stopping", why="SIGTERM")
        async with gateway.session.get("/readyz") as answer:
            assert answer.status == 503
            assert (await answer.json())["checks"]["not_draining"] is False
        status, refused = await gateway.try_embed(TEXTS, MODEL)
        assert (status, refused["error"]["code"]) == (503, "shutting_down")

        await killed_until(hanging, gateway)
        head, _, body = (await asyncio.wait_for(behind.read(), DEADLINE)).partition(b"\r\n\r\n")
        writer.close()
        assert head.startswith(b"HTTP/1.1 200 ")
        np.testing.assert_allclose(json.loads(body)["embeddings"], expected, atol=1e-5)
        status, refused = await hanging
        assert (status, refused["error"]["code"]) == (503, "host_failed")  # an answer, though no good one
        assert (await gateway.wait_for_log("stopped"))["drained"] is True
        await stopping
        assert await gone([record["pid"] for record in gateway.log if record.get("event") == "host_started"])


async def test_with_a_delay_it_is_left_before_it_stops_and_a_second_signal_cuts_the_delay(
    root: Path, tmp_path: Path
) -> None:
    async with RunningGateway(root, tmp_path / "state", "--device=cpu", "--drain-delay=3600") as gateway:
        os.kill(gateway.pid, signal.SIGTERM)
        assert (await gateway.wait_for_log("stopping", why="SIGTERM"))["seconds"] == 3600 + 25
        async with gateway.session.get("/readyz") as answer:
            assert (answer.status, (await answer.json())["checks"]["not_draining"]) == (503, False)
        assert (await gateway.embed(TEXTS, MODEL))[0].shape == (4, 32)
        os.kill(gateway.pid, signal.SIGTERM)
        assert await gateway.ended() == 0
        assert (await gateway.wait_for_log("stopped"))["drained"] is True


async def test_the_hosts_of_a_gateway_that_was_killed_are_gone_and_its_successor_serves_on(
    root: Path, tmp_path: Path
) -> None:
    """The successor copies nothing again; and what was broken meanwhile goes on as it was, with its reasons."""
    making.encoder(root / "finetuned" / "other", seed=2)
    state = tmp_path / "state"
    async with RunningGateway(root, state, "--device=cpu") as gateway:
        await gateway.embed(TEXTS, MODEL)
        before, generation = await gateway.embed(TEXTS, "finetuned/other")
        async with gateway.session.post("/models/finetuned/physics/pin") as answer:
            assert answer.status == 200
        await until(lambda: recorded(state, "finetuned/physics", pinned=True))
        hosts = descendants(gateway.pid)
        assert hosts
        await gateway.kill()
        await until(lambda: gone(hosts))
    copies = {path: path.stat().st_ino for path in (state / "generations").rglob("*") if path.is_file()}
    weights = root / "finetuned" / "other" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])

    async with RunningGateway(root, state, "--device=cpu") as gateway:
        after, still = await gateway.embed(TEXTS, "finetuned/other")
        assert still == generation
        assert (after == before).all()
        await until(lambda: rejected(gateway, "huggingface:finetuned/other"))
        listed = (await gateway.models())["huggingface:finetuned/other"]
        assert listed["generation"] == generation
        assert [reason["code"] for reason in listed["reasons"]] == ["weights_truncated"]
        assert listed["pending"]["state"] == "rejected"
        assert (await gateway.wait_for(MODEL, "loaded"))["pinned"] is True  # without any request
        assert {path: path.stat().st_ino for path in copies} == copies
        assert not [record for record in gateway.log if record.get("event") == "model_swapped"]


async def gone(pids: list[int]) -> bool:
    return not any(is_running(pid) for pid in pids)


async def sent(gateway: RunningGateway, body: dict[str, Any]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A request to embed, which is on its way when this returns, and its connection, which ends with the answer."""
    content = json.dumps(body).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", int(gateway.url.rpartition(":")[2]))
    head = "POST /embed HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    writer.write(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
    await writer.drain()
    return reader, writer


async def killed_until(answered: asyncio.Task[Any], gateway: RunningGateway) -> None:
    """Kills every host that hangs until there is an answer."""
    killed: set[int] = set()
    while not answered.done():
        for pid in {each["pid"] for each in gateway.log if each.get("line") == HANGING} - killed:
            os.kill(pid, signal.SIGKILL)
            killed.add(pid)
        await asyncio.sleep(GLANCE)


async def recorded(state: Path, model: str, *, pinned: bool) -> bool:
    """Whether the ledger has it."""
    if not (state / "catalog.json").exists():  # it is written behind what is served
        return False
    records: list[dict[str, Any]] = json.loads((state / "catalog.json").read_text())
    return any((record["model"], record["pinned"]) == (model, pinned) for record in records)


async def rejected(gateway: RunningGateway, model: str) -> bool:
    return bool((await gateway.models())[model]["reasons"])


async def test_a_gateway_whose_log_nobody_reads_any_more_serves_on_and_counts_what_it_could_not_say(
    root: Path, tmp_path: Path
) -> None:
    async with RunningGateway(root, tmp_path / "state", "--device=cpu") as gateway:
        await gateway.wait_for(MODEL, "ready", "loaded")
        await gateway.deafen()
        for _ in range(2):
            assert (await gateway.embed(TEXTS, MODEL))[0].shape == (4, 32)
        async with gateway.session.get("/metrics") as answer:
            told = dict(line.rsplit(" ", 1) for line in (await answer.text()).splitlines())
        assert float(told['dropgate_requests_total{method="POST",route="/embed",status="200"}']) == 2
        assert float(told["dropgate_log_lines_lost"]) >= 2
        await gateway.stop()
