"""The verbs, free of HTTP: what every protocol at the edge calls, with plain values in and out.

Nothing here waits for anything but the engine. A request that cannot be served is refused before it costs anything.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec

from gateway.catalog.catalog import Catalog
from gateway.catalog.lookup import Found
from gateway.catalog.view import View
from gateway.engine.engine import Engine, Vectors
from gateway.errors import (
    DeadlineExceeded,
    Forbidden,
    InvalidBody,
    InvalidDimensions,
    LoadFailed,
    ModelCopying,
    ModelNotFound,
    NoDefaultModel,
    ShuttingDown,
    TooManyInputs,
    UnknownPrompt,
)
from gateway.host.wire import Options, Payload
from gateway.model import Generation, Manifest, ModelId, ModelRef
from gateway.settings import Settings
from gateway.tenants.caller import OPEN, Caller
from gateway.volume.order import parse_repository
from gateway.volume.pulls import Pull, Pulls

T = TypeVar("T")


class EmbedRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a client asked for, whatever protocol it speaks. `model` is its spelling, None the default model."""

    texts: list[str]
    model: str | None = None
    normalize: bool | None = None
    truncate: bool = True
    prompt: str | None = None
    prompt_name: str | None = None
    dimensions: int | None = None
    key: str = ""  # what an alias's canary knows the client by
    timeout: float | None = None  # seconds that the client will wait, where that is less than the settings allow


class Embedding(msgspec.Struct, frozen=True, kw_only=True):
    """`data` is little-endian float32 [rows, dim], row-major. Times in seconds."""

    model: ModelId
    generation: Generation
    alias: ModelId | None = None  # that was asked for
    data: Payload
    rows: int
    dim: int
    normalized: bool
    tokens: int = 0
    load_seconds: float = 0.0
    queue_seconds: float = 0.0
    compute_seconds: float = 0.0


class Count:
    """Requests, over all callers."""

    served = 0
    in_flight = 0


class Service:
    """Put together in `app`, used by `web` on behalf of whoever asks: `caller` and the `catalog` that it sees."""

    def __init__(self, catalog: Catalog, engine: Engine, pulls: Pulls, settings: Settings) -> None:
        self._catalog = catalog
        self.caller = OPEN
        self.catalog = View(catalog, OPEN)
        self.engine = engine
        self.pulls = pulls
        self.settings = settings
        self._draining = asyncio.Event()
        self._count = Count()
        self._quiet = asyncio.Event()
        self._quiet.set()

    def on_behalf_of(self, caller: Caller) -> Service:
        """The same service, for this caller."""
        if caller == self.caller:
            return self
        service = copy.copy(self)
        service.caller = caller
        service.catalog = View(self._catalog, caller)
        return service

    @property
    def draining(self) -> bool:
        return self._draining.is_set()

    @property
    def quiet(self) -> bool:
        """Nothing is in flight."""
        return not self._count.in_flight

    @property
    def served(self) -> int:
        """Requests that have ended, whatever came of them."""
        return self._count.served

    @property
    def ready(self) -> bool:
        """Whether a request may be sent here: the volume was looked at, a host is up, and no end is in sight."""
        return self.catalog.looked.is_set() and self.engine.ready and not self.draining

    async def embed(self, request: EmbedRequest, on_found: Callable[[Found], None] = lambda found: None) -> Embedding:
        """Texts to vectors. `on_found` is told what will run, whatever comes of it. Raises what `gateway.errors` has,
        and nothing else."""
        if len(request.texts) > self.settings.max_inputs:
            raise TooManyInputs(
                f"{len(request.texts)} inputs are more than the {self.settings.max_inputs} that one request may have",
                limit=self.settings.max_inputs,
            )
        seconds = self.settings.request_timeout
        if request.timeout is not None:
            seconds = min(seconds, request.timeout)
        found, vectors = await self._work(seconds, lambda deadline: self._embed(request, on_found, deadline))
        generation, options = found.generation, self._options(request, found.generation.manifest)
        return Embedding(
            model=found.model,
            generation=generation,
            alias=found.alias,
            data=vectors.data,
            rows=vectors.rows,
            dim=vectors.dim,
            normalized=_normalized(options, generation.manifest),
            tokens=vectors.tokens,
            load_seconds=vectors.load_seconds,
            queue_seconds=vectors.queue_seconds,
            compute_seconds=vectors.compute_seconds,
        )

    async def _embed(
        self, request: EmbedRequest, on_found: Callable[[Found], None], deadline: float
    ) -> tuple[Found, Vectors]:
        """On the live generation, and when that was replaced before it was loaded, on the one that is live now."""
        found = await self._wanted(request.model, request.key)
        while True:
            on_found(found)
            options = self._options(request, found.generation.manifest)
            try:
                return found, await self._run(found.generation, request, options, deadline)
            except LoadFailed:
                before, found = found, await self._wanted(request.model, request.key)
                if found.generation.digest == before.generation.digest:
                    raise

    async def _run(self, generation: Generation, request: EmbedRequest, options: Options, deadline: float) -> Vectors:
        """Nothing is run, and no model loaded, for no texts."""
        if not request.texts:
            return Vectors(b"", 0, request.dimensions or generation.manifest.dim, 0, 0.0, 0.0, 0.0)
        return await self.engine.embed(generation, request.texts, options, deadline)

    async def load(self, spelling: str) -> ModelId:
        async def load(deadline: float) -> ModelId:
            found = await self._wanted(spelling)
            self.caller.must("operate", "loading a model")
            await self.engine.load(found.generation)
            return found.model

        return await self._work(self.settings.load_timeout, load)

    async def unload(self, spelling: str) -> ModelId:
        """Content that is also somebody else's, whom the caller does not see, stays loaded for them."""
        found = await self.find(spelling)
        self.caller.must("operate", "unloading a model")
        if self.catalog.owns(found.generation.digest):
            await self.engine.unload(found.generation.digest)
        return found.model

    async def pin(self, spelling: str, pinned: bool) -> ModelId:
        """A pinned model is loaded now, again after every restart, and is never evicted."""
        found = await self._wanted(spelling)
        self.caller.must("operate", "pinning a model")
        self._catalog.pin(found.model, pinned)
        return found.model

    async def rollback(self, spelling: str, to: str | None) -> ModelId:
        """Makes an earlier generation live: the one before, or the one whose digest begins with `to`."""
        model = self.resolve(spelling)
        self.caller.must("operate", "rolling a model back")
        await self._work(self.settings.load_timeout, lambda deadline: self._catalog.rollback(model, to))
        return model

    async def find(self, spelling: str | None) -> Found:
        return await self.catalog.find(self._ref(spelling))

    def live(self, spelling: str | None) -> tuple[ModelId, Generation]:
        """As `find`, of what is live now; waits for nothing."""
        return self.catalog.live(self._ref(spelling))

    def pull(self, spelling: str, revision: str | None = None) -> Pull:
        """Starts to bring a model from the hub to the volume, or finds that begun. Raises InvalidModelId, Forbidden,
        HubOffline, PullInProgress or ShuttingDown."""
        if self.draining:
            raise ShuttingDown("the gateway is stopping", retry_after=1.0)
        self.caller.must("admin", "pulling a model")
        model, revision = parse_repository(f"{spelling}@{revision}" if revision else spelling)
        if not self.caller.sees(model):
            raise Forbidden("this key may not pull into that namespace", model=spelling)
        return self.pulls.start(model, revision)

    def list_pulls(self) -> list[Pull]:
        return [pull for pull in self.pulls.listing() if self.caller.sees(pull.model)]

    def find_pull(self, spelling: str) -> Pull:
        """Raises ModelNotFound when it was not asked for, or is forgotten."""
        model, _ = parse_repository(spelling)
        found = self.pulls.find(model) if self.caller.sees(model) else None
        if found is None:
            raise ModelNotFound(f"no pull of {model} is known", model=spelling)
        return found

    def resolve(self, spelling: str) -> ModelId:
        """The id of a directory that is there, whatever its state."""
        return self.catalog.resolve(self._ref(spelling))

    async def drain(self) -> None:
        """Takes no more work and waits for what is in flight."""
        self._draining.set()
        await self._quiet.wait()

    async def _wanted(self, spelling: str | None, key: str = "") -> Found:
        """As `find`, for work: a model that is not there yet may be pulled for it, and then ModelPulling is raised."""
        ref = self._ref(spelling)
        try:
            return await self.catalog.find(ref, key)
        except (ModelNotFound, ModelCopying) as error:
            told = None if self.draining else self.pulls.instead(ref, self.caller)
            if told is None:
                raise
            raise told from error

    def _ref(self, spelling: str | None) -> ModelRef:
        if spelling:
            return self.catalog.parse(spelling)
        default = self._default()
        if default is None:
            raise NoDefaultModel("the request names no model, and the gateway has no default model")
        return default

    def _default(self) -> ModelRef | None:
        """The default model; None where it is not for this caller's eyes, its spelling included."""
        if not self.settings.default_model:
            return None
        ref = self.catalog.parse(self.settings.default_model)
        if self.caller.unrestricted or self.catalog.leads_somewhere(ref):
            return ref
        elsewhere = View(self._catalog, OPEN).leads_somewhere(ref)
        return ref if self.caller.sees(ref.candidates[0]) and not elsewhere else None

    def _options(self, request: EmbedRequest, manifest: Manifest) -> Options:
        if request.dimensions is not None and not 1 <= request.dimensions <= manifest.dim:
            raise InvalidDimensions(
                f"dimensions must lie between 1 and {manifest.dim}", dimensions=request.dimensions, dim=manifest.dim
            )
        normalize = self.settings.normalize if request.normalize is None else request.normalize
        prompt, most = self._prompt(request, manifest), self.settings.max_request_tokens
        return Options(normalize, request.truncate, prompt, request.dimensions, most)

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

    async def _work(self, seconds: float, work: Callable[[float], Awaitable[T]]) -> T:
        """Counts what is in flight, and gives up after `seconds`; `work` is told when that is on the loop's clock."""
        if self.draining:
            raise ShuttingDown("the gateway is stopping", retry_after=1.0)
        deadline = asyncio.get_running_loop().time() + seconds
        self._count.in_flight += 1
        self._quiet.clear()
        try:
            async with asyncio.timeout_at(deadline):
                return await work(deadline)
        except TimeoutError as error:
            raise DeadlineExceeded(f"no answer within {seconds:g} s") from error
        finally:
            self._count.served += 1
            self._count.in_flight -= 1
            if not self._count.in_flight:
                self._quiet.set()


def _normalized(options: Options, manifest: Manifest) -> bool:
    """Whether the answer has unit vectors: because the request says so, or because the model makes them."""
    if options.normalize is False:
        return manifest.normalized and options.dimensions is None  # what the model normalized is not undone
    return manifest.normalized or options.normalize is True
