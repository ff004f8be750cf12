"""An adapter in the catalog: its base is a part of its content, is kept as long as it is needed, and is followed."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest

from gateway import events
from gateway.catalog.catalog import Catalog
from gateway.model import ModelId
from gateway.volume.reasons import reason
from gateway.volume.settle import Snapshot
from tests import making
from tests.catalog.test_layouts import Volume

A, B = "finetuned/a", "base/b"


@pytest.fixture
async def volume(tmp_path: Path, made: list[str]) -> Volume:
    """With a base that is served, and an adapter over it that is served too."""
    found = Volume(tmp_path)
    found.put(made[0], B)
    making.adapter(found.root / A, base=B, dim=16, layers=1)
    await found.look()
    await found.look()
    return found


def codes(volume: Volume) -> list[str]:
    return [reason["code"] for reason in volume.shown(A)["reasons"]]


async def test_an_adapter_and_its_base_that_arrive_together_are_both_served(volume: Volume) -> None:
    assert volume.find(A).base == volume.find(B)
    assert volume.shown(A)["state"] == "ready"
    assert volume.shown(A)["base_generation"] == volume.find(B).short
    assert volume.shown(B)["base"] is None
    assert volume.engine.live.keys() == {volume.find(A).digest, volume.find(B).digest}
    assert not volume.heard(events.ModelRejected)  # each was judged once: the adapter waited for its base


async def test_adapters_over_one_another_wait_for_nobody(tmp_path: Path) -> None:
    volume = Volume(tmp_path)
    for own, other in (("a", "b"), ("b", "c"), ("c", "a"), ("d", "d")):
        making.adapter(volume.root / "finetuned" / own, base=f"finetuned/{other}", dim=16, layers=1)
    await volume.look()
    await volume.look()
    assert {event.model for event in volume.heard(events.ModelRejected)} == {f"finetuned/{own}" for own in "abcd"}


async def test_one_adapter_over_two_bases_is_two_generations(volume: Volume, made: list[str]) -> None:
    volume.put(made[1], "base/c")
    making.adapter(volume.root / "finetuned/c", base="base/c", dim=16, layers=1)
    await volume.look()
    await volume.look()
    assert volume.find("finetuned/c").digest != volume.find(A).digest


async def test_an_adapter_follows_its_base_and_is_tried_before_it_does(volume: Volume, made: list[str]) -> None:
    first, old = volume.find(A), volume.find(B)
    await volume.swap(made[1], path=B)
    await volume.look()
    second = volume.find(A)
    assert second.base == volume.find(B) != old
    assert second.digest != first.digest
    assert second.short in volume.engine.loads
    swaps = [event for event in volume.heard(events.ModelSwapped) if event.model == A]
    assert [(event.previous, event.generation, event.breaking) for event in swaps] == [
        (first.short, second.short, False)
    ]
    judged = len(volume.store.accepted)
    await volume.look()
    assert len(volume.store.accepted) == judged  # nothing has changed


async def test_an_adapter_goes_back_with_its_base(volume: Volume, made: list[str]) -> None:
    first = volume.find(A)
    await volume.swap(made[1], path=B)
    await volume.look()
    await volume.catalog.rollback(ModelId.of(B))
    await volume.look()
    assert volume.find(A) == first


async def test_a_rollback_of_an_adapter_is_to_the_base_that_it_had(volume: Volume, made: list[str]) -> None:
    first = volume.find(A)
    await volume.swap(made[1], path=B)
    await volume.look()
    await volume.catalog.rollback(ModelId.of(A))
    assert volume.find(A) == first
    assert first.base is not None
    assert first.base.digest in volume.engine.live
    await volume.look()
    assert volume.find(A) == first


async def test_a_base_that_does_not_fit_leaves_the_adapter_over_the_old_one(volume: Volume, wide: str) -> None:
    first = volume.find(A)
    await volume.swap(wide, path=B)
    await volume.look()
    assert volume.find(A) == first
    assert codes(volume) == ["base_mismatch"]
    assert first.base is not None
    assert first.base.digest in volume.engine.live
    assert volume.store.open(first.digest) == first
    judged = len(volume.store.accepted)
    await volume.look()
    assert len(volume.store.accepted) == judged


async def test_content_that_is_refused_as_it_lies_is_judged_once_for_each_move_of_its_base(
    volume: Volume, made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot, model = volume.snapshot, ModelId.of(A)

    def with_a_wrong_sum(waiting: str = "", only: str | None = None) -> Snapshot:
        found = snapshot(waiting, only)
        wrong = msgspec.structs.replace(found.observations[model], reason=reason("checksum_mismatch", "it is another"))
        return msgspec.structs.replace(found, observations=found.observations | {model: wrong})

    monkeypatch.setattr(volume, "snapshot", with_a_wrong_sum)
    (volume.root / A / "README.md").write_text("new")
    await volume.look()
    assert codes(volume) == ["checksum_mismatch"]
    await volume.swap(made[1], path=B)
    await volume.look()
    asked = len(volume.again)
    await volume.look()
    assert len(volume.again) == asked  # a judgment ends by asking for the next look
    monkeypatch.setattr(volume, "snapshot", snapshot)
    (volume.root / A / "README.md").write_text("newer")
    await volume.look()
    assert volume.find(A).base == volume.find(B)


async def test_an_adapter_outlives_the_removal_of_its_base_and_says_that_it_is_missing(volume: Volume) -> None:
    first = volume.find(A)
    shutil.rmtree(volume.root / B)
    await volume.look()
    await volume.look()
    assert volume.find(A) == first
    assert codes(volume) == ["base_missing"]
    assert first.base is not None
    assert first.base.digest in volume.engine.live
    assert volume.store.open(first.base.digest) is not None
    assert volume.catalog.owners(first.base.digest) == (A,)


async def test_the_base_of_what_was_removed_goes_from_the_disk(volume: Volume) -> None:
    first = volume.find(A)
    shutil.rmtree(volume.root / B)
    shutil.rmtree(volume.root / A)
    await volume.look()
    await volume.look()
    assert first.base is not None
    assert volume.store.digests() == set()


async def test_a_restart_takes_an_adapter_and_its_base_as_they_were(volume: Volume) -> None:
    first = volume.find(A)
    again = Volume(volume.base)
    await again.catalog.restore()
    assert again.find(A) == first
    await again.look()
    assert again.find(A) == first
    assert again.store.accepted == []


async def test_a_base_that_was_swapped_while_the_gateway_was_down_is_followed(volume: Volume, made: list[str]) -> None:
    first = volume.find(A)
    volume.put(made[1], B)
    again = Volume(volume.base)
    await again.catalog.restore()
    for _ in range(3):
        await again.look()
    assert again.find(A).digest != first.digest
    assert again.find(A).base == again.find(B)


async def test_what_pins_an_adapter_pins_its_base(volume: Volume) -> None:
    catalog: Catalog = volume.catalog
    catalog.pin(ModelId.of(A), pinned=True)
    await volume.quiet()
    assert volume.engine.pinned == {volume.find(A).digest, volume.find(B).digest}


async def test_an_adapter_that_names_a_version_of_its_base_has_that_one(volume: Volume, made: list[str]) -> None:
    for number in (1, 2):
        volume.put(made[number], f"base/numbered/{number}")
    making.adapter(volume.root / "finetuned/old", base="base/numbered/1", dim=16, layers=1)
    making.adapter(volume.root / "finetuned/new", base="base/numbered", dim=16, layers=1)
    for _ in range(3):
        await volume.look()
    old, new = volume.find("finetuned/old").base, volume.find("finetuned/new").base
    assert new == volume.find("base/numbered")
    assert old is not None
    assert old != new
    volume.put(made[3], "base/numbered/3")
    for _ in range(3):
        await volume.look()
    assert volume.find("finetuned/old").base == old
    assert volume.find("finetuned/new").base == volume.find("base/numbered") != new
