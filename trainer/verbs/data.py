"""`trainer data`: what files of examples hold, what is wrong with them, and a split that leaks nothing."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.console import progress, say
from trainer.errors import InvalidInput

if TYPE_CHECKING:
    from trainer.data.check import Checked

HELP = "look at files of examples, or split them"


def add(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(required=True, metavar="VERB", dest="data_verb")
    check = verbs.add_parser("check", help="show what files of examples hold and what is wrong with them")
    _files(check)
    check.add_argument(
        "--validation", type=Path, nargs="+", default=[], metavar="FILE", help="look for leaks into these"
    )
    check.add_argument(
        "--verb", choices=("finetune", "language"), help="who is to train on them; else it is seen from the rows"
    )
    check.add_argument("--base-model", metavar="DIR", help="measure in tokens of this model; else in words")
    check.add_argument("--near", action="store_true", help="look for near duplicates and near leaks too")
    check.add_argument("--json", action="store_true", help="as JSON")
    cut = verbs.add_parser("split", help="hold a share out, by groups, without a text on both sides")
    _files(cut)
    cut.add_argument("--train", type=Path, required=True, metavar="T", help="a new file, of what to train on")
    cut.add_argument("--held-out", type=Path, required=True, metavar="H", help="a new file, of what is held out")
    cut.add_argument("--share", type=float, default=0.1, metavar="X", help="how much is held out (%(default)s)")
    cut.add_argument("--dedupe", choices=("none", "exact", "near"), default="exact", help="(%(default)s)")
    cut.add_argument("--skip-broken", action="store_true", help="leave broken rows out, in place of stopping")


def _files(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "files", type=Path, nargs="+", metavar="FILE", help="JSON lines, a JSON array, CSV or TSV; or .gz"
    )


def run(options: argparse.Namespace) -> int:
    return _check(options) if options.data_verb == "check" else _split(options)


def _check(options: argparse.Namespace) -> int:
    """Exit status 2 where something is broken, so that a script can stop there."""
    from trainer.data.check import check  # noqa: PLC0415  keeps `--help` instant

    with progress("reading", "bytes") as advance:
        checked = check(
            options.files,
            options.validation,
            verb=options.verb,
            base=options.base_model,
            near=options.near,
            progress=advance,
        )
    if options.json:
        print(json.dumps(checked.to_json(), ensure_ascii=False, indent=2))
    else:
        _show(checked)
    return InvalidInput.exit_status if checked.broken else 0


def _show(checked: Checked) -> None:
    from trainer.data.check import table  # noqa: PLC0415

    for line in table(checked):
        print(line)


def _split(options: argparse.Namespace) -> int:
    from trainer.data.duplicates import without_duplicates  # noqa: PLC0415
    from trainer.data.read import read  # noqa: PLC0415
    from trainer.data.split import has_groups, split  # noqa: PLC0415
    from trainer.data.write import write  # noqa: PLC0415

    if not 0 < options.share < 1:
        raise InvalidInput(f"--share {options.share}: expected a number between 0 and 1")
    _refuse_what_is_there(options.train, options.held_out)
    with progress("reading", "bytes") as advance:
        reading = read(options.files, skip_broken=options.skip_broken, progress=advance)
    for fault in reading.faults:
        say(f"left out: {fault}")
    kept, removed = without_duplicates(reading.examples, options.dedupe)
    train, held_out = split(kept, options.share)
    if not held_out:
        raise InvalidInput(
            "every row hangs together with every other, by a query or an answer: nothing can be held out"
        )
    write(options.train, train)
    write(options.held_out, held_out)
    by = "group" if has_groups(kept) and any(example.group for example in kept) else "query and answer"
    print(f"{options.train}: {len(train)} examples\n{options.held_out}: {len(held_out)} examples, held out by {by}")
    print(f"left out: {removed.exact} exact and {removed.near} near duplicates; merged into others: {removed.merged}")
    return 0


def _refuse_what_is_there(train: Path, held_out: Path) -> None:
    """Before anything is read, so that there is never one file without the other."""
    if train.resolve() == held_out.resolve():
        raise InvalidInput(f"{train}: named for both --train and --held-out")
    for path in (train, held_out):
        if path.exists():
            raise InvalidInput(f"{path}: is there already; remove it, or name another file")
