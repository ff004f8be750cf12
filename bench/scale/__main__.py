"""The simulation of many devices, and its part of `docs/scale.md`.

    python -m bench.scale [--quick] [--seeds 3] [--parts sizes,crowd] [--out reports/scale.json]
    python -m bench.scale --write-docs reports/scale.json

A report that is there already keeps what is not run again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

from bench.machine import describe
from bench.rounds import rounded
from bench.scale import choosing, pages
from bench.scale.costs import measured
from bench.scale.figures import Figures, over_seeds
from bench.scale.grid import Job, jobs, play

PARTS: Final = (*dict.fromkeys(job.part for job in jobs()), "choosing")


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    if options.write_docs:
        pages.write(json.loads(options.write_docs.read_text(encoding="utf-8")))
        return 0
    report = simulated(options)
    print("\n".join(pages.blocks(report).values()))
    return 0


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python -m bench.scale", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    top.add_argument("--quick", action="store_true", help="few devices, few requests")
    top.add_argument("--seeds", type=int, default=3)
    top.add_argument("--share", type=float, default=1.0, help="of the requests of each run")
    top.add_argument("--parts", default=",".join(PARTS), help=f"some of {','.join(PARTS)}")
    top.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="runs at a time")
    top.add_argument("--out", type=Path, default=Path("reports/scale.json"))
    top.add_argument("--write-docs", type=Path, metavar="FILE", help="put a report into docs/scale.md; run nothing")
    return top


def simulated(options: argparse.Namespace) -> dict[str, Any]:
    """The whole report, which is written as it grows: row by row, since all of them take long."""
    began, costs, parts = time.monotonic(), measured(), options.parts.split(",")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    before = json.loads(options.out.read_text(encoding="utf-8")) if options.out.exists() else {"parts": {}}
    found: dict[str, list[dict[str, Any]]] = before["parts"]
    chosen = [job for job in jobs(quick=options.quick, share=options.share) if job.part in parts]
    report: dict[str, Any] = {}

    def write() -> None:
        about = {"date": time.strftime("%Y-%m-%d"), "seconds": time.monotonic() - began, "seeds": options.seeds}
        report.update(rounded(about | {"costs": asdict(costs), "machine": describe(), "parts": found}))
        options.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")

    with ProcessPoolExecutor(options.workers, get_context("spawn")) as pool:
        for (part, row), group in itertools.groupby(chosen, lambda job: (job.part, job.row)):
            beside = list(group)
            runs = [(job, seed) for job in beside for seed in range(1, options.seeds + 1)]
            figures = list(pool.map(partial(play, costs), runs))
            others = [each for each in found.get(part, []) if each["row"] != row]
            found[part] = others + _rows(beside, figures, options.seeds)
            write()
    if "choosing" in parts:
        found["choosing"] = choosing.measured(quick=options.quick)
        write()
    return report


def _rows(beside: list[Job], figures: list[Figures], seeds: int) -> list[dict[str, Any]]:
    """Of one world: each policy, and what it waits over the first one of the same seed, since seeds differ by more than
    policies do."""
    of = [figures[number * seeds : (number + 1) * seeds] for number in range(len(beside))]
    for runs in of[::-1]:
        for own, first in zip(runs, of[0], strict=True):
            own["wait_over_first"] = own["wait_mean"] / first["wait_mean"] if first["wait_mean"] else 0.0
    return [
        {"row": job.row, "policy": job.label or job.policy, "cell": _about(job), "figures": over_seeds(runs)}
        for job, runs in zip(beside, of, strict=True)
    ]


def _about(job: Job) -> dict[str, Any]:
    return {key: value for key, value in asdict(job.cell).items() if key != "kinds"} | job.options


if __name__ == "__main__":
    sys.exit(main())
