"""The one place where the parts are put together.

A background task that fails ends the process with its exception: a gateway that looks alive and follows nothing is
worse than one that restarts.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec
from aiohttp import web

from gateway import events, heap
from gateway.activity import Activity
from gateway.ask import extra
from gateway.ask.answer import Answerer
from gateway.ask.elsewhere import Elsewhere
from gateway.ask.first_use import FirstUse
from gateway.ask.holds import Holds
from gateway.ask.knowledge import Knowledge
from gateway.ask.roster import Roster
from gateway.catalog.bucket_aliases import BucketAliasFile
from gateway.catalog.catalog import Catalog
from gateway.catalog.disk import Disk
from gateway.catalog.warm import Warm
from gateway.cluster import extra as cluster
from gateway.cluster.engine import RayEngine
from gateway.engine.engine import Engine
from gateway.engine.fetching import Fetching
from gateway.engine.process import ProcessEngine
from gateway.engine.supervisor import HOST_COMMAND, HostProcess
from gateway.history import History
from gateway.model import Generation, ModelId
from gateway.parsing import BUCKET
from gateway.runs.runs import Runs
from gateway.service import Service
from gateway.settings import Settings
from gateway.telemetry import Metrics
from gateway.tenants.audit import Audit, AuditFile
from gateway.tenants.keyring import Keyring
from gateway.tenants.usage import Keeper, Usage, UsageFile
from gateway.tracing import Tracer
from gateway.volume.bucket import BucketVolume
from gateway.volume.directory import Directory
from gateway.volume.follower import Follower
from gateway.volume.generations import Store
from gateway.volume.pulls import Pulls
from gateway.volume.settle import Snapshot
from gateway.volume.volume import Volume
from gateway.web import (
    ask,
    asking,
    audit,
    auth,
    body,
    chat,
    completions,
    console,
    cors,
    errors,
    health,
    knowledge,
    live,
    metrics,
    native,
    older_knowledge,
    ollama,
    ollama_talk,
    openai,
    openapi,
    pull,
    rerank,
    runs,
    stream,
    tei,
    tracing,
    triton,
    usage,
)
from gateway.wish import Wish

TIDY_SECONDS: Final = 5.0
PROTOCOLS: Final = (
    *(metrics, usage, stream, health, runs, live, console),
    *(pull, older_knowledge, knowledge),  # the fixed paths of the older before names
    *(native, ask, openai, chat, completions, rerank, tei, ollama, ollama_talk, triton, openapi),
)
DIALECTS: Final = (
    rerank.DIALECT,
    openai.DIALECT,
    tei.OPENAI_DIALECT,
    tei.DIALECT,
    ollama.DIALECT,
    triton.DIALECT,
)  # the first that is spoken on a path counts


class Gateway:
    """Everything that lives as long as the process, with a host on each of `devices`; `group` owns its tasks. Without a
    `volume` it is the directory that the settings name."""

    def __init__(
        self,
        settings: Settings,
        devices: Sequence[str],
        tell: events.Events,
        group: asyncio.TaskGroup,
        *,
        keyring: Keyring,
        volume: Volume | None = None,
        roster: Roster | None = None,
        audit_file: AuditFile | None = None,
        tracer: Tracer | None = None,
        host_command: Sequence[str] = HOST_COMMAND,
    ) -> None:
        self.settings = settings
        self.roster = roster or Roster({})
        self.events = tell
        self._tracer = tracer
        self._wishes = settings.wishes
        self._shares = settings.shares
        self._group = group
        self._tasks: set[asyncio.Task[None]] = set()
        self._store = Store(
            settings.state_dir,
            allow_pickle=settings.allow_pickle,
            copy_budget=settings.copy_budget,
            in_place=settings.serve_in_place,
            elsewhere=volume if isinstance(volume, BucketVolume) else None,
        )
        self.hosts = [
            HostProcess(
                device,
                msgspec.json.encode({"device": device, **_host_settings(settings)}),
                tell,
                hang_timeout=settings.hang_timeout,
                load_timeout=settings.load_timeout,
                command=host_command,
            )
            for device in devices
        ]
        self._annexes = self.roster.annexes(tell, self._owners_of, self._has_looked)
        self._cluster = self._join(host_command) if settings.engine == "ray" else None
        local = self._cluster or ProcessEngine(
            self.hosts,
            tell,
            names=self._models_of,
            predict=self._bytes,
            limit=settings.max_loaded_models,
            replicas=settings.max_replicas,
            wish=self._wish,
            weight=self._weight,
        )
        self.engine: Engine = Elsewhere(local, self._annexes) if self._annexes else local
        self.disk: Disk | None = None
        if isinstance(volume, BucketVolume) and settings.disk_budget:
            self.disk = Disk(
                volume,
                self._store,
                tell,
                budget=settings.disk_budget,
                sources=self._sources,
                needed=lambda: local.residences().keys() | self.catalog.needed(),
                names=self._models_of,
                spawn=self.spawn,
            )
            self.engine = Fetching(self.engine, self.disk)
        self.follower = Follower(settings, tell, self._served, self._reconcile, volume)
        self.catalog = Catalog(
            settings,
            self._store,
            self.engine,
            tell,
            spawn=self.spawn,
            look_again=self.follower.look_again,
            volume=volume,
            alias_file=BucketAliasFile(volume, settings.state_dir) if isinstance(volume, BucketVolume) else None,
        )
        pulls = Pulls(settings, tell, spawn=self.spawn, look_again=self.follower.look_again)
        self.service = Service(self.catalog, self.engine, pulls, settings)
        self.knowledge = self._knowledge()
        self.answerer = Answerer(self.service, self.knowledge.bases, self.roster)
        self.keyring = keyring
        self.warm = Warm(
            settings,
            self.engine,
            tell,
            find=self.service.find,
            names=self._models_of,
            predict=self._bytes,
        )
        self.audit = Audit(audit_file, tell) if audit_file else None
        self.usage = Usage(self._is_there)
        self.keeper = Keeper(self.usage, UsageFile(settings.state_dir), tell)
        self.metrics = Metrics(self.engine, self.catalog.models_of, self.usage, self.catalog.count)
        self.metrics.knowledge_bytes.set_function(self.knowledge.memory_bytes)
        self.activity = Activity(self.engine, self._models_of)
        self.history = History(self.engine)
        self.runs = Runs(settings)
        self.stopping = asyncio.Event()
        tell.subscribe(self.metrics)
        tell.subscribe(self.history)
        tell.subscribe(self.usage)
        tell.subscribe(self.activity)
        tell.subscribe(self._check_dimension)
        tell.subscribe(_tidy)

    def _join(self, host_command: Sequence[str]) -> RayEngine:
        return cluster.engine(
            self.settings,
            self.events,
            _host_settings(self.settings),
            host_command,
            names=self._models_of,
            sources=self._owners_of,
            predict=self._bytes,
            wish=self._wish,
            weight=self._weight,
        )

    def _knowledge(self) -> Knowledge:
        holds = Holds(self.settings.state_dir)
        self.catalog.hold(holds.digests)
        place = _knowledge_place(self.settings)
        cache = os.path.join(self.settings.state_dir, "knowledge-cache")
        memory = self.settings.knowledge_memory
        opened = FirstUse(lambda: extra.store(place, cache, memory=memory), lambda: _is_worth_opening(place))
        return Knowledge(self.service, opened, holds, self.events, self.spawn)

    # The catalog needs the engine and the follower, and they need it: they ask through these.

    def _models_of(self, digest: str) -> tuple[str, ...]:
        return self.catalog.models_of(digest)

    def _owners_of(self, digest: str) -> tuple[str, ...]:
        return self.catalog.owners(digest)

    def _sources(self) -> Mapping[str, Directory]:
        return self.catalog.sources()

    def _has_looked(self) -> bool:
        return self.catalog.judged.is_set()

    def _wish(self, generation: Generation) -> Wish:
        return self._wishes.of(self.catalog.owners(generation.digest), generation.manifest.wish)

    def _bytes(self, generation: Generation) -> int:
        """On a device; where the host has yet to choose the number format, the widest. OpenVINO keeps its stored
        weights beside those that it computes with."""
        if generation.base is not None:
            return generation.manifest.bytes_as("float32")
        wish = self._wish(generation)
        if wish.runtime == "openvino" or wish.dtype == "int8":
            return 2 * generation.manifest.bytes_as("float32")
        return generation.manifest.bytes_as(wish.dtype) + generation.manifest.cache_bytes(self.settings.kv_cache_tokens)

    def _weight(self, digest: str) -> float:
        return self._shares.of(self.catalog.owners(digest))

    def _is_there(self, tenant: str, model: str) -> bool:
        return tenant in self.keyring.tenants and (not model or self.catalog.has(ModelId.of(model)))

    def _served(self) -> Mapping[ModelId, int | None]:
        return self.catalog.served()

    def _reconcile(self, snapshot: Snapshot) -> None:
        self.catalog.reconcile(snapshot)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._group.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The hosts and the follower, until the block ends."""
        await self.catalog.restore()
        await self.keeper.restore()
        if self.disk is not None:
            self.disk.begin()
            self.spawn(self.disk.follow())
        for host in self.hosts:
            self.spawn(host.supervise())
        if self._cluster is not None:
            self.spawn(self._cluster.follow())
        for annex in self._annexes:
            self.spawn(annex.follow())
        self.spawn(self.keyring.follow())
        self.spawn(self.keeper.follow())
        self.spawn(self.history.follow())
        self.spawn(self.follower.follow())
        self.spawn(_tidy_when_quiet(self.service))
        self.spawn(self.warm.follow(self.catalog.judged))
        self.spawn(self.activity.follow())
        self.spawn(self.knowledge.follower.follow())
        self.spawn(self.knowledge.follow())
        try:
            yield
        finally:
            await self.warm.remember()
            await self.keeper.write()
            await asyncio.gather(*(host.stop() for host in self.hosts))
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if self._cluster is not None:
                await self._cluster.close()
            await self.knowledge.close()

    def web(self) -> web.Application:
        pages = cors.Pages(self.settings.cors_origins, lenient=self.settings.insecure)
        open_paths = auth.OPEN_TO_ALL | console.PATHS | ({"/metrics"} if self.settings.open_metrics else set())
        guard = auth.Guard(self.keyring, pages, frozenset(open_paths))
        audited = [audit.middleware(self.audit, texts=self.settings.audit_texts)] if self.audit else []
        traced = [tracing.middleware(self._tracer)] if self._tracer else []
        app = web.Application(
            middlewares=[
                *audited,
                *traced,
                errors.middleware(self.events, DIALECTS),
                auth.middleware(self.service, guard),
            ],
            client_max_size=self.settings.max_body_bytes,
        )
        app.on_response_prepare.append(pages.sign)
        app[body.SECONDS] = self.settings.body_timeout
        app[stream.EVENTS] = self.events
        app[stream.STOPPING] = self.stopping
        app[stream.KEYRING] = self.keyring
        app[metrics.METRICS] = self.metrics
        app[health.HISTORY] = self.history
        app[runs.RUNS] = self.runs
        app[knowledge.KNOWLEDGE] = self.knowledge
        app[usage.USAGE] = self.usage
        app[live.BOARD] = live.Board(self.service, self.activity)
        app[asking.ANSWERER] = self.answerer
        app[asking.ROSTER] = self.roster
        app[metrics.OPEN_METRICS] = self.settings.open_metrics
        for module in PROTOCOLS:
            app.add_routes(module.routes)
        app[openapi.DOCUMENT] = openapi.encoded(app.router.routes(), DIALECTS)
        return app

    def _check_dimension(self, event: events.Event) -> None:
        """EMBEDDING_DIM is what somebody expects, never what is served."""
        wanted = self.settings.expect_dim
        if not wanted or not isinstance(event, events.ModelAccepted | events.ModelSwapped):
            return
        with contextlib.suppress(Exception):  # no default model, or not yet
            model, generation = self.service.live(None)
            makes_vectors = generation.manifest.kind == "encoder"
            if makes_vectors and model.path == event.model and generation.manifest.dim != wanted:
                message = f"{model} makes {generation.manifest.dim} numbers a vector; {wanted} were expected"
                self.events.emit(events.Notice(code="unexpected_dimension", message=message))


def _knowledge_place(settings: Settings) -> str:
    return settings.knowledge_dir or os.path.join(settings.state_dir, "knowledge")


def _is_worth_opening(place: str) -> bool:
    """Whether a knowledge base may be there. Of a bucket nobody knows without asking it."""
    try:
        return place.startswith(BUCKET) or bool(os.listdir(place))
    except OSError:
        return False


def _tidy(event: events.Event) -> None:
    if isinstance(event, events.ModelSwapped | events.ModelRemoved):
        heap.tidy()


async def _tidy_when_quiet(service: Service) -> None:
    """After a burst of requests; nobody waits meanwhile."""
    served = service.served
    while True:
        await asyncio.sleep(TIDY_SECONDS)
        if service.quiet and service.served != served:
            served = service.served
            heap.tidy()


def _host_settings(settings: Settings) -> dict[str, Any]:
    """What a host is configured with, whatever its device."""
    names = (
        "memory_budget",
        "host_memory_budget",
        "max_loaded_models",
        "adapter_memory",
        "max_loaded_adapters",
        "max_batch_tokens",
        "max_batch_texts",
        "max_queue_tokens",
        "tokenizer_threads",
        "compute_threads",
        "kv_cache_tokens",
    )
    return {name: getattr(settings, name) for name in names}
