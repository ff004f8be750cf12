"""Documents into a knowledge base, against the same texts embedded: what reading, cutting, storing and indexing cost.

    python -m bench --parts ingestion

The same gateway does both, one after the other: the documents through `POST /kb/{name}/documents` until all are
indexed, and then the very chunks that they were cut into, through `POST /embed`, as many at once as ingestion has under
way. What only a gateway's first document pays (opening the store, starting the parser) is paid before.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any, Final

import aiohttp

from bench import texts
from bench.directories import publish
from bench.machine import cpu_seconds
from bench.rounds import told
from bench.servers import MODEL, Gateway, gateway
from bench.setting import Setting
from gateway.ask import extra
from gateway.ask.indexing import CALL, CALLS

DOCUMENTS: Final = 200
QUICK: Final = 24
SENTENCES: Final = 80  # of a document, of some 20 words each: some 9 chunks of MiniLM's 256 tokens
SENT: Final = 20  # documents of a request
LOOK: Final = 0.2  # seconds between two looks whether all are indexed; each costs the gateway a millisecond


def run(setting: Setting) -> dict[str, Any]:
    """`rounds`, each with chunks per second of both, and CPU seconds of a thousand chunks by process."""
    folder = setting.own("ingestion")
    publish(folder / "models", MODEL)
    count = QUICK if setting.quick else DOCUMENTS
    with gateway(folder / "gateway", folder / "models", *setting.gateway_options) as served:
        rounds = [asyncio.run(_round(served, folder, number, count)) for number in range(setting.rounds)]
    return {"documents": count, "rounds": rounds}


async def _round(served: Gateway, folder: Path, number: int, count: int) -> dict[str, Any]:
    name = f"round{number}"
    made = [{"name": f"{n}.txt", "content": _text(number * count + n)} for n in range(count)]
    async with aiohttp.ClientSession(served.url, timeout=aiohttp.ClientTimeout(600)) as session:
        await _put(session, f"warm{number}", made[:1])
        await _embed(session, [made[0]["content"]] * CALL)
        before, began = _cpu(served), time.perf_counter()
        await _put(session, name, made)
        put = {"seconds": time.perf_counter() - began, "cpu": _since(served, before)}
        chunks = await _chunks(str(folder / "gateway" / "state" / "knowledge"), name)
        before, began = _cpu(served), time.perf_counter()
        await _embed(session, chunks)
        embed = {"seconds": time.perf_counter() - began, "cpu": _since(served, before)}
    told(f"ingestion: {put['seconds']:.1f} s for {len(chunks)} chunks, embedding alone {embed['seconds']:.1f} s")
    return {"chunks": len(chunks), "ingest": put, "embed": embed}


async def _put(session: aiohttp.ClientSession, name: str, documents: list[dict[str, str]]) -> None:
    """Until all are indexed."""
    path = f"/kb/{name}"
    for first in range(0, len(documents), SENT):
        body = {"documents": documents[first : first + SENT]}
        async with session.post(f"{path}/documents?wait=false", json=body) as answer:
            assert answer.status < 300, await answer.text()
    while True:
        async with session.get(path) as answer:
            shown = await answer.json()
        assert shown["state"] != "stalled", shown
        if shown["state"] == "ready":
            return
        await asyncio.sleep(LOOK)


async def _embed(session: aiohttp.ClientSession, chunks: list[str]) -> None:
    room = asyncio.Semaphore(CALLS)

    async def call(part: list[str]) -> None:
        async with room, session.post("/embed", json={"inputs": part}) as answer:
            assert answer.status == 200, await answer.text()
            await answer.read()

    await asyncio.gather(*(call(chunks[at : at + CALL]) for at in range(0, len(chunks), CALL)))


async def _chunks(place: str, name: str) -> list[str]:
    """The texts that the gateway has made vectors of."""
    store = extra.store(place)
    await store.open()
    row = await store.row(f"/{name}")
    assert row.live is not None
    found = [chunk.text for chunk in await store.chunks(row.live)]
    await store.close()
    return found


def _text(seed: int) -> str:
    return ".\n\n".join(sentence.capitalize() for sentence in texts.of_tokens(22, SENTENCES, seed))


def _cpu(served: Gateway) -> list[float]:
    """Seconds so far: the gateway's own process, and all others."""
    first, *others = served.processes()
    return [cpu_seconds(first), sum(map(cpu_seconds, others))]


def _since(served: Gateway, before: list[float]) -> dict[str, float]:
    own, others = (now - then for now, then in zip(_cpu(served), before, strict=True))
    return {"gateway": own, "others": others}
