"""The simulation of many devices, and its part of `docs/scale.md`.

    python -m bench.scale [--quick] [--seeds 3] [--parts sizes,crowd] [--out reports/scale.json]
    python -m bench.scale --write-docs reports/scale.json

A report that is there already keeps the parts that are not run again.
"""

from __future__ import annotations

import argparse
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
from bench.scale.figures import over_seeds
from bench.scale.grid import Job, jobs, play

PARTS: Final = (*dict.fromkeys(job.part for job in jobs()), "choosing")


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    if options.write_docs:
        pages.write(json.loads(options.write_docs.read_text(encoding="utf-8")))
        return 0
    report = simulated(options)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    before = json.loads(options.out.read_text(encoding="utf-8"))["parts"] if options.out.exists() else {}
    report["parts"] = before | report["parts"]
    options.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print("\n".join(pages.blocks(report).values()))
    return 0


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python -m bench.scale", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    top.add_argument("--quick", action="store_true", help="few devices, few requests")
    top.add_argument("--seeds", type=int, default=3)
    top.add_argument("--parts", default=",".join(PARTS), help=f"some of {','.join(PARTS)}")
    top.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="runs at a time")
    top.add_argument("--out", type=Path, default=Path("reports/scale.json"))
    top.add_argument("--write-docs", type=Path, metavar="FILE", help="put a report into docs/scale.md; run nothing")
    return top


def simulated(options: argparse.Namespace) -> dict[str, Any]:
    """The whole report."""
    began, costs, parts = time.monotonic(), measured(), options.parts.split(",")
    chosen = [job for job in jobs(quick=options.quick) if job.part in parts]
    runs = [(job, seed) for job in chosen for seed in range(1, options.seeds + 1)]
    found: dict[str, list[dict[str, Any]]] = {}
    with ProcessPoolExecutor(options.workers, get_context("spawn")) as pool:
        figures = list(pool.map(partial(play, costs), runs))
    for number, job in enumerate(chosen):
        of = figures[number * options.seeds : (number + 1) * options.seeds]
        first = next(index for index, each in enumerate(chosen) if (each.part, each.row) == (job.part, job.row))
        beside = figures[first * options.seeds : (first + 1) * options.seeds]
        for own, others in zip(of, beside, strict=True):  # seeds differ by more than policies do
            own["wait_over_first"] = own["wait_mean"] / others["wait_mean"] if others["wait_mean"] else 0.0
        row = {"row": job.row, "policy": job.label or job.policy, "cell": _about(job), "figures": over_seeds(of)}
        found.setdefault(job.part, []).append(row)
    if "choosing" in parts:
        found["choosing"] = choosing.measured(quick=options.quick)
    report: dict[str, Any] = rounded(
        {
            "date": time.strftime("%Y-%m-%d"),
            "seconds": time.monotonic() - began,
            "seeds": options.seeds,
            "costs": asdict(costs),
            "machine": describe(),
            "parts": found,
        }
    )
    return report


def _about(job: Job) -> dict[str, Any]:
    return {key: value for key, value in asdict(job.cell).items() if key != "kinds"} | job.options


if __name__ == "__main__":
    sys.exit(main())
