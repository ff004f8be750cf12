"""`trainer alias`: which model answers for a name: point it, try a canary, promote it, roll back."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trainer.aliases import Alias

HELP = "say which model answers for a name: point it, try a canary, promote, roll back"
STEPS = {
    "set": "point the alias to a model; the one before stays ready",
    "canary": "give a share of the clients another model",
    "promote": "give everybody the canary; the one before stays ready",
    "rollback": "take the canary away, or go back to the one before",
}


def add(parser: argparse.ArgumentParser) -> None:
    steps = parser.add_subparsers(required=True, metavar="STEP", dest="step")
    for name, help in STEPS.items():
        step = steps.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}.")
        step.add_argument("alias", metavar="ALIAS", help="such as prod/physics")
        if name in {"set", "canary"}:
            asked = {"nargs": "?"} if name == "canary" else {}
            step.add_argument("model", metavar="MODEL", help="such as finetuned/physics/4", **asked)  # type: ignore[arg-type]
        if name == "canary":
            step.add_argument("--share", type=_share, required=True, help="of the clients, such as 10%% or 0.1")
        _add_common(step)
    _add_common(steps.add_parser("show", help="all aliases", description="All aliases."))


def _add_common(step: argparse.ArgumentParser) -> None:
    step.add_argument("--models-dir", type=Path, required=True, metavar="M", help="the volume that the gateway watches")
    step.add_argument("--json", action="store_true", help="the result as JSON")


def _share(text: str) -> float:
    from trainer.aliases import parse_share  # noqa: PLC0415  keeps `--help` instant

    try:
        return parse_share(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def run(options: argparse.Namespace) -> int:
    from trainer import aliases  # noqa: PLC0415  keeps `--help` instant

    if options.step == "show":
        found = aliases.read(options.models_dir)
    else:
        changed = aliases.change(options.models_dir, options.alias, _how(options))
        found = {aliases.checked_name(options.alias): changed}
    if options.json:
        print(json.dumps({name: alias.value() for name, alias in found.items()}))
    else:
        for name, alias in found.items():
            print(f"{name} -> {alias}")
    return 0


def _how(options: argparse.Namespace) -> Callable[[Alias | None], Alias]:
    from trainer import aliases  # noqa: PLC0415
    from trainer.errors import InvalidInput  # noqa: PLC0415

    model = aliases.checked_name(options.model) if getattr(options, "model", None) else None
    if options.step == "set" and model is not None:
        return lambda alias: aliases.pointed(alias, model)

    def known(alias: Alias | None) -> Alias:
        if alias is None:
            raise InvalidInput(f"there is no alias {options.alias!r}; make it: trainer alias set")
        return alias

    if options.step == "canary":
        return lambda alias: aliases.with_canary(known(alias), model, options.share)
    if options.step == "promote":
        return lambda alias: aliases.promoted(known(alias))
    return lambda alias: aliases.rolled_back(known(alias))
