"""Does it last? Four long runs, each in a form of any length; a report for each, and a table at the end.

    python -m bench.drop.endurance [swaps | loads | failures | kills] ... [--scale 1.0] [--seed 7] [--out FOLDER]

    swaps      1,000 swaps of one name under load from 16 clients
    loads      10,000 loads and unloads of many models in one host
    failures   10,000 loads that fail
    kills      200 times kill -9 of the gateway in an acceptance, a swap, a rollback or a pull

Without names all four are run; `--scale 0.1` is a tenth of each. The exit status is 1 when a promise was not kept.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from bench.drop.endurance import kills, loads, swaps
from bench.drop.endurance.served import Broken
from bench.machine import describe as machine

COUNTS: Final = {"swaps": 1000, "loads": 10_000, "failures": 10_000, "kills": 200}
MODELS: Final = 24  # of the loads
WARM_UP: Final = 0.05  # share of the swaps
DRIFT: Final = 0.01  # of memory, at most
LEAST_COUNT: Final = 8


def promises(kind: str, report: dict[str, Any]) -> list[str]:
    """Those that were not kept. Memory at the end of a swap run may not exceed that at its start; a run of loads is
    held to the growth between its ends."""
    broken = []
    if kind == "swaps":
        broken += [f"{report['failed']} requests failed"] if report["failed"] else []
        drifts = {name: report[f"{name}_drift"] for name in ("device", "host", "gateway")}
        restarts = report["end"]["host_restarts"]
    elif kind in {"loads", "failures"}:
        drifts = {"host": report["resident_drift"]}
        restarts = report["host_restarts"]
        for what in ("descriptors", "threads"):
            if report["last"][what] > report["first"][what]:
                broken.append(f"{what}: {report['first'][what]} at the start, {report['last'][what]} at the end")
    else:
        return broken
    broken += [f"the memory of the {name} grew by {drift:.2%}" for name, drift in drifts.items() if drift > DRIFT]
    return broken + ([f"the host was started {restarts} times more"] if restarts else [])


async def run(kind: str, count: int, folder: Path, seed: int) -> dict[str, Any]:
    runs: dict[str, Callable[[], Awaitable[dict[str, Any]]]] = {
        "swaps": lambda: swaps.run(
            count, folder=folder, seed=seed, warm_up=max(LEAST_COUNT, int(count * WARM_UP)), quiet=False
        ),
        "loads": lambda: loads.run(count, folder=folder, models=MODELS, seed=seed, failing=False, quiet=False),
        "failures": lambda: loads.run(count, folder=folder, models=MODELS, seed=seed, failing=True, quiet=False),
        "kills": lambda: kills.run(count, folder=folder, seed=seed, quiet=False),
    }
    return await runs[kind]()


def one(kind: str, options: argparse.Namespace) -> list[str]:
    """Runs it and writes its report; -> promises that were not kept."""
    began = time.monotonic()
    count = max(LEAST_COUNT, int(COUNTS[kind] * options.scale))
    with tempfile.TemporaryDirectory(prefix="dropgate-endurance-") as folder:
        try:
            report = asyncio.run(run(kind, count, Path(folder), options.seed))
            broken = promises(kind, report)
        except* Broken as group:
            report, broken = {}, [str(error) for error in group.exceptions]
    report |= {"count": count, "took": time.monotonic() - began, "broken": broken, "machine": machine()}
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / f"{kind}.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    shown = {name: value for name, value in report.items() if name not in {"resident", "machine"}}
    print(f"{kind}: {'; '.join(broken) or 'kept'}\n{json.dumps(shown, indent=1)}", flush=True)
    return broken


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.drop.endurance",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"of {', '.join(COUNTS)}; all without any")
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", type=Path, help="a folder for the reports")
    options = parser.parse_args()
    if unknown := set(options.kinds) - COUNTS.keys():
        parser.error(f"no such run: {', '.join(sorted(unknown))}")
    os.environ["HF_HUB_OFFLINE"] = "1"
    broken = [promise for kind in options.kinds or COUNTS for promise in one(kind, options)]
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
