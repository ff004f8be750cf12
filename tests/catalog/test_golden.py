"""Content that does not answer as it did when it was made never goes live."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gateway import events
from gateway.catalog.golden import Golden, compare, read
from gateway.engine.engine import Vectors
from gateway.errors import LoadFailed, ModelRejected
from gateway.model import Generation
from tests import making
from tests.catalog.world import World, vector

TEXTS = ["a beam", "a ring"]


def with_golden(source: str, target: Path, golden: Any) -> str:
    shutil.copytree(source, target)
    (target / "model_metadata.json").write_text(json.dumps({"golden": golden}))
    return str(target)


@pytest.fixture
async def known(tmp_path_factory: pytest.TempPathFactory, made: list[str]) -> list[Generation]:
    """What the store makes of the first two."""
    return await World(tmp_path_factory.mktemp("known")).swap(*made[:2])


def right(generation: Generation) -> dict[str, Any]:
    return {"texts": TEXTS, "vectors": [vector(generation, text).tolist() for text in TEXTS]}


async def test_a_first_drop_with_golden_vectors_is_loaded_and_compared_before_it_goes_live(
    world: World, made: list[str], known: list[Generation]
) -> None:
    world.put(with_golden(made[0], world.base / "g", right(known[0])))
    world.engine.gate.clear()
    world.see()
    await world.engine.begins()
    assert world.shown()["state"] == "copying"
    assert world.shown()["pending"]["state"] == "loading"
    world.engine.gate.set()
    await world.look()
    assert world.find().digest == known[0].digest
    assert world.shown()["warnings"] == []


async def test_a_first_drop_that_answers_otherwise_is_rejected_with_the_lowest_cosine(
    world: World, made: list[str], known: list[Generation]
) -> None:
    world.put(with_golden(made[0], world.base / "g", right(known[1])))
    await world.look()
    assert isinstance(world.fails(), ModelRejected)
    (reason,) = world.shown()["reasons"]
    assert reason["code"] == "golden_mismatch"
    assert "cosine" in reason["message"]
    assert world.engine.live == {}
    assert world.store.digests() == set()
    tried = len(world.engine.loads)
    world.now += 10_000
    await world.look()
    assert len(world.engine.loads) == tried  # only a better copy heals it


async def test_a_successor_that_answers_otherwise_leaves_the_old_one_serving(
    world: World, made: list[str], known: list[Generation]
) -> None:
    world.put(made[1])
    await world.look()
    old = world.find()
    world.put(with_golden(made[0], world.base / "g", right(known[1])))
    await world.look()
    assert world.find() == old
    assert [reason["code"] for reason in world.shown()["reasons"]] == ["golden_mismatch"]
    shutil.rmtree(world.base / "g")
    world.put(with_golden(made[0], world.base / "g", right(known[0])))
    await world.look()
    assert world.find().digest == known[0].digest
    assert len(world.heard(events.ModelSwapped)) == 1


async def test_a_load_that_fails_on_the_way_is_tried_again(
    world: World, made: list[str], known: list[Generation]
) -> None:
    world.engine.failure = LoadFailed("no room today")
    world.put(with_golden(made[0], world.base / "g", right(known[0])))
    await world.look()
    assert [reason["code"] for reason in world.shown()["reasons"]] == ["load_failed"]
    world.engine.failure = None
    world.now += 11
    await world.look()
    assert world.find().digest == known[0].digest


async def test_after_a_restart_nothing_is_loaded_to_be_compared_again(
    world: World, made: list[str], known: list[Generation]
) -> None:
    world.put(with_golden(made[0], world.base / "g", right(known[0])))
    await world.look()
    again = await world.restarted()
    await again.look()
    assert again.find().digest == known[0].digest
    assert again.engine.loads == []


@pytest.mark.parametrize(
    "golden",
    [
        3,
        [],
        {},
        {"texts": ["a"]},
        {"texts": [], "vectors": []},
        {"texts": ["a"], "vectors": []},
        {"texts": ["a"], "vectors": [[]]},
        {"texts": ["a"], "vectors": [[0.0, 0.0]]},
        {"texts": ["a"], "vectors": [["x"]]},
        {"texts": ["a", "b"], "vectors": [[1.0], [1.0, 2.0]]},
        {"texts": ["a"] * 65, "vectors": [[1.0]] * 65},
        {"texts": [3], "vectors": [[1.0]]},
    ],
)
async def test_golden_vectors_that_cannot_be_used_are_a_warning_that_blocks_nothing(
    world: World, made: list[str], golden: Any
) -> None:
    world.put(with_golden(made[0], world.base / "g", golden))
    await world.look()
    assert world.shown()["state"] == "ready"
    assert "golden vectors cannot be used" in world.shown()["warnings"][0]


def test_without_golden_vectors_there_is_nothing_to_say() -> None:
    assert read({}) == read({"golden": None}) == (None, None)


def answer(rows: list[list[float]]) -> Vectors:
    data = np.array(rows, dtype="<f4")
    return Vectors(data.tobytes(), len(rows), data.shape[1], 0, 0.0, 0.0, 0.0)


def test_length_does_not_count_and_direction_does() -> None:
    golden = Golden(("a", "b"), ((1.0, 0.0), (0.0, 1.0)))
    assert compare(answer([[5.0, 0.0], [0.0, 0.1]]), golden) == ""
    assert "text 1 has a cosine of 0.9949" in compare(answer([[5.0, 0.0], [0.1, 0.99]]), golden)
    assert "text 0 has a cosine of 0.0000" in compare(answer([[float("nan"), 0.0], [0.0, 1.0]]), golden)
    assert "2 numbers, and the model makes 3" in compare(answer([[1.0, 0.0, 0.0]] * 2), golden)


async def test_a_reranker_has_no_vectors_to_be_held_against(world: World) -> None:
    source = making.reranker(world.base / "made")
    world.put(with_golden(source, world.base / "g", {"texts": TEXTS, "vectors": [[1.0], [2.0]]}))
    await world.look()
    assert world.find().manifest.kind == "reranker"
    assert world.engine.loads == [world.find().short]  # it was loaded, and its probe is its host's matter
