"""`trainer publish`: make a model appear on the volume, whole and proven or not at all."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.console import say
from trainer.verbs import publishing

if TYPE_CHECKING:
    from trainer.publish import Plan

HELP = "make a model appear on the volume, whole and proven or not at all"


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", type=Path, metavar="DIR", help="the model's directory, or a training run's output")
    parser.add_argument("model", metavar="NAMESPACE/NAME", help="what it is called, such as finetuned/physics")
    parser.add_argument(
        "--models-dir", type=Path, required=True, metavar="M", help="the volume that the gateway watches"
    )
    parser.add_argument(
        "--replace", action=argparse.BooleanOptionalAction, default=True, help="replace a model of that name"
    )
    parser.add_argument(
        "--version-number",
        type=publishing.version_number,
        metavar="N",
        help="publish as a numbered version of the name; 'next' is one more than the highest",
    )
    parser.add_argument("--base", type=Path, metavar="DIR", help="of an adapter: where its base model is")
    parser.add_argument("--display-name", metavar="TEXT", help="what people see; else made from the name")
    parser.add_argument("--description", metavar="TEXT", help="what the model is for")
    parser.add_argument("--dry-run", action="store_true", help="say what would be copied, and copy nothing")
    parser.add_argument("--json", action="store_true", help="the result as JSON")


def run(options: argparse.Namespace) -> int:
    from trainer.proof import describing  # noqa: PLC0415  keeps `--help` instant

    planned = _plan(options)
    if options.dry_run:
        return _show(planned, options.json)
    asked = options.version_number
    number = int(planned.target.name) if asked else None
    given = {
        "display_name": options.display_name,
        "description": options.description,
        "version": number and str(number),
    }
    done = publishing.publish_showing(
        options.directory,
        options.model,
        options.models_dir,
        version=number,
        replace=options.replace and asked != "next",  # somebody else's next one may have been faster
        describe=describing(options.directory, given, base=options.base, tell=say),
    )
    if options.json:
        told = {"model": done.model, "path": str(done.path), "files": done.files, "bytes": done.bytes}
        print(json.dumps(told | {"replaced": done.replaced}))
    else:
        publishing.tell(done)
    return 0


def _plan(options: argparse.Namespace) -> Plan:
    from trainer.publish import plan  # noqa: PLC0415

    return plan(
        options.directory, options.model, options.models_dir, version=options.version_number, replace=options.replace
    )


def _show(planned: Plan, as_json: bool) -> int:
    """Of a dry run."""
    if as_json:
        told = {"model": planned.model, "path": str(planned.target), "files": [str(path) for path in planned.files]}
        print(json.dumps(told | {"bytes": planned.bytes, "replaces": planned.replaces}))
        return 0
    verb = "would replace" if planned.replaces else "would publish"
    print(f"{verb} {planned.model}: {len(planned.files)} files, {planned.bytes / 1e6:.1f} MB, in {planned.target}")
    for path in planned.files:
        print(f"  {path}  {(planned.directory / path).stat().st_size}")
    return 0
