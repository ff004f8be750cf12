"""What a model is to be computed with is content: it is tried, swapped and rolled back like weights."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from gateway.catalog import golden
from gateway.engine.engine import Residence, Vectors
from gateway.host.wire import Numerics, Precision
from gateway.model import ModelId
from gateway.wish import Wish
from tests.catalog.world import M, World


def say(world: World, metadata: dict[str, Any]) -> None:
    (world.root / M / "model_metadata.json").write_text(json.dumps(metadata))


async def test_a_wish_is_swapped_in_after_a_trial_and_other_metadata_is_not(world: World, made: list[str]) -> None:
    (plain,) = await world.swap(made[0])
    say(world, {"description": "better words"})
    await world.look()
    assert world.find() == plain
    assert world.engine.loads == []
    say(world, {"dtype": "bfloat16"})
    await world.look()
    wished = world.find()
    assert wished.digest != plain.digest
    assert wished.manifest.wish == Wish("", "bfloat16")
    assert world.engine.loads == [wished.short]
    assert world.shown()["previous"] == [plain.short]
    assert not world.shown()["previous_breaking"]
    await world.catalog.rollback(ModelId.of(M))
    assert world.find().digest == plain.digest


async def test_a_wish_that_does_not_load_leaves_the_old_one_serving(world: World, made: list[str]) -> None:
    (plain,) = await world.swap(made[0])
    world.engine.bad = {1}
    say(world, {"runtime": "openvino"})
    await world.look()
    assert world.find() == plain
    assert [reason["code"] for reason in world.shown()["reasons"]] == ["load_failed"]


async def test_a_wish_that_is_none_is_a_warning_and_the_model_is_served(world: World, made: list[str]) -> None:
    world.put(made[0])
    say(world, {"runtime": "tensorrt"})
    await world.look()
    (warning,) = world.shown()["warnings"]
    assert "runtime is none of auto, torch, openvino" in warning
    assert world.find().manifest.wish == Wish()


async def test_the_owners_of_a_generation_are_known_also_when_it_is_not_live(world: World, made: list[str]) -> None:
    old, new = await world.swap(*made[:2])
    assert world.catalog.owners(new.digest) == (M,)
    assert world.catalog.owners(old.digest) == ()  # nobody has asked for it
    await world.ask(f"{M}@{old.short}")
    assert world.catalog.owners(old.digest) == (M,)


async def test_a_listing_says_how_a_model_is_computed_and_what_that_costs(world: World, made: list[str]) -> None:
    (generation,) = await world.swap(made[0])
    assert [world.shown()[field] for field in ("runtime", "dtype", "precision", "fell_back")] == [None] * 4
    numerics = Numerics("openvino", "int8", Precision(24, 0.99, 0.995, 0.96))
    held = {generation.digest: [Residence(generation.digest, "cpu", "loaded", 1, 0, False, 1.0, numerics)]}
    world.engine.residences = lambda: held  # type: ignore[method-assign]  # a device that computes in int8
    shown = world.shown()
    assert (shown["runtime"], shown["dtype"], shown["fell_back"]) == ("openvino", "int8", None)
    assert shown["precision"] == {
        "texts": 24, "lowest_cosine": 0.99, "mean_cosine": 0.995, "top1_agreement": 0.96
    }  # fmt: skip


@pytest.mark.parametrize(("dtype", "passes"), [("float32", False), ("bfloat16", False), ("int8", True)])
async def test_golden_vectors_allow_what_int8_costs_to_int8_alone(
    world: World, made: list[str], dtype: str, passes: bool
) -> None:
    (generation,) = await world.swap(made[0])
    held = Residence(generation.digest, "cpu", "loaded", 1, 0, False, 1.0, Numerics("openvino", dtype))
    world.engine.residences = lambda: {generation.digest: [held]}  # type: ignore[method-assign]  # as above
    near = np.array([0.99, np.sqrt(1 - 0.99**2)], dtype="<f4")
    answer = Vectors(near.tobytes(), 1, 2, 1, 0.0, 0.0, 0.0)
    wrong = golden.compare(answer, golden.Golden(("a",), ((1.0, 0.0),)), golden._least(world.engine, generation))
    assert (wrong == "") == passes


def test_settings_make_one_set_of_wishes() -> None:
    from gateway.settings import load

    settings = load({"model_runtimes": "finetuned/*=torch/bfloat16", "dtype": "float16"}, {})
    assert settings.wishes.of((M,), Wish("openvino", "")) == Wish("torch", "bfloat16")
    assert settings.wishes.of(("org/m",), Wish("openvino", "")) == Wish("openvino", "float16")
