"""The routes of questions over passages that a test names: real providers' client, real HTTP, no host and no store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from copy import copy
from types import SimpleNamespace
from typing import Any, cast

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestServer
from aiohttp.typedefs import Handler

from gateway import events
from gateway.app import DIALECTS
from gateway.ask.answer import Answerer
from gateway.ask.passage import Chunk, Hit, Index
from gateway.ask.retrieval import Retrieval, RetrieveRequest
from gateway.ask.roster import Roster
from gateway.ask.specs import Key, Spec
from gateway.errors import KnowledgeBaseNotFound, ModelNotFound
from gateway.model import ModelId
from gateway.requests import Embedding, EmbedRequest
from gateway.service import Meter, Service
from gateway.settings import Settings
from gateway.tenants.caller import OPEN
from gateway.web import ask, asking, chat, errors
from tests.ask.talking import KEY, Talking
from tests.ask.test_quoting import bag

MODEL = "huggingface:finetuned/physics"
GENERATION = "0123456789ab" * 5
PASSAGES = (
    "The ring holds the beam for hours. Light is made in undulators.",
    "The beam is lost when the quadrupole trips.",
    "Bananas ripen in warm rooms.",
)


class Passages:
    """The one base "physics" of `texts`, the first of which fits best."""

    def __init__(self, texts: Sequence[str] = PASSAGES) -> None:
        self.asked: list[RetrieveRequest] = []
        self.hits = [
            Hit(
                chunk=Chunk(
                    id=f"d{number}:0", document=f"d{number}", index=0, start=10, end=10 + len(text), text=text, page=4
                ),
                name=f"d{number}.md",
                source=f"d{number}.md",
                cosine=0.9 - 0.3 * number,
            )
            for number, text in enumerate(texts)
        ]

    def on_behalf_of(self, service: Service) -> Passages:
        return self

    async def retrieve(self, request: RetrieveRequest) -> Retrieval:
        self.asked.append(request)
        if request.kb != "physics":
            raise KnowledgeBaseNotFound(f"there is no knowledge base {request.kb}", knowledge_base=request.kb)
        index = Index(id="i", kb="/physics", model=MODEL, generation=GENERATION, dim=4096)
        least = -1.0 if request.threshold is None else request.threshold
        hits = [hit for hit in self.hits if hit.cosine is not None and hit.cosine >= least]
        return Retrieval(hits=tuple(hits[: request.limit]), index=index, vector=bag([request.query])[0])


class Words:
    """A service whose one model makes vectors of words."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.caller = OPEN
        self.in_flight = 0
        self.embedded: list[str | None] = []
        self.texts: list[str] = []
        self.meter: Meter = lambda done: None

    def metered(self, meter: Meter) -> Words:
        other = copy(self)
        other.meter = meter
        return other

    def heard(self, on_found: Any, hearer: Any) -> Words:
        return self  # no language model of the volume's speaks here

    async def find(self, spelling: str | None) -> Any:
        manifest = SimpleNamespace(prompts={}, dim=4096)
        generation = SimpleNamespace(digest=GENERATION, manifest=manifest)
        return SimpleNamespace(model=MODEL, generation=generation)

    def live(self, spelling: str | None) -> Any:
        raise ModelNotFound(f"no model {spelling!r}", model=spelling, closest=[])

    async def embed(self, request: EmbedRequest) -> Any:
        self.embedded.append(request.model)
        self.texts += cast(list[str], request.texts)
        vectors = bag(cast(list[str], request.texts))
        took = {"tokens": len(vectors), "load_seconds": 0.0, "queue_seconds": 0.0, "compute_seconds": 0.0}
        made = {"model": ModelId.of(MODEL), "data": vectors.tobytes(), "rows": len(vectors), "dim": vectors.shape[1]}
        done = SimpleNamespace(**made, **took)
        self.meter(cast(Embedding, done))
        return done

    @contextmanager
    def at_work(self) -> Any:
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1


class Serving:
    """`session` speaks to the routes, which are at `url`; `lines` are the requests' log lines."""

    def __init__(
        self, session: aiohttp.ClientSession, url: str, *, service: Words, bases: Passages, upstream: Talking
    ) -> None:
        self.session = session
        self.url = url
        self.service = service
        self.bases = bases
        self.upstream = upstream
        self.lines: list[events.RequestFinished] = []


@asynccontextmanager
async def serving(texts: Sequence[str] = PASSAGES, **limits: Any) -> AsyncIterator[Serving]:
    bases, service, tell = Passages(texts), Words(Settings()), events.Events()
    async with Talking() as upstream:
        roster = Roster({"local": (Spec(base_url=upstream.url, **limits), Key(lambda: KEY))})

        @web.middleware
        async def everybody(request: web.Request, handler: Handler) -> web.StreamResponse:
            request[asking.SERVICE] = cast(Service, service)
            return await handler(request)

        app = web.Application(middlewares=[errors.middleware(tell, DIALECTS), everybody])
        app[asking.ANSWERER] = Answerer(cast(Service, service), bases, roster)
        app[asking.ROSTER] = roster
        for module in (ask, chat):
            app.add_routes(module.routes)
        server = TestServer(app)
        await server.start_server()
        try:
            async with aiohttp.ClientSession(server.make_url("/")) as session:
                url = str(server.make_url("/"))
                found = Serving(session, url, service=service, bases=bases, upstream=upstream)
                tell.subscribe(lambda event: found.lines.append(cast(events.RequestFinished, event)))
                yield found
        finally:
            await server.close()
            await roster.close()
