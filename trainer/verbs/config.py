"""`trainer config`: the settings of a run, as a file to begin with, and as they are resolved."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from trainer.console import say
from trainer.errors import InvalidInput

if TYPE_CHECKING:
    from trainer.settings import Table

HELP = "the settings of a run"
FORMS: Final = ("toml", "yaml", "json")
VERBS: Final = ("finetune", "language")


def add(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(required=True, metavar="VERB", dest="config_verb")
    init = verbs.add_parser("init", help="write a commented file with every setting and its default")
    init.add_argument("--format", choices=FORMS, default="toml", help="the file's form (%(default)s)")
    init.add_argument("--verb", choices=VERBS, default="finetune", help="whose settings (%(default)s)")
    init.add_argument("--out", type=Path, metavar="FILE", help="where to; else to the standard output")
    show = verbs.add_parser("show", help="show every setting with where its value came from")
    show.add_argument("--verb", choices=VERBS, default="finetune", help="whose settings (%(default)s)")
    show.add_argument("--json", action="store_true", help="as JSON")
    settings("finetune").add_flags(show)
    settings("language").add_keys(show, but=settings("finetune").names)


def run(options: argparse.Namespace) -> int:
    return _init(options) if options.config_verb == "init" else _show(options)


def settings(verb: str) -> Table[Any]:
    from trainer.config import SETTINGS as FINETUNE  # noqa: PLC0415  keeps `--help` of all verbs instant
    from trainer.language.config import SETTINGS as LANGUAGE  # noqa: PLC0415

    return LANGUAGE if verb == "language" else FINETUNE


def _init(options: argparse.Namespace) -> int:
    from trainer.config_template import template  # noqa: PLC0415

    text = template(options.format, settings(options.verb))
    if options.out is None:
        print(text, end="")
        return 0
    try:
        with options.out.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError as error:
        raise InvalidInput(f"{options.out}: is there already; remove it, or name another file") from error
    except OSError as error:
        raise InvalidInput(f"{options.out}: {error.strerror}") from error
    say(f"wrote {options.out}: trainer {options.verb} --config {options.out}")
    return 0


def _show(options: argparse.Namespace) -> int:
    resolved = settings(options.verb).resolve_options(options)
    values = resolved.config.model_dump(mode="json")
    if options.json:
        print(json.dumps({key: {"value": value, "source": resolved.sources[key]} for key, value in values.items()}))
        return 0
    width = max(len(key) for key in values)
    for key, value in values.items():
        print(f"{key:{width}}  {json.dumps(value):32}  {resolved.sources[key]}")
    return 0
