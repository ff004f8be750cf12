"""The verbs, free of HTTP: what every protocol at the edge calls, with plain values in and out.

Nothing here waits for anything but the engine. A request that cannot be served is refused before it costs anything.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sized
from contextlib import contextmanager
from typing import Any, TypeVar

from gateway import asked
from gateway.catalog.alias_edit import Pointer
from gateway.catalog.catalog import Catalog
from gateway.catalog.lookup import Found
from gateway.catalog.view import View
from gateway.engine.engine import Engine, Vectors
from gateway.errors import (
    DeadlineExceeded,
    Forbidden,
    InvalidAlias,
    LoadFailed,
    ModelCopying,
    ModelNotFound,
    NoDefaultModel,
    ShuttingDown,
    TooManyInputs,
)
from gateway.host.wire import Options, Piece, Token
from gateway.model import PREFIX, Generation, ModelId, ModelRef
from gateway.requests import (
    DecodeRequest,
    Decoding,
    Embedding,
    EmbedRequest,
    GenerateRequest,
    Request,
    Reranking,
    RerankRequest,
    Tokenization,
    TokenizeRequest,
    TokenVectors,
)
from gateway.settings import Settings
from gateway.tenants.caller import OPEN, Caller
from gateway.volume.order import parse_repository
from gateway.volume.pulls import Pull, Pulls

T = TypeVar("T")


class Count:
    """Requests, over all callers."""

    served = 0
    in_flight = 0


OnFound = Callable[[Found], None]
Meter = Callable[[Embedding | Reranking], None]
Hearer = Callable[[Piece], None]


def _nobody(found: Found) -> None:
    """Is told."""


def _unmetered(done: Embedding | Reranking) -> None:
    """Whoever asks counts for itself."""


def _unheard(piece: Piece) -> None:
    """Whoever asks hears it itself."""


class Service:
    """Put together in `app`, used by `web` on behalf of whoever asks: `caller` and the `catalog` that it sees."""

    def __init__(self, catalog: Catalog, engine: Engine, pulls: Pulls, settings: Settings) -> None:
        self._catalog = catalog
        self.caller = OPEN
        self.catalog = View(catalog, OPEN)
        self.engine = engine
        self.pulls = pulls
        self.settings = settings
        self._meter: Meter = _unmetered
        self._hearer: Hearer = _unheard
        self._finder: OnFound = _nobody
        self._leaving = asyncio.Event()
        self._draining = asyncio.Event()
        self._count = Count()
        self._quiet = asyncio.Event()
        self._quiet.set()

    def on_behalf_of(self, caller: Caller) -> Service:
        """The same service, for this caller."""
        if caller == self.caller:
            return self
        service = self._copy()
        service.caller = caller
        service.catalog = View(self._catalog, caller)
        return service

    def metered(self, meter: Meter) -> Service:
        """The same service, which tells `meter` of all that it embeds and reranks: for work of many steps."""
        service = self._copy()
        service._meter = meter
        return service

    def heard(self, on_found: OnFound, hearer: Hearer) -> Service:
        """The same service, which tells who speaks, and each piece of what a language model says as it comes: also of
        an answer that nobody waits for to its end."""
        service = self._copy()
        service._finder, service._hearer = on_found, hearer
        return service

    def _copy(self) -> Service:
        service = Service.__new__(Service)  # in a tenth of the time that __init__ takes: this is for every request
        vars(service).update(vars(self))
        return service

    @property
    def draining(self) -> bool:
        return self._draining.is_set()

    @property
    def leaving(self) -> bool:
        """Requests are still taken, and should be sent elsewhere; or are not taken any more."""
        return self._leaving.is_set() or self.draining

    @property
    def quiet(self) -> bool:
        """Nothing is in flight."""
        return not self._count.in_flight

    async def becomes_quiet(self) -> None:
        await self._quiet.wait()

    @property
    def served(self) -> int:
        """Requests that have ended, whatever came of them."""
        return self._count.served

    @property
    def ready(self) -> bool:
        """Whether a request may be sent here: it is known what to serve, a host is up, and no end is in sight."""
        return self.catalog.usable and self.engine.ready and not self.leaving

    # Each verb tells `on_found` what will run, whatever comes of it, and raises what `gateway.errors` has, and nothing
    # else.

    async def embed(self, request: EmbedRequest, on_found: OnFound = _nobody) -> Embedding:
        """Texts to vectors."""
        found, vectors = await self._embed(request, on_found, pooled=True)
        generation, manifest = found.generation, found.generation.manifest
        options = asked.options(request, manifest, self.settings)
        done = Embedding(
            model=found.model,
            generation=generation,
            alias=found.alias,
            data=vectors.data,
            rows=vectors.rows,
            dim=vectors.dim,
            normalized=asked.normalized(options, manifest),
            tokens=vectors.tokens,
            load_seconds=vectors.load_seconds,
            queue_seconds=vectors.queue_seconds,
            compute_seconds=vectors.compute_seconds,
        )
        self._meter(done)
        return done

    async def embed_tokens(self, request: EmbedRequest, on_found: OnFound = _nobody) -> TokenVectors:
        """Texts to a vector for each token, as the transformer makes them: before the pooling, and without the modules
        behind it. They are of unit length only if the request says `normalize`."""
        found, vectors = await self._embed(request, on_found, pooled=False)
        return TokenVectors(
            model=found.model,
            generation=found.generation,
            alias=found.alias,
            data=vectors.data,
            counts=vectors.counts,
            dim=vectors.dim,
            tokens=vectors.tokens,
            load_seconds=vectors.load_seconds,
            queue_seconds=vectors.queue_seconds,
            compute_seconds=vectors.compute_seconds,
        )

    async def rerank(self, request: RerankRequest, on_found: OnFound = _nobody) -> Reranking:
        """A score for each text, in their order."""
        options = Options(
            truncate=request.truncate,
            truncation_side=request.truncation_side,
            most_tokens=self.settings.max_request_tokens,
        )

        async def run(found: Found, deadline: float) -> Vectors:
            asked.demand(found, "reranker")
            if not request.texts:
                return Vectors(b"", 0, 1, 0, 0.0, 0.0, 0.0)
            return await self.engine.rerank(
                found.generation,
                request.query,
                request.texts,
                options,
                raw=request.raw_scores,
                deadline=deadline,
                flow=self.caller.tenant,
            )

        found, vectors = await self._answer(request, request.texts, on_found, run)
        done = Reranking(
            model=found.model,
            generation=found.generation,
            alias=found.alias,
            scores=list(memoryview(vectors.data).cast("f")),
            tokens=vectors.tokens,
            load_seconds=vectors.load_seconds,
            queue_seconds=vectors.queue_seconds,
            compute_seconds=vectors.compute_seconds,
        )
        self._meter(done)
        return done

    async def tokenize(self, request: TokenizeRequest, on_found: OnFound = _nobody) -> Tokenization:
        """Texts to all of their tokens, cut nowhere."""

        async def run(found: Found, deadline: float) -> list[list[Token]]:
            prompt = asked.prompt(request, found.generation.manifest)
            if not request.texts:
                return []
            return await self.engine.tokenize(
                found.generation,
                request.texts,
                prompt=prompt,
                add_special_tokens=request.add_special_tokens,
                flow=self.caller.tenant,
            )

        found, texts = await self._answer(request, request.texts, on_found, run)
        return Tokenization(model=found.model, generation=found.generation, alias=found.alias, texts=texts)

    async def decode(self, request: DecodeRequest, on_found: OnFound = _nobody) -> Decoding:
        """Token ids to texts."""

        async def run(found: Found, deadline: float) -> list[str]:
            asked.demand_known(request.ids, found.generation.manifest)
            if not request.ids:
                return []
            return await self.engine.decode(
                found.generation,
                request.ids,
                skip_special_tokens=request.skip_special_tokens,
                flow=self.caller.tenant,
            )

        found, texts = await self._answer(request, request.ids, on_found, run)
        return Decoding(model=found.model, generation=found.generation, alias=found.alias, texts=texts)

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Piece]:
        """A text or a conversation, continued: each piece as it is made, the last one with a `finish`. To leave early
        ends the work."""
        pieces: asyncio.Queue[Piece | None] = asyncio.Queue()

        def tell(piece: Piece) -> None:
            self._hearer(piece)
            pieces.put_nowait(piece)

        async def run(found: Found, deadline: float) -> None:
            asked.demand(found, "generator")
            await self.engine.generate(
                found.generation,
                request.text,
                request.turns,
                request.sampling,
                tell,
                deadline=deadline,
                flow=self.caller.tenant,
            )

        work = asyncio.get_running_loop().create_task(self._answer(request, (), self._finder, run))
        work.add_done_callback(lambda _: pieces.put_nowait(None))
        try:
            while (piece := await pieces.get()) is not None:
                yield piece
            await work  # raises what went wrong
        finally:
            work.cancel()
            await asyncio.wait([work])

    async def _embed(self, request: EmbedRequest, on_found: OnFound, *, pooled: bool) -> tuple[Found, Vectors]:
        texts = asked.alike(request.texts)

        async def run(found: Found, deadline: float) -> Vectors:
            manifest = found.generation.manifest
            asked.demand(found, "encoder")
            options = asked.options(request, manifest, self.settings, pooled=pooled)
            if not texts:  # nothing is run, and no model loaded
                dim = request.dimensions or (manifest.dim if pooled else manifest.width)
                return Vectors(b"", 0, dim, 0, 0.0, 0.0, 0.0)
            if not isinstance(texts[0], str):
                asked.demand_known(texts, manifest)
            return await self.engine.embed(found.generation, texts, options, deadline, flow=self.caller.tenant)

        return await self._answer(request, texts, on_found, run)

    async def _answer(
        self, request: Request, inputs: Sized, on_found: OnFound, run: Callable[[Found, float], Awaitable[T]]
    ) -> tuple[Found, T]:
        """What `run` makes of the live generation, and what that was."""
        if len(inputs) > self.settings.max_inputs:
            raise TooManyInputs(
                f"{len(inputs)} inputs are more than the {self.settings.max_inputs} that one request may have",
                limit=self.settings.max_inputs,
            )
        generates = isinstance(request, GenerateRequest)
        seconds = self.settings.completion_timeout if generates else self.settings.request_timeout
        if request.timeout is not None:
            seconds = min(seconds, request.timeout)
        return await self._work(seconds, lambda deadline: self._run(request, on_found, run, deadline))

    async def _run(
        self, request: Request, on_found: OnFound, run: Callable[[Found, float], Awaitable[T]], deadline: float
    ) -> tuple[Found, T]:
        """On the live generation, and when that was replaced before it was loaded, on the one that is live now."""
        found = await self._wanted(request.model, request.key)
        while True:
            on_found(found)
            try:
                return found, await run(found, deadline)
            except LoadFailed:
                before, found = found, await self._wanted(request.model, request.key)
                if found.generation.digest == before.generation.digest:
                    raise

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

    async def alias(self, name: str, pointer: Pointer) -> dict[str, Any]:
        """Has an alias lead to what `pointer` says, in aliases.toml on the volume. What the caller does not see is
        nothing that it could name."""
        self.caller.must("operate", "changing an alias")
        self.catalog.parse(name)
        path = name.removeprefix(PREFIX)
        if not self.caller.sees(ModelId.of(path)):
            raise Forbidden("this key may not name aliases there", model=name)
        for target in (pointer.to, pointer.canary):
            if target is not None:
                self.catalog.resolve(self.catalog.parse(target))
        try:
            await self._catalog.point(path, pointer)
        except InvalidAlias as error:
            if self.caller.unrestricted:
                raise
            raise InvalidAlias("aliases.toml does not take this; who sees all of it is told why") from error
        return next(alias for alias in self.catalog.aliases() if alias["id"] == PREFIX + path)

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

    def leave(self) -> None:
        """Is not ready from now on, and goes on with its work."""
        self._leaving.set()

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

    async def _work(self, seconds: float, work: Callable[[float], Awaitable[T]]) -> T:
        """Counts what is in flight, and gives up after `seconds`; `work` is told when that is on the loop's clock."""
        deadline = asyncio.get_running_loop().time() + seconds
        with self.at_work():
            try:
                async with asyncio.timeout_at(deadline):
                    return await work(deadline)
            except TimeoutError as error:
                raise DeadlineExceeded(f"no answer within {seconds:g} s") from error

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Something is in flight, which a gateway that stops waits for. Raises ShuttingDown when it does already."""
        if self.draining:
            raise ShuttingDown("the gateway is stopping", retry_after=1.0)
        self._count.in_flight += 1
        self._quiet.clear()
        try:
            yield
        finally:
            self._count.served += 1
            self._count.in_flight -= 1
            if not self._count.in_flight:
                self._quiet.set()
