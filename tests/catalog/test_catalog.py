"""What may be served: a real store, a real ledger, real small models, and an engine that keeps to its rules."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import orjson
import pytest

from gateway import events
from gateway.catalog.holdings import LARGE
from gateway.errors import GenerationNotFound, LoadFailed, ModelCopying, ModelNotFound, ModelRejected, Starting
from gateway.model import Generation, ModelId
from gateway.volume.bases import Base
from gateway.volume.directory import Directory
from gateway.volume.generations import DIGEST
from tests import making
from tests.catalog.world import DEADLINE, M, World


async def test_a_whole_directory_is_accepted_served_and_told_once(world: World, made: list[str]) -> None:
    world.put(made[0])
    await world.look()
    generation = world.find()
    assert generation.manifest.dim == 16
    assert generation.path.startswith(str(world.state))
    assert world.shown()["state"] == "ready"
    assert world.shown()["generation"] == generation.short
    assert world.catalog.models_of(generation.digest) == (M,)
    assert set(world.engine.live) == {generation.digest}
    (accepted,) = world.heard(events.ModelAccepted)
    assert (accepted.model, accepted.generation) == (M, generation.short)
    assert world.store.accepted == [M]
    assert world.engine.loads == []  # nobody has asked for it yet
    assert world.catalog.looked.is_set()


async def test_every_spelling_finds_the_same_model(world: World, made: list[str]) -> None:
    world.put(made[0])
    await world.look()
    root = world.root
    for spelling in (M, f"huggingface:{M}", "m", "huggingface:m", f"{root}/{M}", f"models/{M}"):
        assert (await world.ask(spelling)).model == ModelId("finetuned", "m")
        assert world.catalog.resolve(world.catalog.parse(spelling)) == ModelId("finetuned", "m")


async def test_a_directory_that_has_not_settled_is_copying_and_says_why(world: World, made: list[str]) -> None:
    world.put(made[0])
    world.see("writer tar (pid 42)")
    world.see("writer tar (pid 42)")
    failure = world.fails()
    assert isinstance(failure, ModelCopying)
    assert "writer tar (pid 42)" in failure.message
    assert world.shown()["state"] == "copying"
    assert world.shown()["pending"] == {"state": "copying", "why": "writer tar (pid 42)"}
    assert len(world.heard(events.ModelCopying)) == 1
    assert world.store.accepted == []
    await world.look()
    assert world.find()


async def test_a_broken_directory_is_rejected_with_reason_and_remedy_and_heals_when_the_rest_arrives(
    world: World, made: list[str]
) -> None:
    world.put(made[0])
    weights = world.root / M / "model.safetensors"
    whole = weights.read_bytes()
    os.truncate(weights, 1000)
    await world.look()
    failure = world.fails()
    assert isinstance(failure, ModelRejected)
    assert failure.details["reasons"][0]["code"] == "weights_truncated"
    assert world.shown()["state"] == "rejected"
    assert world.shown()["reasons"][0]["remedy"]
    assert world.shown()["generation"] is None
    (rejected,) = world.heard(events.ModelRejected)
    assert rejected.serving is None
    await world.look()
    assert world.store.accepted == [M]  # a rejection is remembered by fingerprint
    weights.write_bytes(whole)
    await world.look()
    assert world.shown()["state"] == "ready"
    assert not world.shown()["reasons"]
    assert len(world.heard(events.ModelAccepted)) == 1


async def test_one_broken_directory_does_not_hide_the_others(world: World, made: list[str]) -> None:
    world.put(made[0], "finetuned/bad")
    (world.root / "finetuned/bad/config.json").write_text("{")
    world.put(made[1], "finetuned/good")
    await world.look()
    assert [model["state"] for model in world.catalog.listing()] == ["rejected", "ready"]
    assert world.find("good")
    assert isinstance(world.fails("bad"), ModelRejected)


async def test_new_content_is_loaded_beside_the_old_before_it_goes_live(world: World, made: list[str]) -> None:
    world.put(made[0])
    await world.look()
    old = world.find()
    await world.engine.load(old)
    world.engine.gate.clear()
    world.engine.loading.clear()
    world.put(made[1])
    world.see()
    await world.engine.begins()
    assert world.find() == old
    assert world.shown()["pending"]["state"] == "loading"
    assert len(world.engine.live) == 2
    assert old.digest in world.engine.loaded
    world.engine.gate.set()
    await world.quiet()
    new = world.find()
    assert new != old
    assert set(world.engine.loaded) == set(world.engine.live) == {new.digest}
    (swapped,) = world.heard(events.ModelSwapped)
    assert (swapped.generation, swapped.previous, swapped.breaking) == (new.short, old.short, False)
    assert world.shown()["pending"] is None
    assert world.shown()["previous"] == [old.short]
    assert len(world.heard(events.ModelAccepted)) == 1


async def test_after_a_swap_a_generation_names_its_model_once(world: World, made: list[str]) -> None:
    for source in made[:2]:
        world.put(source)
        await world.look()
    assert world.catalog.models_of(world.find().digest) == (M,)


async def test_a_generation_of_another_dimension_is_a_breaking_swap(world: World, made: list[str], wide: str) -> None:
    world.put(made[0])
    await world.look()
    world.put(wide)
    await world.look()
    assert [swap.breaking for swap in world.heard(events.ModelSwapped)] == [True]
    assert world.shown()["dim"] == 32


async def test_a_successor_that_fails_to_load_leaves_the_old_one_serving_and_says_why(
    world: World, made: list[str]
) -> None:
    world.put(made[0])
    await world.look()
    old = world.find()
    world.engine.failure = LoadFailed("the probe found no finite number", retry_after=1.0)
    world.put(made[1])
    await world.look()
    assert world.find() == old
    assert world.shown()["state"] == "ready"
    assert world.shown()["pending"]["state"] == "rejected"
    assert "the probe found no finite number" in world.shown()["pending"]["why"]
    assert [reason["code"] for reason in world.shown()["reasons"]] == ["load_failed"]
    (rejected,) = world.heard(events.ModelRejected)
    assert rejected.serving == old.short
    assert set(world.engine.live) == {old.digest}  # the failed one is not kept
    assert world.store.digests() == {old.digest}
    world.engine.failure = None
    world.put(made[2])
    await world.look()
    assert world.find() != old
    assert not world.shown()["reasons"]


async def test_what_may_pass_by_itself_is_tried_again_with_a_growing_backoff(world: World, made: list[str]) -> None:
    """A full disk, a device without room, a host that died: the directory need not change for it to heal."""
    world.put(made[0])
    await world.look()
    old = world.find()
    world.engine.failure = LoadFailed("no room today")
    world.put(made[1])
    await world.look()
    tries = [len(world.store.accepted)]
    for seconds in (9, 2, 9, 12):  # the second try comes after 10 seconds, the third 20 seconds later
        world.now += seconds
        await world.look()
        tries.append(len(world.store.accepted))
    assert [later - earlier for earlier, later in pairwise(tries)] == [0, 1, 0, 1]
    assert world.find() == old
    assert len(world.heard(events.ModelRejected)) == 1  # the same news is told once
    world.engine.failure = None
    world.now += 100
    await world.look()
    assert world.find() != old
    assert not world.shown()["reasons"]


async def test_what_only_a_better_copy_heals_is_not_tried_again(world: World, made: list[str]) -> None:
    world.put(made[0])
    (world.root / M / "config.json").write_text("{")
    await world.look()
    tried = len(world.store.accepted)
    world.now += 10_000
    await world.look()
    assert len(world.store.accepted) == tried


async def test_a_bug_in_loading_is_told_and_neither_ends_the_gateway_nor_the_old_generation(
    world: World, made: list[str]
) -> None:
    world.put(made[0])
    await world.look()
    old = world.find()
    world.engine.failure = ZeroDivisionError("a bug")
    world.put(made[1])
    await world.look()
    assert world.find() == old
    assert [reason["code"] for reason in world.shown()["reasons"]] == ["internal"]
    (notice,) = world.heard(events.Notice)
    assert notice.code == "judge_failed"
    assert "ZeroDivisionError: a bug" in notice.message


async def test_broken_new_content_leaves_the_old_one_serving(world: World, made: list[str]) -> None:
    world.put(made[0])
    await world.look()
    old = world.find()
    os.truncate(world.root / M / "model.safetensors", 1000)
    await world.look()
    assert world.find() == old
    assert world.shown()["pending"]["state"] == "rejected"
    world.put(made[0])
    await world.look()
    assert world.find() == old
    assert world.shown()["pending"] is None
    assert not world.shown()["reasons"]
    assert world.heard(events.ModelSwapped) == []


async def test_models_are_counted_by_their_state_and_so_is_what_waits_behind_one_that_is_served(
    world: World, made: list[str]
) -> None:
    for model in (M, "finetuned/broken", "finetuned/other"):
        world.put(made[0], model)
    os.truncate(world.root / "finetuned/broken" / "model.safetensors", 1000)
    await world.look()
    states, pending = world.catalog.count()
    assert {state: number for state, number in states.items() if number} == {"ready": 2, "rejected": 1}
    assert states["copying"] == states["loaded"] == 0  # none is left out
    assert not any(pending.values())
    os.truncate(world.root / M / "model.safetensors", 1000)
    await world.look()
    states, pending = world.catalog.count()
    assert (states["ready"], states["rejected"]) == (2, 1)
    assert {state: number for state, number in pending.items() if number} == {"rejected": 1}


async def test_a_touch_or_equal_bytes_copied_again_cause_no_swap_and_no_load(world: World, made: list[str]) -> None:
    world.put(made[0])
    await world.look()
    before = world.find()
    os.utime(world.root / M / "config.json", (1, 1))
    await world.look()
    world.put(made[0])
    await world.look()
    (world.root / M / "README.md").write_text("Another text.")
    await world.look()
    assert world.find() == before
    assert world.engine.loads == []
    assert world.shown()["previous"] == []
    kinds = Counter(type(event) for event in world.told)
    assert (kinds[events.ModelAccepted], kinds[events.ModelSwapped], kinds[events.ModelRejected]) == (1, 0, 0)


async def test_what_changes_while_it_is_judged_is_judged_again_and_the_newest_wins(
    world: World, made: list[str]
) -> None:
    world.put(made[0])
    await world.look()
    world.engine.gate.clear()
    world.engine.loading.clear()
    world.put(made[1])
    world.see()
    await world.engine.begins()
    world.put(made[2])
    world.see()  # it is seen, and waits for its turn
    world.engine.gate.set()
    await world.quiet()
    assert world.again  # the end of the first asks for another look
    await world.look()
    weights = Path(world.find().path, "model.safetensors").read_bytes()
    assert weights == Path(made[2], "model.safetensors").read_bytes()
    assert len(world.heard(events.ModelSwapped)) == 2


async def test_a_directory_that_changes_while_it_is_copied_is_started_over(world: World, made: list[str]) -> None:
    world.put(made[0])
    stale = world.snapshot()
    (world.root / M / "README.md").write_text("Written after the look.")
    world.catalog.reconcile(stale)
    await world.quiet()
    assert ModelId("finetuned", "m") in world.again
    assert isinstance(world.fails(), ModelCopying)
    assert world.heard(events.ModelRejected) == []
    await world.look()
    assert world.find()


async def test_a_removed_directory_is_gone_from_the_catalog_the_engine_and_the_disk(
    world: World, made: list[str]
) -> None:
    world.put(made[0])
    await world.look()
    generation = world.find()
    await world.engine.load(generation)
    shutil.rmtree(world.root / M)
    await world.look()
    assert isinstance(world.fails(), ModelNotFound)
    assert world.catalog.listing() == []
    assert (world.engine.live, world.engine.loaded) == ({}, {})
    assert world.store.digests() == set()
    (removed,) = world.heard(events.ModelRemoved)
    assert (removed.model, removed.generation) == (M, generation.short)
    world.put(made[0])
    await world.look()
    assert world.find() == generation


async def test_a_directory_that_goes_while_it_is_judged_is_removed_at_the_next_look(
    world: World, made: list[str]
) -> None:
    world.put(made[0])
    await world.look()
    world.engine.gate.clear()
    world.engine.loading.clear()
    world.put(made[1])
    world.see()
    await world.engine.begins()
    shutil.rmtree(world.root / M)
    world.see()
    assert world.shown()["generation"]  # its judge still has it
    world.engine.gate.set()
    await world.quiet()
    await world.look()
    assert world.catalog.listing() == []
    assert world.store.digests() == set()


async def test_two_models_of_equal_content_are_one_generation_and_either_may_go(world: World, made: list[str]) -> None:
    world.put(made[0], "finetuned/a")
    world.put(made[0], "trained/b")
    await world.look()
    generation = world.find("finetuned/a")
    assert world.find("trained/b") == generation
    assert world.catalog.models_of(generation.digest) == ("finetuned/a", "trained/b")
    assert world.store.digests() == {generation.digest}
    shutil.rmtree(world.root / "finetuned/a")
    await world.look()
    assert world.find("trained/b") == generation
    assert world.store.digests() == set(world.engine.live) == {generation.digest}


async def test_two_models_of_equal_content_that_are_copied_at_the_same_moment_are_both_accepted(
    world: World, made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    world.put(made[0], "finetuned/a")
    world.put(made[0], "trained/b")
    rename, gate = os.rename, threading.Barrier(2)

    def rename_together(source: str, target: str) -> None:
        if DIGEST.fullmatch(os.path.basename(target)):
            gate.wait(DEADLINE)  # neither has its name yet when both are about to have it
        rename(source, target)

    monkeypatch.setattr(os, "rename", rename_together)
    await world.look()
    assert world.find("finetuned/a") == world.find("trained/b")
    assert world.store.digests() == {world.find("finetuned/a").digest}


async def test_after_a_restart_models_are_served_at_once_and_no_weights_are_read(world: World, made: list[str]) -> None:
    world.put(made[0])
    world.put(made[1], "base/other")
    await world.look()
    again = await world.restarted()
    assert again.find() == world.find()
    assert again.shown()["state"] == "ready"
    assert not again.catalog.looked.is_set()
    await again.look()
    assert again.catalog.looked.is_set()
    assert again.find("base/other") == world.find("base/other")
    assert again.store.accepted == []
    assert again.shown()["files"]
    assert again.heard(events.ModelAccepted) == again.heard(events.ModelSwapped) == []


async def test_content_that_changed_while_the_gateway_was_down_is_swapped_in(world: World, made: list[str]) -> None:
    world.put(made[0])
    await world.look()
    again = await world.restarted()
    world.put(made[1])
    await again.look()
    assert again.find() != world.find()
    assert again.engine.loads == [again.find().short]
    assert [swap.previous for swap in again.heard(events.ModelSwapped)] == [world.find().short]


async def test_a_directory_that_was_broken_while_the_gateway_was_down_keeps_its_last_good_generation(
    world: World, made: list[str]
) -> None:
    world.put(made[0])
    await world.look()
    again = await world.restarted()
    os.truncate(world.root / M / "model.safetensors", 1000)
    await again.look()
    assert again.find() == world.find()
    assert again.shown()["pending"]["state"] == "rejected"
    third = await again.restarted()
    await third.look()
    assert third.find() == world.find()
    assert third.shown()["reasons"][0]["code"] == "weights_truncated"  # it is judged again, not believed good


async def test_a_directory_that_went_while_the_gateway_was_down_is_removed(world: World, made: list[str]) -> None:
    world.put(made[0])
    await world.look()
    again = await world.restarted()
    shutil.rmtree(world.root / M)
    await again.look()
    assert isinstance(again.fails(), ModelNotFound)
    assert again.store.digests() == set()


async def test_a_generation_that_was_damaged_in_the_store_is_copied_anew(world: World, made: list[str]) -> None:
    world.put(made[0])
    await world.look()
    await world.quiet()
    record = world.state / "generations" / world.find().digest / "generation.json"
    record.unlink()
    again = await world.restarted()
    assert isinstance(again.fails(), Starting)
    await again.look()
    assert again.find() == world.find()
    assert again.store.accepted == [M]


async def test_a_pin_is_told_to_the_engine_and_survives_a_restart_and_a_swap(world: World, made: list[str]) -> None:
    world.put(made[0])
    await world.look()
    world.catalog.pin(ModelId.of(M), True)
    assert world.engine.pinned == {world.find().digest}
    again = await world.restarted()
    assert again.engine.pinned == {world.find().digest}
    assert again.shown()["pinned"] is True
    world.put(made[1])
    await again.look()
    assert again.engine.pinned == {again.find().digest} != {world.find().digest}
    again.catalog.pin(ModelId.of(M), False)
    third = await again.restarted()
    assert third.engine.pinned == set()
    assert third.shown()["pinned"] is False


async def test_earlier_generations_are_reached_by_their_digest_and_only_as_many_as_are_kept(
    world: World, made: list[str]
) -> None:
    generations = []
    for source in made[:4]:
        world.put(source)
        await world.look()
        generations.append(world.find())
    oldest, second, third, live = generations
    assert world.shown()["previous"] == [third.short, second.short]
    assert world.store.digests() == {generation.digest for generation in (second, third, live)}
    assert set(world.engine.live) == {live.digest}
    assert (await world.ask(f"{M}@{live.short}")).generation == live
    assert (await world.ask(f"{M}@{second.digest}")).generation == second
    assert (await world.ask(f"m@{third.short[:6]}")).generation == third
    assert set(world.engine.live) == {generation.digest for generation in (second, third, live)}
    await world.engine.load(second)
    failure = await world.refused(f"{M}@{oldest.short}")
    assert isinstance(failure, GenerationNotFound)
    assert failure.details["generations"] == [live.short, third.short, second.short]
    assert live.short in failure.message
    again = await world.restarted()
    assert (await again.ask(f"{M}@{second.short}")).generation == second


async def test_content_that_comes_back_is_live_again_and_is_not_listed_twice(world: World, made: list[str]) -> None:
    for source in (made[0], made[1], made[0]):
        world.put(source)
        await world.look()
    assert len(world.store.digests()) == 2
    assert len(world.shown()["previous"]) == 1
    assert world.find().short not in world.shown()["previous"]


async def test_with_nothing_to_keep_only_what_is_live_is_on_the_disk(tmp_path: Path, made: list[str]) -> None:
    world = World(tmp_path, keep=0)
    for source in made[:2]:
        world.put(source)
        await world.look()
    assert world.store.digests() == {world.find().digest}
    assert world.shown()["previous"] == []


async def test_an_earlier_generation_that_the_disk_has_lost_is_not_found_and_not_listed(
    world: World, made: list[str]
) -> None:
    world.put(made[0])
    await world.look()
    old = world.find()
    world.put(made[1])
    await world.look()
    world.store.remove(old.digest)
    failure = await world.refused(f"{M}@{old.short}")
    assert isinstance(failure, GenerationNotFound)
    assert failure.details["generations"] == [world.find().short]


async def test_nothing_is_known_before_the_first_look(world: World, made: list[str]) -> None:
    world.put(made[0])
    failure = world.fails()
    assert isinstance(failure, Starting)
    assert failure.retry_after
    await world.look()
    assert world.find()


async def test_the_volume_counts_as_looked_at_once_all_that_settled_is_judged(world: World, made: list[str]) -> None:
    world.put(made[0])
    world.see()
    assert not world.catalog.looked.is_set()
    await world.quiet()
    world.see()
    assert world.catalog.looked.is_set()


async def test_a_start_waits_for_no_new_model_to_be_copied_where_it_is_known_what_to_serve(
    world: World, made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (live,) = await world.swap(made[0])
    again = await world.restarted()
    accept, gate = again.store.accept, threading.Event()

    def slow(directory: Directory, root: str, base: Base | None = None) -> Generation:
        gate.wait(DEADLINE)
        return accept(directory, root, base)

    monkeypatch.setattr(again.store, "accept", slow)
    again.put(made[1], "finetuned/new")
    again.put(made[2])  # its last good generation is served until this is copied
    try:
        async with asyncio.timeout(DEADLINE):
            while not again.catalog.usable:
                again.see()
                await asyncio.sleep(0.01)
        assert again.find() == live
        assert isinstance(again.fails("finetuned/new"), ModelCopying)
        assert not again.catalog.judged.is_set()
    finally:
        gate.set()
    await again.quiet()
    again.see()
    assert again.catalog.judged.is_set()
    assert again.find("finetuned/new") != again.find() != live


async def test_a_start_waits_for_what_was_served_before_and_is_lost_and_for_nothing_that_settles_later(
    world: World, made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    world.put(made[1], "finetuned/other")
    (live,) = await world.swap(made[0])
    await world.quiet()
    world.store.remove(live.digest)
    again = await world.restarted()
    accept, gates = again.store.accept, {"m": threading.Event(), "new": threading.Event()}

    def slow(directory: Directory, root: str, base: Base | None = None) -> Generation:
        gates[directory.model.name].wait(DEADLINE)
        return accept(directory, root, base)

    monkeypatch.setattr(again.store, "accept", slow)
    try:
        async with asyncio.timeout(DEADLINE):
            while not again.catalog._aliases.read.is_set():
                again.see()
                await asyncio.sleep(0.01)
            again.put(made[2], "finetuned/new")
            again.see()
            assert not again.catalog.looked.is_set()
            gates["m"].set()
            while not again.catalog.judged.is_set():
                again.see()
                await asyncio.sleep(0.01)
        assert again.catalog.looked.is_set()
        assert again.find() == live
        assert isinstance(again.fails("finetuned/new"), ModelCopying)
    finally:
        for gate in gates.values():
            gate.set()
    await again.quiet()


async def test_a_bare_name_prefers_finetuned_then_the_root_then_the_only_namespace(
    world: World, made: list[str]
) -> None:
    for source, path in zip(made, ("base/x", "x", "finetuned/x", "trained/y"), strict=False):
        world.put(source, path)
    await world.look()
    assert world.catalog.resolve(world.catalog.parse("x")).path == "finetuned/x"
    assert world.catalog.resolve(world.catalog.parse("huggingface:y")).path == "trained/y"
    shutil.rmtree(world.root / "finetuned/x")
    await world.look()
    assert world.catalog.resolve(world.catalog.parse("x")).path == "x"
    assert world.catalog.resolve(world.catalog.parse("models/x")).path == "x"


async def test_a_bare_name_in_several_namespaces_is_not_guessed_and_all_are_named(
    world: World, made: list[str]
) -> None:
    world.put(made[0], "base/x")
    world.put(made[1], "trained/x")
    await world.look()
    failure = world.fails("x")
    assert isinstance(failure, ModelNotFound)
    assert "huggingface:base/x, huggingface:trained/x" in failure.message


async def test_an_unknown_model_says_what_was_looked_for_and_names_the_closest(world: World, made: list[str]) -> None:
    for source, path in zip(made, ("finetuned/physics-expert", "finetuned/chemistry", "base/minilm"), strict=False):
        world.put(source, path)
    await world.look()
    failure = world.fails("huggingface:finetuned/physics-exprt")
    assert isinstance(failure, ModelNotFound)
    assert "finetuned/physics-exprt" in failure.message
    assert failure.details["closest"][0] == "huggingface:finetuned/physics-expert"
    assert failure.details["closest"][0] in failure.message
    assert world.fails("minilmm").details["closest"] == ["huggingface:base/minilm"]
    assert world.fails("zzzzzzzz").details["closest"] == []
    with pytest.raises(ModelNotFound):
        world.catalog.resolve(world.catalog.parse("zzzzzzzz"))


async def test_a_broken_ledger_is_told_and_everything_is_judged_anew(world: World, made: list[str]) -> None:
    world.put(made[0])
    await world.look()
    await world.quiet()
    (world.state / "catalog.json").write_text("[{")
    again = await world.restarted()
    (notice,) = again.heard(events.Notice)
    assert notice.code == "ledger_unreadable"
    assert "catalog.json" in notice.message
    await again.look()
    assert again.find() == world.find()
    third = await again.restarted()
    assert third.heard(events.Notice) == []
    assert third.find() == world.find()


async def test_a_state_directory_that_cannot_be_written_is_told_and_what_was_accepted_serves(
    world: World, made: list[str]
) -> None:
    world.put(made[0])
    (world.state / "catalog.json.partial").mkdir()
    await world.look()
    assert world.find()
    assert {notice.code for notice in world.heard(events.Notice)} == {"ledger_unwritable"}


async def test_a_store_that_cannot_be_pruned_is_told_and_ends_nothing(
    world: World, made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(keep: set[str]) -> set[str]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(world.store, "prune", read_only)
    world.put(made[0])
    await world.look()
    assert {notice.code for notice in world.heard(events.Notice)} == {"store_not_pruned"}
    world.put(made[1], "finetuned/next")
    await world.look()
    assert world.find("next")  # a judge waits for no pruning that has failed


async def test_new_content_is_not_copied_before_the_last_of_several_prunings_has_ended(
    world: World, made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    world.put(made[0])
    await world.look()
    prune, begun, gates = world.store.prune, [asyncio.Event(), asyncio.Event()], [threading.Event(), threading.Event()]
    number, loop = iter(range(2)), asyncio.get_running_loop()

    def slow_prune(keep: set[str]) -> set[str]:
        mine = next(number)
        loop.call_soon_threadsafe(begun[mine].set)
        gates[mine].wait(DEADLINE)
        return prune(keep)

    monkeypatch.setattr(world.store, "prune", slow_prune)
    for pinned, pruning in zip((True, False), begun, strict=True):  # each is written down, then the store is pruned
        world.catalog.pin(ModelId.of(M), pinned)
        await asyncio.wait_for(pruning.wait(), DEADLINE)
    monkeypatch.setattr(world.store, "prune", prune)
    world.put(made[1], "finetuned/next")
    world.see()
    gates[0].set()
    await asyncio.wait({task for task in world.tasks if not task.done()}, return_when=asyncio.FIRST_COMPLETED)
    await asyncio.sleep(0)  # who waited for it would go on now
    await world.catalog._holdings._copies.run(int)  # and would be done with copying before this
    gates[1].set()
    await world.quiet()
    assert world.store.open(world.find("next").digest) == world.find("next")


async def test_copies_that_take_long_hold_up_no_rollback_no_earlier_generation_and_no_small_drop(
    world: World, made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = await world.swap(made[0], made[1])
    accept, gate, begun = world.store.accept, threading.Event(), threading.Barrier(3)

    def slow(directory: Directory, root: str, base: Base | None = None) -> Generation:
        if directory.model.name.startswith("large"):
            begun.wait(DEADLINE)
            gate.wait(DEADLINE)
        return accept(directory, root, base)

    monkeypatch.setattr(world.store, "accept", slow)
    for name in ("large1", "large2"):
        world.put(made[2], f"finetuned/{name}")
        padding = world.root / "finetuned" / name / "notes.dat"
        padding.touch()
        os.truncate(padding, LARGE)
    world.see()
    copying = set(world.tasks)
    try:
        await asyncio.to_thread(begun.wait, DEADLINE)
        async with asyncio.timeout(DEADLINE):
            await world.catalog.rollback(ModelId.of(M))
            assert world.find() == one
            assert (await world.ask(f"{M}@{two.short}")).generation == two
            assert (await world.catalog.changes(ModelId.of(M), None, two.short))["generations"]
            world.put(made[3], "finetuned/small")
            world.see()
            while world.shown("finetuned/small")["state"] == "copying":
                await asyncio.wait(world.tasks - copying, return_when=asyncio.FIRST_COMPLETED)
                copying |= {task for task in world.tasks if task.done()}
        assert world.shown("finetuned/small")["state"] == "ready"
        assert world.shown("finetuned/large1")["state"] == "copying"
    finally:
        gate.set()
    await world.quiet()
    assert world.shown("finetuned/large2")["state"] == "ready"


async def test_many_models_at_once_are_all_accepted_while_the_store_is_pruned_again_and_again(
    world: World, made: list[str]
) -> None:
    for round_of in range(3):
        for number, source in enumerate(made):
            world.put(made[(number + round_of) % len(made)], f"finetuned/m{number}")
            assert source
            world.see()  # the ones before are being judged, recorded and pruned
            await asyncio.sleep(0)
        await world.look()
        await world.look()
        for number in range(len(made)):
            weights = Path(world.find(f"m{number}").path, "model.safetensors").read_bytes()
            assert weights == Path(made[(number + round_of) % len(made)], "model.safetensors").read_bytes()
    assert world.heard(events.ModelRejected) == []
    assert len(world.store.digests()) == len(made)


async def test_metadata_is_shown_and_a_broken_one_is_a_warning_that_blocks_nothing(
    world: World, made: list[str]
) -> None:
    world.put(made[0])
    metadata = world.root / M / "model_metadata.json"
    metadata.write_text('{"display_name": "Physics", "colour": "red"}')
    await world.look()
    assert world.shown()["display_name"] == "Physics"
    assert world.shown()["metadata"]["colour"] == "red"
    assert world.shown()["warnings"] == []
    metadata.write_text("{")
    await world.look()
    assert world.shown()["state"] == "ready"
    assert world.shown()["display_name"] == "M"
    assert "model_metadata.json" in world.shown()["warnings"][0]
    assert world.heard(events.ModelSwapped) == []


@pytest.mark.parametrize("value", ['"\\ud800"', "1" + "0" * 40, "[" * 300 + "]" * 300, "NaN", "1e999"])
async def test_metadata_that_cannot_be_written_does_not_hide_the_listing(
    world: World, made: list[str], value: str
) -> None:
    world.put(made[0])
    (world.root / M / "model_metadata.json").write_text(f'{{"odd": {value}}}')
    await world.look()
    listed = orjson.loads(orjson.dumps({"models": world.catalog.listing()}))
    assert listed["models"][0]["state"] == "ready"


async def test_a_load_that_fails_is_shown_with_the_model_until_one_succeeds(world: World, made: list[str]) -> None:
    world.put(made[0])
    await world.look()
    short = world.find().short
    told: dict[str, Any] = {"generation": short, "models": (M,), "device": "cpu"}
    world.emit(events.LoadFailed(**told, code="load_failed", message="no room", retry_after=1.0))
    assert world.shown()["load_error"] == "no room"
    world.emit(events.GenerationLoaded(**told, bytes=1, seconds=0.1))
    assert world.shown()["load_error"] is None


async def test_the_listing_shows_where_a_model_is(world: World, made: list[str]) -> None:
    world.put(made[0])
    await world.look()
    await world.engine.load(world.find())
    shown = world.shown()
    assert (shown["state"], shown["devices"], shown["bytes_on_device"]) == ("loaded", ["cpu"], 10)
    assert shown["id"] == f"huggingface:{M}"
    assert shown["bytes_on_disk"] == sum(path.stat().st_size for path in (world.root / M).rglob("*") if path.is_file())
    assert msgspec.json.encode(shown)


async def test_settling_is_told_every_model_with_the_inode_that_its_generation_came_from(
    world: World, made: list[str]
) -> None:
    world.put(made[0], "finetuned/good")
    world.put(made[0], "finetuned/bad")
    os.truncate(world.root / "finetuned/bad/config.json", 0)
    await world.look()
    good = os.stat(world.root / "finetuned/good").st_ino
    assert world.catalog.served() == {ModelId.of("finetuned/good"): good, ModelId.of("finetuned/bad"): None}
    again = await world.restarted()
    assert again.catalog.served() == {ModelId.of("finetuned/good"): good}


async def test_a_generation_of_another_kind_or_with_another_scale_of_scores_is_a_breaking_swap(
    world: World, tmp_path: Path
) -> None:
    world.put(making.reranker(tmp_path / "a"))
    await world.look()
    assert (world.shown()["kind"], world.shown()["dim"]) == ("reranker", 1)
    for source, breaks in (
        (making.reranker(tmp_path / "b", seed=1), False),
        (making.reranker(tmp_path / "c", activation="torch.nn.modules.linear.Identity"), True),
        (making.encoder(tmp_path / "d", dim=16), True),
    ):
        world.put(source)
        await world.look()
        assert world.heard(events.ModelSwapped)[-1].breaking is breaks
