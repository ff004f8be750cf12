"""One host process: spawned, watched, killed when it hangs, and started again when it dies.

What must stay true: every request sent to a host is answered, by the host or by its death; a host never outlives the
gateway; a host that hangs in a device call, a load or over a text is killed, since nothing else frees the device or
the thread. One that even SIGKILL does not end, since it sleeps in a driver or on a disk, is as good as dead, but for
its device: that is its own until it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final

import msgspec

from gateway import events
from gateway.errors import HostFailed
from gateway.host import wire
from gateway.host.link import Link
from gateway.host.recorder import Recorder
from gateway.model import Generation
from gateway.wish import Wish

FIRST_BACKOFF: Final = 0.1
LAST_BACKOFF: Final = 30.0
HEALTHY: Final = 60.0  # seconds of life after which earlier deaths are forgotten
TICK: Final = 0.5
HOPELESS: Final = 3  # starts that failed in a row, after which requests are told so at once
GRACE: Final = 5.0  # seconds between closing the socket and SIGKILL
UNKILLABLE: Final = 10.0  # seconds after SIGKILL until a host is given up: to free much memory takes some
LAST_WORDS: Final = 1.0  # seconds for what a host wrote before its end: a child of its own may have its stderr still

HOST_COMMAND: Final = (sys.executable, "-m", "gateway.host")


Tell = Callable[[wire.Piece], None]


def _nobody(piece: wire.Piece) -> None:
    """Who asks for no text gets no pieces."""


class Death(Exception):
    """The host died before it answered. `suspect`: the request was on the device or being tokenized, or its model was
    being loaded; `sole`: and nothing else was at work."""

    def __init__(self, suspect: bool = False, sole: bool = False) -> None:
        super().__init__()
        self.suspect = suspect
        self.sole = suspect and sole


class Call(msgspec.Struct):
    """A request in flight. `tell` takes the pieces that come before its answer."""

    answer: asyncio.Future[tuple[wire.Done, wire.Payload]]
    digest: str
    tell: Tell


class HostProcess:
    """The host of `device`. `config` is JSON for it; `command` starts it, and stands in the constructor for tests
    that need a host that crashes. The engine sets the callbacks."""

    def __init__(
        self,
        device: str,
        config: bytes,
        tell: events.Events,
        *,
        hang_timeout: float,
        load_timeout: float,
        command: Sequence[str] = HOST_COMMAND,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.device = device
        self.restarts = 0
        self.residency = wire.Residency([], 0, 0, 0, 0)
        self.residents: dict[str, wire.Resident] = {}
        self._loaded: dict[str, int] = {}  # bytes of what was told as loaded and not yet as unloaded
        self.parked: dict[str, wire.Parked] = {}
        self._clock = clock
        self.reported = clock()
        self.on_report: Callable[[HostProcess, wire.Report], None] = lambda host, report: None
        self.on_state: Callable[[HostProcess], None] = lambda host: None
        self.on_up: Callable[[HostProcess], None] = lambda host: None
        self.on_death: Callable[[HostProcess, Mapping[str, float], bool], None] = lambda host, suspects, sole: None
        self._config = config
        self._events = tell
        self._hang_timeout = hang_timeout
        self._load_timeout = load_timeout
        self._command = command
        self._recorder = Recorder.create()
        self._up = asyncio.Event()
        self._failed_starts = 0
        self._process: asyncio.subprocess.Process | None = None
        self._link: Link[wire.Report] | None = None
        self._calls: dict[int, Call] = {}
        self._offered: dict[str, tuple[Generation, Wish]] = {}
        self._number = 0
        self._heard = 0.0
        self._killed_for = ""
        self._killed = 0.0
        self._stuck = False
        self._stopping = False

    @property
    def up(self) -> bool:
        return self._up.is_set()

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def age(self) -> float:
        """Seconds since it told its state: a host where nothing changes tells nothing."""
        return max(0.0, self._clock() - self.reported)

    # Requests.

    async def wait_until_up(self) -> None:
        """Raises HostFailed when the host does not start, again and again, or does not end."""
        self.check()
        await self._up.wait()

    def check(self) -> None:
        """Raises HostFailed when the host does not start, again and again, or does not end."""
        if self._stuck:
            raise HostFailed(
                f"the host of {self.device} was killed and does not end: a driver or a disk hangs",
                retry_after=LAST_BACKOFF,
            )
        if not self.up and (self._failed_starts >= HOPELESS or self._stopping):
            raise HostFailed(f"the host of {self.device} does not start; its log says why", retry_after=LAST_BACKOFF)

    def tell(self, command: wire.Command) -> None:
        """Sends what has no answer."""
        if self._link is not None and self.up:
            self._link.send(command)

    def offer(self, generation: Generation, wish: Wish) -> None:
        """Once for each state and wish: one that is served in place keeps its digest when its directory is touched."""
        known, wished = self._offered.get(generation.digest, (None, None))
        if self.up and ((known is not generation and known != generation) or wished != wish):
            self._offered[generation.digest] = (generation, wish)
            self.tell(wire.Offer(generation, wish))

    def keep(self, live: Collection[str], pinned: Collection[str]) -> None:
        """All that may stay. The host forgets the offers of everything else."""
        self._offered = {digest: offered for digest, offered in self._offered.items() if digest in live}
        self.tell(wire.Keep(list(live), list(pinned)))

    async def call(
        self, command: Callable[[int], wire.Command], digest: str = "", tell: Tell = _nobody
    ) -> tuple[wire.Done, wire.Payload]:
        """Sends `command(number)` and waits for its answer; a caller that is cancelled ends only its waiting.

        Raises Death, and the GatewayError that the host answers with.
        """
        if self._link is None:
            raise Death
        self._number = number = (self._number + 1) % (1 << 32) or 1
        answer: asyncio.Future[tuple[wire.Done, wire.Payload]] = asyncio.get_running_loop().create_future()
        if not self._calls:  # nobody asked before: that it was silent until now says nothing
            self._heard = time.monotonic()
        self._calls[number] = Call(answer, digest, tell)
        self._link.send(command(number))
        try:
            return await answer
        except asyncio.CancelledError:
            self.tell(wire.Cancel(number))
            raise
        finally:
            self._calls.pop(number, None)

    # A life.

    async def supervise(self) -> None:
        """Keeps the host alive until `stop`. To be run once, as a task."""
        backoff = 0.0
        while not self._stopping:
            began = time.monotonic()
            try:
                await self._live()
            except OSError as error:  # no process, no descriptor or no memory left: not this gateway's end
                self._failed_starts += 1
                self._events.emit(events.Notice(code="host_not_started", message=f"{self.device}: {error}"))
            backoff = 0.0 if time.monotonic() - began > HEALTHY else min(LAST_BACKOFF, backoff * 2 or FIRST_BACKOFF)
            if not self._stopping:
                self.restarts += 1
                await asyncio.sleep(backoff)

    async def stop(self) -> None:
        """Ends the host, or leaves one behind that does not end. Requests in flight die with it: drain first."""
        self._stopping = True
        if self._link is not None:
            self._link.close()
        if self._process is not None:
            try:
                await asyncio.wait_for(self._process.wait(), GRACE)
            except TimeoutError:
                self.kill("did not stop")
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._process.wait(), UNKILLABLE)

    def kill(self, why: str) -> None:
        if self._process is not None and self._process.returncode is None:
            if not self._killed_for:
                self._killed_for, self._killed = why, time.monotonic()
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGKILL)

    async def _live(self) -> None:
        """From spawn to exit."""
        began = time.monotonic()
        self._recorder.clear()
        self._killed_for = ""
        self._heard = began
        ours, theirs = socket.socketpair()
        stderr, errors = (io.FileIO(fd, mode) for fd, mode in zip(os.pipe(), "rw", strict=True))
        with theirs, errors:
            process = self._process = await self._spawn(theirs.fileno(), errors.fileno())

        def receive(report: wire.Report, payload: wire.Payload) -> None:
            self._receive(report, payload, process.pid, began)

        link = self._link = Link(wire.reports, self._lost)
        link.on_frame = receive
        ours.setblocking(False)
        await asyncio.get_running_loop().create_connection(lambda: link, sock=ours)
        async with asyncio.TaskGroup() as group:
            watchdog, end = group.create_task(self._watch()), group.create_task(process.wait())
            output = group.create_task(self._read_output(process.pid, stderr))
            await asyncio.wait({watchdog, end}, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait({output}, timeout=LAST_WORDS)
            for task in (watchdog, end, output):
                task.cancel()
        link.close()
        self._exited(process)
        await process.wait()  # before that no other one may have the device
        self._stuck = False

    async def _spawn(self, connection: int, errors: int) -> asyncio.subprocess.Process:
        """The pipe of its stderr is ours: of one that asyncio made, a process has ended only when its children have."""
        fds = (connection, self._recorder.fileno())
        return await asyncio.create_subprocess_exec(
            *self._command,
            *(str(fd) for fd in fds),
            self._config.decode(),
            str(os.getpid()),
            pass_fds=fds,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=errors,
        )

    def _lost(self) -> None:
        """A host that cannot be talked to is of no use. One that died has lost its connection too: its own status
        says more, so it gets a moment to arrive."""
        if not self._stopping and self._process is not None:
            asyncio.get_running_loop().call_later(GRACE, self._kill_the_mute, self._process.pid)

    def _kill_the_mute(self, pid: int) -> None:
        if self.pid == pid:
            self.kill("its connection broke")

    async def _read_output(self, pid: int, stderr: io.FileIO) -> None:
        stream = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(stream), stderr
        )
        with contextlib.closing(transport):
            while line := await _line(stream):
                text = line.decode(errors="replace").rstrip()
                if text:
                    self._events.emit(events.HostOutput(device=self.device, pid=pid, line=text[:2000]))

    async def _watch(self) -> None:
        """Kills a host that hangs: in a device call, in a load, over a text, or before it answers anything at
        all. Returns when SIGKILL does not end it."""
        while not (self._killed_for and time.monotonic() - self._killed > UNKILLABLE):
            await asyncio.sleep(TICK)
            if why := self._hangs(time.monotonic()):
                self.kill(why)

    def _hangs(self, now: float) -> str:
        """In what; "" if it does not."""
        call = self._recorder.running()
        if call and now - call.began > self._hang_timeout:
            return "a device call took too long"
        if any(now - load.began > self._load_timeout for load in self._recorder.loading()):
            return "a load took too long"
        if any(now - work.began > self._hang_timeout for work in self._recorder.tokenizing()):
            return "a tokenizer or a chat template took too long"
        if self._calls and not call and now - self._heard > self._hang_timeout + self._load_timeout:
            return "no answer"
        return ""

    def _exited(self, process: asyncio.subprocess.Process) -> None:
        """Fails what was in flight; who was on the device is a suspect."""
        self._stuck = process.returncode is None
        status = -signal.SIGKILL if process.returncode is None else process.returncode
        was_up = self.up
        self._up.clear()
        self._failed_starts = 0 if was_up else self._failed_starts + 1
        at_work, loads = self._recorder.at_work(), {load.digest for load in self._recorder.loading()}
        requests = {request for entry in at_work for request in entry.requests}
        suspects = self._recorder.since()
        sole = len(at_work) == 1
        calls = list(self._calls.items())
        idle = {digest: resident.idle_seconds for digest, resident in self.residents.items()}
        loaded = list(self._loaded.items())
        self._link = None
        self._calls.clear()
        self._offered.clear()
        self.residents, self.parked = {}, {}
        self._loaded.clear()
        self.residency = wire.Residency([], 0, self.residency.budget, 0, 0)
        self.on_state(self)
        if not self._stopping:
            self._events.emit(
                events.HostExited(
                    device=self.device,
                    pid=process.pid,
                    status=status,
                    why=(self._killed_for or _why(status)) + (", and SIGKILL does not end it" if self._stuck else ""),
                    suspects=tuple(sorted(digest[:12] for digest in suspects)),
                    requests=len(calls),
                )
            )
            for digest, size in loaded:
                self.on_report(self, wire.Unloaded(digest, size, "host_exit", idle.get(digest, 0.0)))
            self.on_death(self, suspects, sole)
        for number, waiting in calls:
            if not waiting.answer.done():
                waiting.answer.set_exception(Death(number in requests or waiting.digest in loads, sole))

    def _receive(self, report: wire.Report, payload: wire.Payload, pid: int, began: float) -> None:
        self._heard = time.monotonic()
        match report:
            case wire.Done() | wire.Failed():
                call = self._calls.get(report.id)
                if call is None or call.answer.done():
                    return  # its caller has gone
                if isinstance(report, wire.Done):
                    call.answer.set_result((report, payload))
                else:
                    call.answer.set_exception(report.error())
            case wire.Piece():
                call = self._calls.get(report.id)
                if call is not None and not call.answer.done():
                    call.tell(report)
            case wire.Residency():
                self.residency = report
                self.reported = self._clock()
                self.residents = {resident.digest: resident for resident in report.residents}
                self.parked = {parked.digest: parked for parked in report.parked}
                self.on_state(self)
            case wire.Ready():
                self.residency = wire.Residency([], 0, report.budget, 0, 0)
                self._up.set()
                self._events.emit(
                    events.HostStarted(
                        device=report.device, pid=pid, budget=report.budget, seconds=time.monotonic() - began
                    )
                )
                self.on_up(self)
            case _:
                if isinstance(report, wire.Loaded):
                    self._loaded[report.digest] = report.bytes
                elif isinstance(report, wire.Unloaded):
                    self._loaded.pop(report.digest, None)
                self.on_report(self, report)


async def _line(stream: asyncio.StreamReader) -> bytes:
    try:
        return await stream.readline()
    except ValueError:  # a line longer than the reader's limit: the rest comes as the next one
        return b"(a line too long to show)\n"


def _why(status: int) -> str:
    if status >= 0:
        return f"exited with {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"killed by signal {-status}"
