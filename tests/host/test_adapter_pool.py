"""Adapters in a host: one base in memory for all of them, slots of their own, and calls that they share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from gateway.host import wire
from gateway.host.adapted import Adapted
from gateway.host.host import Config
from gateway.model import Generation
from tests import adapting, making
from tests.host.test_host import DEADLINE, PLAIN, Rig, block

TEXTS = ["the beam is stored in the ring", "a poem"]
COUNT = 6


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Generation:
    return making.generation(making.encoder(tmp_path_factory.mktemp("base") / "b"))


@pytest.fixture(scope="module")
def loras(base: Generation, tmp_path_factory: pytest.TempPathFactory) -> list[Generation]:
    folder = tmp_path_factory.mktemp("loras")
    return [
        adapting.generation(adapting.lora(folder / str(number), base.path, seed=number), base, str(number + 1) * 64)
        for number in range(COUNT)
    ]


def another(folder: Path) -> Generation:
    """A model that is no base of theirs."""
    return msgspec.structs.replace(making.generation(making.encoder(folder / "other", seed=5)), digest="f" * 64)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not condition():
            await asyncio.sleep(0)


@pytest.fixture(scope="module")
def expected(base: Generation, loras: list[Generation]) -> list[adapting.Vectors]:
    return [adapting.reference(base.path, each.path, TEXTS) for each in loras]


class Host(Rig):
    """With adapters that it was told of."""

    def __init__(self, base: Generation, loras: list[Generation], **config: int) -> None:
        super().__init__(base, **config)
        self.loras = loras
        self._number = 0
        for each in loras:
            self.tell(wire.Offer(each))

    def begin(self, generation: Generation, *, alone: bool = False) -> int:
        self._number += 1
        self.tell(wire.Embed(self._number, generation.digest, TEXTS, PLAIN, alone))
        return self._number

    async def vectors(self, number: int) -> adapting.Vectors:
        done, payload = await self.answer(number)
        assert isinstance(done, wire.Done), done
        return np.frombuffer(payload, "<f4").reshape(done.rows, done.dim)

    async def embed(self, generation: Generation) -> adapting.Vectors:
        return await self.vectors(self.begin(generation))

    async def until_waiting(self, requests: int) -> None:
        """Until so many requests have texts in the queues."""
        async with asyncio.timeout(DEADLINE):
            while len(self.host.batcher._queues) != requests or (not requests and not self.host.batcher._handed):
                await asyncio.sleep(0)

    def loaded(self) -> set[str]:
        return {slot.generation.digest for pool in (self.host.pool, self.host.adapters) for slot in pool.slots()}

    async def close(self) -> None:
        await self.host.adapters.close()
        await super().close()


@pytest.fixture
async def rig(base: Generation, loras: list[Generation]) -> AsyncIterator[Host]:
    made = Host(base, loras)
    yield made
    await made.close()


async def test_all_adapters_have_one_base_in_memory_and_cost_their_tensors(
    rig: Host, base: Generation, loras: list[Generation], expected: list[adapting.Vectors]
) -> None:
    for each, vectors in zip(loras, expected, strict=True):
        assert adapting.lowest_cosine(await rig.embed(each), vectors) >= 0.99999
    assert [slot.generation.digest for slot in rig.host.pool.slots()] == [base.digest]
    for slot in rig.host.adapters.slots():
        assert slot.bytes == slot.generation.manifest.stored_bytes
    assert rig.host.adapters.used == sum(each.manifest.stored_bytes for each in loras)
    told = {report.digest: report.bytes for report in rig.of(wire.Loaded)}
    assert set(told) == {base.digest, *(each.digest for each in loras)}


async def test_requests_for_many_adapters_that_wait_together_are_one_device_call(
    rig: Host, base: Generation, loras: list[Generation], expected: list[adapting.Vectors]
) -> None:
    for each in [base, *loras]:
        await rig.embed(each)
    gate = block(rig)
    first = rig.begin(base)  # is on its way to the device, and what comes now waits behind it
    await rig.until_waiting(0)
    waiting = [rig.begin(each) for each in [base, *loras]]
    await rig.until_waiting(len(waiting))
    calls = len(rig.of(wire.Batch))
    gate.set()
    plain = await rig.vectors(first)
    found = [await rig.vectors(number) for number in waiting]
    together = rig.of(wire.Batch)[calls:]
    assert [call.texts for call in together] == [2, 2 * len(waiting)]
    np.testing.assert_allclose(found[0], plain, atol=1e-5)
    for vectors, wanted in zip(found[1:], expected, strict=True):
        assert adapting.lowest_cosine(vectors, wanted) >= 0.99999


async def test_a_suspect_shares_no_call_with_other_adapters(rig: Host, loras: list[Generation]) -> None:
    for each in loras[:2]:
        await rig.embed(each)
    calls = len(rig.of(wire.Batch))
    numbers = [rig.begin(loras[0], alone=True), rig.begin(loras[1])]
    for number in numbers:
        await rig.vectors(number)
    assert [call.texts for call in rig.of(wire.Batch)[calls:]] == [2, 2]
    assert {call.digest for call in rig.of(wire.Batch)[calls:]} == {loras[0].digest, loras[1].digest}


async def test_more_adapters_than_slots_take_turns_and_the_base_stays(
    base: Generation, loras: list[Generation], expected: list[adapting.Vectors]
) -> None:
    rig = Host(base, loras, max_loaded_adapters=2)
    for _ in range(2):
        asked = [rig.begin(each) for each in loras]
        for number, vectors in zip(asked, expected, strict=True):
            assert adapting.lowest_cosine(await rig.vectors(number), vectors) >= 0.99999
    assert len(rig.host.adapters.slots()) <= 2
    unloaded = {report.digest for report in rig.of(wire.Unloaded)}
    assert base.digest not in unloaded
    assert len([report for report in rig.of(wire.Loaded) if report.digest == base.digest]) == 1
    await rig.close()


async def test_the_least_recently_used_adapter_makes_room_by_bytes(base: Generation, loras: list[Generation]) -> None:
    rig = Host(base, loras, adapter_memory=2 * loras[0].manifest.stored_bytes)
    for number in (0, 1, 0, 2):
        await rig.embed(loras[number])
    await rig.until(lambda: bool(rig.of(wire.Unloaded)))
    assert [report.digest for report in rig.of(wire.Unloaded)] == [loras[1].digest]
    await rig.close()


async def test_a_base_is_not_evicted_while_an_adapter_over_it_is_leased_and_may_be_after(
    base: Generation, loras: list[Generation], tmp_path: Path
) -> None:
    other = another(tmp_path)
    rig = Host(base, loras, max_loaded_models=1)
    rig.tell(wire.Offer(other))
    async with rig.host._lease(loras[0]) as adapted:
        assert isinstance(adapted, Adapted)
        waiting = rig.begin(other)
        for _ in range(20):
            await asyncio.sleep(0)
        assert waiting not in rig.answers()
        assert base.digest in rig.loaded()
        assert adapted.encoder.bytes > 0
    await rig.vectors(waiting)
    assert rig.loaded() == {other.digest, loras[0].digest}  # the adapter stayed: it is no part of a loaded base
    assert len(await rig.embed(loras[0])) == len(TEXTS)
    loads = [report.digest for report in rig.of(wire.Loaded)]
    assert loads.count(loras[0].digest) == 1
    assert loads.count(base.digest) == 2
    await rig.close()


async def test_an_adapter_is_loaded_over_the_base_that_its_request_holds_while_that_makes_way(
    base: Generation, loras: list[Generation], tmp_path: Path
) -> None:
    """The request waits for a place among the adapters; another model wants the base's place, and the base anew stands
    behind that."""
    rig, other = Host(base, loras[:2], max_loaded_models=1, max_loaded_adapters=1), another(tmp_path)
    rig.tell(wire.Offer(other))
    await rig.embed(loras[0])
    gate = block(rig)
    first = rig.begin(loras[0])
    await rig.until_waiting(0)
    second = rig.begin(loras[1])
    await until(lambda: bool(rig.host.adapters._waiting))
    third = rig.begin(other)
    await until(lambda: bool(rig.host.pool._leaving))
    gate.set()
    for number in (first, second, third):
        assert len(await rig.vectors(number)) == len(TEXTS)
    loads = [report.digest for report in rig.of(wire.Loaded)]
    assert loads == [base.digest, loras[0].digest, loras[1].digest, other.digest]
    await rig.close()


async def test_an_adapter_that_is_loaded_on_request_holds_no_place_while_its_base_waits_for_one(
    base: Generation, loras: list[Generation], tmp_path: Path
) -> None:
    """Else who is to leave the place for the base would wait for that of the adapter."""
    other = another(tmp_path)
    over = adapting.generation(adapting.lora(tmp_path / "over", other.path), other, "e" * 64)
    rig = Host(base, [loras[0], over], max_loaded_models=1, max_loaded_adapters=1)
    rig.tell(wire.Offer(other))
    number = rig.begin(over)
    rig.tell(wire.Load(500, loras[0].digest))
    assert len(await rig.vectors(number)) == len(TEXTS)
    assert isinstance((await rig.answer(500))[0], wire.Done)
    assert rig.loaded() == {base.digest, loras[0].digest}
    await rig.close()


async def test_an_adapter_is_loaded_and_unloaded_on_request_and_retired_with_its_generation(
    rig: Host, base: Generation, loras: list[Generation]
) -> None:
    rig.tell(wire.Load(500, loras[0].digest))
    assert isinstance((await rig.answer(500))[0], wire.Done)
    assert rig.loaded() == {base.digest, loras[0].digest}
    rig.tell(wire.Unload(501, loras[0].digest))
    await rig.answer(501)
    assert rig.loaded() == {base.digest}
    await rig.embed(loras[1])
    rig.tell(wire.Keep([base.digest], []))
    await rig.until(lambda: loras[1].digest in {report.digest for report in rig.of(wire.Unloaded)})
    assert rig.loaded() == {base.digest}


async def test_an_adapter_over_a_base_of_another_runtime_says_why_it_cannot_be_loaded(
    base: Generation, loras: list[Generation]
) -> None:
    from gateway.wish import Wish

    pytest.importorskip("openvino")
    rig = Host(base, loras)
    rig.tell(wire.Offer(base, Wish("openvino", "float32")))
    failed, _ = await rig.answer(rig.begin(loras[0]))
    assert isinstance(failed, wire.Failed)
    assert failed.code == "load_failed"
    assert failed.details["reason"] == "base_not_supported"
    assert "torch" in failed.message
    await rig.close()


async def test_an_adapter_that_is_all_nan_is_found_out_before_anybody_uses_it(base: Generation, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = adapting.lora(tmp_path / "a", base.path)
    file = tmp_path / "a/adapter_model.safetensors"
    save_file({name: tensor * float("nan") for name, tensor in load_file(file).items()}, file)
    rig = Host(base, [adapting.generation(path, base)])
    failed, _ = await rig.answer(rig.begin(rig.loras[0]))
    assert failed.details["reason"] == "probe_not_finite"
    assert rig.loaded() == {base.digest}
    await rig.close()


def test_without_a_setting_adapters_have_a_small_share_beside_the_models() -> None:
    from gateway.host.memory import adapter_budget

    assert adapter_budget(1 << 40) == 1 << 35
    assert adapter_budget(1 << 20) == 64 << 20
    assert adapter_budget(1 << 40, 7) == 7
    assert Config("cpu").adapter_memory == 0
