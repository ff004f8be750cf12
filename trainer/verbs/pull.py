"""`trainer pull`: a model of a hub becomes a plain directory, whole or not at all."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from trainer.console import progress

HELP = "bring a model from a hub, whole or not at all"


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="ORG/NAME[@REVISION]", help="the repository, and a branch, tag or commit")
    parser.add_argument("directory", type=Path, metavar="DIR", help="where the model is to lie")
    parser.add_argument("--overwrite", action="store_true", help="replace what lies there")
    parser.add_argument("--json", action="store_true", help="the result as JSON")
    parser.epilog = "The hub is HF_ENDPOINT, or huggingface.co; the token is HF_TOKEN, and no other."


def run(options: argparse.Namespace) -> int:
    from trainer.hub import Hub, parse_name  # noqa: PLC0415  keeps `--help` instant
    from trainer.pull import pull  # noqa: PLC0415

    name, revision = parse_name(options.name)
    hub = Hub.of(os.environ)
    with progress("fetching", "bytes") as advance:
        done = pull(hub, name, revision, options.directory, overwrite=options.overwrite, progress=advance)
    if options.json:
        told = {"path": str(done.path), "commit": done.commit, "files": done.files, "bytes": done.bytes}
        print(json.dumps(told))
    else:
        print(f"pulled {name} at {done.commit[:12]}: {done.files} files, {done.bytes / 1e6:.1f} MB, in {done.path}")
    return 0
