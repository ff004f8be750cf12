"""Generations to the device and away from it: what the pool has done, in the right lanes and turns.

The disk lane reads weights into host memory, the device lane places them and runs the probe, and nobody else may use a
model before that. A load that runs out of memory has everything idle unloaded, and is tried once more.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final, TypeVar

from cachetools import LRUCache

from gateway.errors import DoesNotFit, GatewayError, LoadFailed
from gateway.host import adapted, causal, cuda, encoder, library, memory, runtimes, threads, wire
from gateway.host.adapted import Adapted
from gateway.host.chat import Template
from gateway.host.device import Device
from gateway.host.generator import Generator
from gateway.host.halving import column, halving
from gateway.host.recorder import LOADS, Recorder
from gateway.host.slot import Runtime
from gateway.host.speaker import Came, Speaker
from gateway.host.talk import MOST_ROWS
from gateway.host.tokenize import TokenIds, Tokenizer, shared
from gateway.host.work import Embedder, Vectors
from gateway.lane import Lane
from gateway.model import Generation
from gateway.volume.pagecache import read_ahead
from gateway.wish import Wish, Wishes

T = TypeVar("T")
REMEMBERED: Final = 4096  # generations
LOADS_AT_ONCE: Final = 2  # one is read while another is placed; more only fight for the disk
assert len(LOADS) >= LOADS_AT_ONCE
# Families whose network and tokenizer we read ourselves, as they usually come. A hint: the rest is found at the load.
WITHOUT_LIBRARY: Final = frozenset({"bert", "distilbert"})


class Model:
    """A loaded generation: its runtime and its tokenizer."""

    def __init__(
        self,
        generation: Generation,
        runtime: runtimes.Embedding,
        numerics: wire.Numerics,
        tokenizer: Tokenizer,
    ) -> None:
        self.generation = generation
        self.numerics = numerics
        self.encoder = runtime
        self.tokenizer = tokenizer
        self.tokens = TokenEmbedder(runtime)

    @property
    def bytes(self) -> int:
        return self.encoder.bytes

    @property
    def packed(self) -> bool:
        return self.encoder.packed

    def embed(self, rows: Sequence[TokenIds], prompt_tokens: Sequence[int]) -> Vectors:
        """Token ids -> float32 [rows, dim]. A call that the device has no memory for is halved until it fits."""
        return halving(self.encoder.device, self.encoder.embed, rows, prompt_tokens)

    @property
    def mixer(self) -> Model | None:
        """It, if texts of adapters may share its calls."""
        return self if isinstance(self.encoder, encoder.Encoder) and self.encoder.takes_adapters else None

    def embed_mixed(
        self, rows: Sequence[TokenIds], prompt_tokens: Sequence[int], embedders: Sequence[Embedder]
    ) -> Vectors:
        """Rows of this model and of adapters over it, each of the embedder beside it."""
        assert isinstance(self.encoder, encoder.Encoder), "only such a model is a mixer"
        owners = [each.adapter if isinstance(each, Adapted) else None for each in embedders]
        return adapted.embed(self.encoder, rows, prompt_tokens, owners)


class TokenEmbedder:
    """A loaded generation where vectors of single tokens are wanted. It shares its model's queue."""

    def __init__(self, runtime: runtimes.Embedding) -> None:
        self._runtime = runtime

    @property
    def packed(self) -> bool:
        return self._runtime.packed

    def embed(self, rows: Sequence[TokenIds], prompt_tokens: Sequence[int]) -> Vectors:
        """-> [rows, 1] of objects, each float32 [tokens, width]: rows differ, and to the batcher one is as another."""
        return halving(self._runtime.device, self._embed, rows, prompt_tokens)

    def _embed(self, rows: Sequence[TokenIds], prompt_tokens: Sequence[int]) -> Vectors:
        return column(self._runtime.token_vectors(rows))


class Loader:
    """The pool's loader. `make_room` unloads all that is idle. Each language model gets room for the keys and values of
    `cache_tokens`."""

    def __init__(
        self,
        device: Device,
        recorder: Recorder,
        send: Callable[[wire.Report, bytes | memoryview], None],
        make_room: Callable[[], Awaitable[None]],
        cache_tokens: int = 0,
    ) -> None:
        self._device = device
        self._cache_tokens = cache_tokens
        self._recorder = recorder
        self._send = send
        self._wishes: dict[str, Wish] = {}
        self._make_room = make_room
        self._failures = runtimes.Failures()
        self._disk = Lane("disk")  # one thread: transformers patches globals while it builds a model
        self._words = Lane("words")  # makes tokenizers, beside the weights
        self._proven: LRUCache[tuple[str, wire.Numerics], bool] = LRUCache(REMEMBERED)  # those that passed the probe
        self._ahead = Lane("ahead")
        self._library: Lane | None = Lane("library")  # until the library is imported
        self._loads = asyncio.Semaphore(LOADS_AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()  # that nobody waits for

    async def prepare(self) -> None:
        if memory.on_cuda(self._device.name):
            await self._disk.run(cuda.prepare, self._device.name)
            return
        await self._disk.run(threads.alone)
        threads.use(threads.count())

    def expect(self, generation: Generation, wish: Wish) -> None:
        """It may be asked for, and is to be computed like this when it is loaded next."""
        self._wishes[generation.digest] = wish
        manifest = generation.manifest
        plain = manifest.kind == "encoder" and manifest.quantization is None
        without = manifest.model_type in WITHOUT_LIBRARY and plain
        if self._library is not None and not without:
            self._background(self._import(self._library))
            self._library = None

    async def _import(self, lane: Lane) -> None:
        """Takes seconds, and a hundred megabytes that a host of BERTs can do without; the first load need not wait for
        it, and those that do not need it do not: it has a lane of its own."""
        await lane.run(library.transformers)
        lane.close()

    def forget_wishes(self, keep: frozenset[str]) -> None:
        self._wishes = {digest: wish for digest, wish in self._wishes.items() if digest in keep}

    def predict(self, generation: Generation) -> int:
        return runtimes.predict(generation, self._wished(generation), self._device.name, self._room(generation))

    async def load(self, generation: Generation) -> Runtime:
        async with self._loads, self._device.turn([generation.digest]):
            with self._recorder.load(generation.digest):
                await self._ahead.run(read_ahead, generation)  # the disk works while another load is being built
                try:
                    model = await self._read_or_make_room(generation)
                except GatewayError:
                    await self._device.release()  # what it had read goes back now, not some day
                    raise
        self._device.suspects.discard(generation.digest)
        return model

    async def close(self, runtime: Runtime) -> None:
        assert isinstance(runtime, Model | Speaker)
        await self._device.run(runtime.encoder.close)
        await self._device.release()

    async def park(self, runtime: Runtime) -> None:
        """Where the device is host memory the model is there already."""
        assert isinstance(runtime, Model | Speaker)
        if memory.on_cuda(self._device.name):
            await self._move(runtime, runtime.encoder.park)

    async def unpark(self, runtime: Runtime) -> None:
        assert isinstance(runtime, Model | Speaker)
        if memory.on_cuda(self._device.name):
            await self._move(runtime, functools.partial(runtime.encoder.place, self._device.name))
            self._tidy(runtime.encoder)

    async def _read_or_make_room(self, generation: Generation) -> Model | Speaker:
        try:
            return await self._read(generation)
        except memory.OutOfMemory:
            await self._make_room()
            await self._device.release()
        try:
            return await self._read(generation)
        except memory.OutOfMemory as error:
            message = "the device has no memory left for the model, with all idle ones unloaded"
            raise DoesNotFit(message) from error

    async def _read(self, generation: Generation) -> Model | Speaker:
        """Disk to host memory on the disk lane, then to the device, and a probe before anybody else may use it."""
        wish, name = self._wished(generation), self._device.name
        room = self._room(generation)
        weights = self._disk.run(runtimes.load, generation, wish, name, self._failures, room)
        words, read = await asyncio.gather(self._words.run(shared, generation), weights, return_exceptions=True)
        for failure in self._failures.news():
            self._send(failure, b"")
        chosen = _or_raise(read)
        try:
            tokenizer = _or_raise(words)
            await self._device.run(chosen.runtime.place, name)
            await self._probe(generation, chosen, tokenizer)
            if isinstance(chosen.runtime, Generator):
                return await self._speaker(generation, chosen.runtime, chosen.numerics, tokenizer)
        except BaseException:
            await self._device.run(chosen.runtime.close)
            raise
        return Model(generation, chosen.runtime, chosen.numerics, tokenizer)

    async def _speaker(
        self, generation: Generation, generator: Generator, numerics: wire.Numerics, tokenizer: Tokenizer
    ) -> Speaker:
        template = await self._words.run(Template, generation)
        manner = await self._words.run(causal.manner, generation)
        room = self._room(generation)

        async def run(advance: Callable[[], Came], requests: list[int]) -> Came:
            return await self._device.call(advance, generation.digest, requests)

        return Speaker(
            generation,
            numerics,
            generator,
            tokenizer=tokenizer,
            template=template,
            manner=manner,
            room=room,
            run=run,
        )

    def _room(self, generation: Generation) -> int:
        """Tokens: no more than its longest rows would have."""
        return min(self._cache_tokens, MOST_ROWS * generation.manifest.max_tokens)

    async def _probe(self, generation: Generation, chosen: runtimes.Chosen, tokenizer: Tokenizer) -> None:
        """Once in the life of a host: the content of a generation never changes, except where it is served in place."""
        key = (generation.digest, chosen.numerics)
        if generation.place is None and key in self._proven:
            return
        if isinstance(chosen.runtime, Generator):
            await self._device.run(chosen.runtime.probe)
        else:
            await self._device.run(encoder.probe, chosen.runtime, tokenizer, generation.manifest)
        self._proven[key] = True

    def _wished(self, generation: Generation) -> Wish:
        return self._wishes.get(generation.digest) or Wishes().of((), generation.manifest.wish)

    def _tidy(self, runtime: runtimes.Loaded) -> None:
        """Behind the back of the requests that the model was brought back for."""
        if isinstance(runtime, encoder.Encoder):
            self._background(self._disk.run(runtime.tidy))

    def _background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _move(self, model: Model | Speaker, move: Callable[[], None]) -> None:
        digest = model.generation.digest
        try:
            async with self._device.turn([digest]):
                await self._device.note(move, digest, [])
        except Exception as error:  # no memory there, or whatever a driver says: it comes from the disk again
            await self._device.run(model.encoder.close)
            raise LoadFailed(f"the model could not be moved: {error}") from error
        finally:
            await self._device.release()


def _or_raise(found: T | BaseException) -> T:
    if isinstance(found, BaseException):
        raise found
    return found
