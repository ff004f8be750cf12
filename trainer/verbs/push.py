"""`trainer push`: a model goes to a hub, in one commit."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from trainer.console import progress

HELP = "send a model to a hub, in one commit"


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", type=Path, metavar="DIR", help="the model's directory, or a training run's output")
    parser.add_argument("name", metavar="ORG/NAME", help="the repository; a private one is made where there is none")
    parser.add_argument("--public", action="store_true", help="everybody may have the model")
    parser.add_argument("--message", default="", metavar="TEXT", help="of the commit")
    parser.add_argument("--json", action="store_true", help="the result as JSON")
    parser.epilog = "The hub is HF_ENDPOINT, or huggingface.co; the token is HF_TOKEN, and no other."


def run(options: argparse.Namespace) -> int:
    from trainer.hub import Hub, parse_name  # noqa: PLC0415  keeps `--help` instant

    name, revision = parse_name(options.name)
    if revision != "main":
        from trainer.errors import InvalidInput  # noqa: PLC0415

        raise InvalidInput(f"{options.name!r}: a push goes to the main branch; leave {revision!r} out")
    hub = Hub.of(os.environ)
    with progress("sending", "bytes") as advance:
        done = hub.push(options.directory, name, public=options.public, message=options.message, progress=advance)
    if options.json:
        print(json.dumps({"url": done.url, "commit": done.commit, "files": done.files, "bytes": done.bytes}))
    else:
        print(f"pushed {name}: {done.files} files, {done.bytes / 1e6:.1f} MB, {done.url} at {done.commit[:12]}")
    return 0
