"""Randomised copies in the ways in which people copy: a mixture is accepted in no cell but the one known hole.

`python -m bench.drop.copies` is the long form. Stalls are real time here, and no length of them decides an outcome:
where nothing wrong may be accepted, it may not be however slow the machine is.
"""

from __future__ import annotations

import dataclasses
import functools
import shutil
import threading
import warnings
from pathlib import Path

import pytest

from bench.drop import copies, report, trials
from bench.drop.contents import Content, every_file
from bench.drop.endurance.progress import Progress
from bench.drop.stalls import Stall, Stalls
from bench.drop.targets import Acceptance, Pipeline, Unseen
from bench.drop.trials import Cell, Outcome, Trial
from bench.drop.writers import WRITERS, Writer, available
from gateway.settings import Settings
from gateway.volume.directory import Directory

Pairs = tuple[copies.Pair, copies.Pair]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Pairs:
    return copies.make_pairs(tmp_path_factory.mktemp("contents"))


def test_no_mixture_is_accepted_of_copies_that_stall_around_the_settle_time(pairs: Pairs, tmp_path: Path) -> None:
    ways, missing = available()
    for writer in missing:
        warnings.warn(f"NOT RUN: {writer.name}: no {writer.needs} on this machine", stacklevel=1)
    cells = [cell for cell in copies.cells(ways) if not cell.may_be_wrong]
    cells = [cell for cell in cells if cell.case == "update" or not cell.seen or not cell.writer.held]
    planned = [decisive(number, cell, pairs[0][1]) for number, cell in enumerate(cells)]
    make = functools.partial(copies.pipeline, tmp_path)
    outcomes = copies.run_all(planned, make, pairs, at_once=8, progress=Progress("copies", 1, quiet=True))
    assert len(outcomes) == len(cells) >= 20
    assert [outcome for outcome in outcomes if outcome.wrong] == []
    assert [outcome.trial for outcome in outcomes if outcome.seconds is None] == []


def decisive(number: int, cell: Cell, content: Content) -> Trial:
    """A stall of two quiet times right behind the weights, where a mixture is whole by its structure."""
    quiet = copies.NEW if cell.case == "new" else copies.UPDATE
    weights = every_file(content.path).index("model.safetensors")
    return Trial(number, cell, (Stall(weights, 1.0, 2 * quiet),), quiet)


@pytest.mark.parametrize("writer", WRITERS, ids=lambda writer: writer.name)
def test_a_writer_leaves_exactly_its_source_whether_the_model_is_new_or_there(
    pairs: Pairs, tmp_path: Path, writer: Writer
) -> None:
    if writer not in available()[0]:
        pytest.skip(f"no {writer.needs} on this machine")
    old, new = pairs[0]
    for content in (old, new):
        writer.write(content.path, tmp_path / "m", ())
        assert files(tmp_path / "m") == files(content.path)


def files(path: Path) -> dict[str, bytes]:
    return {name: (path / name).read_bytes() for name in every_file(path)}


class Blind(Unseen):
    """Evidence that knows nothing at all."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self.hole = self.nothing

    def nothing(self, directory: Directory) -> str | None:
        return None


class Stepping(Pipeline):
    """Tells after each look that it has looked."""

    def __init__(self, base: Path, settings: Settings) -> None:
        super().__init__(base, settings, seen=False, evidence=Blind(str(base / "models")))
        self.looked = threading.Semaphore(0)

    def accepted(self) -> list[Acceptance]:
        answer = super().accepted()
        self.looked.release()
        return answer


def half_way(target: Stepping, source: Path, place: Path, stalls: Stalls) -> None:
    """All files in place, with looks between the first half of them and the rest."""
    names = every_file(source)
    for number, name in enumerate(names):
        if number == names.index("model.safetensors") + 1:
            while target.looked.acquire(blocking=False):
                pass
            for _ in range(3):
                assert target.looked.acquire(timeout=trials.PATIENCE)
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / name, place / name)


def torture(target: Stepping, pair: tuple[Content, Content], patience: float = trials.PATIENCE) -> Outcome:
    writer = Writer("half way", functools.partial(half_way, target), held=False, in_place=True, needs="python3")
    trial = Trial(0, Cell(writer, "update", seen=False), (), 1.0)
    return trials.run(trial, target, *pair, patience)


def test_the_torture_finds_what_is_accepted_when_the_rules_are_taken_away(pairs: Pairs, tmp_path: Path) -> None:
    careless = Settings(settle_seconds=0, settle_in_place_seconds=0, settle_writer_seconds=0)
    outcome = torture(Stepping(tmp_path / "careless", careless), pairs[0])
    origins = [set(files.values()) for files in outcome.wrong]
    assert {"old", "new", "same"} in origins
    assert outcome.seconds is not None
    careful = dataclasses.replace(careless, settle_in_place_seconds=3600)  # longer than three looks ever take
    outcome = torture(Stepping(tmp_path / "careful", careful), pairs[0], patience=0)
    assert (outcome.wrong, outcome.seconds) == ((), None)


def test_wrong_accepts_are_counted_and_shown_where_they_may_not_be(pairs: Pairs) -> None:
    tar = WRITERS[0]
    hole, rule = Cell(tar, "update", seen=False), Cell(tar, "update", seen=True)
    outcomes = [
        Outcome(Trial(number, cell, (trials.Stall(1, 1.0, 0.5),), 1.0), wrong, 0.1)
        for number, (cell, wrong) in enumerate([(hole, ({"a": "old"},)), (rule, ()), (rule, ({"b": "new"},))])
    ]
    assert [each.trial.number for each in report.forbidden(outcomes)] == [2]
    assert "| kubectl cp (GNU tar) | 1 of 2 | 1 of 1\\* |" in report.table(outcomes)
    assert report.summary(outcomes, 1.0)["wrong where none may be"] == 1
    assert report.picture(outcomes).count('stroke="#c00"') == 2
