"""What gateways and nodes agree on without talking about it: which content a name means now."""

from __future__ import annotations

import asyncio
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tests import making
from tests.e2e.clients import TEXTS, Clients
from tests.ray import figures
from tests.ray.conftest import MODELS, PER_NODE, options
from tests.ray.nodes import Nodes
from tests.ray.test_cluster import all_up, summary
from tests.running import RunningGateway
from tests.speaking import language_model

pytestmark = [pytest.mark.ray, pytest.mark.asyncio(loop_scope="session")]
LATE = "finetuned/late"


def freeze(views: Path, volume: Path, address: str) -> None:
    """From now on that node sees the volume as it is now."""
    old = views / f"old-{address}"
    shutil.copytree(volume, old)
    (views / address).unlink()
    (views / address).symlink_to(old)


def thaw(views: Path, volume: Path, address: str) -> None:
    (views / address).unlink()
    (views / address).symlink_to(volume)


async def test_nodes_with_an_old_view_refuse_and_others_answer(
    gateway: RunningGateway, nodes: Nodes, volume: Path, views: Path, place: Path
) -> None:
    await all_up(gateway)
    for address in nodes.there[:-1]:
        freeze(views, volume, address)
    making.encoder(volume / LATE, seed=100)
    await gateway.wait_for(f"huggingface:{LATE}", "ready", "loaded")
    shutil.rmtree(place / "state/generations")  # a disk that no node sees
    answers = await asyncio.gather(*(gateway.try_embed(TEXTS, LATE) for _ in range(40)))
    assert Counter(status for status, _ in answers) == {200: 40}, answers[0]
    await gateway.wait_for(f"huggingface:{LATE}", "loaded")
    (device,) = (await figures.held(gateway))[f"huggingface:{LATE}"]
    assert device.startswith(f"{nodes.there[-1]}/")
    for address in nodes.there[:-1]:
        thaw(views, volume, address)
    figures.write("stale", nodes=len(nodes.there), with_an_old_view=len(nodes.there) - 1, requests=40, failed=0)


async def test_only_old_views_are_told_as_such_until_they_heal(
    gateway: RunningGateway, nodes: Nodes, volume: Path, views: Path, place: Path
) -> None:
    for address in nodes.there:
        shutil.rmtree(views / f"old-{address}", ignore_errors=True)
        freeze(views, volume, address)
    making.encoder(volume / "finetuned/later", seed=101)
    await gateway.wait_for("huggingface:finetuned/later", "ready", "loaded")
    shutil.rmtree(place / "state/generations")
    headers = {"X-Request-Timeout": "20"}
    body = {"model": "finetuned/later", "inputs": TEXTS}
    async with gateway.session.post("/embed", json=body, headers=headers) as answer:
        told = await answer.json()
        assert (answer.status, told["error"]["code"]) == (503, "node_stale"), told
        assert int(answer.headers["Retry-After"]) >= 1
    waiting = asyncio.create_task(gateway.try_embed(TEXTS, "finetuned/later"))
    for address in nodes.there:
        thaw(views, volume, address)
    status, _ = await waiting
    assert status == 200


async def test_a_swap_under_load_fails_nobody(gateway: RunningGateway, volume: Path, tmp_path: Path) -> None:
    model = MODELS[0]
    old, before = await gateway.embed(TEXTS, model)
    making.encoder(volume / "finetuned/.next", seed=200)
    begin = len(gateway.log)
    clients = Clients(gateway, [model] * 4 + MODELS[1:5])
    async with clients:
        await clients.more(100)
        (volume / model).rename(tmp_path / "away")
        (volume / "finetuned/.next").rename(volume / model)
        await gateway.wait_for_log("model_swapped", after=begin, model=model)
        await clients.more(100)
    new, after = await gateway.embed(TEXTS, model)
    assert after != before
    assert not np.allclose(old, new, atol=1e-3)
    made_by = {before: old, after: new}
    mine = [body for name, _, body in clients.answers if name == model]
    for body in mine:
        np.testing.assert_allclose(np.array(body["embeddings"]), made_by[body["generation"]], atol=1e-5)
    figures.write("swap", **summary(clients.answers), of_the_model=len(mine), generations=len(made_by))


async def test_a_second_gateway_shares_the_replicas(
    gateway: RunningGateway, nodes: Nodes, volume: Path, place: Path, size: int
) -> None:
    await all_up(gateway)
    budget = f"--memory-budget={PER_NODE * size + size // 2}"
    given = [*options(nodes, place, place / "views"), budget]
    async with RunningGateway(volume, place / "second", *given, environment=nodes.environment) as second:
        await all_up(second)
        first = {name: device["pid"] for name, device in (await figures.devices(gateway)).items()}
        assert {name: device["pid"] for name, device in (await figures.devices(second)).items()} == first
        chosen = MODELS[10:16]
        both = Clients(gateway, chosen), Clients(second, chosen)
        async with both[0], both[1]:
            await asyncio.gather(both[0].more(150), both[1].more(150))
        for model in chosen:
            await gateway.wait_for(f"huggingface:{model}", "loaded")
        where = await figures.held(gateway)
        copies = [len(where[f"huggingface:{model}"]) for model in chosen]
        assert {len(set(each.generations())) for each in both} == {len(chosen)}
        assert set(both[0].generations()) == set(both[1].generations())
        told = summary([*both[0].answers, *both[1].answers])
    await gateway.embed(TEXTS, chosen[0])  # what the other one's end took from nobody
    figures.write("two_gateways", **told, models=len(chosen), copies=copies)


async def test_a_language_model_answers_in_pieces(narrow: RunningGateway, volume: Path) -> None:
    language_model(volume / "base/tiny", endings=False)
    await narrow.wait_for("huggingface:base/tiny", "ready", "loaded")
    body = {"model": "base/tiny", "prompt": "who keeps the keys?", "max_tokens": 12, "stream": True, "temperature": 0}
    async with narrow.session.post("/v1/completions", json=body) as answer:
        assert answer.status == 200, await answer.text()
        lines = [line async for line in answer.content if line.startswith(b"data: ")]
    assert len(lines) > 3
    assert lines[-1].strip() == b"data: [DONE]"


async def test_more_than_replicas_may_have_is_refused_for_now(
    narrow: RunningGateway,
) -> None:
    await all_up(narrow, 1)
    await narrow.embed(TEXTS, MODELS[0])

    async def ask() -> tuple[int, str | None]:
        body = {"model": MODELS[0], "inputs": ["light source vacuum orbit " * 12] * 64}
        async with narrow.session.post("/embed", json=body) as answer:
            await answer.read()
            return answer.status, answer.headers.get("Retry-After")

    answers = await asyncio.gather(*(ask() for _ in range(60)))
    counts = Counter(status for status, _ in answers)
    assert set(counts) == {200, 429}, counts
    assert {retry for status, retry in answers if status == 429} == {"1"}
    await narrow.embed(TEXTS, MODELS[0])
    figures.write("back_pressure", requests=60, answered=counts[200], refused=counts[429])
