"""The one place where the parts are put together, started and stopped.

Start: log, store, catalog, engine, server; the port answers before models or hosts are ready, and `/readyz` says
when. Stop: not ready, finish what is in flight, close the server, end the hosts. A background task that fails ends
the process with its exception: a gateway that looks alive and follows nothing is worse than one that restarts.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final, TextIO

import msgspec
from aiohttp import web

from gateway import __version__, events, heap
from gateway.ask import extra
from gateway.ask.answer import Answerer
from gateway.ask.first_use import FirstUse
from gateway.ask.holds import Holds
from gateway.ask.knowledge import Knowledge
from gateway.ask.roster import Roster
from gateway.ask.specs import specs
from gateway.catalog.catalog import Catalog
from gateway.catalog.warm import Warm
from gateway.engine.devices import find_devices
from gateway.engine.process import ProcessEngine
from gateway.engine.supervisor import HOST_COMMAND, HostProcess
from gateway.log import Log
from gateway.model import Generation, ModelId
from gateway.service import Service
from gateway.settings import BUCKET, Settings, SettingsError
from gateway.telemetry import Metrics
from gateway.tenants.audit import Audit, AuditFile
from gateway.tenants.keyring import Keyring, opened
from gateway.tenants.usage import Keeper, Usage, UsageFile
from gateway.volume.follower import Follower
from gateway.volume.generations import Store
from gateway.volume.pulls import Pulls
from gateway.volume.settle import Snapshot
from gateway.web import (
    ask,
    asking,
    audit,
    auth,
    body,
    chat,
    completions,
    cors,
    errors,
    knowledge,
    metrics,
    native,
    older_knowledge,
    ollama,
    ollama_talk,
    openai,
    openapi,
    pull,
    rerank,
    server,
    stream,
    tei,
    triton,
    usage,
)
from gateway.wish import Wish

TIDY_SECONDS: Final = 5.0
PROTOCOLS: Final = (
    *(metrics, usage, stream, pull, older_knowledge, knowledge),  # the fixed paths of the older before names
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
CLOSE_SECONDS: Final = 2.0  # for connections that are idle or stream events, once the work is done


class Gateway:
    """Everything that lives as long as the process, with a host on each of `devices`; `group` owns its tasks."""

    def __init__(
        self,
        settings: Settings,
        devices: Sequence[str],
        tell: events.Events,
        group: asyncio.TaskGroup,
        *,
        keyring: Keyring,
        roster: Roster | None = None,
        audit_file: AuditFile | None = None,
        host_command: Sequence[str] = HOST_COMMAND,
    ) -> None:
        self.settings = settings
        self.roster = roster or Roster({})
        self.events = tell
        self._wishes = settings.wishes
        self._shares = settings.shares
        self._group = group
        self._tasks: set[asyncio.Task[None]] = set()
        self._store = Store(
            settings.state_dir,
            allow_pickle=settings.allow_pickle,
            copy_budget=settings.copy_budget,
            in_place=settings.serve_in_place,
        )
        self.hosts = [
            HostProcess(
                device,
                _host_config(settings, device),
                tell,
                hang_timeout=settings.hang_timeout,
                load_timeout=settings.load_timeout,
                command=host_command,
            )
            for device in devices
        ]
        self.engine = ProcessEngine(
            self.hosts,
            tell,
            names=self._models_of,
            predict=self._bytes,
            limit=settings.max_loaded_models,
            wish=self._wish,
            weight=self._weight,
        )
        self.follower = Follower(settings, tell, self._served, self._reconcile)
        self.catalog = Catalog(
            settings, self._store, self.engine, tell, spawn=self.spawn, look_again=self.follower.look_again
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
        self.metrics = Metrics(self.engine, self.catalog.models_of, self.usage)
        self.stopping = asyncio.Event()
        tell.subscribe(self.metrics)
        tell.subscribe(self.usage)
        tell.subscribe(self._check_dimension)
        tell.subscribe(_tidy)

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
        self._store.sweep()
        for host in self.hosts:
            self.spawn(host.supervise())
        self.spawn(self.keyring.follow())
        self.spawn(self.keeper.follow())
        self.spawn(self.follower.follow())
        self.spawn(_tidy_when_quiet(self.service))
        self.spawn(self.warm.follow(self.catalog.looked))
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
            await self.knowledge.close()

    def web(self) -> web.Application:
        pages = cors.Pages(self.settings.cors_origins, lenient=self.settings.insecure)
        open_paths = auth.OPEN_TO_ALL | ({"/metrics"} if self.settings.open_metrics else set())
        guard = auth.Guard(self.keyring, pages, frozenset(open_paths))
        audited = [audit.middleware(self.audit, texts=self.settings.audit_texts)] if self.audit else []
        app = web.Application(
            middlewares=[*audited, errors.middleware(self.events, DIALECTS), auth.middleware(self.service, guard)],
            client_max_size=self.settings.max_body_bytes,
        )
        app.on_response_prepare.append(pages.sign)
        app[body.SECONDS] = self.settings.body_timeout
        app[stream.EVENTS] = self.events
        app[stream.STOPPING] = self.stopping
        app[stream.KEYRING] = self.keyring
        app[metrics.METRICS] = self.metrics
        app[knowledge.KNOWLEDGE] = self.knowledge
        app[usage.USAGE] = self.usage
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


async def run(
    settings: Settings,
    *,
    on_ready: Callable[[Gateway, str], Coroutine[Any, Any, None]] | None = None,
    host_command: Sequence[str] = HOST_COMMAND,
) -> None:
    """Serves until SIGTERM or SIGINT. `on_ready` is given the gateway and its URL once the port is open;
    `host_command` starts a host process. Raises SettingsError for what an operator must change first."""
    heap.prepare()
    tell = events.Events()
    tell.subscribe(Log(settings))
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    why: list[str] = []

    def end(name: str) -> None:
        why.append(name)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end, number.name)
    async with AsyncExitStack() as stack:
        stack.enter_context(_alone(settings.state_dir))
        devices = find_devices(settings.device)  # outside the group, which would wrap what an operator must change
        keyring = opened(settings, tell)
        roster = Roster(specs(settings))
        stack.push_async_callback(roster.close)
        audit_file = _audit_file(settings)
        listener = stack.enter_context(_listen(settings))
        _refuse_exposure(settings, keyring, listener)
        group = await stack.enter_async_context(asyncio.TaskGroup())
        gateway = Gateway(
            settings,
            devices,
            tell,
            group,
            keyring=keyring,
            roster=roster,
            audit_file=audit_file,
            host_command=host_command,
        )
        if gateway.audit is not None:
            stack.push_async_callback(gateway.audit.close)
        runner = web.AppRunner(gateway.web(), handler_cancellation=True, shutdown_timeout=CLOSE_SECONDS)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await _site(settings, tell, runner, listener).start()
        await stack.enter_async_context(gateway.running())
        tell.emit(
            events.Listening(
                url=_url(listener),
                version=__version__,
                models_dir=settings.models_dir,
                state_dir=settings.state_dir,
                pid=os.getpid(),
            )
        )
        heap.settle()
        if on_ready is not None:
            gateway.spawn(on_ready(gateway, _url(listener)))
        await stop.wait()
        await _drain(gateway, why[0])


def _site(settings: Settings, tell: events.Events, runner: web.AppRunner, listener: socket.socket) -> web.BaseSite:
    most = server.most_connections(settings.max_connections)

    def full() -> None:
        message = f"{most} connections are open, as many as there may be: more are refused"
        tell.emit(events.Notice(code="connections_full", message=message))

    return server.Site(
        runner,
        listener,
        most=most,
        full=full,
        header_seconds=settings.header_timeout,
        keepalive_timeout=settings.idle_timeout,
        access_log=None,
        logger=errors.complaints(tell),
    )


def _knowledge_place(settings: Settings) -> str:
    return settings.knowledge_dir or os.path.join(settings.state_dir, "knowledge")


def _is_worth_opening(place: str) -> bool:
    """Whether a knowledge base may be there. Of a bucket nobody knows without asking it."""
    try:
        return place.startswith(BUCKET) or bool(os.listdir(place))
    except OSError:
        return False


def _audit_file(settings: Settings) -> AuditFile | None:
    """Raises SettingsError where it cannot be written."""
    if not settings.audit_log:
        return None
    file = AuditFile(settings.audit_log, settings.audit_log_bytes, settings.audit_log_files)
    try:
        file.append(b"")
    except OSError as error:
        raise SettingsError(f"--audit-log {settings.audit_log}: {error.strerror}") from error
    return file


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


async def _drain(gateway: Gateway, why: str) -> None:
    began = time.monotonic()
    gateway.events.emit(events.Stopping(why=why, seconds=gateway.settings.drain_timeout))
    try:
        await asyncio.wait_for(gateway.service.drain(), gateway.settings.drain_timeout)
        drained = True
    except TimeoutError:
        drained = False
    gateway.stopping.set()
    gateway.events.emit(events.Stopped(drained=drained, seconds=time.monotonic() - began))


def _listen(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family, backlog=server.BACKLOG)
    except (OSError, UnicodeError) as error:  # the second: a host that no name server could be asked for
        raise SettingsError(
            f"cannot listen on {settings.host}:{settings.port}: {getattr(error, 'strerror', None) or error}; choose "
            f"another with --port or DROPGATE_PORT, or another address with --host"
        ) from error


def _refuse_exposure(settings: Settings, keyring: Keyring, listener: socket.socket) -> None:
    """Raises SettingsError where other machines could come in and nobody would ask who they are."""
    address = listener.getsockname()[0]
    if keyring.empty and not settings.insecure and not cors.is_local(address):
        raise SettingsError(
            f"--host {settings.host}: other machines could use this gateway, and there is no API key; make one with "
            f"`gateway keys create NAME --keys-file {keyring.path}`, or say --insecure (DROPGATE_INSECURE=true) where "
            "something else keeps others out"
        )


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextlib.contextmanager
def _alone(state_dir: str) -> Iterator[None]:
    """One gateway to a state directory: two would delete each other's generations."""
    try:
        os.makedirs(state_dir, exist_ok=True)
        lock: TextIO = open(os.path.join(state_dir, "lock"), "w")  # noqa: SIM115  # held until the process ends
    except OSError as error:
        raise SettingsError(f"--state-dir {state_dir}: {error.strerror}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise SettingsError(f"--state-dir {state_dir} is used by another gateway") from error
        yield


def _host_config(settings: Settings, device: str) -> bytes:
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
    return msgspec.json.encode({"device": device, **{name: getattr(settings, name) for name in names}})
