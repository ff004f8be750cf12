"""Knowledge bases over HTTP: documents in and out, and searches.

Whoever has a key has the knowledge bases of its tenant, and no others are there for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any, Final, Literal

import msgspec
from aiohttp import web

from gateway.ask.bases import KnowledgeBases
from gateway.ask.follow import Reindex
from gateway.ask.intake import File, Taken, check_document_name
from gateway.ask.knowledge import Knowledge
from gateway.ask.parser import too_large
from gateway.ask.passage import Hit, Row, Where, check_name, document_id
from gateway.ask.retrieval import MOST_HITS, RetrieveRequest
from gateway.errors import GatewayError, InvalidBody
from gateway.web import answers, asking
from gateway.web.asking import SERVICE
from gateway.web.body import Value, decode, read, timeout
from gateway.web.contract import says
from gateway.web.errors import LINE
from gateway.web.errors import body as worded
from gateway.web.native import answer
from gateway.web.uploads import bites

routes: Final = web.RouteTableDef()
KNOWLEDGE: Final = web.AppKey("knowledge", Knowledge)
MULTIPART: Final = "multipart/"
PAGE: Final = 1000  # documents in one listing
COSINE_PLUS_ONE: Final = "cosine+1"


class NewDocument(msgspec.Struct):
    """`content` is text; `name` says whether it is read as Markdown or HTML."""

    name: str
    content: str
    metadata: dict[str, Value] = {}
    source: str = ""


class DocumentsBody(msgspec.Struct):
    """`POST /kb/{name}/documents`. `embedding_model` is for a base that is made by this."""

    documents: list[NewDocument]
    embedding_model: str | None = None


class SearchBody(msgspec.Struct):
    """`POST /kb/{name}/search`. `where` has, for fields of the metadata, the value or the values that they may have.
    The search is `hybrid`, by meaning and by words, or by meaning alone; or with `words`, by these alone."""

    query: str
    embedding_model: str | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=MOST_HITS)] = 5
    score_threshold: float | None = None
    score_scale: Literal["cosine", "cosine+1"] = "cosine"
    where: dict[str, Value | list[Value]] = {}
    sources: list[str] = []
    hybrid: bool = True
    words: bool = False
    rerank: str | None = None
    mmr: float | None = None


_documents: Final = msgspec.json.Decoder(DocumentsBody)
_search: Final = msgspec.json.Decoder(SearchBody)


@routes.get("/kb")
@says(answer=answers.KnowledgeBases)
async def listing(request: web.Request) -> web.Response:
    """The knowledge bases there are, with their models, generations and progress."""
    return answer({"knowledge_bases": [await _shown(request, row) for row in await bases_of(request).list()]})


@routes.get("/kb/{name}")
@says(answer=answers.KnowledgeBase)
async def show(request: web.Request) -> web.Response:
    """One knowledge base: what answers from it, how much is in it, what is yet to be indexed, and what failed."""
    return answer(await _shown(request, await _row(request)))


@routes.delete("/kb/{name}")
@says(answer=answers.Deleted)
async def drop(request: web.Request) -> web.Response:
    """Drops exactly this knowledge base, with its documents."""
    bases = bases_of(request)
    row = await _row(request)
    request[SERVICE].caller.must("operate", "dropping a knowledge base")
    await bases.delete(row.name)
    request.app[KNOWLEDGE].ingestion.forget(row.kb)
    return answer({"knowledge_base": row.name, "deleted": True})


@routes.post("/kb/{name}/documents")
@says(
    body=DocumentsBody,
    example={"documents": [{"name": "notes.md", "content": "# Notes\n\nThe beam was stable."}]},
    answer=answers.Added,
    also=(202,),
    query={
        "embedding_model": "of a knowledge base that is made by this; without it the default model",
        "wait": "false answers as soon as the documents are stored, before they can be found",
    },
)
async def add(request: web.Request) -> web.Response:
    """Puts documents in, as JSON or as files (`multipart/form-data`); the base is made if need be, and a document of
    the same name replaced. 200 once all can be found, 202 once all are stored."""
    name = _name(request)
    bases, ingestion = bases_of(request), request.app[KNOWLEDGE].ingestion
    taken: list[Taken] = []
    model = request.query.get("embedding_model")
    async for files, failed, wanted in _files(request):
        taken += failed
        taken += await ingestion.add(bases, name, files, wanted or model)
    if taken and all(each.error for each in taken):
        raise _refusal(taken)
    row = await bases.ensure(name, model) if not taken else await bases.get(name)
    done = await _done(request, row, taken)
    progress = ingestion.progress(row)
    found = {
        "knowledge_base": row.name,
        "state": "ready" if done else "indexing",
        "pending": progress.pending,
        "counts": Counter(each.status for each in taken),
        "documents": [_taken(each, {id: error for id, _, error in progress.failed}) for each in taken],
    }
    request[LINE]["texts"] = len(taken)
    return answer(found, 200 if done else 202)


@routes.get("/kb/{name}/documents")
@says(answer=answers.Documents, query={"offset": "how many are left out", "limit": f"at most {PAGE}"})
async def documents(request: web.Request) -> web.Response:
    """The documents of a knowledge base, by name, without their text."""
    row = await _row(request)
    store = await bases_of(request).store()
    offset, limit = _number(request, "offset", 0), min(PAGE, _number(request, "limit", PAGE))
    heads = await store.list_documents(row.kb, offset, limit)
    total = await store.count_documents(row.kb)
    return answer({"knowledge_base": row.name, "documents": msgspec.to_builtins(heads), "total": total})


@routes.get("/kb/{name}/documents/{document}")
@says(answer=answers.StoredDocument)
async def document(request: web.Request) -> web.Response:
    """One document: its text, its pages, and where its chunks lie."""
    row = await _row(request)
    store = await bases_of(request).store()
    found = await store.get_document(row.kb, request.match_info["document"])
    chunks = await store.chunks(row.live, found.id) if row.live else []
    shown = [{"id": each.id, "start": each.start, "end": each.end, "heading": each.heading} for each in chunks]
    return answer({"knowledge_base": row.name, **msgspec.to_builtins(found), "chunks": shown})


@routes.delete("/kb/{name}/documents/{document}")
@says(answer=answers.Deleted)
async def remove(request: web.Request) -> web.Response:
    """Deletes one document, by its id; it is found no more."""
    row, wanted = await _row(request), request.match_info["document"]
    await request.app[KNOWLEDGE].ingestion.delete(bases_of(request), row.name, wanted)
    return answer({"knowledge_base": row.name, "document": wanted, "deleted": True})


@routes.post("/kb/{name}/reindex")
@says(answer=answers.KnowledgeBase, status=202)
async def reindex(request: web.Request) -> web.Response:
    """Has the index made anew with the model's live generation; the old one answers until then."""
    row = await _row(request)
    request[SERVICE].caller.must("operate", "making an index anew")
    return answer(await _shown(request, await bases_of(request).reindex(row.name)), 202)


@routes.post("/kb/{name}/search")
@says(body=SearchBody, example={"query": "when was the beam stable?"}, answer=answers.Found)
async def search(request: web.Request) -> web.Response:
    """The passages that answer a question best, by meaning and by words."""
    body = decode(_search, await read(request))
    wanted = _request(_name(request), body, asking.client(request), timeout(request))
    asking.count(request, [body.query])
    found = await request.app[KNOWLEDGE].bases.on_behalf_of(asking.metered(request)).retrieve(wanted)
    request[LINE].update(model=found.model.removeprefix("huggingface:"), generation=found.generation)
    relevance = found.relevance or [None] * len(found.hits)
    response = answer(
        {
            "knowledge_base": wanted.kb,
            "embedding_model": found.model,
            "generation": found.generation,
            "reranker": found.reranker,
            "hits": [_hit(hit, score) for hit, score in zip(found.hits, relevance, strict=True)],
            "timings": msgspec.to_builtins(found.timings),
        }
    )
    response.headers["X-Model-Generation"] = found.generation
    return response


def bases_of(request: web.Request) -> KnowledgeBases:
    return request.app[KNOWLEDGE].bases.on_behalf_of(request[SERVICE])


def _name(request: web.Request) -> str:
    name = request.match_info["name"]
    check_name(name)  # before anything is read
    return name


async def _row(request: web.Request) -> Row:
    return await bases_of(request).get(_name(request))


async def _files(request: web.Request) -> AsyncIterator[tuple[list[File], list[Taken], str | None]]:
    """Files to be read, and those that are too large to be; with the model that the body names."""
    if request.content_type.startswith(MULTIPART):
        most = request.app[KNOWLEDGE].most_bytes
        async for bite in bites(request, most):
            for each in bite:
                check_document_name(each.name)
            refused = [_too_large(each.name, most) for each in bite if each.file is None]
            yield [each.file for each in bite if each.file is not None], refused, None
        return
    body = decode(_documents, await read(request))
    yield [_file(each) for each in body.documents], [], body.embedding_model


def _file(given: NewDocument) -> File:
    """Text that was read out of a PDF elsewhere is text, whatever it is called."""
    content = given.content.encode("utf-8", "surrogatepass")
    media = "text/plain" if given.name.lower().endswith(".pdf") else ""
    return File(name=given.name, content=content, media=media, source=given.source, metadata=given.metadata)


def _too_large(name: str, most: int) -> Taken:
    return Taken(name=name, id=document_id(name), status="failed", error=too_large(most))


def _refusal(taken: Sequence[Taken]) -> GatewayError:
    """When no document could be read: the first one's reason, and everybody's."""
    first = taken[0].error
    assert first is not None
    documents = [_taken(each, {}) for each in taken]
    return type(first)(f"{taken[0].name}: {first.message}", **{**first.details, "documents": documents})


async def _done(request: web.Request, row: Row, taken: Sequence[Taken]) -> bool:
    """Whether all of it can be found."""
    service = request[SERVICE]
    seconds = min(service.settings.request_timeout, timeout(request) or service.settings.request_timeout)
    if request.query.get("wait", "").lower() in {"false", "0", "no"}:
        seconds = 0.0
    return await request.app[KNOWLEDGE].ingestion.settled(row.kb, [each.id for each in taken], seconds)


async def _shown(request: web.Request, row: Row) -> dict[str, Any]:
    store = await bases_of(request).store()
    known = request.app[KNOWLEDGE]
    progress, reindex = known.ingestion.progress(row), known.follower.states.get(row.kb)
    return {
        "name": row.name,
        "embedding_model": row.embedding_model,
        "model": row.live.model if row.live else None,
        "generation": row.live.generation[:12] if row.live else None,
        "previous": [index.generation[:12] for index in row.previous],
        "documents": await store.count_documents(row.kb),
        "chunks": await store.count(row.live) if row.live else 0,
        "state": "stalled" if progress.error else "indexing" if progress.pending else "ready",
        "pending": progress.pending,
        "error": worded(progress.error)["error"] if progress.error else None,
        "failed": [{"id": id, "name": name, **worded(error)} for id, name, error in progress.failed],
        "reindex": None if reindex is None else _reindex(reindex),
    }


def _reindex(state: Reindex) -> dict[str, Any]:
    """How far the index of another generation is, or why there is none."""
    names = ("generation", "state", "documents", "total", "code", "message")
    return {name: getattr(state, name) for name in names} | {"generation": state.generation[:12]}


def _taken(each: Taken, failed: dict[str, GatewayError]) -> dict[str, Any]:
    """`failed` are those that could be read and not be indexed."""
    error = each.error or failed.get(each.id)
    shown = {"name": each.name, "id": each.id, "status": "failed" if error else each.status}
    return shown | {"characters": each.characters, "pages": each.pages, **(worded(error) if error else {})}


def _request(name: str, body: SearchBody, key: str, seconds: float | None) -> RetrieveRequest:
    threshold = body.score_threshold
    if threshold is not None and body.score_scale == COSINE_PLUS_ONE:
        threshold -= 1
    fields = {field: tuple(value) if isinstance(value, list) else value for field, value in body.where.items()}
    where = Where(metadata=fields, sources=tuple(body.sources)) if fields or body.sources else None
    return RetrieveRequest(
        kb=name,
        query=body.query,
        embedding_model=body.embedding_model,
        limit=body.limit,
        threshold=threshold,
        where=where,
        hybrid=body.hybrid,
        words=body.words,
        rerank=body.rerank,
        mmr=body.mmr,
        key=key,
        timeout=seconds,
    )


def _hit(hit: Hit, relevance: float | None) -> dict[str, Any]:
    chunk = hit.chunk
    return {
        "id": chunk.id,
        "document": chunk.document,
        "name": hit.name,
        "source": hit.source,
        "page": chunk.page,
        "heading": chunk.heading,
        "chunk_index": chunk.index,
        "start": chunk.start,
        "end": chunk.end,
        "text": chunk.text,
        "score": hit.cosine,
        "bm25": hit.bm25,
        "relevance": relevance,
        "metadata": hit.metadata,
    }


def _number(request: web.Request, field: str, otherwise: int) -> int:
    text = request.query.get(field)
    if text is None:
        return otherwise
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise InvalidBody(f"`{field}` is a whole number, 0 or more", field=field)
    return int(text)
