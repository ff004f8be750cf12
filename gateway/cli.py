"""`gateway serve | models | check`. Imports happen inside the verbs: help is instant, and a check needs no server."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from gateway import __version__, settings

SERVE_HELP = "watch a volume and serve what is on it"


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 1 failed or rejected, 2 wrong usage or setting."""
    options = parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except settings.SettingsError as error:
        print(f"gateway: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="gateway", description="Drop a model directory onto a volume, and it serves.")
    top.add_argument("--version", action="version", version=f"dropgate {__version__}")
    verbs = top.add_subparsers(required=True, metavar="VERB")
    _add_serve(verbs.add_parser("serve", help=SERVE_HELP, description=SERVE_HELP.capitalize() + "."))
    _add_models(verbs.add_parser("models", help="what a running gateway serves, and operating it"))
    _add_check(verbs.add_parser("check", help="judge a directory on your disk as the gateway would"))
    return top


def _add_serve(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--config", metavar="FILE", help="a TOML file of settings (DROPGATE_CONFIG)")
    verb.add_argument("--examples", action="store_true", help="print calls to try, once the gateway is ready")
    for spec in fields(settings.Settings):
        switch: dict[str, Any] = {}
        if spec.metadata["parse"] in {"switch", "maybe"}:
            switch = {"nargs": "?", "const": "true"}
        verb.add_argument(
            settings.flag(spec.name),
            dest=spec.name,
            metavar=spec.metadata["parse"].upper(),
            help=f"{spec.metadata['help']} ({', '.join(settings.environment_names(spec.name))})".replace("%", "%%"),
            **switch,
        )
    verb.set_defaults(run=_serve)


def _serve(options: argparse.Namespace) -> int:
    given = {
        spec.name: value for spec in fields(settings.Settings) if (value := getattr(options, spec.name)) is not None
    }
    chosen = settings.load(given, file=options.config)
    import uvloop  # noqa: PLC0415  # help and errors are instant

    from gateway import app  # noqa: PLC0415  # likewise
    from gateway.examples import show  # noqa: PLC0415  # likewise

    uvloop.run(app.run(chosen, on_ready=show if options.examples else None))
    sys.stdout.flush()
    os._exit(0)  # all is closed; a thread that still copies a model must not hold the end up, and the next start sweeps


def _add_models(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--url", help="the gateway (DROPGATE_URL, default http://127.0.0.1:8001)")
    verb.add_argument("--json", action="store_true", help="the gateway's answer as it is")
    actions = verb.add_subparsers(required=True, metavar="ACTION", dest="action")
    actions.add_parser("list", help="every directory seen, with its state")
    for name, text in {
        "show": "one model in full",
        "load": "load it now; a failure before is forgotten",
        "unload": "free its device memory when its last request has ended",
        "pin": "load it now and never evict it",
        "unpin": "let it be evicted again",
    }.items():
        actions.add_parser(name, help=text).add_argument("model", help="huggingface:<namespace>/<name>")
    verb.set_defaults(run=_models)


def _models(options: argparse.Namespace) -> int:
    from gateway import remote  # noqa: PLC0415  # likewise

    return remote.run(options.action, getattr(options, "model", None), url=options.url, as_json=options.json)


def _add_check(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("directory")
    verb.add_argument("--allow-pickle", action="store_true", help="judge as a gateway that serves pytorch_model.bin")
    verb.add_argument("--json", action="store_true", help="the verdict as JSON")
    verb.set_defaults(run=_check)


def _check(options: argparse.Namespace) -> int:
    from gateway import check  # noqa: PLC0415  # likewise

    return check.run(options.directory, allow_pickle=options.allow_pickle, as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
