"""`trainer publish`: make a model appear on the volume, whole and proven or not at all."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from trainer.console import progress, say
from trainer.errors import InvalidInput, QualityGate
from trainer.verbs import publishing

if TYPE_CHECKING:
    from trainer.gate import Verdict
    from trainer.publish import Plan

CANDIDATE: Final = "-candidate"

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
    gate = parser.add_argument_group("gate", "publish only what is better than the model that answers for the name now")
    gate.add_argument("--gate", action="store_true", help="else publish beside it as NAME-candidate, and exit with 3")
    gate.add_argument("--data", type=Path, action="append", metavar="F", help="held-out questions with their answers")
    gate.add_argument("--metric", default="mrr@10", metavar="M", help="what is compared; mrr@10 by default")
    gate.add_argument(
        "--margin", type=float, default=0.01, metavar="X", help="the gain that is asked for; 0.01 by default"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be copied, and copy nothing")
    parser.add_argument("--json", action="store_true", help="the result as JSON")


def run(options: argparse.Namespace) -> int:
    from trainer.publish import restore  # noqa: PLC0415  keeps `--help` instant

    if options.dry_run:
        return _show(_plan(options), options.json)
    restore(options.model, options.models_dir)
    planned = _plan(options)
    if not options.gate:
        return _publish(options, {}, verdict=None)
    verdict, fields = _judged(options, planned)
    if verdict is not None and not verdict.passed:
        options.model, options.version_number, options.replace = f"{options.model}{CANDIDATE}", None, True
    return _publish(options, fields, verdict)


def _publish(options: argparse.Namespace, fields: Mapping[str, Any], verdict: Verdict | None) -> int:
    from trainer.proof import describing  # noqa: PLC0415  keeps `--help` instant

    asked = options.version_number
    number = int(_plan(options).target.name) if asked else None
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
        describe=describing(options.directory, given | dict(fields), base=options.base, tell=say),
    )
    if options.json:
        told = {"model": done.model, "path": str(done.path), "files": done.files, "bytes": done.bytes}
        print(json.dumps(told | {"replaced": done.replaced, "gate": verdict and verdict.to_json()}))
    else:
        publishing.tell(done)
    return 0 if verdict is None or verdict.passed else QualityGate.exit_status


def _judged(options: argparse.Namespace, planned: Plan) -> tuple[Verdict | None, Mapping[str, Any]]:
    """Against the model that answers for the name now; nothing where none does."""
    from trainer import gate  # noqa: PLC0415
    from trainer.data.read import read  # noqa: PLC0415
    from trainer.questions import from_examples  # noqa: PLC0415

    if not options.data:
        raise InvalidInput("--gate needs --data: questions that neither model was trained on")
    questions = from_examples(read(options.data).examples)
    live = gate.live_model(options.model, options.models_dir)
    if live is None:
        say(f"trainer: nothing answers for {options.model} yet: there is nothing to be better than")
        return None, {}
    with progress("comparing", "texts") as advance:
        verdict = gate.judge(
            planned.directory, live, questions, metric=options.metric, margin=options.margin, progress=advance
        )
    say(f"trainer: {verdict.line()}")
    return verdict, gate.described(verdict, live)


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
