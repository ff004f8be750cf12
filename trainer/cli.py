"""The command line: `trainer VERB`. Each verb is a module of `trainer.verbs`, with `HELP`, `add(parser)` and
`run(options) -> exit status`; heavy imports stay inside `run`, so that `--help` is instant.

Exit status: 0 done, 1 the machine failed, 2 the input is wrong, 3 a quality gate is closed, 4 interrupted.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from types import FrameType
from typing import Final

from trainer import __version__
from trainer.console import say
from trainer.errors import Interrupted, TrainerError

# in the order of a model's life; "data check" is a verb with a verb of its own
VERBS: Final = (
    "config",
    "data",
    "qa",
    "mine",
    "finetune",
    "language",
    "evaluate",
    "merge",
    "quantize",
    "publish",
    "alias",
    "push",
    "pull",
    "runs",
    "report",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one verb and returns its exit status."""
    given = sys.argv[1:] if arguments is None else arguments
    options = parser(given).parse_args(given)
    signal.signal(signal.SIGTERM, _interrupt)  # a stopped job cleans up like an interrupted one
    try:
        return int(options.run(options))
    except TrainerError as error:
        say(f"trainer: {error}")
        return error.exit_status
    except KeyboardInterrupt:
        say("trainer: interrupted; nothing half-done is left on the volume")
        return Interrupted.exit_status


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def parser(given: Sequence[str] | None = None) -> argparse.ArgumentParser:
    """With the options of every verb; with those of the verbs in `given` alone, where an instant answer matters."""
    top = argparse.ArgumentParser(prog="trainer", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    top.add_argument("--version", action="version", version=f"dropgate {__version__}")
    verbs = top.add_subparsers(required=True, metavar="VERB")
    for name in VERBS:
        verb = import_module(f"trainer.verbs.{name}")
        added = verbs.add_parser(name, help=verb.HELP, description=f"{verb.HELP[0].upper()}{verb.HELP[1:]}.")
        if given is None or name in given:  # a verb whose options are those of a run imports what checks them
            verb.add(added)
        added.set_defaults(run=verb.run)
    return top
