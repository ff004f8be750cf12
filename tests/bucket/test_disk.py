"""A node whose disk holds fewer weights than the bucket has models: asked for, they come; unasked, they go."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from pathlib import Path

from tests import making
from tests.bucket.test_gateway import QUICK, VOLUME
from tests.buckets import Cloud, Relay
from tests.e2e.clients import TEXTS, Clients, least_cosine, reference, until
from tests.running import RunningGateway

NAMES = ("a", "b", "c", "d")
LARGE = 300 * 1024  # bytes on the disk; nothing but weights takes more


def weights(state: Path) -> int:
    """Bytes of all weights on the disk: in the store, and of what was fetched."""
    found = {}
    for folder, _, names in os.walk(state):
        for name in names:
            with suppress(FileNotFoundError):  # let go since it was listed
                stat = os.stat(os.path.join(folder, name))
                if stat.st_blocks * 512 > LARGE:  # of what the bucket lists there are names and no blocks
                    found[stat.st_ino] = stat.st_size
    return sum(found.values())


def has_weights(state: Path, generation: str) -> bool:
    return any(state.glob(f"generations/{generation}*/files/model.safetensors"))


async def test_four_models_on_a_disk_for_two_are_all_served_and_fetched_when_they_are_asked_for(
    cloud: Cloud, tmp_path: Path
) -> None:
    made = {name: making.encoder(tmp_path / name, seed=seed, dim=64) for seed, name in enumerate(NAMES)}
    size = (Path(made["a"]) / "model.safetensors").stat().st_size
    for name, folder in made.items():
        cloud.upload(folder, f"all/finetuned/{name}")
    state = tmp_path / "state"
    # in memory one at a time, so that what is asked for next is not there
    options = (*QUICK, "--max-loaded-models=1", f"--disk-budget={int(2.5 * size)}")
    async with Relay(cloud) as relay:
        async with RunningGateway(VOLUME, state, *options, environment=relay.environment) as running:
            for name in NAMES:
                await running.wait_for(f"huggingface:finetuned/{name}", "ready", "loaded")

            async def within() -> bool:
                return await asyncio.to_thread(weights, state) <= 2.5 * size

            await until(within)

            async def told() -> bool:
                return sum(each.get("event") == "generation_thinned" for each in running.log) >= 2

            await until(told)
            generations = {}
            for name in (*NAMES, *NAMES):
                vectors, generations[name] = await running.embed(TEXTS, f"finetuned/{name}")
                assert least_cosine(vectors, reference(made[name], TEXTS)) > 0.9999
            async with Clients(running, [f"finetuned/{name}" for name in NAMES]) as clients:
                await clients.more(24)
            assert clients.statuses() == {200}
            await until(within)
        async with RunningGateway(VOLUME, state, *options, environment=relay.environment) as running:
            for name in NAMES:
                assert (await running.embed(TEXTS, f"finetuned/{name}"))[1] == generations[name]
            assert not [each for each in running.log if each.get("event") in {"model_accepted", "model_swapped"}]
            await until(within)
            async with running.session.post("/models/finetuned/a/pin") as answer:
                assert answer.status == 200
            await running.wait_for("huggingface:finetuned/a", "loaded")  # by itself, whether it was there or not
            async with running.session.post("/models/finetuned/a/unpin") as answer:
                assert answer.status == 200
            await until(within)
            gone = next(f"finetuned/{name}" for name in NAMES if not has_weights(state, generations[name]))
            await relay.shut()
            await running.wait_for_log("volume_unreadable")
            status, body = await running.try_embed(TEXTS, gone)
            assert (status, body["error"]["code"]) == (503, "model_loading")
            await relay.open()

            async def back() -> bool:
                return (await running.try_embed(TEXTS, gone))[0] == 200

            await until(back)
