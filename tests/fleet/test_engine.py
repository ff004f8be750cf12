"""The engine of a cluster over replicas with real hosts: who answers when hosts die, replicas go, and views are old."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import numpy as np
import pytest

from gateway import events
from gateway.cluster.engine import RayEngine
from gateway.errors import HostFailed, ModelQuarantined, NodeStale
from gateway.host.wire import Options, Piece, Sampling
from gateway.model import Generation
from tests import making
from tests.fleet.nearby import DEADLINE, rig
from tests.speaking import language_model

PLAIN = Options()


@asynccontextmanager
async def following(*engines: RayEngine) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(engine.follow()) for engine in engines]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task


async def embed(engine: RayEngine, generation: Generation, *texts: str, seconds: float = DEADLINE) -> np.ndarray:
    deadline = asyncio.get_running_loop().time() + seconds
    vectors = await engine.embed(generation, list(texts), PLAIN, deadline)
    return np.frombuffer(vectors.data, "<f4").reshape(vectors.rows, vectors.dim)


async def test_it_answers_and_says_where_things_are(tmp_path: Path) -> None:
    making.encoder(tmp_path / "models/a", seed=1)
    async with rig(tmp_path) as made:
        engine, a = made.engine(), made.accept("a")
        assert not engine.ready
        assert engine.devices() == []
        async with following(engine):
            await made.until(lambda: len(engine.devices()) == 2)
            assert engine.ready
            vectors = await embed(engine, a, "the ring", "a beam")
            assert vectors.shape == (2, 32)
            await made.until(lambda: bool(made.of(events.GenerationLoaded)))  # before that it may be listed as loading
            (residence,) = engine.residences()[a.digest]
            assert residence.device == made.fleet.asked[0]
            (loaded,) = made.of(events.GenerationLoaded)
            assert (loaded.device, loaded.models) == (residence.device, (a.digest[:4],))
            await made.until(lambda: bool(made.of(events.DeviceCall)))
            await engine.unload(a.digest)
            assert a.digest not in engine.residences()
            await engine.load(a)
            assert [each.state for each in engine.residences()[a.digest]] == ["loaded"]


async def test_a_host_that_dies_costs_the_culprit_alone(tmp_path: Path) -> None:
    making.encoder(tmp_path / "models/a", seed=1)
    making.encoder(tmp_path / "models/b", seed=2)
    async with rig(tmp_path) as made:
        engine, a, b = made.engine(), made.accept("a"), made.accept("b")
        async with following(engine):
            right = await embed(engine, b, "the ring")
            await made.until(lambda: engine.ready)
            innocents = [asyncio.create_task(embed(engine, b, "the ring")) for _ in range(8)]
            with pytest.raises(HostFailed, match="died twice"):
                await embed(engine, a, "please crash")
            for answer in await asyncio.gather(*innocents):
                np.testing.assert_allclose(answer, right, atol=1e-6)
            await made.until(lambda: bool(made.of(events.GenerationQuarantined)))
            with pytest.raises(ModelQuarantined):
                await embed(engine, a, "the ring")
            assert engine.quarantined(a.digest) is not None
            assert len(made.of(events.HostExited)) == 2
            assert {event.device for event in made.of(events.HostExited)} <= set(made.fleet.replicas)
            await engine.load(a)
            assert (await embed(engine, a, "the ring")).shape == (1, 32)


async def test_a_replica_that_goes_costs_nobody_anything(tmp_path: Path) -> None:
    making.encoder(tmp_path / "models/a", seed=1)
    async with rig(tmp_path) as made:
        engine, a = made.engine(), made.accept("a")
        async with following(engine):
            right = await embed(engine, a, "the ring")
            made.fleet.lost.add(made.fleet.asked[-1])
            np.testing.assert_allclose(await embed(engine, a, "the ring"), right, atol=1e-6)
            assert len(set(made.fleet.asked)) == 2


async def test_without_any_replica_it_is_told_so_before_the_deadline(tmp_path: Path) -> None:
    making.encoder(tmp_path / "models/a", seed=1)
    async with rig(tmp_path, ("one/cpu",)) as made:
        engine, a = made.engine(), made.accept("a")
        made.fleet.lost.add("one/cpu")
        made.fleet._choose = lambda *about: made.fleet._there()[0]  # type: ignore[method-assign]
        with pytest.raises(HostFailed, match="no replica of the cluster answers"):
            await embed(engine, a, "the ring", seconds=2.0)


async def test_a_node_with_an_old_view_refuses_and_another_answers(tmp_path: Path) -> None:
    root, old = tmp_path / "models", tmp_path / "old"
    making.encoder(root / "a", seed=1)
    shutil.copytree(root, old)
    making.encoder(root / "a", seed=2)
    async with rig(tmp_path, one=old) as made:
        engine, a = made.engine(), made.accept("a")
        shutil.rmtree(tmp_path / "gateway")  # a disk that no node sees
        async with following(engine):
            right = await embed(engine, a, "the ring")
            for _ in range(4):
                await engine.unload(a.digest)
                np.testing.assert_allclose(await embed(engine, a, "the ring"), right, atol=1e-6)
            assert {each.device for each in engine.residences().get(a.digest, [])} <= {"two/cpu"}


async def test_only_old_views_are_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, old = tmp_path / "models", tmp_path / "old"
    making.encoder(root / "a", seed=1)
    shutil.copytree(root, old)
    making.encoder(root / "a", seed=2)
    async with rig(tmp_path, one=old, two=old) as made:
        engine, a = made.engine(), made.accept("a")
        shutil.rmtree(tmp_path / "gateway")
        loop, passed = asyncio.get_running_loop(), [0.0]
        right = loop.time
        monkeypatch.setattr(loop, "time", lambda: right() + passed[0])
        asking = asyncio.create_task(embed(engine, a, "the ring"))
        await made.until(lambda: set(made.fleet.answered) == {"one/cpu", "two/cpu"})
        passed[0] = DEADLINE
        with pytest.raises(NodeStale) as stale:
            await asking
        assert stale.value.code == "node_stale"
        assert set(made.fleet.asked) == {"one/cpu", "two/cpu"}
        waiting = asyncio.create_task(embed(engine, a, "the ring"))
        shutil.rmtree(old)
        shutil.copytree(root, old)
        assert (await waiting).shape == (1, 32)


async def test_what_is_asked_for_before_its_gateway_has_said_that_it_stays_stays(tmp_path: Path) -> None:
    """A new model's first requests may be there before the word that it is live."""
    making.encoder(tmp_path / "models/a", seed=1)
    making.encoder(tmp_path / "models/b", seed=2)
    async with rig(tmp_path, ["one/cpu"]) as made:
        engine, a, b = made.engine(), made.accept("a"), made.accept("b")
        engine.keep([a], [])
        async with following(engine):
            await embed(engine, a, "the ring")
            replica = made.fleet.replicas["one/cpu"]
            await made.until(lambda: replica._kept is not None)
            await embed(engine, b, "the ring")
            await made.until(lambda: b.digest in engine.residences())
            await embed(engine, a, "the ring")  # what is told of `b` comes before this
            assert not made.of(events.GenerationUnloaded)


async def test_two_gateways_keep_what_each_of_them_needs(tmp_path: Path) -> None:
    making.encoder(tmp_path / "models/a", seed=1)
    making.encoder(tmp_path / "models/b", seed=2)
    async with rig(tmp_path, ("one/cpu",)) as made:
        first, second, a, b = made.engine(), made.engine(), made.accept("a"), made.accept("b")
        first.keep([a], [a])
        second.keep([b], [])
        async with following(first, second):
            await made.until(lambda: a.digest in first.residences())  # it is pinned
            await embed(second, b, "the ring")
            replica = made.fleet.replicas["one/cpu"]
            await made.until(lambda: replica._kept is not None and {a.digest, b.digest} <= replica._kept.live)
            await made.until(lambda: {a.digest, b.digest} <= second.residences().keys())
            assert [each.pinned for each in second.residences()[a.digest]] == [True]
            first.keep([a, b], [])
            await made.until(lambda: not any(each.pinned for each in first.residences()[a.digest]))


async def test_answers_are_told_in_pieces(tmp_path: Path) -> None:
    language_model(tmp_path / "models/m", endings=False)
    async with rig(tmp_path, ("one/cpu",)) as made:
        engine, m = made.engine(), made.accept("m")
        pieces: list[Piece] = []
        await engine.generate(m, "who keeps the keys?", [], Sampling(max_tokens=12, temperature=0.0), pieces.append)
        assert len(pieces) > 1
        assert pieces[-1].finish == "length"
        assert pieces[-1].tokens == 12
