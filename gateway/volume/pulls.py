"""The pulls of a running gateway: one for each model however many ask, each in a process of its own.

Who asked does not wait, and leaving ends nothing; the gateway's end ends them all, and the next pull of a model goes
on from what is there. A client's request starts one only for what the operator allowed, and while few others wait:
names cost nothing to make up.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Final, Literal

import msgspec

from gateway import events
from gateway.errors import GatewayError, HubOffline, ModelPulling, PullInProgress, PullInterrupted
from gateway.model import ModelId, ModelRef
from gateway.settings import Settings
from gateway.tenants.caller import OPEN, Caller
from gateway.volume.order import MAIN, Failed, Looked, Order, Progress, Pulled, Report, demand_directory

COMMAND: Final = (sys.executable, "-m", "gateway.volume.pull")
AT_ONCE: Final = 2
MOST_WAITING: Final = 32  # pulls; while so many wait, a client's request starts no other
REMEMBERED: Final = 100  # pulls that have ended
ARRIVING: Final = 30.0  # seconds that a published model may take until it is in the catalog
RETRY: Final = 30.0  # seconds until a client's request starts again what has failed
LEAST_WAIT: Final = 2.0  # seconds that a client is told to wait, and the most
MOST_WAIT: Final = 60.0
LINE: Final = 2**22  # bytes of a report, at most
SAID: Final = 1000  # bytes that are kept of a line which is none
State = Literal["waiting", "pulling", "pulled", "failed"]

_reports: Final = msgspec.json.Decoder(Report)


@dataclass(slots=True)
class Pull:
    """One pull and how far it is. Times are Unix seconds, None where they are yet to come."""

    model: ModelId
    revision: str
    asked_at: float
    state: State = "waiting"
    commit: str | None = None
    bytes: int = 0
    total: int | None = None
    files: int | None = None
    started_at: float | None = None
    ended_at: float | None = None
    error: GatewayError | None = None

    @property
    def running(self) -> bool:
        return self.state in {"waiting", "pulling"}

    def wait(self, now: float) -> float:
        """Seconds after which asking again may be of use."""
        if not self.total or not self.bytes or not self.running or self.started_at is None:
            return LEAST_WAIT
        left = (now - self.started_at) * (self.total - self.bytes) / self.bytes
        return min(MOST_WAIT, max(LEAST_WAIT, left))


def show(pull: Pull) -> dict[str, Any]:
    """One pull as `GET /models/pulls` lists it."""
    return {
        "id": str(pull.model),
        "revision": pull.revision,
        "state": pull.state,
        "commit": pull.commit,
        "bytes": pull.bytes,
        "total": pull.total,
        "files": pull.files,
        "asked_at": pull.asked_at,
        "started_at": pull.started_at,
        "ended_at": pull.ended_at,
        "error": pull.error and {"code": pull.error.code, "message": pull.error.message, **pull.error.details},
    }


class Pulls:
    """`spawn` starts a task that the caller's task group owns; `look_again` asks for a look at the volume."""

    def __init__(
        self,
        settings: Settings,
        tell: events.Events,
        *,
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
        look_again: Callable[[], None],
        command: Sequence[str] = COMMAND,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._events = tell
        self._spawn = spawn
        self._look_again = look_again
        self._command = command
        self._clock = clock
        self._room = asyncio.Semaphore(AT_ONCE)
        self._pulls: dict[ModelId, Pull] = {}

    def start(self, model: ModelId, revision: str | None = None) -> Pull:
        """The pull of this model, which is under way from now on. Raises HubOffline; VolumeUnwritable of a bucket; or
        PullInProgress when another revision of it is being pulled."""
        demand_directory(self._settings.models_dir)
        if self._settings.hub_offline:
            raise HubOffline(f"{model} cannot be pulled: --hub-offline is set (HF_HUB_OFFLINE)", model=str(model))
        known = self._pulls.get(model)
        if known is not None and known.running:
            if revision in {None, known.revision}:
                return known
            raise PullInProgress(f"{model} is being pulled at {known.revision}", model=str(model))
        self._forget()
        pull = self._pulls[model] = Pull(model, revision or MAIN, self._clock())
        self._spawn(self._run(pull))
        return pull

    def listing(self) -> list[Pull]:
        """Those under way, and the last ones that have ended; the newest first."""
        return sorted(self._pulls.values(), key=lambda pull: pull.asked_at, reverse=True)

    def find(self, model: ModelId) -> Pull | None:
        return self._pulls.get(model)

    def instead(self, ref: ModelRef, caller: Caller = OPEN) -> GatewayError | None:
        """What a client is told of a model that is not served yet; None when no hub is involved. Starts the pull of
        a model that the operator allowed and the caller may see, unless many wait."""
        model = ref.candidates[-1] if ref.bare else ref.candidates[0]
        if ref.generation is not None or model.version is not None or not caller.sees(model):
            return None
        pull, now = self._pulls.get(model), self._clock()
        age = now - pull.ended_at if pull and pull.ended_at else 0.0
        if pull and (pull.running or (pull.state == "pulled" and age < ARRIVING)):
            return _come_back(pull, now)
        if not self._allows(model):
            return None
        if pull and pull.error and age < RETRY:
            if isinstance(pull.error, PullInProgress):  # by another gateway of this volume
                return _come_back(pull, now)
            return type(pull.error)(pull.error.message, retry_after=RETRY - age, **pull.error.details)
        if sum(pull.state == "waiting" for pull in self._pulls.values()) >= MOST_WAITING:
            message = f"{model} is pulled from the hub when fewer other models wait for that"
            return ModelPulling(message, retry_after=MOST_WAIT, model=str(model), bytes=0, total=None)
        try:
            return _come_back(self.start(model), now)
        except HubOffline as error:
            return error

    def _allows(self, model: ModelId) -> bool:
        patterns = (pattern.strip() for pattern in self._settings.hub_allow.split(","))
        return any(pattern and fnmatchcase(model.path, pattern) for pattern in patterns)

    def _forget(self) -> None:
        ended = [pull for pull in self.listing() if not pull.running]
        for pull in ended[REMEMBERED - 1 :]:
            del self._pulls[pull.model]

    async def _run(self, pull: Pull) -> None:
        """From asked to ended; raises nothing of what may go wrong with one pull."""
        try:
            async with self._room:
                pull.state, pull.started_at = "pulling", self._clock()
                answer = await self._follow(pull)
        except OSError as error:  # no process, no descriptor or no memory left
            answer = Failed.of(PullInterrupted(f"no process for the pull: {error}"))
        pull.ended_at = self._clock()
        if isinstance(answer, Failed):
            pull.state, pull.error = "failed", answer.error()
            self._events.emit(events.PullFailed(model=pull.model.path, code=answer.code, message=answer.message))
        else:
            pull.state = "pulled"
            pull.commit, pull.bytes, pull.total, pull.files = answer.commit, answer.bytes, answer.bytes, answer.files
            self._look_again()
            self._events.emit(
                events.ModelPulled(
                    model=pull.model.path,
                    revision=pull.revision,
                    commit=answer.commit,
                    bytes=answer.bytes,
                    seconds=max(0.0, pull.ended_at - (pull.started_at or pull.ended_at)),
                    fresh=answer.fresh,
                )
            )

    async def _follow(self, pull: Pull) -> Pulled | Failed:
        """One process from its start to its end, which comes with it if this is cancelled."""
        process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=LINE,
        )
        try:
            return await self._talk(pull, process)
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _talk(self, pull: Pull, process: asyncio.subprocess.Process) -> Pulled | Failed:
        assert process.stdin is not None and process.stdout is not None  # noqa: PT018  # both are pipes
        with contextlib.suppress(ConnectionError):  # it ended before it was told; its status says more
            process.stdin.write(msgspec.json.encode(self._order(pull)))
            await process.stdin.drain()
        process.stdin.close()
        other: deque[str] = deque(maxlen=8)  # what is no report: a library's warnings, or the interpreter's last words
        async for line in _lines(process.stdout):
            try:
                report = _reports.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError):
                other.append(line[:SAID].decode(errors="replace").strip())
                continue
            if isinstance(report, Pulled | Failed):
                return report
            self._hear(pull, report)
        said = f": {' '.join(other)}" if other else ""
        message = f"the pull's process ended with status {await process.wait()}{said}"
        return Failed.of(PullInterrupted(message, model=str(pull.model)))

    def _order(self, pull: Pull) -> Order:
        return Order(
            model=pull.model.path,
            revision=pull.revision,
            models_dir=self._settings.models_dir,
            endpoint=self._settings.hub_endpoint,
            token=self._settings.hub_token,
            allow_pickle=self._settings.allow_pickle,
            parent=os.getpid(),
        )

    def _hear(self, pull: Pull, report: Looked | Progress) -> None:
        """Told as an event at the beginning, and with every tenth that has come."""
        before = _tenth(pull)
        if isinstance(report, Looked):
            pull.commit, pull.total, pull.files = report.commit, report.total, report.files
        else:
            pull.bytes = report.bytes
        if isinstance(report, Looked) or _tenth(pull) > before:
            self._events.emit(
                events.ModelPulling(
                    model=pull.model.path,
                    revision=pull.revision,
                    commit=pull.commit or "",
                    bytes=pull.bytes,
                    total=pull.total or 0,
                )
            )


async def _lines(stream: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Without what is longer than any report."""
    while True:
        try:
            line = await stream.readline()
        except ValueError:  # the stream has dropped what it had of it
            continue
        if not line:
            return
        yield line


def _tenth(pull: Pull) -> int:
    return pull.bytes * 10 // pull.total if pull.total else 0


def _come_back(pull: Pull, now: float) -> ModelPulling:
    far = f": {pull.bytes:,} of {pull.total:,} bytes" if pull.total else ""
    return ModelPulling(
        f"{pull.model} is being pulled from the hub{far}",
        retry_after=pull.wait(now),
        model=str(pull.model),
        bytes=pull.bytes,
        total=pull.total,
    )
