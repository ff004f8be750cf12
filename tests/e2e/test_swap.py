"""Rollback, versions, aliases and canaries of a gateway that runs, over HTTP and with its own command line."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import making
from tests.e2e.clients import TEXTS, Clients, Vectors, drop, least_cosine, reference, until
from tests.running import RunningGateway

MODEL = "huggingface:finetuned/m"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    base = tmp_path_factory.mktemp("made")
    return [making.encoder(base / str(seed), seed=seed) for seed in range(3)]


async def command(gateway: RunningGateway, *arguments: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", "models", "--url", gateway.url, *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    return process.returncode or 0, said.decode()


async def post(gateway: RunningGateway, path: str, body: Any = None) -> tuple[int, dict[str, Any]]:
    async with gateway.session.post(path, json=body) if body is not None else gateway.session.post(path) as answer:
        return answer.status, await answer.json()


async def swapped(gateway: RunningGateway, source: str, target: Path) -> str:
    """Drops new content of a served model; -> its generation once it is live."""
    begin = len(gateway.log)
    drop(source, target)
    return str((await gateway.wait_for_log("model_swapped", after=begin, model="finetuned/m"))["generation"])


def same(one: Vectors, other: Vectors) -> bool:
    return least_cosine(one, other) > 0.9999


async def test_a_rollback_under_load_loses_no_request_sticks_over_a_restart_and_ends_with_a_newer_drop(
    volume: Path, tmp_path: Path, made: list[str]
) -> None:
    drop(made[0], volume / "finetuned/m")
    options = (volume, tmp_path / "state", "--device=cpu")
    async with RunningGateway(*options) as gateway:
        _, first = await gateway.embed(TEXTS, "finetuned/m")
        second = await swapped(gateway, made[1], volume / "finetuned/m")
        async with Clients(gateway, ["finetuned/m"] * 4) as clients:
            await clients.more(8)
            status, shown = await post(gateway, "/models/finetuned/m/rollback")
            assert (status, shown["generation"], shown["previous"]) == (200, first, [second])
            await clients.until(lambda model, status, body: body.get("generation") == first, 8)
        assert clients.statuses() == {200}
        assert set(clients.generations()) == {first, second}
        for _, _, body in clients.answers:
            made_by = reference(made[0] if body["generation"] == first else made[1], TEXTS)
            assert same(np.array(body["embeddings"], dtype=np.float32), made_by)
        status, refusal = await post(gateway, "/models/finetuned/m/rollback", {"to": "ffffffff"})
        assert (status, refusal["error"]["code"]) == (404, "generation_not_found")
        assert refusal["error"]["generations"] == [second, first]
        status, refusal = await post(gateway, "/models/finetuned/m/rollback", {"to": 3})
        assert (status, refusal["error"]["code"]) == (400, "invalid_body")
    async with RunningGateway(*options) as gateway:
        assert (await gateway.embed(TEXTS, "finetuned/m"))[1] == first
        status, said = await command(gateway, "rollback", "finetuned/m", "--to", second)
        assert (status, said) == (0, f"{MODEL}: loaded, generation {second}\n")
        assert (await command(gateway, "rollback", "finetuned/m"))[0] == 0
        assert (await gateway.embed(TEXTS, "finetuned/m"))[1] == first
        status, said = await command(gateway, "rollback", "finetuned/m", "--to", "ffffff")
        assert status == 1
        assert second in said
        third = await swapped(gateway, made[2], volume / "finetuned/m")
        vectors, generation = await gateway.embed(TEXTS, "finetuned/m")
        assert generation == third
        assert same(vectors, reference(made[2], TEXTS))


async def test_a_swap_that_fails_leaves_readiness_and_the_old_generation_as_they_were(
    gateway: RunningGateway, volume: Path, made: list[str], tmp_path: Path
) -> None:
    drop(made[0], volume / "finetuned/m")
    await gateway.wait_for(MODEL, "ready")
    before, generation = await gateway.embed(TEXTS, "finetuned/m")
    wrong = tmp_path / "wrong"
    shutil.copytree(made[1], wrong)
    golden = {"texts": TEXTS, "vectors": before.tolist()}
    (wrong / "model_metadata.json").write_text(json.dumps({"golden": golden}))
    drop(str(wrong), volume / "finetuned/m")
    await gateway.wait_for_log("model_rejected", model="finetuned/m", serving=generation)
    shown = (await gateway.models())[MODEL]
    assert [reason["code"] for reason in shown["reasons"]] == ["golden_mismatch"]
    assert shown["reasons"][0]["remedy"]
    async with gateway.session.get("/readyz") as answer:
        assert answer.status == 200
    after, still = await gateway.embed(TEXTS, "finetuned/m")
    assert (still, (after == before).all()) == (generation, True)
    right = tmp_path / "right"
    shutil.copytree(made[1], right)
    golden["vectors"] = reference(made[1], TEXTS).tolist()
    (right / "model_metadata.json").write_text(json.dumps({"golden": golden}))
    assert await swapped(gateway, str(right), volume / "finetuned/m") != generation


async def test_the_highest_version_is_live_and_another_is_asked_for_or_gone_back_to(
    gateway: RunningGateway, volume: Path, made: list[str]
) -> None:
    drop(made[0], volume / "finetuned/m/1")
    await gateway.wait_for(MODEL, "ready")
    vectors, first = await gateway.embed(TEXTS, "finetuned/m")
    assert same(vectors, reference(made[0], TEXTS))
    second = await swapped(gateway, made[1], volume / "finetuned/m/2")
    vectors, generation = await gateway.embed(TEXTS, "finetuned/m")
    assert generation == second
    assert same(vectors, reference(made[1], TEXTS))
    vectors, generation = await gateway.embed(TEXTS, "finetuned/m/1")
    assert (generation, same(vectors, reference(made[0], TEXTS))) == (first, True)
    listed = await gateway.models()
    assert list(listed) == [MODEL]
    assert [(each["version"], each["live"]) for each in listed[MODEL]["versions"]] == [(2, True), (1, False)]
    status, shown = await post(gateway, "/models/finetuned/m/rollback")
    assert (status, shown["version"], shown["generation"]) == (200, 1, first)


async def test_an_alias_moves_in_one_step_and_its_canary_keeps_each_client_on_its_side(
    gateway: RunningGateway, volume: Path, made: list[str]
) -> None:
    drop(made[0], volume / "finetuned/m")
    drop(made[1], volume / "finetuned/next")
    for name in (MODEL, "huggingface:finetuned/next"):
        await gateway.wait_for(name, "ready")

    async def alias(target: str) -> None:
        begin = len(gateway.log)
        fresh = volume / ".aliases"
        fresh.write_text(f'[aliases]\n"prod/m" = {target}\n')
        fresh.rename(volume / "aliases.toml")
        await gateway.wait_for_log("aliases_changed", after=begin)

    async def ask(key: str, **headers: str) -> dict[str, Any]:
        headers = {"X-Canary-Key": key} | headers
        async with gateway.session.post("/embed", json={"inputs": TEXTS, "model": "prod/m"}, headers=headers) as answer:
            body = await answer.json()
            assert answer.status == 200, body
            assert answer.headers["X-Model-Alias"] == body["alias"] == "huggingface:prod/m"
            assert answer.headers["X-Model"] == body["model"]
            return dict(body)

    await alias('"finetuned/m"')
    body = await ask("any")
    assert body["model"] == MODEL
    assert same(np.array(body["embeddings"], dtype=np.float32), reference(made[0], TEXTS))
    await alias('{ to = "finetuned/m", canary = "finetuned/next", share = 0.5 }')
    sides = [(await ask(str(key)))["model"] for key in range(20)]
    assert set(sides) == {MODEL, "huggingface:finetuned/next"}
    assert sides == [(await ask(str(key)))["model"] for key in range(20)]
    async with gateway.session.get("/metrics") as answer:
        text = await answer.text()
    canaries = sides.count("huggingface:finetuned/next")
    for arm, count in (("canary", 2 * canaries), ("main", 40 - 2 * canaries)):
        assert f'dropgate_canary_requests_total{{alias="prod/m",arm="{arm}",status="200"}} {count}.0' in text
    async with gateway.session.get("/models") as answer:
        (shown,) = (await answer.json())["aliases"]
    assert (shown["id"], shown["canary"], shown["share"]) == ("huggingface:prod/m", "finetuned/next", 0.5)
    begin = len(gateway.log)
    (volume / "aliases.toml").write_text('[aliases]\n"prod/m" = "prod/m"\n')
    assert "cycle" in (await gateway.wait_for_log("aliases_rejected", after=begin))["message"]
    await ask("any")
    assert "prod/m -> finetuned/m, 50% to finetuned/next" in (await command(gateway, "list"))[1]


@pytest.mark.parametrize("policy", ["availability", "resource"])
async def test_where_two_do_not_fit_they_are_swapped_and_nobody_is_refused(
    volume: Path, tmp_path: Path, made: list[str], policy: str
) -> None:
    drop(made[0], volume / "finetuned/m")
    tight = ("--device=cpu", "--max-loaded-models=1", f"--swap-policy={policy}")
    async with RunningGateway(volume, tmp_path / "state", *tight) as gateway:
        _, old = await gateway.embed(TEXTS, "finetuned/m")
        async with Clients(gateway, ["finetuned/m"] * 2) as clients:
            await clients.more(2)
            new = await swapped(gateway, made[1], volume / "finetuned/m")
            await clients.until(lambda model, status, body: body.get("generation") == new, 4)
        assert clients.statuses() == {200}
        assert set(clients.generations()) == {old, new}

        async def alone() -> bool:
            return (await gateway.models())[MODEL]["state"] == "loaded"

        await until(alone)
