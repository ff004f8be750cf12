"""A model that is too large to be copied is served from where it lies: by its content, and never by other content."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

from gateway.model import Generation, ModelId
from gateway.volume import generations, reasons
from gateway.volume.copying import Changed, Refused
from gateway.volume.directory import Directory, unchanged
from gateway.volume.generations import Store
from gateway.volume.source import scan
from tests import making

M = ModelId("finetuned", "m")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(making.encoder(tmp_path_factory.mktemp("made") / "m", dense=8, shards=2))


@pytest.fixture
def root(tmp_path: Path, made: Path) -> Path:
    shutil.copytree(made, tmp_path / "models/finetuned/m")
    return tmp_path / "models"


def store(root: Path, *, copy_budget: int = 0, in_place: bool = False) -> Store:
    opened = Store(str(root.parent / "state"), copy_budget=copy_budget, in_place=in_place)
    opened.sweep()
    return opened


def look(root: Path, model: ModelId = M) -> Directory:
    return scan(str(root)).directories[model]


def take(opened: Store, root: Path, model: ModelId = M) -> Generation:
    return opened.accept(look(root, model), str(root))


def stored(root: Path) -> set[str]:
    return {name for _, _, names in os.walk(root.parent / "state") for name in names}


def test_a_model_over_the_budget_is_not_copied_and_has_the_digest_of_its_copy(root: Path) -> None:
    opened = store(root, copy_budget=1000)
    taken = take(opened, root)
    assert taken.place is not None
    assert taken.path == str(root / "finetuned/m")
    assert any("in place" in warning for warning in taken.manifest.warnings)
    assert stored(root) == {"generation.json"}
    assert opened.bytes(taken.digest) == 0
    shutil.rmtree(root.parent / "state")
    copied = take(store(root), root)
    assert copied.place is None
    assert copied.digest == taken.digest


def test_a_model_within_the_budget_is_copied(root: Path) -> None:
    taken = take(store(root, copy_budget=2**30), root)
    assert taken.place is None
    assert "model-00001-of-00002.safetensors" in stored(root)


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def test_a_disk_without_room_refuses_or_serves_in_place_as_the_operator_says(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generations.shutil, "disk_usage", lambda _: Usage(2**40, 2**40 - 1000, 1000))
    with pytest.raises(Refused, match="the copy needs"):
        take(store(root), root)
    taken = take(store(root, in_place=True), root)
    assert taken.path == str(root / "finetuned/m")


def test_a_generation_in_place_is_known_at_the_next_start_for_as_long_as_its_directory_stays_as_it_is(
    root: Path,
) -> None:
    taken = take(store(root, copy_budget=1000), root)
    assert store(root).open(taken.digest) == taken
    assert taken.place is not None
    assert unchanged(taken.path, taken.place)
    os.utime(root / "finetuned/m/config.json")
    assert not unchanged(taken.path, taken.place)
    assert store(root).open(taken.digest) is None
    again = take(store(root, copy_budget=1000), root)
    assert again.digest == taken.digest
    assert again.place != taken.place
    assert store(root).open(taken.digest) == again
    shutil.rmtree(root / "finetuned/m")
    assert store(root).open(taken.digest) is None


def test_a_copy_that_is_there_is_used_and_one_that_comes_takes_the_place_of_the_record(root: Path) -> None:
    in_place = take(store(root, copy_budget=1000), root)
    copied = take(store(root), root)
    assert (copied.digest, copied.place) == (in_place.digest, None)
    assert os.path.isfile(os.path.join(copied.path, "config.json"))
    assert take(store(root, copy_budget=1000), root) == copied


def test_what_changes_while_it_is_read_is_not_taken(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = store(root, copy_budget=1000)
    seen = look(root)
    os.utime(root / "finetuned/m/tokenizer.json")
    with pytest.raises(Changed):
        opened.accept(seen, str(root))
    assert stored(root) == set()


def test_what_is_in_use_may_be_forgotten_and_nothing_of_the_volume_is_removed(root: Path) -> None:
    opened = store(root, copy_budget=1000)
    taken = take(opened, root)
    assert opened.prune(set()) == {taken.digest}
    assert opened.open(taken.digest) is None
    assert (root / "finetuned/m/config.json").is_file()
    assert stored(root) == set()


def test_a_nested_model_and_a_version_stay_in_their_place(root: Path, made: Path) -> None:
    shutil.copytree(made, root / "finetuned/m/m")
    shutil.copytree(made, root / "finetuned/v/3")
    opened = store(root, copy_budget=1000)
    nested = take(opened, root)
    assert nested.path == str(root / "finetuned/m/m")
    version = take(opened, root, ModelId("finetuned", "v", 3))
    assert version.path == str(root / "finetuned/v/3")
    assert version.digest == nested.digest
    assert version.place is not None
    assert unchanged(version.path, version.place)


@pytest.mark.parametrize("weights", ["bin", "pytorch_model.safetensors"])
def test_weights_that_can_only_be_mapped_or_renamed_are_copied_whatever_the_budget(root: Path, weights: str) -> None:
    model = root / "finetuned/x"
    making.encoder(model, weights="bin" if weights == "bin" else "safetensors")
    if weights != "bin":
        (model / "model.safetensors").rename(model / weights)
    opened = Store(str(root.parent / "state"), allow_pickle=True, copy_budget=1000)
    assert take(opened, root, ModelId("finetuned", "x")).place is None


def test_a_file_that_may_not_be_read_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = store(root, copy_budget=1000)

    def gone(*_: object) -> str:
        raise reasons.unfit("file_unreadable", "config.json cannot be read", "config.json")

    monkeypatch.setattr(generations.Sums, "digest", gone)
    with pytest.raises(Refused) as refused:
        take(opened, root)
    assert [(reason.code, reason.file) for reason in refused.value.reasons] == [("file_unreadable", "config.json")]
    assert stored(root) == set()
