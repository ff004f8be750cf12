"""`trainer report`: a run's page, written anew, and its curves as a picture."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "a run's page, written anew, and its curves as a picture"


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_directory", type=Path, metavar="RUN", help="the run's directory; it may still be going on")
    parser.add_argument("--png", type=Path, metavar="FILE", help="draw the curves into this file too; needs matplotlib")


def run(options: argparse.Namespace) -> int:
    from trainer.errors import TrainerError  # noqa: PLC0415
    from trainer.record import located  # noqa: PLC0415
    from trainer.report import write_report  # noqa: PLC0415

    found = located(options.run_directory)
    try:
        print(write_report(found))
        if options.png:
            from trainer.picture import draw  # noqa: PLC0415

            print(draw(found, options.png))
    except OSError as error:
        raise TrainerError(f"{error.filename or options.run_directory}: {error.strerror or error}") from error
    return 0
