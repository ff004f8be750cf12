"""Everything side by side in one run: what the machine can do, what one process does, what the gateway makes of it, and
what others do.

    python -m bench [--parts http,loads] [--quick] [--rounds 3] [--seconds 2] [--out reports/bench.json]
    python -m bench --write-docs reports/bench.json

A part that fails is told in the report and ends no other part. Exit status: 0 when every part ran, 1 otherwise; a goal
that is missed is a finding and no failure.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from bench import machine, pages, tables
from bench.rounds import rounded, told
from bench.setting import Setting

PARTS: Final = ("limit", "inprocess", "http", "peers", "models", "loads", "overload", "memory")
ASKED_FOR: Final = (
    "devices",
    "adapters",
    "registered",
    "knowledge",
    "ingestion",
    "training",
    "generating",
)  # run only when named
BUSY: Final = 0.5  # a load average above which the machine is not ours
TITLES: Final = {"limit": "what the machine can do", "many models": "models", "idle": "what it takes"}


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    if options.write_docs:
        pages.write(json.loads(options.write_docs.read_text(encoding="utf-8")))
        return 0
    report = measured(options)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(shown(report))
    drawn = pages.draw(report, options.out.parent)
    print(f"\nwritten: {', '.join(str(path) for path in [options.out, *drawn])}")
    return int(any("failed" in part for part in report["parts"].values()))


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    top.add_argument(
        "--parts",
        type=_parts,
        default=list(PARTS),
        help=f"some of {','.join(PARTS + ASKED_FOR)}, with commas between; {', '.join(ASKED_FOR)} only when named",
    )
    top.add_argument("--quick", action="store_true", help="one short round of the most telling cells, some two minutes")
    top.add_argument("--rounds", type=int, help="each cell is measured so often (3; 1 with --quick)")
    top.add_argument("--seconds", type=float, help="of one measurement through HTTP (2; 1 with --quick)")
    top.add_argument("--gateway", default="", help="further options of `gateway serve`, as one word")
    top.add_argument("--cache", type=Path, default=Path(__file__).parent / ".cache", help="where peers are installed")
    top.add_argument("--out", type=Path, default=Path("reports/bench.json"))
    top.add_argument(
        "--write-docs", type=Path, metavar="FILE", help="put a report into docs/performance.md; measure nothing"
    )
    return top


def _parts(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if unknown := [name for name in names if name not in PARTS + ASKED_FOR]:
        raise argparse.ArgumentTypeError(
            f"no such part: {', '.join(unknown)}; there are {', '.join(PARTS + ASKED_FOR)}"
        )
    return [name for name in PARTS + ASKED_FOR if name in names]


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """The whole report."""
    if (load := os.getloadavg()[0]) > BUSY:
        told(f"the load average is {load:.1f}: something else runs here, and only ratios may be believed, if anything")
    rounds = options.rounds or (1 if options.quick else 3)
    seconds = options.seconds or (1 if options.quick else 2)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        setting = Setting(
            Path(folder),
            options.cache.absolute(),
            quick=options.quick,
            rounds=rounds,
            seconds=seconds,
            gateway_options=tuple(options.gateway.split()),
        )
        parts = {name: _part(name, setting) for name in options.parts}
    about = {"command": " ".join(["python -m bench", *sys.argv[1:]]), "rounds": rounds, "seconds": seconds}
    report: dict[str, Any] = rounded(
        {
            "date": time.strftime("%Y-%m-%d"),
            "seconds": time.monotonic() - began,
            "machine": machine.describe(),
            "options": about,
            "parts": parts,
        }
    )
    return report


def _part(name: str, setting: Setting) -> dict[str, Any]:
    told(f"part {name}")
    with machine.Noise() as noise:
        try:
            found: dict[str, Any] = importlib.import_module(f"bench.{name}").run(setting)
        except Exception as error:  # the other parts are worth having all the same
            traceback.print_exc()
            found = {"failed": f"{type(error).__name__}: {error}".splitlines()[0]}
    return found | {"noise": noise.figures}


def shown(report: dict[str, Any]) -> str:
    """The tables of what was measured, for the terminal."""
    made = {name: text for name, text in tables.blocks(report).items() if text != tables.NOTHING}
    return "\n".join(f"\n{TITLES.get(name, name)}\n\n{text}" for name, text in made.items())


if __name__ == "__main__":
    sys.exit(main())
