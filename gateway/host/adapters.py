"""Adapters to the device and away from it: the loader of a pool of their own.

A load reads some megabytes at most. It has lanes of its own, so that it waits for no other load, and takes a lease on
its base alone, so that it makes nobody leave but other adapters.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final

import msgspec
from cachetools import LRUCache

from gateway.errors import DoesNotFit, LoadFailed
from gateway.host import encoder, factors, memory, stages
from gateway.host.adapted import Adapted, Adapter
from gateway.host.chat import Template
from gateway.host.device import Device
from gateway.host.encoder import Encoder
from gateway.host.loader import LOADS_AT_ONCE, Model
from gateway.host.recorder import LOADS, Recorder
from gateway.host.slot import Runtime
from gateway.host.speaker import Speaker, Voice
from gateway.host.tokenize import Tokenizer, shared
from gateway.lane import Lane
from gateway.model import Generation, Lora, Pooling

REMEMBERED: Final = 4096  # generations
AT_ONCE: Final = 2  # loads
assert len(LOADS) >= LOADS_AT_ONCE + AT_ONCE


class AdapterLoader:
    """`lease` gives the right to use a base, which may be retired already: whoever asked for the adapter keeps it until
    that is loaded."""

    def __init__(
        self,
        device: Device,
        recorder: Recorder,
        lease: Callable[[Generation], AbstractAsyncContextManager[Runtime]],
    ) -> None:
        self._device = device
        self._recorder = recorder
        self._lease = lease
        self._disk = Lane("adapters", AT_ONCE)
        self._loads = asyncio.Semaphore(AT_ONCE)
        self._proven: LRUCache[str, bool] = LRUCache(REMEMBERED)  # those that passed the probe

    def predict(self, generation: Generation) -> int:
        """DoRA's shifts are in no file: of a layer they are as many as its magnitudes, of which there is one for each
        row of its second factor."""
        manifest = generation.manifest
        lora = lora_of(generation)
        return (
            manifest.bytes_as("float32") * (lora.rank + 1) // lora.rank if lora.dora else manifest.bytes_as("float32")
        )

    async def load(self, generation: Generation) -> Runtime:
        async with self._lease(base_of(generation)) as base:
            if isinstance(base, Speaker):
                async with self._turn(generation):
                    voice = await self._speaking(generation, base)
                self._device.suspects.discard(generation.digest)
                return voice
            assert isinstance(base, Model), "the pool of models has no other"
            if base.mixer is None or not isinstance(base.encoder, Encoder):
                message = (
                    "its base is computed by another runtime than torch, or by transformers: adapters need our own"
                )
                raise LoadFailed(message, reason="base_not_supported", generation=generation.short)
            async with self._turn(generation):
                adapter = await self._read(generation, base, base.encoder)
                try:
                    await self._place(adapter, base.encoder, base.generation)
                except BaseException:
                    await self._device.run(adapter.close)
                    raise
        self._device.suspects.discard(generation.digest)
        return adapter

    @asynccontextmanager
    async def _turn(self, generation: Generation) -> AsyncIterator[None]:
        """To load it, noted as a load: what is read may kill or hang the host as well as what is computed."""
        async with self._loads, self._device.turn([generation.digest]):
            with self._recorder.load(generation.digest):
                yield

    async def _speaking(self, generation: Generation, base: Speaker) -> Voice:
        voice = await self._disk.run(read_voice, generation, base)
        try:
            await self._device.run(voice.place, self._device.name)
            if generation.place is not None or generation.digest not in self._proven:
                await self._device.run(base.encoder.probe, voice.branches)
                self._proven[generation.digest] = True
        except memory.OutOfMemory as error:
            await self._device.run(voice.close)
            raise DoesNotFit("the device has no memory left for the adapter") from error
        except BaseException:
            await self._device.run(voice.close)
            raise
        return voice

    async def close(self, runtime: Runtime) -> None:
        assert isinstance(runtime, Adapter | Voice), "this pool has no other"
        await self._device.run(runtime.close)

    async def park(self, runtime: Runtime) -> None:
        await self._move(runtime, "cpu")

    async def unpark(self, runtime: Runtime) -> None:
        await self._move(runtime, self._device.name)

    async def _read(self, generation: Generation, base: Model, network: Encoder) -> Adapter:
        try:
            return await self._disk.run(read, generation, base, network)
        except (OSError, ValueError) as error:
            message = f"the adapter could not be loaded: {error}"
            raise LoadFailed(message, reason="weights_unreadable", generation=generation.short) from error

    async def _place(self, adapter: Adapter, network: Encoder, base: Generation) -> None:
        """To the device, and once in the life of a host the probe."""
        generation = adapter.generation
        try:
            await self._device.run(adapter.place, self._device.name)
        except memory.OutOfMemory as error:
            raise DoesNotFit("the device has no memory left for the adapter") from error
        if generation.place is None and generation.digest in self._proven:
            return
        over, words = Adapted(adapter, network, base.manifest), adapter.tokenizer
        await self._device.run(encoder.probe, over, words, generation.manifest)
        self._proven[generation.digest] = True

    async def _move(self, runtime: Runtime, device: str) -> None:
        assert isinstance(runtime, Adapter | Voice), "this pool has no other"
        try:
            await self._device.run(runtime.place, device)
        except Exception as error:  # no memory there, or whatever a driver says: it comes from the disk again
            await self._device.run(runtime.close)
            raise LoadFailed(f"the adapter could not be moved: {error}") from error


def base_of(generation: Generation) -> Generation:
    assert generation.base is not None, "an adapter has a base"
    return generation.base


def lora_of(generation: Generation) -> Lora:
    assert generation.manifest.lora is not None, "an adapter's manifest says so"
    return generation.manifest.lora


def read(generation: Generation, base: Model, network: Encoder) -> Adapter:
    """Disk to host memory."""
    with memory.guarded():
        lora = factors.read(generation, network.dtype)
        tail = None
        if lora_of(generation).own_stages and _differs(generation, base.generation):
            tail = stages.build(generation.path, generation.manifest.stages, mapped=False).eval()
    return Adapter(generation, lora, tail, _tokenizer(generation, base), base.numerics)


def read_voice(generation: Generation, base: Speaker) -> Voice:
    """As `read`, over a language model. Raises LoadFailed."""
    try:
        with memory.guarded():
            branches = factors.read_branches(generation, base.encoder.dtype)
    except (OSError, ValueError) as error:
        message = f"the adapter could not be loaded: {error}"
        raise LoadFailed(message, reason="weights_unreadable", generation=generation.short) from error
    lora = lora_of(generation)
    tokenizer = shared(generation) if lora.own_tokenizer else base.tokenizer
    template = Template(generation) if lora.own_tokenizer or lora.own_template else base.template
    return Voice(generation, branches, tokenizer, template, base.numerics)


def _differs(generation: Generation, base: Generation) -> bool:
    """Whether what is behind the pooling is not the base's: layers have weights of their own."""
    own, below = (
        [stage for stage in each.manifest.stages if not isinstance(stage, Pooling)] for each in (generation, base)
    )
    return own != below or any(hasattr(stage, "path") for stage in own)


def _tokenizer(generation: Generation, base: Model) -> Tokenizer:
    if lora_of(generation).own_tokenizer:
        return shared(generation)
    own, below = generation.manifest, base.generation.manifest
    if (own.max_tokens, own.lower_case) == (below.max_tokens, below.lower_case):
        return base.tokenizer
    limits = msgspec.structs.replace(below, max_tokens=own.max_tokens, lower_case=own.lower_case)
    return shared(msgspec.structs.replace(base.generation, manifest=limits))
