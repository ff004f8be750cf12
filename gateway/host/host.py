"""One device and all that touches it: pool, tokenizers, batcher, runtimes, behind the commands of `wire`.

The event loop owns all state. The device lane is the only thread that touches the device, the disk lane reads
weights into host memory, the tokenizer lane makes token ids; none of the three ever waits for another.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
import traceback
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
import torch

from gateway.errors import DoesNotFit, GatewayError, Internal, ModelNotFound
from gateway.host import encoder, library, memory, wire
from gateway.host.batcher import Batcher, Call, Vectors
from gateway.host.pool import Pool, Runtime, Slot
from gateway.host.recorder import LOADS, Recorder
from gateway.host.tokenize import Tokenizer
from gateway.host.turns import Turns
from gateway.lane import Lane
from gateway.model import Generation

LOADS_AT_ONCE: Final = 2  # one is read while another is placed; more only fight for the disk
assert len(LOADS) >= LOADS_AT_ONCE
DEVICE_FAULT: Final = 71  # exit status: the device's context is poisoned, and only a new process cures it
LARGE: Final = 1 << 16  # numbers above which arithmetic on an answer leaves the loop
REPORT_SECONDS: Final = 0.1  # between reports of a queue that changes with every device call


class Config(msgspec.Struct, frozen=True):
    """What the gateway tells a host on its command line. 0 lets the host choose."""

    device: str
    memory_budget: int = 0
    max_loaded_models: int = 0
    max_batch_tokens: int = 0
    max_batch_texts: int = 0
    max_queue_tokens: int = 0
    tokenizer_threads: int = 0
    compute_threads: int = 0


class Model:
    """A loaded generation: its runtime and its tokenizer."""

    def __init__(self, generation: Generation, runtime: encoder.Encoder, tokenizer: Tokenizer) -> None:
        self.generation = generation
        self.encoder = runtime
        self.tokenizer = tokenizer

    @property
    def bytes(self) -> int:
        return self.encoder.bytes

    def embed(self, rows: Sequence[npt.NDArray[np.int64]], prompt_tokens: Sequence[int]) -> Vectors:
        """Token ids -> float32 [rows, dim]. A call that the device has no memory for is halved until it fits."""
        try:
            return self.encoder.embed(rows, prompt_tokens)
        except memory.OutOfMemory as error:
            memory.release(self.encoder.device)
            if len(rows) == 1:
                raise DoesNotFit(f"one text of {len(rows[0])} tokens does not fit into the device's memory") from error
        half = len(rows) // 2
        return np.concatenate(
            [self.embed(rows[:half], prompt_tokens[:half]), self.embed(rows[half:], prompt_tokens[half:])]
        )


class Host:
    """`send` takes what the host has to say; `recorder` is the page that outlives a crash."""

    def __init__(
        self, config: Config, recorder: Recorder, send: Callable[[wire.Report, bytes | memoryview], None]
    ) -> None:
        self.device = config.device
        self._recorder = recorder
        self._send = send
        cuda = config.device.startswith("cuda")
        cores = len(os.sched_getaffinity(0))
        torch.set_num_threads(config.compute_threads or cores)
        self._disk = Lane("disk")  # one thread: transformers patches globals while it builds a model
        self._tokens = Lane("tokens", config.tokenizer_threads or max(2, cores // 2))
        self._lane = Lane("device")
        self._loads = asyncio.Semaphore(LOADS_AT_ONCE)
        budget = memory.budget(config.device, config.memory_budget)
        self.pool = Pool(self, self, budget, config.max_loaded_models)
        self.batcher = Batcher(
            self._on_device,
            max_tokens=config.max_batch_tokens or (65536 if cuda else 4096),
            max_texts=config.max_batch_texts,
            max_queue_tokens=config.max_queue_tokens or (8_000_000 if cuda else 400_000),
            on_call=self._called,
        )
        self._known: dict[str, Generation] = {}
        self._requests: dict[int, asyncio.Task[None]] = {}
        self._turns = Turns()
        self._suspects: set[int | str] = set()  # requests and digests that were at work when a host died
        self._report_due: asyncio.Handle | None = None

    # The commands.

    def receive(self, command: wire.Command, payload: bytes) -> None:
        match command:
            case wire.Offer():
                self._known[command.generation.digest] = command.generation
            case wire.Embed():
                self._start(command, self._embed(command, self._known.get(command.digest)))
            case wire.Load():
                self._start(command, self._load(command, self._known.get(command.digest)))
            case wire.Unload():
                self._start(command, self._unload(command))
            case wire.Cancel():
                if task := self._requests.get(command.id):
                    task.cancel()
            case wire.Keep():
                live = frozenset(command.live)
                self._known = {digest: known for digest, known in self._known.items() if digest in live}
                self.pool.keep(live, frozenset(command.pinned))

    async def serve(self) -> None:
        """Says that it is ready, and feeds the device for ever."""
        self._send(wire.Ready(self.device, self.pool.budget), b"")
        self.changed()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._disk.run(library.transformers))  # seconds that the first load need not take
            await self.batcher.serve()

    def _start(self, command: wire.Embed | wire.Load | wire.Unload, work: Coroutine[Any, Any, None]) -> None:
        if not isinstance(command, wire.Unload) and command.alone:
            self._suspects |= {command.id, command.digest}
        task = asyncio.get_running_loop().create_task(self._answer(command.id, work))
        self._requests[command.id] = task
        task.add_done_callback(lambda _: self._ended(command.id))

    def _ended(self, request: int) -> None:
        del self._requests[request]
        self._suspects.discard(request)

    async def _answer(self, request: int, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except GatewayError as error:
            self._send(wire.Failed.of(request, error), b"")
        except Exception as error:  # a bug: told to the operator in full, and to the client as a bug
            traceback.print_exc(file=sys.stderr)
            self._send(wire.Failed.of(request, Internal(f"{type(error).__name__} in the host")), b"")

    async def _load(self, command: wire.Load, generation: Generation | None) -> None:
        await self.pool.load(_known(generation))
        self._send(wire.Done(command.id), b"")

    async def _unload(self, command: wire.Unload) -> None:
        await self.pool.unload(command.digest)
        self._report()  # before the answer, so that who reads the state after it sees it
        self._send(wire.Done(command.id), b"")

    async def _embed(self, command: wire.Embed, generation: Generation | None) -> None:
        began = time.monotonic()
        async with self.pool.lease(_known(generation)) as model:
            assert isinstance(model, Model)
            loaded = time.monotonic()
            options = command.options
            rows, prompt_tokens = await self._tokens.run(_tokenize, model.tokenizer, command.texts, options)
            work = await self.batcher.embed(command.digest, model, command.id, rows, prompt_tokens, alone=command.alone)
        vectors = work.vectors
        assert vectors is not None
        vectors = await self._finish(vectors, model.generation, options)
        done = wire.Done(
            command.id,
            rows=vectors.shape[0],
            dim=vectors.shape[1],
            tokens=work.tokens,
            load_seconds=loaded - began,
            queue_seconds=work.queue_seconds or 0.0,
            compute_seconds=work.compute_seconds,
        )
        self._send(done, vectors.data.cast("B"))

    async def _finish(self, vectors: Vectors, generation: Generation, options: wire.Options) -> Vectors:
        if options.normalize is None and options.dimensions is None:
            return vectors
        normalize = generation.manifest.normalized if options.normalize is None else options.normalize
        if vectors.size < LARGE:
            return encoder.finish(vectors, normalize=normalize, dimensions=options.dimensions)
        return await self._tokens.run(encoder.finish, vectors, normalize=normalize, dimensions=options.dimensions)

    # The pool's loader.

    def predict(self, generation: Generation) -> int:
        return memory.predict(generation.manifest)

    async def load(self, generation: Generation) -> Runtime:
        _read_ahead(generation)
        turn = self._turns.alone() if generation.digest in self._suspects else self._turns.shared()
        async with self._loads, turn:
            with self._recorder.load(generation.digest):
                try:
                    model = await self._read_or_make_room(generation)
                except GatewayError:
                    await self._lane.run(memory.release, self.device)  # what it had read goes back now, not some day
                    raise
        self._suspects.discard(generation.digest)
        return model

    async def _read_or_make_room(self, generation: Generation) -> Model:
        try:
            return await self._read(generation)
        except memory.OutOfMemory:
            self.pool.evict_idle()
            await self._lane.run(memory.release, self.device)
        try:
            return await self._read(generation)
        except memory.OutOfMemory as error:
            message = "the device has no memory left for the model, with all idle ones unloaded"
            raise DoesNotFit(message) from error

    async def _read(self, generation: Generation) -> Model:
        """Disk to host memory on the disk lane, then to the device, and a probe before anybody else may use it."""
        tokenizer, runtime = await self._disk.run(_read, generation)
        await self._lane.run(runtime.place, self.device)
        try:
            await self._lane.run(encoder.probe, runtime, tokenizer, generation.manifest)
        except BaseException:
            await self._lane.run(runtime.close)
            raise
        return Model(generation, runtime, tokenizer)

    async def close(self, runtime: Runtime) -> None:
        assert isinstance(runtime, Model)
        await self._lane.run(runtime.encoder.close)
        await self._lane.run(memory.release, self.device)

    # The device.

    async def _on_device(self, function: Callable[[], Vectors], digest: str, requests: list[int]) -> Vectors:
        suspected = not self._suspects.isdisjoint(requests)
        async with self._turns.alone() if suspected else self._turns.shared():
            return await self._lane.run(self._record, function, digest, requests)

    def _record(self, function: Callable[[], Vectors], digest: str, requests: list[int]) -> Vectors:
        with self._recorder.device_call(digest, requests):
            try:
                return function()
            except torch.AcceleratorError:  # out of memory was translated before; this context is lost
                traceback.print_exc(file=sys.stderr)
                sys.stderr.flush()
                os._exit(DEVICE_FAULT)  # here, so that the recorder still says what was running

    def _called(self, call: Call, seconds: float) -> None:
        self._send(wire.Batch(call.key, len(call.rows), call.tokens, call.padded_tokens, seconds), b"")
        if self._report_due is None:  # the queue has changed, and placement goes by it
            self._report_due = asyncio.get_running_loop().call_later(REPORT_SECONDS, self._report)

    # The pool's observer.

    def loaded(self, slot: Slot, seconds: float) -> None:
        self._send(wire.Loaded(slot.generation.digest, slot.bytes, seconds), b"")

    def unloaded(self, slot: Slot, idle_seconds: float) -> None:
        self._send(wire.Unloaded(slot.generation.digest, slot.bytes, slot.why, idle_seconds), b"")

    def failed(self, slot: Slot, error: GatewayError) -> None:
        failure = wire.LoadFailure(slot.generation.digest, error.code, error.message, error.retry_after or 0.0)
        self._send(failure, b"")

    def changed(self) -> None:
        """Many changes in one turn of the loop are one report."""
        if self._report_due is not None:
            self._report_due.cancel()
        self._report_due = asyncio.get_running_loop().call_soon(self._report)

    def _report(self) -> None:
        if self._report_due is not None:
            self._report_due.cancel()
        self._report_due = None
        now = time.monotonic()
        residents = [
            wire.Resident(
                slot.generation.digest,
                slot.state.value,
                slot.bytes,
                slot.leases,
                self.pool.pinned(slot.generation.digest),
                max(0.0, now - slot.last_used),
            )
            for slot in self.pool.slots()
        ]
        self._send(
            wire.Residency(residents, self.pool.used, self.pool.budget, self.batcher.queue_tokens, memory.resident()),
            b"",
        )


def _known(generation: Generation | None) -> Generation:
    """What a command meant when it came: a `Keep` right behind it withdraws nothing from it."""
    if generation is None:
        raise ModelNotFound("the generation was withdrawn")
    return generation


def _read_ahead(generation: Generation) -> None:
    """Asks the kernel for the weights now, so that the disk works while another load is being built."""
    for name in generation.manifest.weights:
        with contextlib.suppress(OSError):
            fd = os.open(os.path.join(generation.path, name), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            try:
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_WILLNEED)
            finally:
                os.close(fd)


def _read(generation: Generation) -> tuple[Tokenizer, encoder.Encoder]:
    return Tokenizer(generation), encoder.load(generation, "cpu")


def _tokenize(
    tokenizer: Tokenizer, texts: Sequence[str], options: wire.Options
) -> tuple[list[npt.NDArray[np.int64]], int]:
    rows = tokenizer.encode(texts, prompt=options.prompt, truncate=options.truncate)
    return rows, tokenizer.prompt_tokens(options.prompt) if options.prompt else 0
