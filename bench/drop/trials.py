"""One copy onto one target, watched from its first byte until it is accepted: was anything else ever accepted?"""

from __future__ import annotations

import random
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from bench.drop.contents import Content, every_file, mixture
from bench.drop.stalls import Stall, drawn
from bench.drop.targets import GLANCE, Acceptance, Target
from bench.drop.writers import Writer

Case = Literal["new", "update"]
PATIENCE: Final = 300.0  # seconds after the last byte, until a target is said to have missed it


@dataclass(frozen=True, slots=True)
class Cell:
    """`seen`: the target may look at our processes. `sums`: both contents carry a SHA256SUMS."""

    writer: Writer
    case: Case
    seen: bool
    sums: bool = False

    @property
    def may_be_wrong(self) -> bool:
        """The one known hole: an update of the directory that is there, by a writer that is not seen between two
        files, without anything that says what the whole is."""
        unseen = not (self.seen and self.writer.held)
        return self.case == "update" and self.writer.in_place and unseen and not self.sums


@dataclass(frozen=True, slots=True)
class Trial:
    """`quiet` is the time of quiet, in seconds, that the target asks for in this case."""

    number: int
    cell: Cell
    stalls: tuple[Stall, ...]
    quiet: float

    @property
    def longest(self) -> float:
        """The longest stall, in quiet times."""
        return max(stall.seconds for stall in self.stalls) / self.quiet


@dataclass(frozen=True, slots=True)
class Outcome:
    """`wrong` has, for each content accepted that was neither, what each of its files was. `seconds` passed between
    the last byte and the acceptance; None when it never came."""

    trial: Trial
    wrong: tuple[dict[str, str], ...]
    seconds: float | None


def plan(cells: Sequence[Cell], count: int, seed: int, quiet: dict[Case, float], files: int) -> list[Trial]:
    """`count` trials, evenly over the cells; the same seed makes the same stalls."""
    trials = []
    for number in range(count):
        cell = cells[number % len(cells)]
        chance = random.Random(f"{seed} {number}")
        trials.append(Trial(number, cell, drawn(chance, files, quiet[cell.case]), quiet[cell.case]))
    return trials


@dataclass(slots=True)
class _Copy:
    """The writer at work, on a thread of its own."""

    run: Callable[[], None]
    ended: float | None = None
    error: Exception | None = None
    thread: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self._work, daemon=True)
        self.thread.start()

    def _work(self) -> None:
        try:
            self.run()
        except Exception as error:  # told where the trial waits for it
            self.error = error
        self.ended = time.monotonic()


def run(trial: Trial, target: Target, old: Content, new: Content, patience: float = PATIENCE) -> Outcome:
    """The whole trial. Raises what the writer raised, when it did not do its work."""
    cell = trial.cell
    if cell.case == "update":
        _publish(old, target)
        _await(target, old, patience)
    copy = _Copy(lambda: cell.writer.write(new.path, target.place, trial.stalls))
    arrived: float | None = None
    while copy.ended is None or (arrived is None and time.monotonic() < copy.ended + patience):
        accepted = target.accepted()
        if accepted and _is(accepted[-1], new):
            arrived = arrived or time.monotonic()
        time.sleep(GLANCE)
    if copy.error:
        raise copy.error
    wrong = [each for each in target.accepted() if not _is(each, old) and not _is(each, new)]
    late = None if arrived is None else max(0.0, arrived - copy.ended)
    return Outcome(trial, tuple(mixture(each.files or {}, old, new) for each in wrong), late)


def _is(acceptance: Acceptance, content: Content) -> bool:
    """A running gateway tells a short form of the name."""
    return content.name.startswith(acceptance.name)


def _publish(content: Content, target: Target) -> None:
    hidden = target.place.parent / f".{target.place.name}.first"
    shutil.copytree(content.path, hidden, copy_function=_plain_copy)
    hidden.rename(target.place)


def _plain_copy(source: str, target: str) -> None:
    Path(target).write_bytes(Path(source).read_bytes())


def _await(target: Target, content: Content, patience: float) -> None:
    deadline = time.monotonic() + patience
    while not any(_is(each, content) for each in target.accepted()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{target.place}: the first, whole content was not accepted in {patience} s")
        time.sleep(GLANCE)


def files_of(content: Content) -> int:
    return len(every_file(content.path))
