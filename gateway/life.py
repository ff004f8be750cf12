"""A gateway's life, from the lock on its state directory to the last answer.

Start: log, store, catalog, engine, server; the port answers before models or hosts are ready, and `/readyz` says
when. Stop: not ready, go on for a while if so set, finish what is in flight, close the server, end the hosts.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack
from typing import Any, Final, TextIO

from aiohttp import web

from gateway import __version__, events, heap
from gateway.app import Gateway
from gateway.ask.roster import Roster
from gateway.ask.specs import specs
from gateway.cluster import extra as cluster
from gateway.engine.devices import find_devices
from gateway.engine.supervisor import HOST_COMMAND
from gateway.log import Log
from gateway.parsing import BUCKET
from gateway.settings import Settings, SettingsError
from gateway.tenants.audit import AuditFile
from gateway.tenants.keyring import Keyring, opened
from gateway.tracing import Tracer
from gateway.volume.bucket import BucketVolume
from gateway.volume.volume import FileVolume, Volume
from gateway.web import cors, errors, server

CLOSE_SECONDS: Final = 2.0  # for connections that are idle or stream events, once the work is done


async def run(
    settings: Settings,
    *,
    on_ready: Callable[[Gateway, str], Coroutine[Any, Any, None]] | None = None,
    host_command: Sequence[str] = HOST_COMMAND,
) -> None:
    """Serves until SIGTERM or SIGINT. `on_ready` is given the gateway and its URL once the port is open;
    `host_command` starts a host process. Raises SettingsError for what an operator must change first."""
    heap.prepare()
    log = Log(settings)
    tell = events.Events(log.failed)
    tell.subscribe(log)
    stop = asyncio.Event()
    hurry = asyncio.Event()
    loop = asyncio.get_running_loop()
    why: list[str] = []

    def end(name: str) -> None:
        why.append(name)
        if stop.is_set():
            hurry.set()
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end, number.name)
    async with AsyncExitStack() as stack:
        stack.enter_context(_alone(settings.state_dir))
        devices = _devices(settings)  # outside the group, which would wrap what an operator must change
        keyring = opened(settings, tell)
        roster = Roster(specs(settings))
        stack.push_async_callback(roster.close)
        audit_file = _audit_file(settings)
        tracer = Tracer(settings.otlp_endpoint, tell) if settings.otlp_endpoint else None
        if tracer is not None:
            stack.push_async_callback(tracer.close)
        listener = stack.enter_context(_listen(settings))
        _refuse_exposure(settings, keyring, listener)
        volume = _volume(settings, tell, stack)
        group = await stack.enter_async_context(_group())
        gateway = Gateway(
            settings,
            devices,
            tell,
            group,
            keyring=keyring,
            volume=volume,
            roster=roster,
            audit_file=audit_file,
            tracer=tracer,
            host_command=host_command,
        )
        gateway.metrics.log_lost.set_function(lambda: log.lost)
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
        await _drain(gateway, why[0], hurry)


@contextlib.asynccontextmanager
async def _group() -> AsyncIterator[asyncio.TaskGroup]:
    """What an operator must change comes out as it is, also when it is found out within the group."""
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except BaseExceptionGroup as failed:
        wrong, others = failed.split(SettingsError)
        if wrong is None or others is not None:
            raise
        raise wrong.exceptions[0] from None


def _devices(settings: Settings) -> list[str]:
    """Those of this machine that hosts are to be on. Raises SettingsError."""
    if settings.engine == "ray":
        cluster.demand()
        return []
    return find_devices(settings.device)


def _volume(settings: Settings, tell: events.Events, stack: AsyncExitStack) -> Volume:
    """Raises SettingsError where it cannot be had. A bucket is asked nothing yet: it may be away for now."""
    if not settings.models_dir.startswith(BUCKET):
        if settings.disk_budget:
            raise SettingsError("--disk-budget needs a bucket to fetch from again, and --models-dir is a directory")
        return FileVolume(settings)
    loop = asyncio.get_running_loop()

    def told(event: events.Event) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has gone
            loop.call_soon_threadsafe(tell.emit, event)

    volume = BucketVolume(settings, told)
    try:
        volume.begin()
    except OSError as error:
        raise SettingsError(f"--state-dir {settings.state_dir}: {error.strerror}") from error
    stack.callback(volume.close)
    return volume


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


async def _drain(gateway: Gateway, why: str, hurry: asyncio.Event) -> None:
    began = time.monotonic()
    delay, seconds = gateway.settings.drain_delay, gateway.settings.drain_timeout
    gateway.events.emit(events.Stopping(why=why, seconds=delay + seconds))
    gateway.service.leave()
    if delay:  # until whoever looks at readiness has looked
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(hurry.wait(), delay)
    try:
        await asyncio.wait_for(gateway.service.drain(), seconds)
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
