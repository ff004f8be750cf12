"""A volume that is unmounted leaves an empty directory in its place, which is not what was removed from it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from gateway.settings import Settings
from gateway.volume.root import OTHER
from gateway.volume.source import Scan, VolumeUnreadable
from gateway.volume.volume import FileVolume
from tests.volume.test_source import drop, ids


class World:
    """A models directory with a model, a state directory, and looks of one gateway or of the next."""

    def __init__(self, base: Path) -> None:
        self.models = base / "models"
        self.state = base / "state"
        self.state.mkdir()
        drop(self.models / "finetuned/m")
        self.start()

    def start(self) -> None:
        settings = Settings(models_dir=str(self.models), state_dir=str(self.state))
        self.volume = FileVolume(settings)

    def look(self) -> Scan:
        return self.volume.scan()

    def unmount(self) -> None:
        self.models.rename(self.models.with_name("mounted"))
        self.models.mkdir()
        (self.models / "lost+found").mkdir()  # what is no model says nothing either

    def mount(self) -> None:
        shutil.rmtree(self.models)
        self.models.with_name("mounted").rename(self.models)

    def is_away(self) -> bool:
        try:
            self.look()
        except VolumeUnreadable as error:
            return OTHER in str(error)
        return False


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    assert ids(world.look()) == {"finetuned/m"}
    return world


@pytest.mark.parametrize("restarted", [False, True])
def test_an_empty_directory_in_the_place_of_the_one_with_models_is_a_volume_that_is_away(
    world: World, restarted: bool
) -> None:
    world.unmount()
    if restarted:
        world.start()
    assert all(world.is_away() for _ in range(5))
    world.mount()
    assert ids(world.look()) == {"finetuned/m"}


@pytest.mark.parametrize("restarted", [False, True])
def test_what_is_removed_from_the_directory_itself_has_gone(world: World, restarted: bool) -> None:
    shutil.rmtree(world.models / "finetuned")
    if restarted:
        world.start()
    assert [ids(world.look()) for _ in range(3)] == [set()] * 3


def test_another_directory_with_a_model_in_it_is_the_volume_from_then_on(world: World) -> None:
    world.unmount()
    assert world.is_away()
    drop(world.models / "finetuned/n")
    assert ids(world.look()) == {"finetuned/n"}
    world.models.rename(world.models.with_name("second"))
    world.models.mkdir()
    world.start()
    assert world.is_away()


def test_a_volume_that_was_emptied_has_nothing_left_to_lose(world: World) -> None:
    """So that its next mount, by another device number, is no alarm."""
    shutil.rmtree(world.models / "finetuned")
    world.look()
    world.unmount()
    assert world.is_away()  # once may have been an unmount during the look
    world.mount()
    world.look()
    world.look()
    world.unmount()
    world.start()
    assert not world.is_away()


def test_a_namespace_that_cannot_be_read_is_not_empty(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = Scan(directories={}, ignored=(), files=0, root=world.look().root, unreadable=frozenset({"finetuned"}))
    with monkeypatch.context() as patch:
        patch.setattr("gateway.volume.volume.scan", lambda root: scan)
        for _ in range(3):
            world.look()
    world.unmount()
    assert world.is_away()


@pytest.mark.parametrize("content", ["", "[1, 2", '{"a": 1}', "\xff"])
def test_a_file_that_cannot_be_read_is_as_none(world: World, content: str) -> None:
    world.unmount()
    (world.state / "root.json").write_text(content, encoding="latin-1")
    world.start()
    assert ids(world.look()) == set()


def test_what_could_not_be_written_down_is_tried_again(world: World) -> None:
    kept = world.state / "root.json"
    kept.unlink()
    kept.mkdir()
    world.start()
    assert ids(world.look()) == {"finetuned/m"}
    kept.rmdir()
    world.look()
    world.unmount()
    world.start()
    assert world.is_away()
