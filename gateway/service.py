"""The verbs, free of HTTP: what every protocol at the edge calls, with plain values in and out.

Nothing here waits for anything but the engine. A request that cannot be served is refused before it costs anything.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from gateway.catalog.catalog import Catalog
from gateway.engine.engine import Engine
from gateway.errors import (
    DeadlineExceeded,
    InvalidBody,
    InvalidDimensions,
    NoDefaultModel,
    ShuttingDown,
    TooManyInputs,
    UnknownPrompt,
)
from gateway.host.wire import Options
from gateway.model import Generation, Manifest, ModelId, ModelRef
from gateway.settings import Settings


class EmbedRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a client asked for, whatever protocol it speaks. `model` is its spelling, None the default model."""

    texts: list[str]
    model: str | None = None
    normalize: bool | None = None
    truncate: bool = True
    prompt: str | None = None
    prompt_name: str | None = None
    dimensions: int | None = None


class Embedding(msgspec.Struct, frozen=True, kw_only=True):
    """`data` is little-endian float32 [rows, dim], row-major. Times in seconds."""

    model: ModelId
    generation: Generation
    data: bytes
    rows: int
    dim: int
    normalized: bool
    tokens: int = 0
    load_seconds: float = 0.0
    queue_seconds: float = 0.0
    compute_seconds: float = 0.0


class Service:
    """Put together in `app`, used by `web`."""

    def __init__(self, catalog: Catalog, engine: Engine, settings: Settings) -> None:
        self.catalog = catalog
        self.engine = engine
        self.settings = settings
        self._draining = asyncio.Event()
        self._in_flight = 0
        self._quiet = asyncio.Event()
        self._quiet.set()

    @property
    def draining(self) -> bool:
        return self._draining.is_set()

    @property
    def ready(self) -> bool:
        """Whether a request may be sent here: the volume was looked at, a host is up, and no end is in sight."""
        return self.catalog.looked.is_set() and self.engine.ready and not self.draining

    async def embed(self, request: EmbedRequest) -> Embedding:
        """Texts to vectors. Raises what `gateway.errors` has, and nothing else."""
        if len(request.texts) > self.settings.max_inputs:
            raise TooManyInputs(
                f"{len(request.texts)} inputs are more than the {self.settings.max_inputs} that one request may have",
                limit=self.settings.max_inputs,
            )
        model, generation = self.catalog.find(self._ref(request.model))
        options = self._options(request, generation.manifest)
        dim = request.dimensions or generation.manifest.dim
        normalized = _normalized(options, generation.manifest)
        if not request.texts:
            return Embedding(model=model, generation=generation, data=b"", rows=0, dim=dim, normalized=normalized)
        async with self._work(self.settings.request_timeout):
            vectors = await self.engine.embed(generation, request.texts, options)
        return Embedding(
            model=model,
            generation=generation,
            data=vectors.data,
            rows=vectors.rows,
            dim=vectors.dim,
            normalized=normalized,
            tokens=vectors.tokens,
            load_seconds=vectors.load_seconds,
            queue_seconds=vectors.queue_seconds,
            compute_seconds=vectors.compute_seconds,
        )

    async def load(self, spelling: str) -> ModelId:
        model, generation = self.catalog.find(self._ref(spelling))
        async with self._work(self.settings.load_timeout):
            await self.engine.load(generation)
        return model

    async def unload(self, spelling: str) -> ModelId:
        model, generation = self.catalog.find(self._ref(spelling))
        await self.engine.unload(generation.digest)
        return model

    def pin(self, spelling: str, pinned: bool) -> ModelId:
        """A pinned model is loaded now, again after every restart, and is never evicted."""
        model, _ = self.catalog.find(self._ref(spelling))
        self.catalog.pin(model, pinned)
        return model

    def find(self, spelling: str | None) -> tuple[ModelId, Generation]:
        return self.catalog.find(self._ref(spelling))

    def resolve(self, spelling: str) -> ModelId:
        """The id of a directory that is there, whatever its state."""
        return self.catalog.resolve(self._ref(spelling))

    async def drain(self) -> None:
        """Takes no more work and waits for what is in flight."""
        self._draining.set()
        await self._quiet.wait()

    def _ref(self, spelling: str | None) -> ModelRef:
        spelling = spelling or self.settings.default_model
        if not spelling:
            raise NoDefaultModel("the request names no model, and the gateway has no default model")
        return self.catalog.parse(spelling)

    def _options(self, request: EmbedRequest, manifest: Manifest) -> Options:
        if request.dimensions is not None and not 1 <= request.dimensions <= manifest.dim:
            raise InvalidDimensions(
                f"dimensions must lie between 1 and {manifest.dim}", dimensions=request.dimensions, dim=manifest.dim
            )
        normalize = self.settings.normalize if request.normalize is None else request.normalize
        return Options(normalize, request.truncate, self._prompt(request, manifest), request.dimensions)

    def _prompt(self, request: EmbedRequest, manifest: Manifest) -> str:
        if request.prompt is not None:
            if request.prompt_name is not None:
                raise InvalidBody("give prompt or prompt_name, not both", field="prompt")
            return request.prompt
        name = request.prompt_name or manifest.default_prompt_name
        if name is None:
            return ""
        if name not in manifest.prompts:
            known = ", ".join(sorted(manifest.prompts)) or "none"
            raise UnknownPrompt(f"the model has no prompt {name!r}; it has: {known}", prompts=sorted(manifest.prompts))
        return manifest.prompts[name]

    @asynccontextmanager
    async def _work(self, seconds: float) -> AsyncIterator[None]:
        """Counts what is in flight, and gives up after `seconds`."""
        if self.draining:
            raise ShuttingDown("the gateway is stopping", retry_after=1.0)
        self._in_flight += 1
        self._quiet.clear()
        try:
            async with asyncio.timeout(seconds):
                yield
        except TimeoutError as error:
            raise DeadlineExceeded(f"no answer within {seconds:g} s") from error
        finally:
            self._in_flight -= 1
            if not self._in_flight:
                self._quiet.set()


def _normalized(options: Options, manifest: Manifest) -> bool:
    """Whether the answer has unit vectors: because the request says so, or because the model makes them."""
    if options.normalize is False:
        return manifest.normalized and options.dimensions is None  # what the model normalized is not undone
    return manifest.normalized or options.normalize is True
