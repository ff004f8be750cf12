"""Adapters of a gateway that runs: dropped, served, swapped and rolled back as any model, and following their base."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from tests import adapting, making
from tests.e2e.clients import TEXTS, drop, least_cosine, until
from tests.e2e.test_swap import post
from tests.running import RunningGateway

A, B = "huggingface:finetuned/a", "huggingface:finetuned/b"
EXACTLY = 0.99999


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("bases")
    return [
        making.encoder(folder / "first" / "bert", seed=1),
        making.encoder(folder / "second" / "bert", seed=2),
        making.encoder(folder / "wide" / "bert", dim=48, seed=3),
    ]


@pytest.fixture(scope="module")
def loras(bases: list[str], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("adapters")
    return [
        adapting.lora(folder / "peft", bases[0], seed=1),
        adapting.library(folder / "library", bases[0], seed=2, target_modules="all-linear"),
        adapting.lora(folder / "newer", bases[0], seed=3, use_rslora=True),
    ]


async def test_adapters_wait_for_their_base_and_answer_as_sentence_transformers_with_them(
    gateway: RunningGateway, volume: Path, bases: list[str], loras: list[str]
) -> None:
    drop(loras[0], volume / "finetuned/a")
    drop(loras[1], volume / "finetuned/b")
    waiting = await gateway.wait_for(A, "waiting_for_base")
    assert [reason["code"] for reason in waiting["reasons"]] == ["base_missing"]
    drop(bases[0], volume / "base/bert")
    listed = await gateway.wait_for(A, "ready")
    await gateway.wait_for(B, "ready")
    assert listed["base"] == "base/bert"
    assert listed["kind"] == "encoder"
    expected = [adapting.reference(bases[0], loras[0], TEXTS), adapting.reference(bases[0], loras[1], TEXTS)]
    asked = [gateway.embed(TEXTS, model) for _ in range(8) for model in (A, B)]
    for number, (vectors, _) in enumerate(await asyncio.gather(*asked)):
        assert least_cosine(vectors, expected[number % 2]) >= EXACTLY
        assert least_cosine(vectors, expected[1 - number % 2]) < 0.99
    async with gateway.session.get("/v1/models/finetuned/a") as card:
        assert (await card.json())["parent"] == "base/bert"
    loaded = (await gateway.models())[A]
    assert loaded["state"] == "loaded"
    assert loaded["bytes_on_device"] <= 1.1 * 4 * 1024  # its own tensors alone


async def test_an_adapter_is_swapped_and_rolled_back_and_follows_its_base(
    gateway: RunningGateway, volume: Path, bases: list[str], loras: list[str]
) -> None:
    drop(bases[0], volume / "base/bert")
    drop(loras[0], volume / "finetuned/a")
    await gateway.wait_for(A, "ready")
    first = (await gateway.embed(TEXTS, A))[1]
    begin = len(gateway.log)
    drop(loras[2], volume / "finetuned/a")
    await gateway.wait_for_log("model_swapped", after=begin, model="finetuned/a")
    vectors, second = await gateway.embed(TEXTS, A)
    assert second != first
    assert least_cosine(vectors, adapting.reference(bases[0], loras[2], TEXTS)) >= EXACTLY
    assert (await post(gateway, f"/models/{A}/rollback"))[0] == 200
    vectors, back = await gateway.embed(TEXTS, A)
    assert back == first
    assert least_cosine(vectors, adapting.reference(bases[0], loras[0], TEXTS)) >= EXACTLY

    begin = len(gateway.log)
    drop(bases[1], volume / "base/bert")
    await gateway.wait_for_log("model_swapped", after=begin, model="finetuned/a")
    vectors, third = await gateway.embed(TEXTS, A)
    assert third not in (first, second)
    assert least_cosine(vectors, adapting.reference(bases[1], loras[2], TEXTS)) >= EXACTLY
    listed = (await gateway.models())[A]
    assert listed["base_generation"] == (await gateway.models())["huggingface:base/bert"]["generation"]


async def test_an_adapter_that_does_not_fit_the_new_base_goes_on_over_the_old_one_and_says_why(
    gateway: RunningGateway, volume: Path, bases: list[str], loras: list[str]
) -> None:
    drop(bases[0], volume / "base/bert")
    drop(loras[0], volume / "finetuned/a")
    await gateway.wait_for(A, "ready")
    before, generation = await gateway.embed(TEXTS, A)
    drop(bases[2], volume / "base/bert")
    await until(lambda: _reasons(gateway, ["base_mismatch"]))
    assert "[32, 32]" in (await gateway.models())[A]["reasons"][0]["message"]
    after, still = await gateway.embed(TEXTS, A)
    assert still == generation
    assert np.array_equal(before, after)
    assert (await gateway.embed(TEXTS, "huggingface:base/bert"))[0].shape[1] == 48


async def _reasons(gateway: RunningGateway, codes: list[str]) -> bool:
    return [reason["code"] for reason in (await gateway.models())[A]["reasons"]] == codes
