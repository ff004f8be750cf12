"""A real host with room for one model on its device and for more behind it."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from gateway import events
from gateway.engine.process import ProcessEngine
from gateway.engine.supervisor import HostProcess
from gateway.errors import ModelLoading
from gateway.host import wire
from gateway.host.wire import Options
from gateway.model import Generation
from tests import making

DEADLINE = 300.0  # of a step: generous, it only ends a test that hangs
TEXTS = ["the beam is in the ring", "laser"]


@pytest.fixture
def models(tmp_path: Path) -> list[Generation]:
    made = [making.generation(making.encoder(tmp_path / f"m{seed}", seed=seed)) for seed in range(3)]
    return [msgspec.structs.replace(each, digest=f"{number}" * 64) for number, each in enumerate(made)]


class Rig:
    def __init__(self, host: HostProcess, engine: ProcessEngine, told: list[events.Event]) -> None:
        self.host = host
        self.engine = engine
        self.told = told

    @property
    def returned(self) -> list[bool]:
        return [event.returned for event in self.told if isinstance(event, events.GenerationLoaded)]

    async def embed(self, generation: Generation) -> bytes:
        vectors = await asyncio.wait_for(self.engine.embed(generation, TEXTS, Options()), DEADLINE)
        return bytes(vectors.data)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE):
            while not condition():
                await asyncio.sleep(0.01)

    def states(self) -> dict[str, str]:
        return {digest[0]: each.state for digest, (each, *_) in self.engine.residences().items()}


@asynccontextmanager
async def rig(models: list[Generation], host_budget: int) -> AsyncIterator[Rig]:
    bus, told = events.Events(), []
    bus.subscribe(told.append)
    size = models[0].manifest.bytes_as("float32")
    config = {"device": "cpu", "memory_budget": size, "host_memory_budget": host_budget * size, "compute_threads": 1}
    host = HostProcess("cpu", msgspec.json.encode(config), bus, hang_timeout=DEADLINE, load_timeout=DEADLINE)
    engine = ProcessEngine([host], bus, lambda digest: (), lambda generation: size)
    engine.keep(models, ())
    life = asyncio.create_task(host.supervise())
    try:
        yield Rig(host, engine, told)
    finally:
        await host.stop()
        await life


async def test_what_is_parked_comes_back_though_its_directory_has_gone(models: list[Generation]) -> None:
    """Nothing is read, built or probed again: there is nothing left that could be."""
    async with rig(models, host_budget=3) as running:  # one more than is parked: they change places
        expected = [await running.embed(model) for model in models]
        for model in models:
            shutil.rmtree(model.path)
        assert [await running.embed(model) for model in models] == expected
        assert running.returned == [False] * 3 + [True] * 3
        await running.until(lambda: running.states() == {"0": "parked", "1": "parked", "2": "loaded"})
        state = running.engine.devices()[0]
        assert 0 < state.used <= state.budget
        assert state.used < state.host_used <= state.host_budget


async def test_an_operator_who_unloads_a_parked_model_has_its_memory(models: list[Generation]) -> None:
    async with rig(models, host_budget=2) as running:
        for model in models[:2]:
            await running.embed(model)
        await running.until(lambda: running.states().get("0") == "parked")
        await running.engine.unload(models[0].digest)
        await running.until(lambda: "0" not in running.states())
        assert running.engine.devices()[0].host_used == 0


async def test_what_is_withdrawn_is_not_kept_in_host_memory(models: list[Generation]) -> None:
    async with rig(models, host_budget=2) as running:
        for model in models[:2]:
            await running.embed(model)
        await running.until(lambda: running.states().get("0") == "parked")
        running.engine.keep(models[1:], ())
        await running.until(lambda: "0" not in running.states())


async def test_a_parked_model_that_is_pinned_is_loaded(models: list[Generation]) -> None:
    async with rig(models, host_budget=2) as running:
        for model in models[:2]:
            await running.embed(model)
        await running.until(lambda: running.states().get("0") == "parked")
        running.engine.keep(models, models[:1])
        await running.until(lambda: running.states().get("0") == "loaded")
        assert running.returned == [False, False, True]


async def test_on_a_cpu_nothing_is_parked_by_default(models: list[Generation]) -> None:
    async with rig(models, host_budget=0) as running:
        for model in (*models[:2], models[0]):
            await running.embed(model)
        assert running.returned == [False] * 3
        assert running.engine.devices()[0].host_budget == 0


async def test_whose_deadline_comes_before_the_end_of_a_load_is_told_when_to_try_again(
    models: list[Generation],
) -> None:
    async with rig(models, host_budget=0) as running:
        await running.embed(models[0])
        now = asyncio.get_running_loop().time()
        held = running.host.residents[models[0].digest]
        loading = msgspec.structs.replace(held, state="loading", seconds_left=3000.0)
        running.host.residents[models[0].digest] = loading
        with pytest.raises(ModelLoading) as refused:
            await running.engine.embed(models[0], TEXTS, Options(), now + 5)
        assert refused.value.retry_after == pytest.approx(3000, abs=DEADLINE)
        assert (await running.engine.embed(models[0], TEXTS, Options(), now + 10_000)).rows == len(TEXTS)
        running.host.residents[models[0].digest] = wire.Resident(models[0].digest, "loaded", 1, 0, False, 0.0)
        assert (await running.engine.embed(models[0], TEXTS, Options(), now + 10_000)).rows == len(TEXTS)
