"""A host process without the process: the gateway's own `Host` with its pools, its batcher and its reports, over a
device and a disk that take time and do nothing else; and the gateway's end of it, which is `HostProcess` with frames
that cross no socket.

What a real device would refuse is an assertion here: bytes over its budget, and two calls or two loads at once.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple, cast

import numpy as np

from bench.scale.costs import Costs
from bench.scale.world import World
from gateway import events
from gateway.engine.supervisor import HostProcess
from gateway.errors import GatewayError, HostFailed, LoadFailed
from gateway.host import memory, wire
from gateway.host.backlog import Hold
from gateway.host.batcher import Batcher
from gateway.host.host import CPU_QUEUE, LEAST_CPU_BATCH, Host
from gateway.host.link import Link
from gateway.host.loader import Loader
from gateway.host.pool import Pool
from gateway.host.recorder import Recorder
from gateway.host.reports import Reports
from gateway.host.slot import Runtime
from gateway.host.work import Call, Embedder, TokenIds, Vectors
from gateway.model import Generation

NUMBERS: Final = np.zeros((1 << 16, 1), np.float32)  # of which every answer is a part
NUMERICS: Final = wire.Numerics()
NEVER: Final = 1e9  # seconds
UNBOUNDED: Final = 1 << 60  # bytes
Send = Callable[[wire.Report, "bytes | memoryview"], None]


class Ledger:
    """What all devices did. Times are simulated seconds."""

    def __init__(self, devices: int) -> None:
        self.loads: list[tuple[float, int, int]] = []  # began, device, bytes
        self.busy = [0.0] * devices  # seconds of device calls, by device
        self.tokens = 0  # computed
        self.most = 0  # bytes that a device held at once

    def since(self, when: float) -> list[tuple[float, int, int]]:
        return [load for load in self.loads if load[0] >= when]


class Wishes:
    """What the parent tells its loader beside the pool: how things are wished to be computed."""

    def forget_wishes(self, live: frozenset[str]) -> None:
        """There are none."""


class Ground(NamedTuple):
    """What all hosts stand on."""

    world: World
    costs: Costs
    ledger: Ledger


class Loaded:
    """A generation on a device."""

    packed = True
    numerics = NUMERICS

    def __init__(self, size: int, work: float) -> None:
        self.bytes = size
        self.work = work

    def embed(self, rows: Sequence[TokenIds], prompt_tokens: Sequence[int]) -> Vectors:
        raise AssertionError("a simulated device computes nothing")

    def embed_mixed(
        self, rows: Sequence[TokenIds], prompt_tokens: Sequence[int], embedders: Sequence[Embedder]
    ) -> Vectors:
        return self.embed(rows, prompt_tokens)


class Disk:
    """The loader of a pool: a load at a time, in order."""

    def __init__(self, index: int, ground: Ground, recorder: Recorder, budget: int) -> None:
        self._index = index
        self._world, self._costs, self._ledger = ground
        self._recorder = recorder
        self._budget = budget
        self._lane = asyncio.Lock()
        self.held = 0
        self.gone = False

    def predict(self, generation: Generation) -> int:
        return self._world.size(generation)

    async def load(self, generation: Generation) -> Runtime:
        size, loop = self._world.size(generation), asyncio.get_running_loop()
        self.held += size
        assert self.held <= self._budget, "the pool promised more than there is"
        self._ledger.most = max(self._ledger.most, self.held)
        async with self._lane:
            if self.gone:
                raise LoadFailed("its process has ended")
            self._ledger.loads.append((loop.time(), self._index, size))
            with self._recorder.load(generation.digest):
                await asyncio.sleep(self._costs.loading(size))
        return Loaded(size, self._world.work(generation))

    async def close(self, runtime: Runtime) -> None:
        self.held -= runtime.bytes

    async def park(self, runtime: Runtime) -> None:
        raise AssertionError("a CPU parks nothing")

    unpark = park


class SimulatedHost(Host):
    """`limit` is a number of generations, 0 for as many as fit."""

    def __init__(self, index: int, ground: Ground, recorder: Recorder, send: Send, limit: int) -> None:
        # not the parent's: its parts are made here, over what takes time and does nothing
        loop = asyncio.get_running_loop()
        budget = ground.world.cell.budget if not limit else UNBOUNDED
        small = memory.adapter_budget(ground.world.cell.budget)
        self._index = index
        self._costs, self._ledger = ground.costs, ground.ledger
        self._recorder = recorder
        self._send = send
        self._lane = asyncio.Lock()
        self._loader = cast(Loader, Wishes())
        self.reports = Reports(send, self._residency, loop.time)
        self._disks = disks = [Disk(index, ground, recorder, each) for each in (budget, small)]
        self.pool = Pool(disks[0], self.reports, budget, limit, loop.time)
        self.adapters = Pool(disks[1], self.reports, small, 0, loop.time)
        self.batcher = Batcher(
            self._compute,
            max_tokens=LEAST_CPU_BATCH,
            max_texts=0,
            max_queue_tokens=CPU_QUEUE,
            on_call=self.reports.called,
            clock=loop.time,
        )
        self._known: dict[str, Generation] = {}
        self._requests: dict[int, asyncio.Task[None]] = {}

    def receive(self, command: wire.Command, payload: wire.Payload) -> None:
        if isinstance(command, wire.Offer):  # the parent tells its loader too, which has to prepare something
            self._known[command.generation.digest] = command.generation
            return
        super().receive(command, payload)

    def _start(self, command: wire.Work | wire.Load | wire.Unload, work: Any) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(self._answer(command.id, work))
        self._requests[command.id] = task
        task.add_done_callback(lambda _: self._requests.pop(command.id, None))
        return task

    async def _embed(self, command: wire.Embed | wire.Rerank, generation: Generation | None, hold: Hold) -> None:
        assert isinstance(command, wire.Embed), "nothing else is simulated"
        assert command.ids is not None
        assert generation is not None, "it was offered"
        loop = asyncio.get_running_loop()
        began = loop.time()
        base = generation.base or generation
        async with self._leased(base, generation) as (model, embedder):
            loaded = loop.time()
            hold.end()
            work = await self.batcher.embed(
                command.digest,
                embedder,
                command.id,
                cast(list[TokenIds], command.ids),
                flow=command.flow,
                weight=command.weight,
                group=base.digest,
                mixer=model,
            )
        assert work.vectors is not None
        assert len(work.vectors) == len(command.ids), "as many vectors as texts"
        self._send(
            wire.Done(
                command.id,
                rows=len(command.ids),
                dim=1,
                tokens=work.tokens,
                load_seconds=loaded - began,
                queue_seconds=work.queue_seconds or 0.0,
                compute_seconds=work.compute_seconds,
            ),
            b"",
        )

    @asynccontextmanager
    async def _leased(self, base: Generation, generation: Generation) -> AsyncIterator[tuple[Loaded, Loaded]]:
        """As the parent leases: of an adapter first its base."""
        async with self.pool.lease(base) as model:
            assert isinstance(model, Loaded)
            if generation is base:
                yield model, model
                return
            async with self.adapters.lease(generation) as adapter:
                assert isinstance(adapter, Loaded)
                yield model, adapter

    async def _compute(self, function: Callable[[], Vectors], key: str, requests: list[int]) -> Vectors:
        """The device: a call at a time, in order of arrival, each as long as it was measured."""
        call = cast(Call, cast(Any, function).__self__)  # whose `run` it is
        assert isinstance(call.embedder, Loaded)
        async with self._lane:
            with self._recorder.device_call(key, requests):
                seconds = self._costs.compute(call.tokens, call.embedder.work)
                await asyncio.sleep(seconds)
            self._ledger.busy[self._index] += seconds
            self._ledger.tokens += call.tokens
            return NUMBERS[: call.texts]

    def end(self) -> None:
        for disk in self._disks:
            disk.gone = True
        for task in self._requests.values():
            task.cancel()


class Frames(Link[wire.Report]):
    """What the gateway writes to; it arrives in the next turn of the loop."""

    def __init__(self, host: SimulatedHost) -> None:
        super().__init__(wire.reports)
        self._host: SimulatedHost | None = host

    def send(self, message: object, payload: bytes | memoryview = b"") -> None:
        asyncio.get_running_loop().call_soon(self._deliver, message)

    def _deliver(self, message: object) -> None:
        if self._host is not None:
            self._host.receive(cast(wire.Command, message), b"")

    def close(self) -> None:
        self._host = None


class Process(HostProcess):
    """The gateway's end. `begin` and `die` stand in for a process that is spawned and killed."""

    pid = None

    def __init__(self, index: int, ground: Ground, tell: events.Events, limit: int = 0) -> None:
        super().__init__(
            f"cpu:{index}",
            b"",
            tell,
            hang_timeout=NEVER,
            load_timeout=NEVER,
            clock=asyncio.get_running_loop().time,
        )
        self._recorder.close()
        self._recorder = Recorder.create(self._clock)
        self.index = index
        self._ground = ground
        self._limit = limit
        self.inside: SimulatedHost | None = None
        self._serving: asyncio.Task[None] | None = None

    def begin(self) -> None:
        loop = asyncio.get_running_loop()

        def send(report: wire.Report, payload: bytes | memoryview) -> None:
            loop.call_soon(receive, report)

        def receive(report: wire.Report) -> None:
            if self.inside is host:  # not of one that has died meanwhile
                self._receive(report, b"", 0, 0.0)

        self._recorder.clear()
        host = SimulatedHost(self.index, self._ground, self._recorder, send, self._limit)
        self.inside, self._link = host, Frames(host)
        self._serving = loop.create_task(host.batcher.serve())
        send(wire.Ready(self.device, host.pool.budget), b"")
        host.reports.tell()

    def die(self) -> None:
        """At once: what was in flight is the gateway's to send again."""
        assert self.inside is not None
        assert self._link is not None
        assert self._serving is not None
        host, self.inside = self.inside, None
        self._link.close()
        self._serving.cancel()
        host.end()
        self._exited(cast(asyncio.subprocess.Process, Ended()))

    def close(self) -> None:
        if self.inside is not None:
            self.die()
        self._recorder.close()


class Ended:
    """How a process that was killed looks to who waits for it."""

    pid = 0
    returncode = -signal.SIGKILL


def failed(error: GatewayError) -> str:
    """How a failure is counted."""
    return "host" if isinstance(error, HostFailed) else error.code
