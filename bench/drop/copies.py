"""Randomised copies, in every way in which people copy, stalling where it hurts: is a mixture ever accepted?

    python -m bench.drop.copies [--trials 500] [--seed 1] [--out report.json] [--table table.md] [--picture copies.svg]

Without `--gateway` the target is our own pipeline, with its quiet times scaled down, so that 500 trials take
minutes; "unseen" trials hide the writers' processes from it. With it, a gateway that runs and watches `--models-dir`.
The status is 1 when something wrong was accepted where nothing may be.
"""

from __future__ import annotations

import argparse
import functools
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Final

from bench.drop import contents, report, trials, writers
from bench.drop.contents import Content
from bench.drop.endurance.progress import Progress
from bench.drop.targets import Pipeline, Served, Target
from bench.drop.trials import Case, Cell, Outcome, Trial
from bench.drop.writers import Writer
from gateway.settings import Settings

NEW: Final = 0.2  # seconds of quiet; 1 in the gateway
UPDATE: Final = 0.8  # seconds of quiet for an update by a writer that is not seen; 10 in the gateway
LEFT: Final = 0.1  # seconds after a writer was seen to leave; 0.3 in the gateway
AT_ONCE: Final = 8

Pair = tuple[Content, Content]
MakeTarget = Callable[[Trial], Target]


def cells(ways: Sequence[Writer], *, seen_only: bool = False) -> list[Cell]:
    """Every case of every writer."""
    found = []
    for writer in ways:
        for seen, sums, case in ((True, False, "new"), (False, False, "new"), (True, False, "update")):
            found.append(Cell(writer, _case(case), seen, sums))
        for sums in (False, True):
            found.append(Cell(writer, "update", seen=False, sums=sums))
    return [cell for cell in found if cell.seen or not seen_only]


def _case(name: str) -> Case:
    return "new" if name == "new" else "update"


def pipeline(base: Path, trial: Trial) -> Target:
    settings = Settings(settle_seconds=NEW, settle_in_place_seconds=UPDATE, settle_writer_seconds=LEFT)
    return Pipeline(base / str(trial.number), settings, seen=trial.cell.seen)


def served(url: str, models: Path, trial: Trial) -> Target:
    return Served(url, models, f"torture-{trial.number}")


def run_all(
    planned: Sequence[Trial], make: MakeTarget, pairs: tuple[Pair, Pair], *, at_once: int, progress: Progress
) -> list[Outcome]:
    """Every trial, several at once; `pairs` as `make_pairs` makes them. Raises what a writer or a target raises."""
    plain, summed = pairs

    def one(trial: Trial) -> Outcome:
        target = make(trial)
        try:
            return trials.run(trial, target, *(summed if trial.cell.sums else plain))
        finally:
            target.close()

    outcomes: list[Outcome] = []
    with ThreadPoolExecutor(at_once) as pool:
        for done in as_completed([pool.submit(one, trial) for trial in planned]):
            outcomes.append(done.result())
            progress.show(len(outcomes), f"{sum(bool(each.wrong) for each in outcomes)} wrong")
    return sorted(outcomes, key=lambda each: each.trial.number)


def make_pairs(base: Path) -> tuple[Pair, Pair]:
    """The two contents, without and with SHA256SUMS."""
    old, new = contents.two_models(base)
    return (old, new), (contents.with_sums(old, base / "v1s"), contents.with_sums(new, base / "v2s"))


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.drop.copies", description=__doc__.partition("\n")[0])
    parser.add_argument("--trials", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--at-once", type=int, default=AT_ONCE, help="trials that run at the same time")
    parser.add_argument("--dir", help="where to copy; a temporary directory otherwise")
    parser.add_argument("--out", type=Path, help="a JSON report")
    parser.add_argument("--table", type=Path, help="the table as Markdown")
    parser.add_argument("--picture", type=Path, help="every stall as SVG")
    parser.add_argument("--gateway", help="the URL of a running gateway, instead of our own pipeline")
    parser.add_argument("--models-dir", type=Path, help="the volume of that gateway")
    parser.add_argument("--settle", type=float, default=1.0, help="its --settle-seconds")
    parser.add_argument("--settle-in-place", type=float, default=10.0, help="its --settle-in-place-seconds")
    chosen = parser.parse_args()
    if bool(chosen.gateway) != bool(chosen.models_dir):
        parser.error("--gateway and --models-dir go together")
    return chosen


def main() -> int:
    chosen = options()
    ways, missing = writers.available()
    for writer in missing:
        print(f"NOT RUN: {writer.name}: there is no {writer.needs} on this machine", file=sys.stderr)
    quiet: dict[Case, float] = {"new": NEW, "update": UPDATE}
    if chosen.gateway:
        quiet = {"new": chosen.settle, "update": chosen.settle_in_place}
    began = time.monotonic()
    with tempfile.TemporaryDirectory(dir=chosen.dir) as folder:
        base = Path(folder)
        pairs = make_pairs(base)
        kinds = cells(ways, seen_only=bool(chosen.gateway))
        planned = trials.plan(kinds, chosen.trials, chosen.seed, quiet, trials.files_of(pairs[0][1]))
        make = functools.partial(pipeline, base)
        if chosen.gateway:
            make = functools.partial(served, chosen.gateway, chosen.models_dir)
        progress = Progress("copies", len(planned))
        outcomes = run_all(planned, make, pairs, at_once=chosen.at_once, progress=progress)
    return tell(outcomes, report.summary(outcomes, time.monotonic() - began), chosen)


def tell(outcomes: Sequence[Outcome], head: dict[str, object], chosen: argparse.Namespace) -> int:
    """Prints and writes what came of it; -> the status."""
    print(report.table(outcomes))
    for name, value in head.items():
        print(f"{name}: {value}")
    for path, text in (
        (chosen.out, report.as_json(outcomes, head)),
        (chosen.table, report.table(outcomes)),
        (chosen.picture, report.picture(outcomes)),
    ):
        if path:
            path.write_text(text, encoding="utf-8")
    bad = report.forbidden(outcomes)
    for outcome in bad:
        print(f"WRONG: trial {outcome.trial.number}: {outcome.trial.cell}: {outcome.wrong}", file=sys.stderr)
    missed = [outcome for outcome in outcomes if outcome.seconds is None]
    for outcome in missed:
        print(f"NEVER ACCEPTED: trial {outcome.trial.number}: {outcome.trial}", file=sys.stderr)
    return 1 if bad or missed else 0


if __name__ == "__main__":
    sys.exit(main())
