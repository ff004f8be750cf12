"""Knowledge bases, as a caller has them: made, listed, asked, dropped.

The one rule: what embeds a query and what the query is compared with come from one reading of one row. Whoever asks
while a base goes over to another generation gets the old pair or the new one, and never a mixture.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Final, Protocol

from msgspec.structs import replace

from gateway.ask.embedding import embed_query
from gateway.ask.first_use import FirstUse
from gateway.ask.holds import Holds
from gateway.ask.passage import Hit, Index, Row, check_name, key
from gateway.ask.retrieval import MOST_HITS, Retrieval, RetrieveRequest, Timings, diverse
from gateway.ask.store import Store, Vectors
from gateway.asked import demand
from gateway.errors import (
    EmptyInput,
    GenerationNotFound,
    IndexGone,
    InvalidBody,
    KnowledgeBaseExists,
    KnowledgeBaseNotFound,
    KnowledgeBaseNotReady,
    ModelNotFound,
    WrongEmbeddingModel,
)
from gateway.model import Generation
from gateway.requests import RerankRequest
from gateway.service import Service

ROUNDS: Final = 5  # rows read for one question, should indexes go from under it
RETRY_AFTER: Final = 2.0  # seconds

Label = Callable[[Generation], str]  # how a generation's documents are cut: `Index.chunking`


class Follower(Protocol):
    """What brings bases over to another generation (`follow`)."""

    def look_again(self) -> None:
        """A base is new, or a model changed."""

    def ask(self, kb: str) -> None:
        """Make the index of this base anew, whatever it is."""

    def forget(self, kb: str) -> None:
        """The base has gone."""


class KnowledgeBases:
    """Put together in `app`; `on_behalf_of` binds it to a caller. Every verb raises what `gateway.errors` has, and
    nothing else: KnowledgeBaseNotFound for what is not there, or is another tenant's."""

    def __init__(self, service: Service, opened: FirstUse, holds: Holds, label: Label, follower: Follower) -> None:
        self._service = service
        self._opened = opened
        self._holds = holds
        self._label = label
        self._follower = follower

    def on_behalf_of(self, service: Service) -> KnowledgeBases:
        """The same, for the caller that `service` is bound to."""
        return KnowledgeBases(service, self._opened, self._holds, self._label, self._follower)

    @property
    def owner(self) -> str:
        return self._service.caller.tenant

    async def store(self) -> Store:
        return await self._opened()

    def key(self, name: str) -> str:
        """What the store calls the caller's base of this name."""
        return key(self.owner, name)

    async def create(self, name: str, embedding_model: str | None = None) -> Row:
        """A new and empty one, which follows `embedding_model` (None: the default model) from now on, or what an alias
        of that name leads to. Raises InvalidBody, WrongKind, KnowledgeBaseExists, and what finding a model does."""
        check_name(name)
        found = await self._service.find(embedding_model)
        demand(found, "encoder")
        store = await self._opened()
        row = await store.create(self.owner, name, str(found.alias or found.model))
        _, generation = self._service.live(row.embedding_model)
        await self._begin(store, row, str(found.model), generation)
        self._follower.look_again()
        return await store.row(row.kb)

    async def ensure(self, name: str, embedding_model: str | None = None) -> Row:
        """As `get`, of one that is made if it is not there. Raises WrongEmbeddingModel too."""
        try:
            row = await self.get(name)
        except KnowledgeBaseNotFound:
            try:
                return await self.create(name, embedding_model)
            except KnowledgeBaseExists:  # made by somebody else in this moment
                row = await self.get(name)
        self._demand(row, embedding_model)
        return row

    async def get(self, name: str) -> Row:
        """As it is at this moment."""
        check_name(name)
        if not self._opened.worth_opening:
            raise KnowledgeBaseNotFound(f"there is no knowledge base {name}", knowledge_base=name)
        store = await self._opened()
        try:
            return await store.row(self.key(name))
        except KnowledgeBaseNotFound as error:
            raise KnowledgeBaseNotFound(f"there is no knowledge base {name}", knowledge_base=name) from error

    async def list(self) -> list[Row]:
        """The caller's own, by name."""
        if not self._opened.worth_opening:
            return []
        return await (await self._opened()).rows(self.owner)

    async def delete(self, name: str) -> None:
        """Exactly this one, with its documents and indexes."""
        row = await self.get(name)
        await (await self._opened()).drop(row.kb)
        self._follower.forget(row.kb)

    async def reindex(self, name: str) -> Row:
        """Has the index made anew with the model's live generation. Returns at once; the old one answers until then."""
        row = await self.get(name)
        self._follower.ask(row.kb)
        return row

    async def retrieve(self, request: RetrieveRequest) -> Retrieval:
        """The passages that answer best. Raises WrongEmbeddingModel where the base has another model than the request
        expects, and KnowledgeBaseNotReady while no index can be asked."""
        _check(request)
        began = time.perf_counter()
        store = await self._opened() if self._opened.worth_opening else None
        for _ in range(ROUNDS):
            row = await self.get(request.kb)
            assert store is not None  # `get` has found the base
            self._demand(row, request.embedding_model)
            for index in self._candidates(row, request.embedding_model):
                try:
                    found = await self._search(store, index, request)
                except (GenerationNotFound, IndexGone):  # it went between two steps, or this gateway has no such model
                    continue
                retrieval = await self._choose(store, found, request)
                timings = replace(retrieval.timings, total=time.perf_counter() - began)
                return replace(retrieval, timings=timings)
        raise KnowledgeBaseNotReady(
            f"the knowledge base {request.kb} has no index that can be asked yet", retry_after=RETRY_AFTER
        )

    async def _begin(self, store: Store, row: Row, model: str, generation: Generation) -> None:
        """Its first index. Should this be interrupted, the follower makes one."""
        await self._holds.add(generation.digest)
        dim, label = generation.manifest.dim, self._label(generation)
        index = await store.create_index(row.kb, model, generation.digest, dim, label)
        await store.finish(index)
        await store.switch(row.kb, row.version, index)

    def _demand(self, row: Row, spelling: str | None) -> None:
        """Raises WrongEmbeddingModel unless `spelling` means the base's model."""
        if spelling is None or spelling == row.embedding_model:
            return
        asked = self._service.resolve(spelling)
        try:
            own = self._service.resolve(row.embedding_model)
        except ModelNotFound:
            own = None
        if asked != own:
            raise _wrong_model(row, spelling)

    def _candidates(self, row: Row, spelling: str | None) -> Iterator[Index]:
        """What is live, and else what was: each goes with its own generation. `model@generation` is that one alone."""
        generation = self._service.catalog.parse(spelling).generation if spelling else None
        indexes = (row.live, *row.previous) if row.live is not None else row.previous
        found = [index for index in indexes if generation is None or index.generation.startswith(generation)]
        if indexes and not found and spelling is not None:
            raise _wrong_model(row, spelling)
        yield from found

    async def _search(self, store: Store, index: Index, request: RetrieveRequest) -> Retrieval:
        began = time.perf_counter()
        vector = None if request.words else await self._vector(index, request)
        embedded = time.perf_counter()
        text = request.query if request.hybrid or request.words else None
        hits = await store.search(index, vector, text, request.wide, request.where, choose=request.choose)
        timings = Timings(embed=embedded - began, search=time.perf_counter() - embedded)
        return Retrieval(hits=tuple(hits), index=index, vector=vector, timings=timings)

    async def _vector(self, index: Index, request: RetrieveRequest) -> Vectors:
        return await embed_query(self._service, index, request.query, request.timeout)

    async def _choose(self, store: Store, found: Retrieval, request: RetrieveRequest) -> Retrieval:
        """Reranked, without repetitions, and no more than were asked for."""
        began = time.perf_counter()
        scores = [hit.fused for hit in found.hits]
        reranker = None
        if request.rerank is not None and found.hits:
            texts = [hit.chunk.text for hit in found.hits]
            asked = RerankRequest(query=request.query, texts=texts, model=request.rerank, timeout=request.timeout)
            reranking = await self._service.rerank(asked)
            scores, reranker = reranking.scores, str(reranking.model)
        order = sorted(range(len(scores)), key=lambda place: -scores[place])
        if request.mmr is not None and found.hits:
            vectors = await store.vectors(found.index, [hit.chunk.id for hit in found.hits])
            order = diverse(scores, vectors, request.limit, request.mmr)
        order = order[: request.limit]
        chosen: tuple[Hit, ...] = tuple(found.hits[place] for place in order)
        relevance = tuple(scores[place] for place in order) if reranker else ()
        timings = replace(found.timings, rerank=time.perf_counter() - began)
        return replace(found, hits=chosen, relevance=relevance, reranker=reranker, timings=timings)


def _check(request: RetrieveRequest) -> None:
    if not request.query.strip():
        raise EmptyInput("the query is empty", field="query")
    if not 1 <= request.limit <= MOST_HITS:
        raise InvalidBody(f"limit must lie between 1 and {MOST_HITS}", field="limit")
    if request.threshold is not None and not -1 <= request.threshold <= 1:
        raise InvalidBody("the threshold is a cosine: between -1 and 1", field="score_threshold")
    if request.mmr is not None and not 0 < request.mmr <= 1:
        raise InvalidBody("mmr lies between 0 and 1, and is not 0", field="mmr")
    if request.words and request.threshold is not None:
        raise InvalidBody("a search by words alone has no cosine for a threshold", field="score_threshold")


def _wrong_model(row: Row, spelling: str) -> WrongEmbeddingModel:
    generation = row.live.generation[:12] if row.live else None
    return WrongEmbeddingModel(
        f"the knowledge base {row.name} is of {row.embedding_model}, generation {generation or 'none yet'}, and not of "
        f"{spelling}: leave the embedding model out, or name the base's own",
        knowledge_base=row.name,
        embedding_model=row.embedding_model,
        generation=generation,
    )
