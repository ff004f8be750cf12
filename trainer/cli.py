"""The command line: `trainer VERB`. Heavy imports stay inside the verbs, so that `--help` is instant.

Exit status: 0 done, 1 the machine failed, 2 the input is wrong, 4 interrupted.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from trainer.errors import INTERRUPTED, TrainerError

BAR_WIDTH = 30


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one verb and returns its exit status."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _interrupt)  # a stopped job cleans up like an interrupted one
    try:
        verb: int = options.verb(options)
    except TrainerError as error:
        print(f"trainer: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print("trainer: interrupted; nothing half-done is left on the volume", file=sys.stderr)
        return INTERRUPTED
    return verb


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="trainer", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    _add_publish(verbs.add_parser("publish", help="make a model appear on the volume, whole or not at all"))
    return parser


def _add_publish(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", type=Path, metavar="DIR", help="the model's directory, or a training run's output")
    parser.add_argument("model", metavar="NAMESPACE/NAME", help="what it is called, such as finetuned/physics")
    parser.add_argument(
        "--models-dir", type=Path, required=True, metavar="M", help="the volume that the gateway watches"
    )
    parser.add_argument(
        "--replace", action=argparse.BooleanOptionalAction, default=True, help="replace a model of that name"
    )
    parser.set_defaults(verb=_publish)


def _publish(options: argparse.Namespace) -> int:
    from trainer.publish import publish  # noqa: PLC0415  keeps `--help` instant

    bar = _bar if sys.stderr.isatty() else _no_bar
    done = publish(options.directory, options.model, options.models_dir, replace=options.replace, progress=bar)
    verb = "replaced" if done.replaced else "published"
    print(f"{verb} {done.model}: {done.files} files, {done.bytes / 1e6:.1f} MB, in {done.path}")
    body = json.dumps({"model": f"huggingface:{done.model}", "inputs": ["a sentence"]})
    print(f"ask for it: curl -s http://127.0.0.1:8001/embed -H 'content-type: application/json' -d '{body}'")
    if done.leftover:
        print(f"trainer: the replaced model could not be removed: {done.leftover}", file=sys.stderr)
    return 0


def _bar(done: int, total: int) -> None:
    filled = BAR_WIDTH * done // max(total, 1)
    end = "\r\033[K" if done >= total else ""
    line = f"\r[{'#' * filled}{'.' * (BAR_WIDTH - filled)}] {done / 1e6:.0f} of {total / 1e6:.0f} MB"
    print(line, end=end, file=sys.stderr, flush=True)


def _no_bar(done: int, total: int) -> None:
    """Where nobody watches, one line at the end is enough."""
