"""What the engine asks a host that is full, and what it tells it of a client's patience."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from gateway import events
from gateway.engine.process import ProcessEngine
from gateway.engine.supervisor import Tell
from gateway.errors import Overloaded
from gateway.host import wire
from gateway.model import Generation, Manifest, Pooling

MANIFEST = Manifest(
    kind="encoder", library="transformers", model_type="bert", architecture="BertModel", dim=2, max_tokens=16,
    vocab_size=10, transformer_path="", tokenizer_path="", stages=(Pooling(("mean",)),), weights=("w",),
    files=("config.json", "w"), parameters=1, stored_bytes=4, stored_dtype="F32", prompts={},
)  # fmt: skip
GENERATION = Generation("d" * 64, "/nowhere", MANIFEST)


class Host:
    """A host that holds the generation, and refuses whatever it is asked while it is `full`."""

    device = "cpu"
    up = True
    idle_seconds = 0.0

    def __init__(self) -> None:
        self.full = True
        self.asked: list[wire.Work] = []
        self.residents: dict[str, Any] = {GENERATION.digest: wire.Resident(GENERATION.digest, "loaded", 4, 0, False, 0)}
        self.parked: dict[str, Any] = {}

    def offer(self, *offered: object) -> None: ...

    async def call(self, command: Callable[[int], wire.Command], digest: str, tell: Tell) -> tuple[wire.Done, bytes]:
        asked = command(len(self.asked) + 1)
        assert isinstance(asked, wire.Work)
        self.asked.append(asked)
        if self.full:
            raise Overloaded("it is full", retry_after=2.0, queued=9)
        if not isinstance(asked, wire.Embed | wire.Rerank):
            return wire.Done(asked.id), b"\x90"  # an empty list
        return wire.Done(asked.id, len(asked.texts), 2), bytes(8 * len(asked.texts))


@pytest.fixture
def host() -> Host:
    return Host()


@pytest.fixture
def engine(host: Host) -> ProcessEngine:
    """Its clock stands still: what a refusal says holds for a moment only."""
    hosts: Any = [host]  # all of a host that a request touches
    return ProcessEngine(hosts, events.Events(), lambda digest: (), lambda generation: 4, clock=lambda: 100.0)


async def refused(engine: ProcessEngine, *texts: str) -> Overloaded:
    with pytest.raises(Overloaded, match="it is full") as failure:
        await engine.embed(GENERATION, list(texts), wire.Options())
    return failure.value


async def test_a_full_host_is_not_asked_again_for_the_like_of_what_it_refused(
    engine: ProcessEngine, host: Host
) -> None:
    for _ in range(3):
        refusal = await refused(engine, "a beam", "a ring")
        assert (refusal.retry_after, refusal.details) == (2.0, {"queued": 9})
    assert len(host.asked) == 1


async def test_it_is_asked_for_what_is_smaller_and_after_an_answer_for_all(engine: ProcessEngine, host: Host) -> None:
    await refused(engine, "a beam", "a ring")
    host.full = False
    assert (await engine.embed(GENERATION, ["x"], wire.Options())).rows == 1
    assert (await engine.embed(GENERATION, ["a beam", "a ring"], wire.Options())).rows == 2
    assert [len(asked.texts) for asked in host.asked] == [2, 1, 2]


async def test_the_host_is_told_how_long_the_client_still_waits(engine: ProcessEngine, host: Host) -> None:
    host.full = False
    now = asyncio.get_running_loop().time()
    await engine.embed(GENERATION, ["x"], wire.Options(), now + 3000)
    await engine.embed(GENERATION, ["x"], wire.Options(), now - 1)
    await engine.embed(GENERATION, ["x"], wire.Options())
    soon, late, never = (asked.deadline for asked in host.asked)
    assert soon is not None
    assert late is not None
    assert 0 < soon <= 3000
    assert late <= -1
    assert never is None


async def test_the_host_is_told_whose_a_request_is_whatever_is_asked(engine: ProcessEngine, host: Host) -> None:
    host.full = False
    await engine.embed(GENERATION, ["x"], wire.Options(), flow="a")
    await engine.rerank(GENERATION, "q", ["x"], wire.Options(), flow="b")
    await engine.tokenize(GENERATION, ["x"], flow="c")
    await engine.decode(GENERATION, [[1]], flow="d")
    await engine.embed(GENERATION, ["x"], wire.Options())
    assert [asked.flow for asked in host.asked] == ["a", "b", "c", "d", ""]


async def test_what_was_refused_to_one_flow_is_asked_for_another(engine: ProcessEngine, host: Host) -> None:
    for flow in ("a", "b", "a", "b"):
        with pytest.raises(Overloaded):
            await engine.embed(GENERATION, ["a beam"], wire.Options(), flow=flow)
    assert [asked.flow for asked in host.asked] == ["a", "b"]
