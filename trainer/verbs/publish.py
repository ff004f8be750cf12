"""`trainer publish`: make a model appear on the volume, whole or not at all."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from trainer.console import progress, say

HELP = "make a model appear on the volume, whole or not at all"


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", type=Path, metavar="DIR", help="the model's directory, or a training run's output")
    parser.add_argument("model", metavar="NAMESPACE/NAME", help="what it is called, such as finetuned/physics")
    parser.add_argument(
        "--models-dir", type=Path, required=True, metavar="M", help="the volume that the gateway watches"
    )
    parser.add_argument(
        "--replace", action=argparse.BooleanOptionalAction, default=True, help="replace a model of that name"
    )


def run(options: argparse.Namespace) -> int:
    from trainer.publish import publish  # noqa: PLC0415  keeps `--help` instant

    with progress("copying", "bytes") as advance:
        done = publish(options.directory, options.model, options.models_dir, replace=options.replace, progress=advance)
    verb = "replaced" if done.replaced else "published"
    print(f"{verb} {done.model}: {done.files} files, {done.bytes / 1e6:.1f} MB, in {done.path}")
    body = json.dumps({"model": f"huggingface:{done.model}", "inputs": ["a sentence"]})
    print(f"ask for it: curl -s http://127.0.0.1:8001/embed -H 'content-type: application/json' -d '{body}'")
    if done.leftover:
        say(f"trainer: the replaced model could not be removed: {done.leftover}")
    return 0
