"""A whole host on a GPU: models come, go to host memory and come back, and every answer is right on the way."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import numpy as np
import pytest

from gateway.host import encoder, wire
from gateway.host.graphs import LEAST_USES
from gateway.host.host import Config, Host
from gateway.host.launcher import GRAPH_BYTES
from gateway.host.recorder import Recorder
from gateway.host.tokenize import Tokenizer
from gateway.model import Generation
from tests import making

TEXTS = ["the beam is in the storage ring", "laser", "x-ray light source"]
DEADLINE = 300.0  # of a test: generous, since the machine may be busy; never what decides


class Rig:
    """A host that is being served, and what it has said."""

    def __init__(self, device: str, budget: int) -> None:
        self.recorder = Recorder.create()
        self.said: list[tuple[wire.Report, bytes]] = []
        self._heard = asyncio.Event()
        config = Config(device, memory_budget=budget, host_memory_budget=1 << 30)
        self.host = Host(config, self.recorder, self.hear)
        self.serving = asyncio.create_task(self.host.serve())

    def hear(self, report: wire.Report, payload: bytes | memoryview) -> None:
        self.said.append((report, bytes(payload)))
        self._heard.set()

    async def embed(self, number: int, generation: Generation) -> encoder.Vectors:
        self.host.receive(wire.Offer(generation), b"")
        self.host.receive(wire.Embed(number, generation.digest, TEXTS, wire.Options()), b"")
        async with asyncio.timeout(DEADLINE):
            while True:
                for report, payload in self.said:
                    if isinstance(report, wire.Done | wire.Failed) and report.id == number:
                        assert isinstance(report, wire.Done), report
                        return np.frombuffer(payload, np.float32).reshape(report.rows, report.dim)
                self._heard.clear()
                await self._heard.wait()

    async def close(self) -> None:
        self.serving.cancel()
        await asyncio.wait({self.serving})
        await self.host.pool.close()
        self.recorder.close()


def models(folder: Path, count: int) -> list[tuple[Generation, encoder.Vectors]]:
    """Generations, and their vectors as the CPU makes them."""
    found = []
    for number in range(count):
        generation = making.generation(making.encoder(folder / str(number), seed=number))
        generation = msgspec.structs.replace(generation, digest=str(number) * 64)
        rows = Tokenizer(generation).encode(TEXTS)
        found.append((generation, encoder.load(generation, "cpu").embed(rows)))
    return found


def agree(found: encoder.Vectors, wanted: encoder.Vectors) -> None:
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(wanted, axis=1)
    assert ((found * wanted).sum(axis=1) / lengths).min() > 0.99999


@pytest.fixture
def budget() -> int:
    """Room for one of the small models, and not for two."""
    return GRAPH_BYTES * 3 // 2


async def test_models_that_take_turns_in_one_place_go_to_host_memory_and_come_back(
    tmp_path: Path, device: str, budget: int
) -> None:
    both = models(tmp_path, 2)
    rig = Rig(device, budget)
    for number in range(6):
        generation, wanted = both[number % 2]
        agree(await rig.embed(number, generation), wanted)
    loads = [report for report, _ in rig.said if isinstance(report, wire.Loaded)]
    assert [load.returned for load in loads] == [False, False, True, True, True, True]
    assert rig.host.pool.used <= budget
    await rig.close()


async def test_requests_go_on_while_their_shape_is_captured(tmp_path: Path, device: str, budget: int) -> None:
    ((generation, wanted),) = models(tmp_path, 1)
    rig = Rig(device, budget)
    for number in range(3 * LEAST_USES):
        agree(await rig.embed(number, generation), wanted)
    await rig.close()
