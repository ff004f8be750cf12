"""One device and all that touches it: pool, tokenizers, batcher, runtimes, behind the commands of `wire`.

The event loop owns all state. The device lane is the only thread that touches the device, the disk lane reads
weights into host memory, the tokenizer lane makes token ids; none of the three ever waits for another.
"""

from __future__ import annotations

import asyncio
import functools
import os
import sys
import time
import traceback
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, ParamSpec, TypeVar

import msgspec
import numpy as np

from gateway.errors import DoesNotFit, GatewayError, Internal, ModelNotFound, Overloaded, TooManyInputs, TooManyTokens
from gateway.host import encoder, memory, pairs, panic, spelling, stages, threads, wire
from gateway.host.adapted import Adapted, Adapter
from gateway.host.adapters import AdapterLoader
from gateway.host.backlog import Hold
from gateway.host.batcher import Batcher
from gateway.host.device import Device
from gateway.host.loader import Loader, Model
from gateway.host.pool import Pool
from gateway.host.recorder import TOKENS, Recorder
from gateway.host.reports import Reports
from gateway.host.speaker import Speaker, Voice
from gateway.host.tokenize import SHORT, TokenIds, Tokenizer, in_one_thread, is_short
from gateway.host.work import Vectors, Work
from gateway.lane import Lane
from gateway.model import Generation

P = ParamSpec("P")
T = TypeVar("T")
LARGE: Final = 1 << 16  # numbers above which arithmetic on an answer leaves the loop
CPU_BATCH: Final = 512  # tokens for each thread of a processor: a larger call computes no faster, and lasts
LEAST_CPU_BATCH: Final = 1024
CUDA_BATCH: Final = 65536
CUDA_ENOUGH: Final = 8192  # tokens from which on a call is worth its launches
CACHE_TOKENS: Final = 32_768  # whose keys and values a language model has room for
CPU_QUEUE: Final = 400_000  # tokens
CUDA_QUEUE: Final = 8_000_000
CHARACTERS: Final = 4  # in a token of English; what has not been tokenized is counted so
SPECIAL_TOKENS: Final = 3  # around each text
ADAPTER_SHARE: Final = 16  # of host memory behind the device, one part for adapters, beside it
MOST_ANSWER: Final = 1 << 28  # bytes of an answer that may be far larger than what was asked


class Config(msgspec.Struct, frozen=True):
    """What the gateway tells a host on its command line. 0 lets the host choose."""

    device: str
    memory_budget: int = 0
    host_memory_budget: int | None = None
    max_loaded_models: int = 0
    max_batch_tokens: int = 0
    max_batch_texts: int = 0
    max_queue_tokens: int = 0
    tokenizer_threads: int = 0
    compute_threads: int = 0
    kv_cache_tokens: int = 0
    max_loaded_adapters: int = 0
    adapter_memory: int = 0


class Host:
    """`send` takes what the host has to say; `recorder` is the page that outlives a crash."""

    def __init__(
        self, config: Config, recorder: Recorder, send: Callable[[wire.Report, bytes | memoryview], None]
    ) -> None:
        self._send = send
        on_cuda = memory.on_cuda(config.device)
        cores = len(os.sched_getaffinity(0))
        threads.use(config.compute_threads or cores)
        if not on_cuda:
            in_one_thread()
        self._device = Device(config.device, recorder)
        self._recorder = recorder
        width = config.tokenizer_threads or max(2, cores // 2)
        self._tokens = Lane("tokens", min(width, len(TOKENS) - 1))  # one line is the loop's
        cache_tokens = config.kv_cache_tokens or CACHE_TOKENS
        self._loader = Loader(self._device, recorder, send, self._make_room, cache_tokens)
        self.reports = Reports(send, self._residency)
        self.pool = Pool(
            self._loader,
            self.reports,
            memory.budget(config.device, config.memory_budget),
            config.max_loaded_models,
            host_budget=memory.host_budget(config.device, config.host_memory_budget),
        )
        self.batcher = Batcher(
            self._device.call,
            max_tokens=config.max_batch_tokens or (CUDA_BATCH if on_cuda else _cpu_batch(threads.count())),
            enough_tokens=min(CUDA_ENOUGH, config.max_batch_tokens or CUDA_ENOUGH) if on_cuda else 0,
            max_texts=config.max_batch_texts,
            max_queue_tokens=config.max_queue_tokens or (CUDA_QUEUE if on_cuda else CPU_QUEUE),
            on_call=self.reports.called,
        )
        self._adapter_loader = AdapterLoader(self._device, recorder, functools.partial(self.pool.lease, join=True))
        self.adapters = Pool(
            self._adapter_loader,
            self.reports,
            memory.adapter_budget(self.pool.budget, config.adapter_memory),
            config.max_loaded_adapters,
            host_budget=self.pool.tier.budget // ADAPTER_SHARE,
        )
        self._known: dict[str, Generation] = {}
        self._requests: dict[int, asyncio.Task[None]] = {}

    # The commands.

    def receive(self, command: wire.Command, payload: wire.Payload) -> None:
        match command:
            case wire.Offer():
                self._known[command.generation.digest] = command.generation
                if command.generation.base is None:
                    self._loader.expect(command.generation, command.wish)
            case wire.Embed() | wire.Rerank() | wire.Tokenize() | wire.Decode() | wire.Generate():
                if not self._refused(command):
                    self._admit(command, self._known.get(command.digest))
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
                self._loader.forget_wishes(live)
                self.adapters.keep(live, frozenset(command.pinned))
                self.pool.keep(live, frozenset(command.pinned))
                self.batcher.backlog.forget(live)

    async def serve(self) -> None:
        """Says that it is ready, and feeds the device for ever."""
        await self._device.prepare()
        await self._loader.prepare()
        self._send(wire.Ready(self._device.name, self.pool.budget), b"")
        self.reports.tell()
        await self.batcher.serve()

    def _admit(self, command: wire.Work, generation: Generation | None) -> None:
        """Counted at once: many commands come in one read, and the next is refused by what this one holds."""
        hold = self.batcher.backlog.hold(command.digest, command.flow, _expected(command), command.weight)
        if isinstance(command, wire.Tokenize | wire.Decode):
            task = self._start(command, self._spell(command, generation, hold))
        elif isinstance(command, wire.Generate):
            task = self._start(command, self._generate(command, generation, hold))
        else:
            task = self._start(command, self._embed(command, generation, hold))
        task.add_done_callback(lambda _: hold.end())

    def _start(
        self, command: wire.Work | wire.Load | wire.Unload, work: Coroutine[Any, Any, None]
    ) -> asyncio.Task[None]:
        if not isinstance(command, wire.Unload) and command.alone:
            self._device.suspects |= {command.id, command.digest}
        task = asyncio.get_running_loop().create_task(self._answer(command.id, work))
        self._requests[command.id] = task
        task.add_done_callback(lambda _: self._ended(command.id))
        return task

    def _ended(self, request: int) -> None:
        del self._requests[request]
        self._device.suspects.discard(request)

    async def _answer(self, request: int, work: Coroutine[Any, Any, None]) -> None:
        try:
            with panic.caught():
                await work
        except GatewayError as error:
            self._send(wire.Failed.of(request, error), b"")
        except Exception as error:  # a bug: told to the operator in full, and to the client as a bug
            traceback.print_exc(file=sys.stderr)
            self._send(wire.Failed.of(request, Internal(f"{type(error).__name__} in the host")), b"")

    async def _make_room(self) -> None:
        await self.adapters.give_way()
        await self.pool.give_way()

    async def _load(self, command: wire.Load, generation: Generation | None) -> None:
        known = _known(generation)
        if known.base is None:
            await self.pool.load(known)
        else:
            async with self.pool.lease(known.base):  # as `_lease` does, and for its reason
                await self.adapters.load(known)
        self._send(wire.Done(command.id), b"")

    @asynccontextmanager
    async def _lease(self, generation: Generation | None) -> AsyncIterator[Model | Adapted | Speaker]:
        """The right to use a generation; of an adapter first to its base, so that what waits for that holds no place
        among the adapters."""
        known = _known(generation)
        async with self.pool.lease(known.base or known) as model:
            assert isinstance(model, Model | Speaker), "the pool of models has no other"
            if known.base is None:
                yield model
                return
            async with self.adapters.lease(known) as adapter:
                if isinstance(model, Speaker):
                    assert isinstance(adapter, Voice), "an adapter was loaded for it"
                    yield model.with_voice(adapter)
                    return
                assert isinstance(adapter, Adapter), "the pool of adapters has no other"
                assert isinstance(model.encoder, encoder.Encoder), "an adapter was loaded for it"
                yield Adapted(adapter, model.encoder, model.generation.manifest, model.mixer)

    async def _unload(self, command: wire.Unload) -> None:
        await self.adapters.unload(command.digest, command.why)
        await self.pool.unload(command.digest, command.why)
        self.reports.tell()  # before the answer, so that who reads the state after it sees it
        self._send(wire.Done(command.id), b"")

    def _refused(self, command: wire.Work) -> bool:
        """Before the request has cost anything."""
        try:
            self.batcher.backlog.refuse_if_full(command.digest, command.flow)
        except Overloaded as error:
            self._send(wire.Failed.of(command.id, error), b"")
            return True
        return False

    async def _embed(self, command: wire.Embed | wire.Rerank, generation: Generation | None, hold: Hold) -> None:
        began = time.monotonic()
        async with self._lease(generation) as model:
            assert not isinstance(model, Speaker), "the service asks for what a model can do"
            loaded = time.monotonic()
            rows, prompt_tokens = await self._tokenized(model.tokenizer, command)
            _refuse_too_many(rows, command.options.most_tokens)
            pooled = command.options.pooled
            if not pooled:
                _demand_room(rows, model.generation)
            hold.end()  # from here on its tokens are counted as they are
            work = await self.batcher.embed(
                command.digest,
                model if pooled else model.tokens,
                command.id,
                rows,
                prompt_tokens,
                flow=command.flow,
                weight=command.weight,
                deadline=None if command.deadline is None else began + command.deadline,
                alone=command.alone,
                group=_group(model.generation),
                mixer=model.mixer if pooled else None,
            )
            await self._deliver(command, model.generation, work, loaded - began)
            await self._use_pause(model)

    async def _spell(self, command: wire.Tokenize | wire.Decode, generation: Generation | None, hold: Hold) -> None:
        """What the tokenizer does alone. What it makes is many times as large as the texts: never on the loop."""
        async with self._lease(generation) as model:
            payload = await self._with_tokens(command, _spelled, model.tokenizer, command)
            hold.end()
            self._send(wire.Done(command.id), payload)

    async def _generate(self, command: wire.Generate, generation: Generation | None, hold: Hold) -> None:
        began = time.monotonic()
        async with self._lease(generation) as model:
            assert isinstance(model, Speaker), "the service asks for what a model can do"
            loaded = time.monotonic()
            prompt = await self._with_tokens(command, model.read, command.text, command.turns)
            hold.end()

            def tell(text: str, tokens: int, finish: str) -> None:
                self._send(wire.Piece(command.id, text, len(prompt), tokens, finish, answer.likely(text, finish)), b"")

            answer = model.answer(command, prompt, tell, began)
            try:
                await model.talk.answer(answer)
            except memory.OutOfMemory as error:
                raise DoesNotFit("the device has no memory left for the rows that are being continued") from error
            self._send(wire.Done(command.id, tokens=len(prompt) + answer.tokens, load_seconds=loaded - began), b"")

    async def _use_pause(self, model: Model | Adapted) -> None:
        """What makes later calls faster is done while nobody waits, or a step at a time."""
        runtime = model.encoder
        while isinstance(runtime, encoder.Encoder) and runtime.wants_pause(busy=self.batcher.queue_tokens > 0):
            await self._device.note(runtime.use_pause, _group(model.generation), [])
            if self.batcher.queue_tokens:
                return  # the next request does the next step

    async def _tokenized(self, tokenizer: Tokenizer, command: wire.Embed | wire.Rerank) -> tuple[list[TokenIds], int]:
        """A short text is done before a thread could have been told of it."""
        if not _is_short(command):
            return await self._with_tokens(command, _tokenize, tokenizer, command)
        async with self._device.turn([command.id]):
            return self._noted(command, _tokenize, tokenizer, command)

    async def _with_tokens(
        self, command: wire.Work, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """On the token lane, in a turn and noted: a text or a chat template may kill or hang the host, too."""
        async with self._device.turn([command.id]):
            return await self._tokens.run(self._noted, command, function, *args, **kwargs)

    def _noted(self, command: wire.Work, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        with self._recorder.tokens(command.digest, command.id):
            return function(*args, **kwargs)

    async def _deliver(
        self, command: wire.Embed | wire.Rerank, generation: Generation, work: Work, load_seconds: float
    ) -> None:
        vectors = work.vectors
        assert vectors is not None
        counts: list[int] = []
        if not command.options.pooled:
            counts = [len(row) for row in work.rows]
            vectors = await self._with_tokens(command, _together, vectors)
        finished = await self._finish(vectors, generation, command)
        done = wire.Done(
            command.id,
            rows=finished.shape[0],
            dim=finished.shape[1],
            tokens=work.tokens,
            load_seconds=load_seconds,
            queue_seconds=work.queue_seconds or 0.0,
            compute_seconds=work.compute_seconds,
            counts=counts,
        )
        self._send(done, finished.data.cast("B"))

    async def _finish(self, vectors: Vectors, generation: Generation, command: wire.Embed | wire.Rerank) -> Vectors:
        manifest, options = generation.manifest, command.options
        if isinstance(command, wire.Rerank):
            return vectors if command.raw else stages.activated(vectors, manifest.activation)
        if options.normalize is None and options.dimensions is None:
            return vectors
        normalize = manifest.normalized and options.pooled if options.normalize is None else options.normalize
        if vectors.size < LARGE:
            return encoder.finish(vectors, normalize=normalize, dimensions=options.dimensions)
        return await self._tokens.run(encoder.finish, vectors, normalize=normalize, dimensions=options.dimensions)

    def _residency(self) -> wire.Residency:
        return wire.Residency(
            [*_residents(self.pool), *_residents(self.adapters)],
            self.pool.used,
            self.pool.budget,
            self.batcher.queue_tokens,
            memory.resident(),
            [*_parked(self.pool), *_parked(self.adapters)],
            self.pool.tier.used,
            self.pool.tier.budget,
            self.batcher.queue_seconds,
        )


def _residents(pool: Pool) -> list[wire.Resident]:
    now = pool.now
    return [
        wire.Resident(
            slot.generation.digest,
            slot.state.value,
            slot.bytes,
            slot.leases,
            pool.pinned(slot.generation.digest),
            max(0.0, now - slot.last_used),
            slot.runtime.numerics if slot.runtime else None,
            seconds_left=pool.seconds_left(slot.generation.digest),
            rows=slot.runtime.talk.running if isinstance(slot.runtime, Speaker) else None,
            rows_waiting=slot.runtime.talk.waiting if isinstance(slot.runtime, Speaker) else 0,
        )
        for slot in pool.slots()
    ]


def _parked(pool: Pool) -> list[wire.Parked]:
    now, parked = pool.now, pool.tier.parked().items()
    return [wire.Parked(digest, each.bytes, max(0.0, now - each.since)) for digest, each in parked]


def _group(generation: Generation) -> str:
    """A base and its adapters, whose texts may share a call."""
    return (generation.base or generation).digest


def _known(generation: Generation | None) -> Generation:
    """What a command meant when it came: a `Keep` right behind it withdraws nothing from it."""
    if generation is None:
        raise ModelNotFound("the generation was withdrawn")
    return generation


def _refuse_too_many(rows: Sequence[TokenIds], most: int) -> None:
    """Before they are queued. Raises TooManyTokens."""
    if most and (tokens := sum(map(len, rows))) > most:
        raise TooManyTokens(
            f"{tokens} tokens are more than the {most} that one request may have", limit=most, tokens=tokens
        )


def _cpu_batch(threads: int) -> int:
    """Tokens of one call."""
    return max(LEAST_CPU_BATCH, CPU_BATCH * threads)


def _expected(command: wire.Work) -> int:
    """Tokens, before they are counted."""
    if isinstance(command, wire.Decode):
        return max(1, sum(map(len, command.ids)))
    if isinstance(command, wire.Embed) and command.ids is not None:
        return max(1, sum(map(len, command.ids)) + SPECIAL_TOKENS * len(command.ids))
    if isinstance(command, wire.Generate):
        return max(1, (len(command.text) + sum(len(turn.content) for turn in command.turns)) // CHARACTERS)
    characters = sum(map(len, command.texts))
    if isinstance(command, wire.Rerank):
        characters += len(command.query) * len(command.texts)
    return max(1, characters // CHARACTERS + SPECIAL_TOKENS * len(command.texts))


def _is_short(command: wire.Embed | wire.Rerank) -> bool:
    if isinstance(command, wire.Rerank):
        return is_short(command.texts, command.query)
    return is_short(command.texts, command.options.prompt) if command.ids is None else _expected(command) <= SHORT


def _demand_room(rows: Sequence[TokenIds], generation: Generation) -> None:
    """Vectors of single tokens are hundreds of times as large as their texts."""
    tokens, width = sum(map(len, rows)), generation.manifest.width
    most = MOST_ANSWER // (4 * width)
    if tokens > most:
        message = f"an answer has vectors of at most {most} tokens of this model, and the inputs have {tokens}"
        raise TooManyInputs(message, limit=most, tokens=tokens)


def _tokenize(tokenizer: Tokenizer, command: wire.Embed | wire.Rerank) -> tuple[list[TokenIds], int]:
    options = command.options
    truncate, side = options.truncate, options.truncation_side
    if isinstance(command, wire.Rerank):
        return pairs.encode(tokenizer, command.query, command.texts, truncate=truncate, side=side), 0
    if command.ids is not None:
        return tokenizer.encode_ids(command.ids, truncate=truncate, side=side), 0
    rows = tokenizer.encode(command.texts, prompt=options.prompt, truncate=truncate, side=side)
    return rows, tokenizer.prompt_tokens(options.prompt) if options.prompt else 0


def _spelled(tokenizer: Tokenizer, command: wire.Tokenize | wire.Decode) -> bytes:
    """The payload of the answer."""
    if isinstance(command, wire.Decode):
        found: Any = tokenizer.decode(command.ids, skip_special_tokens=command.skip_special_tokens)
    else:
        special = command.add_special_tokens
        found = spelling.tokens(tokenizer, command.texts, prompt=command.prompt, add_special_tokens=special)
    payload = wire.encoder.encode(found)
    if len(payload) > MOST_ANSWER:
        message = f"the answer would have {len(payload)} bytes, and may have {MOST_ANSWER}: send fewer texts"
        raise TooManyInputs(message, limit=MOST_ANSWER)
    return payload


def _together(rows: Vectors) -> Vectors:
    """Of a TokenEmbedder: the vectors of all tokens, [tokens, width]."""
    return np.concatenate(rows[:, 0].tolist())
