"""The docs are held to the code. Tables between `<!-- NAME -->` and `<!-- end -->` are made from it; what is written
by hand names no more and no less than there is.

    python -m tests.test_docs --write     makes the tables anew
"""

from __future__ import annotations

import argparse
import ast
import importlib
import pkgutil
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from aiohttp import web

import gateway.web
from gateway import cli, events, settings
from gateway.catalog.entry import Entry
from gateway.catalog.listing import show
from gateway.engine.engine import DeviceState, Residence
from gateway.errors import leaves
from gateway.model import ModelId, Reason
from gateway.telemetry import Metrics
from gateway.volume import architectures, modules, reasons
from gateway.web.errors import status
from tests.clients.environments import ENVIRONMENTS
from trainer import config as trainer_config
from trainer import pairs as trainer_pairs
from trainer.data import fault as trainer_fault
from trainer.language.config import SETTINGS as LANGUAGE

ROOT: Final = Path(__file__).parents[1]
PAGES: Final = sorted({*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "deploy").rglob("*.md")})
BLOCK: Final = re.compile(r"(<!-- ([a-z ]+) -->\n).*?(<!-- end -->)", re.DOTALL)
LINK: Final = re.compile(r"\]\((?!\w+:)([^)#\s]*)(?:#([^)\s]+))?\)")
OLDER: Final = [
    *("MODELS_DIR", "SENTENCE_TRANSFORMERS_HOME", "MODEL_CACHE_SIZE", "HUGGINGFACE_EMBEDDING_MODEL_DEFAULT"),
    "HUGGINGFACE_FINETUNED_EMBEDDING_MODEL",
    *("EMBEDDING_MODEL", "EMBEDDING_DEVICE", "EMBEDDING_DIM", "SERVE_MODEL", "SERVE_HOST", "SERVE_PORT"),
    *("SERVE_DEVICE", "SERVE_NORMALIZE", "SERVE_BATCH_SIZE", "SERVE_CONCURRENCY"),
]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


def code(*words: object) -> str:
    return ", ".join(f"`{word}`" for word in words)


def prose(text: str | None) -> str:
    return " ".join((text or "").split())


def settings_table() -> str:
    rows = [
        (
            code(settings.flag(spec.name)),
            code(*settings.environment_names(spec.name)),
            code("auto" if spec.default is None else str(spec.default).lower() or '""'),
            spec.metadata["help"],
        )
        for spec in fields(settings.Settings)
    ]
    return table(("flag", "variables, the one that wins first", "default", "what it is"), rows)


def routes() -> Iterator[tuple[str, str, str]]:
    """Path, method and promise of every route, as a client writes it."""
    for found in pkgutil.iter_modules(gateway.web.__path__):
        for route in getattr(importlib.import_module(f"gateway.web.{found.name}"), "routes", ()):
            assert isinstance(route, web.RouteDef)
            choices = re.search(r"\{\w+:(\w+(?:\|\w+)+)\}", route.path)
            for choice in choices[1].split("|") if choices else [""]:
                path = route.path.replace(choices[0], choice) if choices else route.path
                yield re.sub(r"\{(\w+):[^}]*\}", r"{\1}", path), route.method, prose(route.handler.__doc__)


def routes_table() -> str:
    return table(
        ("route", "what it does"), ((code(f"{method} {path}"), text) for path, method, text in sorted(routes()))
    )


def verbs(parser: argparse.ArgumentParser, above: str) -> Iterator[tuple[str, str]]:
    """Every command line there is, and what it is for."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):  # argparse has no public way to ask for its verbs
            for choice in action._choices_actions:
                inner = action.choices[choice.dest]
                deeper = list(verbs(inner, f"{above} {choice.dest}"))
                positional = [a.dest.upper() for a in inner._actions if not a.option_strings and not a.choices]
                yield from deeper or [(" ".join([above, choice.dest, *positional]), str(choice.help))]


def commands_table() -> str:
    return table(("command", "what it does"), ((code(line), text) for line, text in verbs(cli.parser(), "gateway")))


def events_table() -> str:
    rows = [
        (
            code(name),
            kind.level,
            "yes" if kind.public else "",
            code(*(field.name for field in msgspec.structs.fields(kind))),
            prose(kind.__doc__),
        )
        for name, kind in sorted(events.kinds().items())
    ]
    return table(("event", "level", "in `GET /events`", "fields", "what happened"), rows)


class TinyEngine:
    """One device that holds one model: enough for every gauge to have a value."""

    def devices(self) -> list[DeviceState]:
        return [DeviceState("cpu", True, 1, 1, 1, 0, 1, 0)]

    def residences(self) -> dict[str, list[Residence]]:
        return {"d": [Residence("d", "cpu", "loaded", 1, 0, False, 0.0)]}


HAPPENED: Final[list[events.Event]] = [
    events.RequestFinished(
        request_id="r", method="POST", route="/embed", status=200, seconds=0, model="m", texts=1, code="c"
    ),
    events.RequestFinished(
        request_id="r", method="POST", route="/embed", status=200, seconds=0, alias="a", arm="canary"
    ),
    events.DeviceCall(device="cpu", generation="d", models=(), texts=1, tokens=1, padded_tokens=1, seconds=0),
    events.GenerationLoaded(generation="d", models=(), device="cpu", bytes=1, seconds=0),
    events.GenerationUnloaded(generation="d", models=(), device="cpu", bytes=1, why="evicted", idle_seconds=0),
    events.LoadFailed(generation="d", models=(), device="cpu", code="c", message="", retry_after=0),
    events.HostExited(device="cpu", pid=1, status=0, why="w"),
    events.ModelRejected(model="m", reasons=(Reason("c", "invalid", "", ""),)),
    events.AuditLost(lines=1, message=""),
    events.PullFailed(model="m", code="c", message=""),
    events.VolumeScanned(why="hint", directories=0, files=0, unsettled=0, seconds=0),
]


def metrics_table() -> str:
    metrics = Metrics(TinyEngine(), lambda digest: ("m",))  # type: ignore[arg-type]  # it asks for these two alone
    for event in HAPPENED:
        metrics(event)
    rows = []
    for metric in metrics.registry.collect():
        labels = sorted({label for sample in metric.samples for label in sample.labels} - {"le"})
        name = metric.name + ("_total" if metric.type == "counter" else "")
        rows.append((code(name), metric.type, code(*labels), metric.documentation))
    return table(("metric", "type", "labels", "what it counts"), rows)


def reasons_table() -> str:
    rows = [(code(name), kind, remedy.format(file="FILE")) for name, (kind, remedy) in sorted(reasons.REASONS.items())]
    return table(("code", "kind", "remedy"), rows)


def architectures_table() -> str:
    plain = sorted(name for name, family in architectures.FAMILIES.items() if not family.decoder)
    decoders = sorted(name for name, family in architectures.FAMILIES.items() if family.decoder)
    rerankers = ("reranker", code(*sorted(architectures.RERANKERS)))
    rows = [("encoder", code(*plain)), ("decoder", code(*decoders)), rerankers]
    return table(("as", "`model_type` in `config.json`"), rows)


def modules_table() -> str:
    rows = [
        ("class", code(*modules.HOMES)),
        ("pooling mode", code(*modules.MODES)),
        ("activation of a `Dense`, or of a reranker", code("Identity", *sorted(modules.ACTIVATIONS))),
    ]
    return table(("part of `modules.json`", "served"), rows)


def clients_table() -> str:
    """What `make test-clients` runs, with the versions of its locks."""
    head = ("client", "verified with")
    return table(
        head,
        (
            (code(name), ", ".join(f"{package} {version}" for package, version in environment.versions.items()))
            for name, environment in sorted(ENVIRONMENTS.items())
        ),
    )


def trainer_settings_table(settings: Any = trainer_config.SETTINGS) -> str:
    rows = [
        (
            code(f"--{key.replace('_', '-')}"),
            settings.group(key),
            code(*settings.older(key)),
            trainer_default(field.default),
            str(field.description),
        )
        for key, field in settings.kind.model_fields.items()
    ]
    return table(("flag", "group", "older names", "default", "what it is"), rows)


def trainer_default(value: Any) -> str:
    if value in (None, (), ""):
        return ""
    return code(str(value).lower() if isinstance(value, bool) else value)


def faults_table() -> str:
    kinds = (("file", trainer_fault.FILE_FAULTS), ("row", trainer_fault.ROW_FAULTS))
    return table(
        ("code", "of a", "what it is"), ((code(name), of, text) for of, all in kinds for name, text in all.items())
    )


def refusals_table() -> str:
    return table(("reason", "what it is"), ((code(name), text) for name, text in trainer_pairs.REFUSALS.items()))


MADE: Final[dict[str, Callable[[], str]]] = {
    "settings": settings_table,
    "routes": routes_table,
    "commands": commands_table,
    "events": events_table,
    "metrics": metrics_table,
    "reasons": reasons_table,
    "architectures": architectures_table,
    "modules": modules_table,
    "clients": clients_table,
    "trainer settings": trainer_settings_table,
    "language settings": lambda: trainer_settings_table(LANGUAGE),
    "faults": faults_table,
    "refusals": refusals_table,
}


def with_tables(page: str) -> str:
    """The page, its tables made anew; those that are written by hand stay."""
    return BLOCK.sub(lambda found: found[1] + MADE[found[2]]() + found[3] if found[2] in MADE else found[0], page)


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def block(name: str, title: str) -> str:
    """The part of a page between two markers."""
    return page(name).partition(f"<!-- {title} -->\n")[2].partition("<!-- end -->")[0]


def rows(text: str) -> list[list[str]]:
    """The cells of a table, without its head."""
    lines = [line for line in text.splitlines() if line.startswith("|")][2:]
    return [[cell.strip().strip("`") for cell in line.strip("|").split(" | ")] for line in lines]


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def anchors(path: Path) -> set[str]:
    return {slug(found) for found in re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)}


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("docs/api.md", "routes"),
        ("docs/settings.md", "settings"),
        ("docs/operations.md", "commands"),
        ("docs/operations.md", "events"),
        ("docs/operations.md", "metrics"),
        ("docs/model-directory.md", "reasons"),
        ("docs/model-directory.md", "architectures"),
        ("docs/model-directory.md", "modules"),
        ("docs/clients.md", "clients"),
        ("docs/training.md", "trainer settings"),
        ("docs/training-language-models.md", "language settings"),
        ("docs/training-data.md", "faults"),
        ("docs/training-data.md", "refusals"),
    ],
)
def test_a_table_says_what_the_code_says(name: str, title: str) -> None:
    assert block(name, title) == MADE[title](), "python -m tests.test_docs --write makes it anew"


def test_every_error_is_documented_with_its_status() -> None:
    documented = {(code, status) for code, status, *_ in rows(block("docs/api.md", "errors"))}
    assert documented == {(name, str(status(kind(name)))) for name, kind in leaves().items()}


def test_every_field_of_a_model_is_documented() -> None:
    documented = [field for field, *_ in rows(block("docs/api.md", "model fields"))]
    assert documented == list(show(Entry(ModelId("finetuned", "physics")), {}))


def test_the_older_names_of_settings_are_documented() -> None:
    text = block("docs/settings.md", "settings")
    assert [name for name in OLDER if f"`{name}`" not in text] == []


def notices() -> Iterator[str]:
    """The code of every notice that the gateway's source emits."""
    for path in (ROOT / "gateway").rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "events.Notice":
                yield from (str(ast.literal_eval(word.value)) for word in call.keywords if word.arg == "code")


def test_every_notice_is_documented() -> None:
    assert [name for name, _ in rows(block("docs/operations.md", "notices"))] == sorted(set(notices()))


def test_every_reason_says_who_can_heal_it() -> None:
    documented = {name: kind for name, kind, _ in rows(block("docs/model-directory.md", "reasons"))}
    assert documented == reasons.codes()


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_somewhere(path: Path) -> None:
    dead: list[Any] = []
    for file, anchor in LINK.findall(path.read_text(encoding="utf-8")):
        target = (path.parent / file).resolve() if file else path
        if not target.exists() or (anchor and anchor not in anchors(target)):
            dead.append((file, anchor))
    assert dead == []


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        path = waiting.pop()
        if path in reached or path.suffix != ".md":
            continue
        reached.add(path)
        links = LINK.findall(path.read_text(encoding="utf-8"))
        waiting += [(path.parent / file).resolve() for file, _ in links if file]
    assert [path for path in sorted((ROOT / "docs").rglob("*.md")) if path not in reached] == []


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit(__doc__)
    for path in PAGES:
        path.write_text(with_tables(path.read_text(encoding="utf-8")), encoding="utf-8")
