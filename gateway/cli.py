"""`gateway serve | models | kb | ask | pull | check | keys`. Imports happen inside the verbs: help is instant, and
checks stand alone."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from gateway import __version__, settings

SERVE_HELP = "watch a volume and serve what is on it"
PULL_HELP = "bring a model from a hub to the volume; no gateway need run"
KEYS_HELP = "who may use the gateway; taken up by one that runs, without a restart"
ASK_HELP = "ask a running gateway a question about your documents"
KEYS_SETTINGS = ("state_dir", "keys_file")
PULL_SETTINGS = ("models_dir", "hub_endpoint", "hub_token", "hub_offline", "allow_pickle")


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
    _add_kb(verbs.add_parser("kb", help="knowledge bases: documents in, and what is found in them"))
    _add_pull(verbs.add_parser("pull", help=PULL_HELP, description=PULL_HELP.capitalize() + "."))
    _add_check(verbs.add_parser("check", help="judge a directory on your disk as the gateway would"))
    _add_keys(verbs.add_parser("keys", help=KEYS_HELP, description=KEYS_HELP.capitalize() + "."))
    _add_ask(verbs.add_parser("ask", help=ASK_HELP, description=ASK_HELP.capitalize() + "."))
    return top


def _add_serve(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--examples", action="store_true", help="print calls to try, once the gateway is ready")
    _add_settings(verb, [spec.name for spec in fields(settings.Settings)])
    verb.set_defaults(run=_serve)


def _add_settings(verb: argparse.ArgumentParser, names: Sequence[str]) -> None:
    verb.add_argument("--config", metavar="FILE", help="a TOML file of settings (DROPGATE_CONFIG)")
    for spec in fields(settings.Settings):
        if spec.name not in names:
            continue
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


def _settings(options: argparse.Namespace) -> settings.Settings:
    names = [spec.name for spec in fields(settings.Settings)]
    given = {name: value for name in names if (value := getattr(options, name, None)) is not None}
    return settings.load(given, file=options.config)


def _serve(options: argparse.Namespace) -> int:
    chosen = _settings(options)
    import uvloop  # noqa: PLC0415  # help and errors are instant

    from gateway import life  # noqa: PLC0415  # likewise
    from gateway.examples import show  # noqa: PLC0415  # likewise

    status = 0
    try:
        uvloop.run(life.run(chosen, on_ready=show if options.examples else None))
    except (settings.SettingsError, KeyboardInterrupt):
        raise
    except BaseException as error:  # no matter what: whoever starts gateways anew waits for the end of this one
        sys.excepthook(type(error), error, error.__traceback__)
        status = 1
    sys.stdout.flush()
    os._exit(status)  # all is closed; a thread that still copies must not hold the end up, and the next start sweeps


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
    wait = actions.add_parser("wait", help="wait until what its directory holds is served; else say why not")
    wait.add_argument("model", help="huggingface:<namespace>/<name>")
    wait.add_argument("--inode", type=int, help="of the directory that was put there, not another")
    wait.add_argument("--timeout", type=float, default=300.0, metavar="SECONDS", help="how long (300)")
    back = actions.add_parser("rollback", help="serve an earlier generation until something newer is dropped")
    back.add_argument("model", help="huggingface:<namespace>/<name>")
    back.add_argument("--to", metavar="GENERATION", help="which one; the one before without it")
    verb.set_defaults(run=_models)


def _models(options: argparse.Namespace) -> int:
    from gateway import arrival, remote  # noqa: PLC0415  # likewise

    if options.action == "wait":
        return arrival.run(options.model, url=options.url, inode=options.inode, timeout=options.timeout)
    body = {"to": options.to} if getattr(options, "to", None) else None
    return remote.run(options.action, getattr(options, "model", None), url=options.url, as_json=options.json, body=body)


def _add_kb(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--url", help="the gateway (DROPGATE_URL, default http://127.0.0.1:8001)")
    verb.add_argument("--json", action="store_true", help="the gateway's answer as it is")
    actions = verb.add_subparsers(required=True, metavar="ACTION", dest="action")
    actions.add_parser("list", help="every knowledge base, and how far its index is")
    named = {
        name: actions.add_parser(name, help=text)
        for name, text in {
            "add": "put files and directories in: text, Markdown, HTML, PDF; what is there already is left alone",
            "import": "put a collection of Qdrant in: its texts and metadata; vectors are made anew",
            "show": "one knowledge base in full",
            "search": "the passages that answer a question best",
            "delete": "drop it, or one document of it",
            "reindex": "make its index anew, while the old one answers",
            "evaluate": "how well it finds what questions ask for: by vectors, by words, by both, and reranked",
        }.items()
    }
    for each in named.values():
        each.add_argument("name", help="of the knowledge base")
    named["add"].add_argument("paths", nargs="+", metavar="PATH", help="a file, or a directory with all below it")
    for each in (named["add"], named["import"]):
        each.add_argument("--embedding-model", help="of a base that is made by this; the default model without it")
        each.add_argument("--no-wait", dest="wait", action="store_false", help="return once all is stored")
    named["add"].add_argument(
        "--metadata",
        type=_metadata,
        default={},
        metavar="JSON",
        help="of all these documents, such as '{\"year\": 2024}'",
    )
    where = named["import"].add_mutually_exclusive_group(required=True)
    where.add_argument("--qdrant-url", metavar="URL", help="a server; QDRANT_API_KEY is its key")
    where.add_argument("--qdrant-path", metavar="DIRECTORY", help="what qdrant-client keeps without a server")
    named["import"].add_argument("--collection", required=True)
    named["import"].add_argument("--text-field", default="", help="of the payload; the usual ones are tried without it")
    named["import"].add_argument("--source-field", default="", help="likewise")
    named["delete"].add_argument("--document", help="its name or id")
    named["evaluate"].add_argument(
        "--questions",
        required=True,
        metavar="F.jsonl",
        help='lines such as {"question": "...", "document": "NAME"}, the document being the one that answers',
    )
    named["evaluate"].add_argument("--rerank", metavar="MODEL", help="also with this reranker behind the search")
    named["evaluate"].add_argument("--picture", metavar="F.svg", help="draws what came out, too")
    named["search"].add_argument("query")
    named["search"].add_argument("--limit", type=int, default=5, help="how many passages")
    verb.set_defaults(run=_kb)


def _metadata(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"no JSON: {error}") from error
    if not isinstance(found, dict):
        raise argparse.ArgumentTypeError("expected a JSON object")
    return found


def _kb(options: argparse.Namespace) -> int:
    from gateway import kb  # noqa: PLC0415  # likewise

    return kb.run(options)


def _add_pull(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("model", help="ORG/NAME or ORG/NAME@REVISION")
    verb.add_argument("--url", help="have the gateway there pull it to its own volume, with its own settings")
    verb.add_argument("--json", action="store_true", help="what was pulled as JSON")
    _add_settings(verb, PULL_SETTINGS)
    verb.set_defaults(run=_pull)


def _pull(options: argparse.Namespace) -> int:
    if options.url:
        from gateway import remote  # noqa: PLC0415  # likewise

        return remote.pull(options.model, url=options.url, as_json=options.json)
    chosen = _settings(options)
    from gateway import pull  # noqa: PLC0415  # likewise

    return pull.run(options.model, chosen, as_json=options.json)


def _add_check(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("directory")
    verb.add_argument("--allow-pickle", action="store_true", help="judge as a gateway that serves pytorch_model.bin")
    verb.add_argument("--json", action="store_true", help="the verdict as JSON")
    verb.add_argument("--bases", metavar="DIR", help="a models root, where the base of an adapter is looked for")
    verb.set_defaults(run=_check)


def _check(options: argparse.Namespace) -> int:
    from gateway import check  # noqa: PLC0415  # likewise

    return check.run(options.directory, allow_pickle=options.allow_pickle, as_json=options.json, bases=options.bases)


def _add_keys(verb: argparse.ArgumentParser) -> None:
    actions = verb.add_subparsers(required=True, metavar="ACTION", dest="action")
    _add_create(actions.add_parser("create", help="a new key, shown this once"))
    actions.add_parser("list", help="every key, without its secret")
    rotate = actions.add_parser("rotate", help="a new secret for a key; the old one stays good for a while")
    for action in (
        actions.add_parser("show", help="one key"),
        rotate,
        actions.add_parser("revoke", help="ends a key at once"),
    ):
        action.add_argument("key", help="its name or its id")
    rotate.add_argument("--grace", default="24h", metavar="TIME", help="how long the old secret is good (24h)")
    for action in actions.choices.values():
        action.add_argument("--json", action="store_true", help="the same as JSON")
        _add_settings(action, KEYS_SETTINGS)
    verb.set_defaults(run=_keys)


def _add_create(action: argparse.ArgumentParser) -> None:
    from gateway.tenants.caller import ROLES  # noqa: PLC0415  # likewise

    action.add_argument("name", help="what it is called: letters, digits and ._@-")
    action.add_argument("--tenant", metavar="NAME", help="whose it is; keys of one tenant share its part of a device")
    action.add_argument(
        "--namespaces", default="*", metavar="LIST", help="what it sees: names, team-*, org/*, . for the root (*)"
    )
    action.add_argument("--role", choices=ROLES, default="use", help="use (the default), operate or admin")
    for name, text in {
        "--requests-per-minute": "requests in a minute; 0 is no limit",
        "--tokens-per-minute": "tokens in a minute; 0 is no limit",
        "--concurrency": "requests at once; 0 is no limit",
    }.items():
        action.add_argument(name, type=int, default=0, metavar="N", help=text)


def _keys(options: argparse.Namespace) -> int:
    from gateway.keys import Keys  # noqa: PLC0415  # likewise
    from gateway.tenants.keyring import path  # noqa: PLC0415  # likewise

    return Keys(path(_settings(options)), as_json=options.json).run(options.action, vars(options))


def _add_ask(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("question")
    verb.add_argument("--kb", default="default", metavar="NAME", help="the knowledge base (default)")
    verb.add_argument("--llm", metavar="NAME", help="who answers: extractive, or PROVIDER:MODEL; the gateway's default")
    verb.add_argument("--file", action="append", default=[], metavar="FILE", help="a text to answer from as well")
    verb.add_argument("--no-kb", action="store_true", help="from the files alone, and no knowledge base")
    verb.add_argument("--documents", type=int, default=5, metavar="N", help="passages to answer from (5)")
    verb.add_argument("--url", help="the gateway (DROPGATE_URL, default http://127.0.0.1:8001)")
    verb.add_argument("--json", action="store_true", help="the whole answer as JSON, once it is complete")
    verb.set_defaults(run=_ask)


def _ask(options: argparse.Namespace) -> int:
    from gateway import question  # noqa: PLC0415  # likewise

    body: dict[str, Any] = {
        "query": options.question,
        "knowledge_base": options.kb,
        "use_rag": not options.no_kb,
        "max_documents": options.documents,
    }
    if options.llm:
        body["llm_model"] = options.llm
    try:
        body["files"] = [{"name": os.path.basename(path), "content": _text(path)} for path in options.file]
    except (OSError, UnicodeDecodeError) as error:
        print(
            f"gateway: {getattr(error, 'filename', None) or 'a file'} cannot be read as text: {error}", file=sys.stderr
        )
        return 1
    return question.run(body, url=options.url, as_json=options.json)


def _text(path: str) -> str:
    with open(path, encoding="utf-8") as stream:
        return stream.read()


if __name__ == "__main__":
    sys.exit(main())
