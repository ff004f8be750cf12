"""`trainer merge`: an adapter and its base become one plain model."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from trainer.verbs import publishing

HELP = "make one plain float32 model of an adapter and its base"


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("adapter", type=Path, metavar="ADAPTER", help="the adapter's directory, of peft or of a run")
    parser.add_argument("--base", type=Path, metavar="DIR", help="its base; else found by what was written with it")
    parser.add_argument("--output", "--output-dir", type=Path, required=True, metavar="DIR", help="the merged model")
    parser.add_argument("--overwrite", action="store_true", help="replace what is there")
    parser.add_argument("--json", action="store_true", help="the result as one JSON object")
    publishing.add(parser)


def run(options: argparse.Namespace) -> int:
    from trainer.merge import join  # noqa: PLC0415  keeps `--help` instant

    publishing.check(options)
    done = join(options.adapter, options.output, options.base, overwrite=options.overwrite)
    told = {"path": str(done.path), "base": str(done.base), "difference": done.difference, "reload": "equal"}
    if options.json:
        print(json.dumps(told))
    else:
        print(f"merged {options.adapter} into {done.base}: {done.path}")
        print(f"merged beside adapted: {done.difference:.1e} at most; loaded anew in another process: equal to the bit")
    publishing.publish_if_asked(options, done.path)
    return 0
