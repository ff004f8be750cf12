"""A clock that jumps: no copy is believed early, none is waited for for ever, and what is there stays there."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from gateway.model import ModelId
from gateway.settings import Settings
from gateway.volume.evidence import VolumeEvidence
from gateway.volume.settle import Settler, Snapshot
from gateway.volume.source import scan
from tests.volume.test_source import drop

MODEL = ModelId("finetuned", "m")
YEAR = 366 * 86400.0


class Clocks:
    """Real directories and the real evidence, under a monotonic clock that goes on and a wall clock that is set."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.settler = Settler(Settings(), VolumeEvidence(str(root)))
        self.now = 1000.0
        self.jump = 0.0
        self.removed: set[ModelId] = set()

    def look(self, after: float = 0.0) -> Snapshot:
        self.now += after
        wall = time.time() + self.jump
        snapshot = self.settler.observe(scan(str(self.root)), now=self.now, wall=wall, served={MODEL: None})
        self.removed |= snapshot.removed
        return snapshot

    def settled(self, after: float = 0.0) -> bool:
        return self.look(after).observations[MODEL].settled


@pytest.fixture
def clocks(tmp_path: Path) -> Clocks:
    (tmp_path / "models/finetuned").mkdir(parents=True)
    clocks = Clocks(tmp_path / "models")
    clocks.look()
    return clocks


@pytest.mark.parametrize("jump", [YEAR, 3600.0, -3600.0, -YEAR])
def test_a_copy_is_believed_after_its_quiet_time_however_the_clock_is_set(clocks: Clocks, jump: float) -> None:
    clocks.jump = jump
    drop(clocks.root / "finetuned/m")
    assert not clocks.settled()
    clocks.jump = -jump
    assert not clocks.settled(0.5)
    clocks.jump = jump
    assert clocks.settled(0.6)


@pytest.mark.parametrize("jump", [YEAR, -YEAR])
def test_what_is_settled_stays_settled_when_the_clock_is_set(clocks: Clocks, jump: float) -> None:
    drop(clocks.root / "finetuned/m")
    clocks.look()
    assert clocks.settled(1.1)
    clocks.jump = jump
    assert clocks.settled(0.1)
    assert clocks.settled(100.0)
    assert clocks.removed == set()


@pytest.mark.parametrize("jump", [YEAR, -YEAR])
def test_a_model_that_is_away_for_a_moment_is_not_removed_by_a_jump(clocks: Clocks, jump: float) -> None:
    drop(clocks.root / "finetuned/m")
    clocks.look()
    assert clocks.settled(1.1)
    shutil.move(clocks.root / "finetuned/m", clocks.root / "aside")
    clocks.look(0.1)
    clocks.jump = jump
    assert clocks.look(0.3).removed == frozenset()
    assert clocks.look(1.1).removed == {MODEL}
