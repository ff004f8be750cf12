"""What changed between two generations, as long as they are kept, and only for those who see the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.catalog.view import View
from gateway.errors import GenerationNotFound, ModelNotFound
from gateway.model import ModelId
from gateway.tenants.caller import Caller
from tests import making
from tests.catalog.world import M, World

MODEL = ModelId.of(M)


def say(world: World, path: str = M, **metadata: Any) -> None:
    (world.root / path / "model_metadata.json").write_text(json.dumps(metadata))


async def test_files_metadata_lineage_and_scores_of_the_live_one_and_the_one_before(
    world: World, made: list[str]
) -> None:
    first = {"metric": "mrr@10", "after": 0.5}
    world.put(made[0])
    say(world, scores=first, seed=1, note="one")
    await world.look()
    old = world.find()
    world.put(made[1])
    say(world, scores={"metric": "mrr@10", "after": 0.75}, seed=2, note="two", more={"a": 1, "b": 2})
    await world.look()
    new = world.find()
    found = await world.catalog.changes(MODEL, None, None)
    assert (found["model"], found["breaking"]) == (f"huggingface:{M}", False)
    assert (found["from"]["generation"], found["to"]["generation"]) == (old.short, new.short)
    assert (found["from"]["live"], found["to"]["live"]) == (False, True)
    (weights,) = found["files"]["changed"]
    assert weights["path"] == "model.safetensors"
    assert weights["from"]["sha256"] != weights["to"]["sha256"]
    assert weights["from"]["bytes"] == weights["to"]["bytes"] > 0
    assert (found["files"]["added"], found["files"]["removed"]) == ([], [])
    assert found["files"]["same"] > 3
    assert found["manifest"] == []
    assert found["lineage"] == [{"key": "seed", "from": 1, "to": 2}]
    assert [each["key"] for each in found["metadata"]] == ["note", "more.a", "more.b"]
    assert (found["scores"]["from"], found["scores"]["to"]["after"]) == (first, 0.75)
    assert [each["generation"] for each in found["generations"]] == [new.short, old.short]
    back = await world.catalog.changes(MODEL, new.short, old.short)
    assert back["lineage"] == [{"key": "seed", "from": 2, "to": 1}]


async def test_a_wider_model_breaks_and_says_in_what(world: World, made: list[str], wide: str) -> None:
    await world.swap(made[0], wide)
    found = await world.catalog.changes(MODEL, None, None)
    assert found["breaking"]
    assert {"key": "dim", "from": 16, "to": 32} in found["manifest"]


async def test_what_was_said_survives_a_restart_and_goes_with_its_generation(world: World, made: list[str]) -> None:
    world.put(made[0])
    say(world, note="one")
    await world.look()
    await world.swap(made[1])
    again = await world.restarted()
    await again.look()
    found = await again.catalog.changes(MODEL, None, None)
    assert found["metadata"] == [{"key": "note", "from": "one", "to": None}]
    await again.swap(*made[2:5])
    with pytest.raises(GenerationNotFound):
        await again.catalog.changes(MODEL, found["from"]["generation"], None)


async def test_one_generation_is_compared_with_itself(world: World, made: list[str]) -> None:
    await world.swap(made[0])
    found = await world.catalog.changes(MODEL, None, None)
    assert found["from"] == found["to"]
    assert found["files"]["changed"] == []


async def test_equal_content_of_another_tenant_says_nothing_of_mine(world: World, made: list[str]) -> None:
    for path, note in (("acme/m", "ours"), ("globex/m", "their secret")):
        world.put(made[0], path)
        say(world, path, note=note)
        await world.look()
        await world.swap(made[1], path=path)
    assert world.find("acme/m") == world.find("globex/m")
    acme = View(world.catalog, Caller(tenant="acme", role="use", namespaces=("acme",)))
    found = await acme.changes(ModelId.of("acme/m"), None, None)
    assert found["metadata"] == [{"key": "note", "from": "ours", "to": None}]
    with pytest.raises(ModelNotFound):
        await acme.changes(ModelId.of("globex/m"), None, None)


async def test_values_that_are_too_long_are_told_by_their_size(world: World, made: list[str]) -> None:
    world.put(made[0])
    say(world, note="x" * 100_000)
    await world.look()
    await world.swap(made[1])
    (note,) = (await world.catalog.changes(MODEL, None, None))["metadata"]
    assert note["from"] == {"bytes": 100_002}


async def test_models_that_say_what_they_were_trained_from(world: World, tmp_path: Path, made: list[str]) -> None:
    world.put(made[0])
    say(world, training_date="2026-11-28T10:00:00Z", scores={"metric": "mrr@10"})
    world.put(making.encoder(tmp_path / "plain", seed=9, dim=16, layers=1, heads=2), "acme/plain")
    await world.look()
    view = View(world.catalog, Caller(tenant="acme", role="use", namespaces=("acme",)))
    assert view.trained() == []
    (told,) = View(world.catalog, Caller()).trained()
    assert (told["id"], told["scores"]) == (f"huggingface:{M}", {"metric": "mrr@10"})
