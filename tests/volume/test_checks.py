"""Comparing SHA256SUMS beside the looks: asked at one, answered at a later one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from gateway.volume import checks
from gateway.volume.checks import Checks
from gateway.volume.directory import Directory
from gateway.volume.evidence import VolumeEvidence
from gateway.volume.sums import Checked
from tests.volume.test_source import drop, one

PATIENCE = 300.0  # seconds; only ends a test that would hang


class Held(VolumeEvidence):
    """What it says of the directories that it holds is said when `gate` opens."""

    def __init__(self, root: Path, *held: str) -> None:
        super().__init__(str(root))
        self.held = held
        self.gate = threading.Event()
        self.seen: list[Directory] = []
        self.error: Exception | None = None

    def checked(self, directory: Directory) -> Checked:
        self.seen.append(directory)
        if directory.model.name in self.held:
            self.gate.wait(PATIENCE)
        if self.error:
            raise self.error
        return Checked(verified=True)


class World:
    def __init__(self, root: Path, *held: str) -> None:
        self.root = root
        self.evidence = Held(root, *held)
        self.answered = threading.Semaphore(0)
        self.checks = Checks(self.evidence, self.answered.release)

    def ask(self, name: str, fingerprint: str = "a") -> Checked | None:
        found = one(self.root, f"finetuned/{name}")
        return self.checks.checked(msgspec.structs.replace(found, fingerprint=fingerprint))

    def wait(self) -> None:
        assert self.answered.acquire(timeout=PATIENCE)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(checks, "LARGE", 100)
    drop(tmp_path / "finetuned/large", content="x" * 100)
    drop(tmp_path / "finetuned/small")
    world = World(tmp_path, "large")
    yield world
    world.evidence.gate.set()
    world.checks.close()


def test_an_answer_is_there_at_the_look_that_it_asks_for(world: World) -> None:
    assert world.ask("small") is None
    world.wait()
    assert world.ask("small") == Checked(verified=True)


def test_small_directories_pass_a_large_one_that_is_being_hashed(world: World) -> None:
    assert world.ask("large") is None
    assert world.ask("small") is None
    world.wait()
    assert world.ask("small") == Checked(verified=True)
    assert world.ask("large") is None
    world.evidence.gate.set()
    world.wait()
    assert world.ask("large") == Checked(verified=True)
    assert len(world.evidence.seen) == 2


def test_what_is_known_of_an_earlier_state_is_not_told_of_a_later_one(world: World) -> None:
    assert world.ask("large", "half") is None
    assert world.ask("large", "whole") is None
    world.evidence.gate.set()
    world.wait()
    assert world.ask("large", "whole") is None
    world.wait()
    assert world.ask("large", "whole") == Checked(verified=True)
    assert [directory.fingerprint for directory in world.evidence.seen] == ["half", "whole"]


def test_what_the_operating_system_refuses_proves_nothing(world: World) -> None:
    world.evidence.error = OSError(5, "Input/output error")
    assert world.ask("small") is None
    world.wait()
    assert world.ask("small") == Checked()
