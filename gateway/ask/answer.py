"""A question to an answer with its grounds: retrieve, ask, check the citations. No HTTP here.

Retrieving and embedding are done before a language model speaks, and nothing is held while it does. What is told comes
as events, so that a client may read along; to stop reading ends the call to the provider.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from functools import partial
from typing import Final, Protocol

from gateway.ask import citations, extractive, grounds, prompt
from gateway.ask.citations import Citation
from gateway.ask.embedding import embed_documents, embed_query
from gateway.ask.grounds import Ground
from gateway.ask.local import named
from gateway.ask.passage import Index
from gateway.ask.providers import EXTRACTIVE, Spent
from gateway.ask.question import Answered, AskRequest, Cleared, Done, Event, Found, Said, Status, Timings
from gateway.ask.retrieval import Retrieval, RetrieveRequest
from gateway.ask.roster import Roster
from gateway.ask.store import Vectors
from gateway.errors import EmptyInput, ProviderError
from gateway.service import Service

REFUSALS: Final = ("i don't know", "i don’t know", "i do not know")  # as models write it
UNKNOWN: Final = "I don't know: nothing was found that this could be answered from."


class Bases(Protocol):
    """What is asked of knowledge bases."""

    def on_behalf_of(self, service: Service) -> Bases: ...

    async def retrieve(self, request: RetrieveRequest) -> Retrieval: ...


class Answerer:
    """Put together in `app`; `on_behalf_of` binds it to a caller."""

    def __init__(self, service: Service, bases: Bases, roster: Roster) -> None:
        self._service = service
        self._bases = bases
        self._roster = roster

    def on_behalf_of(self, service: Service) -> Answerer:
        return Answerer(service, self._bases.on_behalf_of(service), self._roster)

    def check(self, request: AskRequest) -> None:
        """What can be refused before anything is done. Raises EmptyInput, ProviderNotFound and
        ProviderModelNotFound."""
        if not request.query.strip():
            raise EmptyInput("the query is empty", field="query")
        for llm in self._llms(request):
            if llm != EXTRACTIVE:
                self._roster.find(named(llm), self._service)

    async def ask(self, request: AskRequest) -> AsyncGenerator[Event]:
        """To be read by one task. Raises what `gateway.errors` has, before or after the first piece."""
        began = time.perf_counter()
        self.check(request)
        yield Status("searching")
        retrieval = await self._retrieve(request) if request.use_rag else None
        found = grounds.of(retrieval.hits if retrieval else (), request.files)
        searched = time.perf_counter() - began
        yield Found(
            grounds=found,
            model=retrieval.model if retrieval else None,
            generation=retrieval.generation if retrieval else None,
            seconds=searched,
        )
        llms = self._llms(request)
        for llm in llms:
            asking = _Asking(self._service, self._roster, request, retrieval=retrieval, found=found, llm=llm)
            try:
                async with aclosing(asking.events()) as events:
                    async for event in events:
                        yield event
            except ProviderError as error:
                if llm == llms[-1]:
                    raise
                yield Cleared(f"{error.message}; {llms[-1]} answers instead")
                continue
            break
        yield Done(asking.answered(retrieval, began, searched))

    async def answer(self, request: AskRequest) -> Answered:
        """In one piece."""
        async with aclosing(self.ask(request)) as events:
            async for event in events:
                if isinstance(event, Done):
                    return event.answer
        raise AssertionError("an answer has a last event")

    async def _retrieve(self, request: AskRequest) -> Retrieval:
        return await self._bases.retrieve(
            RetrieveRequest(
                kb=request.kb,
                query=request.query,
                embedding_model=request.embedding_model,
                limit=request.limit,
                threshold=request.threshold,
                where=request.where,
                hybrid=request.hybrid,
                rerank=request.rerank,
                mmr=request.mmr,
                key=request.key,
                timeout=request.timeout,
            )
        )

    def _llms(self, request: AskRequest) -> list[str]:
        """Who answers, and who does where that fails."""
        first = (request.llm or self._service.settings.llm_default).strip()
        return [first, request.fallback.strip()] if request.fallback else [first]


class _Asking:
    """One try of one language model, or of none."""

    def __init__(
        self,
        service: Service,
        roster: Roster,
        request: AskRequest,
        *,
        retrieval: Retrieval | None,
        found: tuple[Ground, ...],
        llm: str,
    ) -> None:
        self._service = service
        self._roster = roster
        self._request = request
        self._index = retrieval.index if retrieval else None
        self._vector = retrieval.vector if retrieval else None
        self._found = found
        self._llm = llm
        self._text = ""
        self._citations: Sequence[Citation] = ()
        self._left_out: tuple[str, ...] = ()
        self._finish: str | None = None
        self._spent = Spent()
        self._began = time.perf_counter()
        self._first: float | None = None
        self._refused = False

    def events(self) -> AsyncGenerator[Event]:
        """Until they end. One generator and no more: each piece of an answer goes through all that there are."""
        if self._llm == EXTRACTIVE:
            return self._extracted()
        if not self._found and self._request.use_rag and self._request.without_grounds == "refuse":
            return self._unknown()
        return self._generate()

    def answered(self, retrieval: Retrieval | None, began: float, searched: float) -> Answered:
        """Once the events have ended."""
        embedding = retrieval.timings.embed if retrieval else 0.0
        ended = time.perf_counter()
        timings = Timings(
            retrieval=searched,
            embedding=embedding,
            llm=ended - self._began,
            first_token=(self._first or ended) - self._began,
            total=ended - began,
        )
        return Answered(
            text=self._text,
            llm=self._llm,
            grounds=self._found,
            citations=tuple(self._citations),
            refused=self._refused,
            supported=citations.supported(self._citations),
            left_out=self._left_out,
            finish=self._finish,
            spent=self._spent,
            model=self._index.model if self._index else None,
            generation=self._index.generation[:12] if self._index else None,
            timings=timings,
        )

    def _said(self, content: str) -> Said:
        if self._first is None:
            self._first = time.perf_counter()
        self._text += content
        return Said(content)

    async def _extracted(self) -> AsyncGenerator[Event]:
        yield Status("choosing sentences")
        yield self._said(await self._extract())

    async def _unknown(self) -> AsyncGenerator[Event]:
        self._refused = True
        yield self._said(UNKNOWN)

    async def _extract(self) -> str:
        """With the generation that has embedded the query; for files alone, with the one that is live."""
        if self._index is None and self._found:
            self._index = await self._pinned()
        if self._index is None:
            self._refused = True
            return extractive.UNKNOWN
        extract = await extractive.answer(
            self._request.query,
            self._found,
            self._service.settings.answer_threshold,
            partial(self._query, self._index),
            partial(embed_documents, self._service, self._index),
        )
        self._citations, self._refused = extract.citations, not extract.citations
        return extract.text

    async def _query(self, index: Index, text: str) -> Vectors:
        """The vector of the query, which retrieving has made, where anything was retrieved."""
        return await embed_query(self._service, index, text) if self._vector is None else self._vector

    async def _pinned(self) -> Index:
        """Of no knowledge base: a generation to embed with."""
        found = await self._service.find(self._request.embedding_model)
        generation = found.generation
        return Index(id="", kb="", model=str(found.model), generation=generation.digest, dim=generation.manifest.dim)

    async def _generate(self) -> AsyncGenerator[Event]:
        yield Status("generating")
        wanted, request = named(self._llm), self._request
        provider = self._roster.find(wanted, self._service)
        made = prompt.build(
            request.query,
            self._found,
            request.history,
            instructions=request.prompt,
            context=provider.context,
            reply=request.sampling.max_tokens,
        )
        self._left_out = made.left_out
        async with aclosing(provider.chat(made.messages, wanted.model, request.sampling)) as deltas:
            async for delta in deltas:
                self._finish = delta.finish or self._finish
                self._spent = delta.spent or self._spent
                if delta.content:
                    yield self._said(delta.content)
        self._citations = citations.find(self._text, made.kept)
        self._refused = self._text.strip().casefold().startswith(REFUSALS)
