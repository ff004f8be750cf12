"""The routes that an earlier system had for its knowledge bases, in its shapes. A base that is not there is a 404."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

import msgspec
from aiohttp import web

from gateway.ask.passage import Chunk, Row
from gateway.web.body import decode, read
from gateway.web.contract import says
from gateway.web.knowledge import bases_of
from gateway.web.native import answer

routes: Final = web.RouteTableDef()
SAMPLES: Final = 3  # these two numbers are the earlier system's
SNIPPET: Final = 300
MOST_LISTED: Final = 10_000
STORAGE: Final = "lancedb"


class OlderBody(msgspec.Struct):
    """Of the earlier system; its other fields have no effect."""

    knowledge_base: str = "default"


_older: Final = msgspec.json.Decoder(OlderBody)


@routes.get("/kb/list")
async def older_list(request: web.Request) -> web.Response:
    """The names, as an earlier system lists them: under the store that it used by default."""
    names = [row.name for row in await bases_of(request).list()]
    return answer({"opensearch": [], "in_memory": [], "qdrant": names})


@routes.post("/kb/count")
@says(body=OlderBody, example={"knowledge_base": "papers"}, optional=True)
async def older_count(request: web.Request) -> web.Response:
    """How many chunks a knowledge base has, as an earlier system says it."""
    row = await _older_row(request)
    count = await (await bases_of(request).store()).count(row.live) if row.live else 0
    return answer({"knowledge_base": row.name, "count": count, "storage": STORAGE})


@routes.post("/kb/sample")
@says(body=OlderBody, example={"knowledge_base": "papers"}, optional=True)
async def older_sample(request: web.Request) -> web.Response:
    """The beginnings of three chunks, as an earlier system shows them."""
    row, found = await _older_chunks(request, SAMPLES)
    shown = [{**each, "content_snippet": chunk.text[:SNIPPET]} for each, chunk in found]
    return answer({"knowledge_base": row.name, "documents": shown, "storage": STORAGE})


@routes.post("/kb/docs")
@says(body=OlderBody, example={"knowledge_base": "papers"}, optional=True)
async def older_docs(request: web.Request) -> web.Response:
    """The chunks and their sources, as an earlier system lists them."""
    row, found = await _older_chunks(request, MOST_LISTED)
    total = await (await bases_of(request).store()).count(row.live) if row.live else 0
    documents = [each for each, _ in found]
    sources = Counter(each["source"] for each in documents)
    return answer(
        {
            "knowledge_base": row.name,
            "documents": documents,
            "sources": dict(sources),
            "total_chunks": total,
            "storage": STORAGE,
        }
    )


async def _older_row(request: web.Request) -> Row:
    raw = await read(request)
    return await bases_of(request).get(decode(_older, raw).knowledge_base if raw.strip() else "default")


async def _older_chunks(request: web.Request, most: int) -> tuple[Row, list[tuple[dict[str, Any], Chunk]]]:
    row = await _older_row(request)
    store = await bases_of(request).store()
    chunks = await store.chunks(row.live, limit=most) if row.live else []
    sources = {head.id: head.source for head in await store.list_documents(row.kb)}
    return row, [
        (
            {"source": sources.get(each.document, ""), "page": each.page, "content_length": len(each.text)},
            each,
        )
        for each in chunks
    ]
