"""A host in this process, with a small real model: what it answers to the commands of the wire, and when."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer as Backend
from tokenizers import models

from gateway.host import encoder, host, linear, loader, wire
from gateway.host.host import Config, Host
from gateway.host.recorder import Recorder
from gateway.host.tokenize import SHORT, Tokenizer
from gateway.model import Generation, Place
from tests import making

PLAIN = wire.Options()
DEADLINE = 300.0  # of a test: generous, since the machine may be busy; never what decides


class Rig:
    """A host that is being served, and what it has said."""

    def __init__(self, generation: Generation, **config: int) -> None:
        self.generation = generation
        self.recorder = Recorder.create()
        self.said: list[tuple[wire.Report, bytes]] = []
        self._heard = asyncio.Event()
        self.host = Host(Config("cpu", compute_threads=1, **config), self.recorder, self.hear)
        self.serving = asyncio.create_task(self.host.serve())
        self.tell(wire.Offer(generation))

    def hear(self, report: wire.Report, payload: bytes | memoryview) -> None:
        self.said.append((report, bytes(payload)))
        self._heard.set()

    def tell(self, command: wire.Command) -> None:
        self.host.receive(command, b"")

    def ask(self, number: int, *texts: str, **options: Any) -> None:
        self.tell(wire.Embed(number, self.generation.digest, list(texts), PLAIN, **options))

    def of(self, kind: type[Any]) -> list[Any]:
        return [report for report, _ in self.said if isinstance(report, kind)]

    def answers(self) -> dict[int, tuple[Any, bytes]]:
        return {said.id: (said, payload) for said, payload in self.said if isinstance(said, wire.Done | wire.Failed)}

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE):
            while not condition():
                self._heard.clear()
                await self._heard.wait()

    async def answer(self, number: int) -> tuple[Any, bytes]:
        await self.until(lambda: number in self.answers())
        return self.answers()[number]

    async def load(self) -> None:
        self.tell(wire.Load(1_000_000, self.generation.digest))
        done, _ = await self.answer(1_000_000)
        assert isinstance(done, wire.Done)

    async def close(self) -> None:
        self.serving.cancel()
        await asyncio.wait({self.serving})
        await self.host.pool.close()
        left = asyncio.all_tasks() - {asyncio.current_task()}  # an answer is said before its task has ended
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        self.recorder.close()


@pytest.fixture(scope="module")
def generation(tmp_path_factory: pytest.TempPathFactory) -> Generation:
    return making.generation(making.encoder(tmp_path_factory.mktemp("models") / "m"))


@pytest.fixture
async def rig(generation: Generation) -> AsyncIterator[Rig]:
    made = Rig(generation, max_queue_tokens=1000)
    yield made
    await made.close()


def block(rig: Rig) -> threading.Event:
    """Keeps the device busy until the event is set."""
    gate = threading.Event()
    rig.host._device._lane._threads.submit(gate.wait)
    return gate


async def test_many_requests_at_once_get_their_own_vectors(rig: Rig, generation: Generation) -> None:
    texts = ["alpha", "beta gamma", "alpha " * 50, "delta", "beta " * (SHORT // 2)]
    for number, text in enumerate(texts):
        rig.ask(number + 1, text, "gamma")
    expected = encoder.load(generation, "cpu").embed(Tokenizer(generation).encode([*texts, "gamma"]))
    for number in range(len(texts)):
        done, payload = await rig.answer(number + 1)
        vectors = np.frombuffer(payload, "<f4").reshape(done.rows, done.dim)
        np.testing.assert_allclose(vectors, expected[[number, -1]], atol=1e-5)


async def test_a_full_queue_refuses_before_a_request_has_cost_anything(rig: Rig) -> None:
    """At once: no text was tokenized and no task made, for the answer is there when the command has been read."""
    await rig.load()
    gate = block(rig)
    for number in range(1, 10):
        rig.ask(number, *["alpha beta gamma"] * 20)
        await asyncio.sleep(0)
    refused, _ = rig.answers()[9]
    assert isinstance(refused, wire.Failed)
    assert refused.code == "overloaded"
    assert refused.retry_after is not None
    assert refused.retry_after > 0
    said = len(rig.said)
    rig.ask(10, "alpha")
    assert [type(report) for report, _ in rig.said[said:]] == [wire.Failed]
    gate.set()
    assert isinstance((await rig.answer(1))[0], wire.Done)
    await rig.until(lambda: all(number in rig.answers() for number in range(1, 11)))
    rig.ask(11, "alpha")
    assert isinstance((await rig.answer(11))[0], wire.Done)


async def test_one_tenants_flood_leaves_room_for_another(rig: Rig) -> None:
    await rig.load()
    gate = block(rig)
    for number in range(1, 30):
        rig.ask(number, *["alpha beta gamma"] * 20, flow="bulk")
        await asyncio.sleep(0)
    assert rig.of(wire.Failed)
    rig.ask(100, "alpha", flow="another")
    gate.set()
    assert isinstance((await rig.answer(100))[0], wire.Done)
    await rig.until(lambda: len(rig.answers()) == 31)


async def test_what_waits_for_a_load_is_in_the_queue_too(rig: Rig) -> None:
    for number in range(1, 30):
        rig.ask(number, *["alpha beta gamma"] * 20)
        await asyncio.sleep(0)
    assert rig.host.batcher.queue_tokens > 0
    refused = [failed.id for failed in rig.of(wire.Failed)]
    assert refused
    await rig.until(lambda: len(rig.answers()) == 29)
    served = [number for number, (report, _) in rig.answers().items() if isinstance(report, wire.Done)]
    assert sorted(served + refused) == list(range(1, 30))
    assert rig.host.batcher.queue_tokens == 0


async def test_a_request_whose_deadline_passes_in_the_queue_is_not_computed(rig: Rig) -> None:
    await rig.load()
    rig.ask(1, "alpha", deadline=0.0)
    rig.ask(2, "beta", deadline=DEADLINE)
    failed, _ = await rig.answer(1)
    assert failed.code == "deadline_exceeded"
    assert isinstance((await rig.answer(2))[0], wire.Done)
    assert [batch.texts for batch in rig.of(wire.Batch)] == [1]


async def test_a_request_that_is_withdrawn_is_neither_computed_nor_answered(rig: Rig) -> None:
    await rig.load()
    gate = block(rig)
    rig.ask(1, "alpha")
    while rig.host.batcher.queue_tokens:  # nothing is said of a text that has gone to the device
        await asyncio.sleep(0)
    rig.ask(2, *["beta"] * 10)
    await asyncio.sleep(0)
    rig.tell(wire.Cancel(2))
    rig.ask(3, "gamma")
    gate.set()
    await rig.answer(3)
    assert 2 not in rig.answers()
    assert [batch.texts for batch in rig.of(wire.Batch)] == [1, 1]
    assert rig.host.batcher.queue_tokens == 0


async def test_long_texts_are_tokenized_off_the_loop_and_short_ones_on_it(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.load()
    threads: list[bool] = []
    right = host._tokenize

    def tokenize(*arguments: Any) -> Any:
        threads.append(threading.current_thread() is threading.main_thread())
        return right(*arguments)

    monkeypatch.setattr(host, "_tokenize", tokenize)
    rig.ask(1, "alpha")
    rig.ask(2, "alpha " * SHORT)
    await rig.answer(1)
    await rig.answer(2)
    assert threads == [True, False]


async def test_a_request_over_which_the_tokenizer_panics_is_answered_and_the_others_go_on(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the loop and on the lane. The panic is a real one."""
    await rig.load()
    content = json.loads(Backend(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]")).to_str())
    content["pre_tokenizer"] = {"type": "FixedLength", "length": 0}
    broken = Backend.from_str(json.dumps(content))
    right = host._tokenize

    def tokenize(tokenizer: Tokenizer, command: wire.Embed) -> Any:
        return broken.encode("odd") if command.texts[0].startswith("odd") else right(tokenizer, command)

    monkeypatch.setattr(host, "_tokenize", tokenize)
    for number, text in enumerate(("odd", "odd " * (SHORT // 2), "alpha")):
        rig.ask(number, text)
    assert [(await rig.answer(number))[0].code for number in range(2)] == ["internal"] * 2
    assert isinstance((await rig.answer(2))[0], wire.Done)
    async with asyncio.timeout(DEADLINE):
        while rig.host.batcher.queue_tokens:
            await asyncio.sleep(0)


async def test_a_model_over_whose_probe_the_tokenizer_panics_is_a_failed_load(tmp_path: Path) -> None:
    path = making.encoder(tmp_path / "m", family="modernbert")
    file = tmp_path / "m/tokenizer.json"
    content = json.loads(file.read_text())
    content["pre_tokenizer"] = {"type": "FixedLength", "length": 0}
    generation = making.generation(path)
    file.write_text(json.dumps(content))
    rig = Rig(generation)
    rig.ask(1, "alpha")
    failed, _ = await rig.answer(1)
    assert (failed.code, rig.host.pool.slots(), rig.recorder.loading()) == ("load_failed", [], [])
    await rig.close()


async def test_a_load_is_noted_before_anything_of_it_is_read(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that is away hangs whoever asks it for a file: the gateway's watchdog goes by the recorder."""
    begun, gate = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def read_ahead(generation: Generation) -> int:
        loop.call_soon_threadsafe(begun.set)
        gate.wait(DEADLINE)
        return 0

    monkeypatch.setattr(loader, "read_ahead", read_ahead)
    rig.ask(1, "alpha")
    async with asyncio.timeout(DEADLINE):
        await begun.wait()
    assert [entry.digest for entry in rig.recorder.loading()] == [rig.generation.digest]
    gate.set()
    assert isinstance((await rig.answer(1))[0], wire.Done)
    assert rig.recorder.loading() == []


async def test_once_somebody_was_answered_the_model_is_made_faster_until_nothing_is_left(rig: Rig) -> None:
    await rig.load()
    async with rig.host.pool.lease(rig.generation) as model:
        runtime = model.encoder
    left = runtime.wants_pause(busy=False)
    assert left == linear.can_reorder(torch.float32)
    rig.ask(1, "alpha")
    _, before = await rig.answer(1)
    async with asyncio.timeout(DEADLINE):
        while runtime.wants_pause(busy=False):
            await rig.host._device.run(lambda: None)  # steps take their turns with whatever else comes
    rig.ask(2, "alpha")
    _, after = await rig.answer(2)
    np.testing.assert_allclose(np.frombuffer(before, "<f4"), np.frombuffer(after, "<f4"), atol=1e-6)


async def probes_of_two_loads(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> int:
    probed = []
    right = encoder.probe
    monkeypatch.setattr(encoder, "probe", lambda *arguments: (probed.append(1), right(*arguments)))
    for number in (1, 2):
        rig.ask(number, "alpha")
        await rig.answer(number)
        rig.tell(wire.Unload(number + 10, rig.generation.digest))
        await rig.answer(number + 10)
    assert len(rig.of(wire.Loaded)) == 2
    return len(probed)


async def test_a_generation_is_probed_when_it_is_loaded_first_and_not_again(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await probes_of_two_loads(rig, monkeypatch) == 1


async def test_what_is_served_in_place_is_probed_with_every_load(
    generation: Generation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoder, "unchanged", lambda path, place: True)
    rig = Rig(msgspec.structs.replace(generation, place=Place("/", "m", (), "")))
    assert await probes_of_two_loads(rig, monkeypatch) == 2
    await rig.close()


async def test_many_changes_in_a_turn_are_one_report_and_a_load_is_in_it_at_once(rig: Rig) -> None:
    await rig.load()
    before = len(rig.of(wire.Residency))
    for _ in range(100):
        rig.host.reports.changed()
    assert len(rig.of(wire.Residency)) == before
    await rig.until(lambda: len(rig.of(wire.Residency)) == before + 1)
    loaded = next(index for index, (report, _) in enumerate(rig.said) if isinstance(report, wire.Loaded))
    states = [report for report, _ in rig.said[loaded:] if isinstance(report, wire.Residency)]
    assert [resident.state for resident in states[0].residents] == ["loaded"]
    rig.tell(wire.Unload(5, rig.generation.digest))
    await rig.answer(5)
    assert rig.of(wire.Residency)[-1].residents == []


async def test_a_request_of_more_tokens_than_it_may_have_is_refused_and_nothing_is_left_counted(rig: Rig) -> None:
    texts = ["alpha beta"] * 3
    rig.ask(1, *texts)
    done, _ = await rig.answer(1)
    limits = msgspec.structs.replace(PLAIN, most_tokens=done.tokens)
    rig.tell(wire.Embed(2, rig.generation.digest, texts, limits))
    rig.tell(wire.Embed(3, rig.generation.digest, [*texts, "alpha"], limits))
    assert isinstance((await rig.answer(2))[0], wire.Done)
    refused, _ = await rig.answer(3)
    assert (refused.code, refused.details["limit"]) == ("too_many_tokens", done.tokens)
    assert refused.details["tokens"] > done.tokens
    await rig.until(lambda: rig.host.batcher.queue_tokens == 0)


@pytest.mark.parametrize("text", ["alpha", "alpha " * SHORT], ids=["short", "long"])
async def test_what_a_tokenizer_does_is_noted_while_it_does_it(
    text: str, rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.load()
    seen: list[tuple[str, tuple[int, ...]]] = []
    right = host._tokenize

    def tokenize(*given: Any) -> Any:
        seen.extend((entry.digest, entry.requests) for entry in rig.recorder.at_work())
        return right(*given)

    monkeypatch.setattr(host, "_tokenize", tokenize)
    rig.ask(7, text)
    done, _ = await rig.answer(7)
    assert isinstance(done, wire.Done)
    assert seen == [(rig.generation.digest, (7,))]
    assert rig.recorder.at_work() == []


async def test_no_other_text_is_tokenized_beside_that_of_a_suspect(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    await rig.load()
    began, gate, order = threading.Event(), threading.Event(), list[int]()
    right = host._tokenize

    def tokenize(tokenizer: Tokenizer, command: wire.Embed) -> Any:
        order.append(command.id)
        if command.alone:
            began.set()
            gate.wait(DEADLINE)
        assert [entry.requests for entry in rig.recorder.tokenizing()] == [(command.id,)]
        return right(tokenizer, command)

    monkeypatch.setattr(host, "_tokenize", tokenize)
    rig.ask(1, "alpha " * (SHORT // 4), alone=True)
    await asyncio.to_thread(began.wait, DEADLINE)
    rig.ask(2, "beta")
    for _ in range(10):  # as far as it gets
        await asyncio.sleep(0)
    assert order == [1]
    gate.set()
    for number in (1, 2):
        done, _ = await rig.answer(number)
        assert isinstance(done, wire.Done)
    assert order == [1, 2]
