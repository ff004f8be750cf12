"""A gateway that pulls: from the request to the vector, over a hub on this machine and the real client."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

from tests import making
from tests.hub import Hub, Mishap, Repository, environment
from tests.running import DEADLINE, RunningGateway, descendants, is_running

MODEL: Final = "acme/tiny-embed"
ID: Final = f"huggingface:{MODEL}"
WEIGHTS: Final = "model.safetensors"
HOLD: Final = Mishap(after=2_000_000, how="hold")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(making.encoder(tmp_path_factory.mktemp("made") / "m", dim=192, layers=3, heads=4))


@pytest.fixture
async def hub(made: Path) -> AsyncIterator[Hub]:
    async with Hub({MODEL: Repository.of(made)}) as running:
        yield running


def gateway(hub: Hub, folder: Path, *options: str) -> RunningGateway:
    (folder / "models").mkdir(exist_ok=True)
    where = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "NO_PROXY": "*", "no_proxy": "*"}
    where["HF_HUB_DOWNLOAD_TIMEOUT"] = f"{DEADLINE:.0f}"  # what the hub holds back is not asked for again
    return RunningGateway(folder / "models", folder / "state", *options, environment=where)


async def post(running: RunningGateway, **body: Any) -> tuple[int, dict[str, Any], str | None]:
    async with running.session.post("/models/pull", json=body) as answer:
        return answer.status, await answer.json(), answer.headers.get("Location")


async def get(running: RunningGateway, path: str) -> dict[str, Any]:
    async with running.session.get(path) as answer:
        found: dict[str, Any] = await answer.json()
        return found


async def held(hub: Hub) -> None:
    async with asyncio.timeout(DEADLINE):
        await hub.held.wait()


def pulling(running: RunningGateway) -> list[int]:
    """The processes of the gateway that pull."""
    return [
        pid for pid in descendants(running.pid) if b"gateway.volume.pull" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]


async def test_an_operator_pulls_a_model_and_it_serves_with_no_restart(hub: Hub, tmp_path: Path) -> None:
    hub.mishaps[WEIGHTS] = [HOLD]
    async with gateway(hub, tmp_path) as running:
        status, body, location = await post(running, model=MODEL)
        assert (status, body["id"], location) == (202, ID, f"/models/pulls/{MODEL}")
        await held(hub)
        again = await post(running, model=ID)
        assert (again[0], again[1]["state"]) == (202, "pulling")
        assert (await running.try_embed(["x"], MODEL))[1]["error"]["code"] == "model_pulling"
        assert (await post(running, model=MODEL, revision="v2"))[1]["error"]["code"] == "pull_in_progress"
        hub.go.set()
        told = await running.wait_for_log("model_pulled", model=MODEL)
        assert told["commit"] == hub.repositories[MODEL].commit
        await running.wait_for(ID, "ready", "loaded")
        vectors, _ = await running.embed(["a beam", "the ring"], MODEL)
        assert vectors.shape == (2, 192)
        assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
        assert hub.looks == 1, "both asked for one pull"
        listed = (await get(running, "/models/pulls"))["pulls"]
        assert [(pull["id"], pull["state"], pull["error"]) for pull in listed] == [(ID, "pulled", None)]
        assert listed[0]["bytes"] == listed[0]["total"] > 2_000_000
        assert (await get(running, str(location)))["commit"] == told["commit"]
        began = [record for record in running.log if record.get("event") == "model_pulling"]
        assert began[0]["bytes"] == 0
        assert began[-1]["bytes"] <= began[-1]["total"] == listed[0]["total"]
        async with running.session.get("/metrics") as answer:
            assert 'dropgate_pulls_total{code="ok"} 1.0' in await answer.text()
        hub.repositories[MODEL] = Repository.of(making.encoder(tmp_path / "newer", dim=64, seed=3))
        await post(running, model=MODEL)
        swapped = await running.wait_for_log("model_swapped", model=MODEL)
        assert swapped["breaking"]
        assert (await running.embed(["a beam"], MODEL))[0].shape == (1, 64)


async def test_the_first_request_pulls_what_was_allowed_and_nothing_else(hub: Hub, tmp_path: Path) -> None:
    hub.repositories["evil/model"] = hub.repositories[MODEL]
    hub.mishaps[WEIGHTS] = [HOLD]
    async with gateway(hub, tmp_path, "--hub-allow=other/one, acme/*") as running:
        status, body = await running.try_embed(["x"], "evil/model")
        assert (status, body["error"]["code"], hub.looks) == (404, "model_not_found", 0)
        for _ in range(3):
            async with running.session.post("/embed", json={"inputs": "x", "model": ID}) as answer:
                assert (answer.status, (await answer.json())["error"]["code"]) == (503, "model_pulling")
                assert int(answer.headers["Retry-After"]) >= 1
        await held(hub)
        hub.go.set()
        answers = set()
        async with asyncio.timeout(DEADLINE):
            while True:
                status, body = await running.try_embed(["x"], ID)
                if status == 200:
                    break
                answers.add((status, body["error"]["code"]))
                await asyncio.sleep(0.02)
        assert answers <= {(503, "model_pulling")}, "no other answer until it is there"
        assert hub.looks == 1
        await running.try_embed(["x"], "acme/missing")
        await running.wait_for_log("pull_failed", model="acme/missing", code="hub_model_not_found")
        status, body = await running.try_embed(["x"], "acme/missing")
        assert (status, body["error"]["code"], hub.looks) == (404, "hub_model_not_found", 2)


async def test_a_gateway_that_is_killed_while_it_pulls_leaves_nothing_half_made(hub: Hub, tmp_path: Path) -> None:
    hub.mishaps[WEIGHTS] = [HOLD]
    async with gateway(hub, tmp_path) as running:
        await post(running, model=MODEL)
        await held(hub)
        children = pulling(running)
        assert len(children) == 1
        await running.kill()
        async with asyncio.timeout(DEADLINE):
            while any(map(is_running, children)):
                await asyncio.sleep(0.01)
    assert {path.name for path in (tmp_path / "models").iterdir()} == {".pulls"}
    before = len(hub.asked)
    async with gateway(hub, tmp_path) as running:
        assert await running.models() == {}
        await post(running, model=MODEL)
        await running.wait_for(ID, "ready", "loaded")
        assert {path for path, _ in hub.asked[before:]} == {WEIGHTS}, "the rest was there"
        assert (await running.embed(["x"], MODEL))[0].shape == (1, 192)


async def test_a_stop_does_not_wait_for_a_pull(hub: Hub, tmp_path: Path) -> None:
    hub.mishaps[WEIGHTS] = [HOLD]
    async with gateway(hub, tmp_path) as running:
        await post(running, model=MODEL)
        await held(hub)
        await running.stop()  # which fails if a process outlives it
    assert not (tmp_path / "models/acme").exists()


async def test_what_cannot_be_pulled_is_refused_at_once_or_told_in_the_list(hub: Hub, tmp_path: Path) -> None:
    hub.repositories[MODEL].token, hub.repositories[MODEL].gated = "hf_secret", True
    async with gateway(hub, tmp_path) as running:
        assert (await post(running, model="../etc"))[1]["error"]["code"] == "invalid_model_id"
        assert (await post(running, model=MODEL, revision="a b"))[1]["error"]["code"] == "invalid_model_id"
        assert (await post(running))[1]["error"]["code"] == "invalid_body"
        assert (await get(running, f"/models/pulls/{MODEL}"))["error"]["code"] == "model_not_found"
        assert (await post(running, model=MODEL))[0] == 202
        await running.wait_for_log("pull_failed", code="hub_forbids")
        failed = await get(running, f"/models/pulls/{MODEL}")
        assert (failed["state"], failed["error"]["code"]) == ("failed", "hub_forbids")
        assert "HF_TOKEN" in failed["error"]["message"]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gateway", "pull", MODEL, "--url", running.url),
            env=environment(),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        _, complaint = await process.communicate()
        assert process.returncode == 1
        assert complaint.decode().strip().endswith("(hub_forbids)")
        hub.repositories[MODEL].token = None
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gateway", "pull", MODEL, "--json", "--url", running.url),
            env=environment(),
            stdout=asyncio.subprocess.PIPE,
        )
        said, _ = await process.communicate()
        assert process.returncode == 0
        assert json.loads(said)["state"] == "pulled"
        await running.wait_for(ID, "ready", "loaded")


async def test_a_gateway_that_is_offline_pulls_for_nobody(hub: Hub, tmp_path: Path) -> None:
    async with gateway(hub, tmp_path, "--hub-offline", "--hub-allow=acme/*") as running:
        status, body, _ = await post(running, model=MODEL)
        assert (status, body["error"]["code"]) == (403, "hub_offline")
        status, body = await running.try_embed(["x"], MODEL)
        assert (status, body["error"]["code"]) == (403, "hub_offline")
        assert hub.looks == 0
