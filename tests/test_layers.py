"""The reading order: a module imports only what stands above it, and each concern has one home."""

from __future__ import annotations

import ast
import re
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[1]

# docs/architecture.md shows this order, folder by folder.
ORDER: Final = [
    *("errors", "wish", "shares", "model", "events", "parsing", "settings", "atomic", "lane", "heap"),
    *("tenants.caller", "tenants.keys", "tenants.limits", "tenants.keyring", "tenants.audit"),
    *("tenants.usage",),
    *("volume.reasons", "volume.files", "volume.documents", "volume.mounts", "volume.directory", "volume.source"),
    *("volume.root", "volume.writers", "volume.sums", "volume.evidence", "volume.settle", "volume.checks"),
    *("volume.watch", "volume.volume", "volume.follower"),
    *("volume.pickles", "volume.weights", "volume.networks", "volume.quantized", "volume.architectures"),
    *("volume.transformer", "volume.tokenizer"),
    *("volume.prompts", "volume.modules", "volume.heads", "volume.tables", "volume.bases"),
    *("volume.patterns", "volume.adapters", "volume.fitting"),
    *("volume.conversation", "volume.overlay", "volume.metadata", "volume.manifest"),
    *("volume.pagecache", "volume.nesting", "volume.record", "volume.copying", "volume.generations"),
    *("volume.objects", "volume.outline", "volume.parts", "volume.proofs", "volume.bucket", "volume.thin"),
    *("volume.order", "volume.selection", "volume.staging", "volume.hub", "volume.pull", "volume.pulls"),
    *("host.wire", "host.link", "host.recorder", "host.panic", "host.offline", "host.library", "host.cuda"),
    *("host.threads", "host.memory", "host.pooling", "host.tensors", "host.stages"),
    *("host.linear", "host.segments", "host.planes", "host.blocks", "host.attention", "host.blueprint"),
    *("host.lora", "host.stacks", "host.branches", "host.mixed", "host.bert"),
    *("host.crew", "host.native", "host.factors", "host.padded", "host.frame", "host.reranker"),
    *("host.wordpieces", "host.excerpt", "host.tokenize", "host.pairs", "host.spelling", "host.arena"),
    *("host.flash", "host.forms", "host.graphs"),
    *("host.kv", "host.sampling", "host.generator", "host.likelihoods", "host.prose", "host.causal", "host.chat"),
    *("host.staging", "host.launcher", "host.encoder", "host.shelf", "host.precision", "host.openvino_runtime"),
    "host.quantized",
    *("host.runtimes", "host.slot", "host.failures", "host.pace", "host.tier", "host.pool", "host.fair"),
    *("host.talk", "host.speaker"),
    *("host.backlog", "host.work", "host.halving", "host.adapted", "host.batcher", "host.turns", "host.device"),
    *("host.loader", "host.adapters", "host.reports"),
    *("host.host", "host.__main__"),
    *(
        "engine.engine",
        "engine.through",
        "engine.fetching",
        "engine.placement",
        "engine.devices",
        "engine.quarantine",
        "engine.refusals",
        "engine.costs",
        "engine.demand",
        "engine.routing",
        "engine.commands",
        "engine.supervisor",
        "engine.sites",
        "engine.replicas",
        "engine.process",
    ),
    *("cluster.messages", "cluster.keeps", "cluster.stock", "cluster.replica", "cluster.sight", "cluster.engine"),
    *("cluster.router", "cluster.scaling", "cluster.fleet", "cluster.extra"),
    *(
        "catalog.ledger",
        "catalog.golden",
        "catalog.entry",
        "catalog.changes",
        "catalog.recall",
        "catalog.retention",
        "catalog.holdings",
        "catalog.disk",
    ),
    *(
        "catalog.aliases",
        "catalog.alias_edit",
        "catalog.alias_file",
        "catalog.bucket_aliases",
        "catalog.names",
        "catalog.sight",
        "catalog.lookup",
        "catalog.listing",
    ),
    *("catalog.warm", "catalog.trial", "catalog.judge", "catalog.catalog", "catalog.view"),
    *("runs.foreign", "runs.curves", "runs.scores", "runs.links", "runs.places", "runs.record", "runs.runs"),
    *("ask.passage", "ask.store", "ask.fusion", "ask.labels", "ask.looks"),
    *("ask.durable", "ask.forkless", "ask.columns", "ask.tables", "ask.registry", "ask.claims", "ask.archive"),
    *("ask.lance_index", "ask.words", "ask.postings", "ask.resident", "ask.memory", "ask.copies", "ask.lance"),
    *("ask.extra", "ask.qdrant"),
    *("ask.text", "ask.chunks", "ask.formats", "ask.parse", "ask.parser", "ask.cutting"),
    *("requests", "asked", "service", "log", "telemetry", "activity", "history", "tracing"),
    *("ask.first_use", "ask.heartbeat", "ask.holds", "ask.embedding", "ask.retrieval", "ask.bases"),
    *("ask.rebuild", "ask.probe", "ask.move", "ask.follow"),
    *("ask.intake", "ask.backlog", "ask.indexing", "ask.ingest", "ask.drops", "ask.watched", "ask.knowledge"),
    *(
        "ask.providers",
        "ask.breaker",
        "ask.retries",
        "ask.frames",
        "ask.specs",
        "ask.offer",
        "ask.places",
        "ask.upstream",
        "ask.phrasing",
        "ask.registrar",
        "ask.setbacks",
        "ask.annex",
        "ask.elsewhere",
        "ask.local",
        "ask.roster",
    ),
    *("ask.sentences", "ask.grounds", "ask.citations", "ask.extractive", "ask.prompt", "ask.question", "ask.answer"),
    *(
        "web.answers",
        "web.contract",
        "web.errors",
        "web.tracing",
        "web.body",
        "web.vectors",
        "web.asking",
        "web.cors",
        "web.auth",
        "web.audit",
        "web.native",
        "web.openai",
        "web.sse",
        "web.ask",
        "web.chat",
        "web.completions",
        "web.rerank",
        "web.tei_bodies",
        "web.tei",
        "web.ollama",
        "web.ollama_talk",
        "web.triton",
        "web.openapi",
        "web.pull",
        "web.uploads",
        "web.knowledge",
        "web.older_knowledge",
        "web.stream",
        "web.live",
        "web.console",
        "web.health",
        "web.runs",
        "web.metrics",
        "web.usage",
        "web.server",
    ),
    *("app", "life", "examples", "check", "pull", "remote", "arrival", "evaluate"),
    *("kb", "question", "keys", "cli", "__main__"),
]
TRAINER_ORDER: Final = [
    *(
        "errors",
        "console",
        "run",
        "exchange",
        "staging",
        "output",
        "printable",
        "quiet",
        "config_file",
        "settings",
        "config",
        "config_template",
    ),
    *(
        "data.example",
        "data.fault",
        "data.normal",
        "data.near",
        "data.lengths",
        "data.split",
        "data.lines",
        "data.shapes",
        "data.rows",
        "data.read",
        "data.dialogue",
        "data.duplicates",
        "data.leakage",
        "data.statistics",
        "data.talks",
        "data.write",
        "data.check",
    ),
    *(
        "contents",
        "metadata",
        "lineage",
        "openvino_files",
        "openvino_network",
        "openvino_model",
        "sizes",
        "reload",
        "golden",
        "bases",
        "hardware",
        "modelling",
    ),
    *("questions", "scores", "bootstrap", "comparison", "limits", "evaluate", "texts", "drift", "remote", "tables"),
    *("data.beir",),
    *("language.config",),
    *(
        "lora",
        "losses",
        "mining",
        "plan",
        "checkpoints",
        "best",
        "stopping",
        "journal",
        "standing",
        "material",
        "record",
        "charts",
        "report_style",
        "report",
        "picture",
        "card",
    ),
    *(
        "language.speaker",
        "language.encoding",
        "language.golden",
        "language.job",
        "language.material",
        "language.plan",
        "language.measure",
        "language.merging",
    ),
    *("following", "arguments", "loop", "proof", "merge", "final", "train"),
    *("language.loop", "language.outcome", "language.task", "language.info", "language.final", "language.train"),
    *("forms", "quantize", "publish", "gate", "aliases", "hub", "pull"),
    *("documents", "endpoint", "pairs", "book", "qa"),
    *(
        "verbs.publishing",
        "verbs.config",
        "verbs.data",
        "verbs.qa",
        "verbs.mine",
        "verbs.finetune",
        "verbs.evaluate",
        "verbs.merge",
        "verbs.quantize",
        "verbs.publish",
        "verbs.alias",
        "verbs.push",
        "verbs.pull",
        "verbs.runs",
        "verbs.report",
        "verbs.language",
    ),
    *("cli", "__main__"),
]
THREADS: Final = {"threading", "_thread", "concurrent", "multiprocessing"}


def modules(package: str) -> dict[str, ast.Module]:
    """Name below the package -> its syntax; packages themselves, which are empty, left out."""
    paths = sorted(path for path in (ROOT / package).rglob("*.py") if path.name != "__init__.py")
    named = {".".join(path.relative_to(ROOT / package).with_suffix("").parts): path for path in paths}
    return {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in named.items()}


GATEWAY: Final = modules("gateway")
TRAINER: Final = modules("trainer")
programs: Final = pytest.mark.parametrize(
    ("program", "order", "modules"),
    [("gateway", ORDER, GATEWAY), ("trainer", TRAINER_ORDER, TRAINER)],
    ids=["gateway", "trainer"],
)


def imports(tree: ast.Module) -> Iterator[str]:
    """Every dotted name that is imported anywhere in a module, in its functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def importers(*libraries: str) -> set[str]:
    """The gateway's modules that import one of these top-level names."""
    wanted = set(libraries)
    return {name for name, tree in GATEWAY.items() if wanted & {found.partition(".")[0] for found in imports(tree)}}


def readers_of_the_environment() -> set[str]:
    """Modules that read `os.environ` or call `getenv`; an assignment to a variable is no reading."""
    found = set()
    for name, tree in GATEWAY.items():
        assigned = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Subscript) and is_written(node)}
        for node in ast.walk(tree):
            named = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
            if named in {"environ", "environb", "getenv"} and id(node) not in assigned:
                found.add(name)
    return found


def is_written(node: ast.Subscript) -> bool:
    return isinstance(node.ctx, ast.Store)


def own(name: str, known: Container[str]) -> str | None:
    """The module of ours that an imported name means: `gateway.host.wire.Options` is `host.wire`."""
    parts = name.split(".")[1:]
    return next((found for end in range(len(parts), 0, -1) if (found := ".".join(parts[:end])) in known), None)


@programs
def test_the_reading_order_has_every_module_once(
    program: str, order: list[str], modules: dict[str, ast.Module]
) -> None:
    assert sorted(order) == sorted(modules)


@programs
def test_a_module_imports_only_what_stands_above_it(
    program: str, order: list[str], modules: dict[str, ast.Module]
) -> None:
    place = {name: index for index, name in enumerate(order)}
    upward = [
        f"{name} imports {target}"
        for name, tree in modules.items()
        for target in {own(found, modules) for found in imports(tree) if found.startswith(f"{program}.")} - {None}
        if place[str(target)] >= place[name]
    ]
    assert upward == []


@programs
def test_the_architecture_page_shows_the_same_order(
    program: str, order: list[str], modules: dict[str, ast.Module]
) -> None:
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    rows = re.findall(rf"^\| `{program}/(\w*)/?` \| ((?:`\w+`,? ?)+)\|", page, re.MULTILINE)
    shown = [f"{folder}.{name}".lstrip(".") for folder, names in rows for name in re.findall(r"`(\w+)`", names)]
    assert shown == order


def test_only_hosts_import_torch_and_transformers() -> None:
    found = importers("torch", "transformers", "safetensors", "tokenizers", "sentence_transformers")
    assert found, "the hosts do"
    assert {name.partition(".")[0] for name in found} == {"host"}


def test_only_the_edge_speaks_http() -> None:
    # a provider elsewhere is spoken to over HTTP too, by aiohttp's client: the one that is there already
    clients = {"ask.offer", "ask.upstream", "ask.registrar", "ask.roster"}
    assert {name.partition(".")[0] for name in importers("aiohttp") - clients} == {"app", "life", "web"}


def test_only_one_module_knows_the_hub() -> None:
    assert importers("huggingface_hub", "httpx2") == {"volume.hub"}


def test_only_the_store_of_knowledge_bases_knows_lancedb() -> None:
    assert importers("lancedb") == {"ask.forkless"}
    store = ("columns", "tables", "lance_index", "words", "postings", "resident", "memory", "lance")
    assert importers("pyarrow") == {f"ask.{name}" for name in store}


def test_only_one_module_knows_qdrant() -> None:
    assert importers("qdrant_client") == {"ask.qdrant"}


def test_only_three_modules_know_ray() -> None:
    assert importers("ray") == {"cluster.router", "cluster.scaling", "cluster.fleet"}


def test_only_one_module_knows_the_clients_of_buckets() -> None:
    assert importers("boto3", "botocore", "urllib3") == {"volume.objects"}


def test_only_one_module_knows_opentelemetry() -> None:
    assert importers("opentelemetry") == {"tracing"}


def test_only_lanes_start_threads() -> None:
    assert importers(*THREADS) == {"lane"}


def test_only_settings_read_the_environment() -> None:
    # `gateway models` is a client: it is told of its gateway by DROPGATE_URL, and has none of the server's settings
    assert readers_of_the_environment() == {"settings", "remote"}


def test_gateway_and_trainer_share_no_code() -> None:
    assert [name for name, tree in TRAINER.items() for found in imports(tree) if found.startswith("gateway")] == []
    assert importers("trainer") == set()
