"""What the layouts of the volume become in the listing: nested copies, numbered versions, adapters and their bases."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from gateway import events
from gateway.errors import ModelRejected
from gateway.model import ModelId
from gateway.volume.settle import Observation, Snapshot
from gateway.volume.source import scan
from tests import making
from tests.catalog.world import World

A = "finetuned/a"


class Volume(World):
    """Looked at as the gateway does it; everything has settled."""

    def snapshot(self, waiting: str = "", only: str | None = None) -> Snapshot:
        assert not waiting
        assert only is None
        found = scan(str(self.root))
        seen = {
            model: Observation(directory=directory, settled=True, waiting="", since=0.0)
            for model, directory in found.directories.items()
        }
        return Snapshot(observations=seen, removed=frozenset(self.catalog.served().keys() - seen.keys()), due=None)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    base = tmp_path_factory.mktemp("made")
    return [making.encoder(base / str(seed), seed=seed, dim=16, layers=1, heads=2) for seed in range(2)]


@pytest.fixture
async def volume(tmp_path: Path) -> Volume:
    return Volume(tmp_path)


async def test_a_second_identical_copy_into_a_served_model_swaps_it_and_says_how_to_copy(
    volume: Volume, made: list[str]
) -> None:
    volume.put(made[0])
    await volume.look()
    before = volume.find()
    assert volume.shown()["warnings"] == []
    shutil.copytree(made[1], volume.root / "finetuned/m/m")
    (volume.root / "finetuned/m/m/model_metadata.json").write_text('{"display_name": "The new one"}')
    await volume.look()
    assert volume.find() != before
    (warning,) = volume.shown()["warnings"]
    assert "the inner one is newer" in warning
    assert "kubectl cp" in warning
    assert volume.shown()["display_name"] == "The new one"
    assert len(volume.heard(events.ModelSwapped)) == 1
    shutil.rmtree(volume.root / "finetuned/m/m")
    await volume.look()
    assert volume.find() == before
    assert volume.shown()["warnings"] == []


async def test_half_a_nested_copy_changes_nothing_of_what_is_served_also_at_a_start(
    volume: Volume, made: list[str]
) -> None:
    volume.put(made[0])
    await volume.look()
    before = volume.find()
    shutil.copytree(made[1], volume.root / "finetuned/m/m")
    os.remove(volume.root / "finetuned/m/m/tokenizer.json")
    await volume.look()
    assert volume.find() == before
    assert volume.shown()["state"] == "ready"
    assert "not whole" in volume.shown()["warnings"][0]
    fresh = Volume(volume.base)
    shutil.rmtree(volume.state / "generations")
    fresh.store.sweep()
    await fresh.look()
    assert fresh.find() == before


async def test_an_adapter_waits_for_its_base_by_name_and_is_judged_again_when_that_arrives(
    volume: Volume, made: list[str]
) -> None:
    making.adapter(volume.root / A, base="Qwen/Qwen2.5-3B-Instruct", task="CAUSAL_LM")
    await volume.look()
    assert volume.shown(A)["state"] == "waiting_for_base"
    assert "Qwen/Qwen2.5-3B-Instruct" in volume.shown(A)["reasons"][0]["message"]
    assert isinstance(volume.fails(A), ModelRejected)
    judged = len(volume.store.accepted)
    await volume.look()
    assert len(volume.store.accepted) == judged  # nothing has changed
    volume.put(made[0], "finetuned/other")
    await volume.look()
    assert volume.shown(A)["state"] == "waiting_for_base"
    volume.put(made[0], "base/Qwen2.5-3B-Instruct")
    await volume.look()
    assert volume.shown(A)["state"] == "rejected"
    assert [reason["code"] for reason in volume.shown(A)["reasons"]] == ["base_mismatch"]
    assert "base/Qwen2.5-3B-Instruct" in volume.shown(A)["reasons"][0]["message"]
    told = [event for event in volume.heard(events.ModelRejected) if event.model == A]
    assert [event.reasons[0].code for event in told] == ["base_missing", "base_mismatch"]


async def test_a_base_that_the_aliases_file_names_is_found_with_the_next_try(volume: Volume, made: list[str]) -> None:
    volume.put(made[0], "base/qwen")
    making.adapter(volume.root / A, base="Qwen/Qwen2.5-3B-Instruct", dim=16, layers=1)
    await volume.look()
    assert volume.shown(A)["state"] == "waiting_for_base"
    (volume.root / "aliases.toml").write_text('[bases]\n"Qwen/Qwen2.5-3B-Instruct" = "base/qwen"\n')
    volume.now += 11.0
    await volume.look()
    assert volume.shown(A)["state"] == "ready"
    assert volume.shown(A)["base"] == "base/qwen"
    assert volume.find(A).base == volume.find("base/qwen")


async def test_a_legacy_model_a_flat_cache_and_a_training_run_are_served_by_the_ids_that_clients_send(
    volume: Volume, made: list[str]
) -> None:
    shutil.copytree(made[0], volume.root / "finetuned/run/final_model")
    (volume.root / "finetuned/run/training_progress.json").write_text("{}")
    shutil.copytree(made[1], volume.root / "thellert_physbert_cased")
    await volume.look()
    assert volume.find("run").manifest.dim == 16
    assert volume.find("huggingface:thellert/physbert_cased") == volume.find("thellert_physbert_cased")
    assert volume.catalog.resolve(volume.catalog.parse("thellert/physbert_cased")) == ModelId(
        None, "thellert_physbert_cased"
    )
