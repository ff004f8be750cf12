"""What a question costs beside its embedding and its language model, with many at once.

    python -m bench.asking [--rounds 20] [--at-once 64]

The provider answers at once, so that all that is left is the gateway's: it puts the time into its first token, and the
client reads how old that is. Gateway, provider and client are processes of one machine, and share its clock and cores:
so beside the embedding alone stands `apart`, a client that embeds and then asks the language model itself, whose time
is left out as it is of an answer.
`cpu` is what a request took of the gateway's own process and of its host's, in milliseconds: on a machine that is not
ours alone, the one figure that can be compared with another day's.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import aiohttp
from aiohttp import web

from bench.directories import publish
from bench.machine import running_seconds
from bench.servers import MODEL, Gateway, gateway

SUBJECTS: Final = ("beam", "cavity", "gun", "pump", "magnet", "shutter", "laser", "mirror")
DOCUMENTS: Final = [
    {"name": f"{number}.txt", "content": f"The {SUBJECTS[number % 8]} of sector {number} failed in run {number * 7}."}
    for number in range(200)
]
QUERIES: Final = [f"why did the {subject} of sector {number} fail?" for number in range(25) for subject in SUBJECTS]
BODY: Final = {"knowledge_base": "bench", "llm_model": "instant:any", "partial_answer": False}

Work = Callable[[aiohttp.ClientSession, str], Awaitable[dict[str, float]]]


async def provide(request: web.Request) -> web.StreamResponse:
    """The time, and the end."""
    await request.read()
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    for delta, finish in (({"content": f"{time.monotonic():.6f} "}, None), ({"content": "[1]."}, "stop")):
        chunk = {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}
        await response.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
    await response.write(b"data: [DONE]\n\n")
    return response


def serve_provider() -> None:
    """On a free port, which it tells on standard output."""
    app = web.Application()
    app.router.add_post("/v1/chat/completions", provide)
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    print(listener.getsockname()[1], flush=True)
    web.run_app(app, sock=listener, print=None, access_log=None)


async def embed(session: aiohttp.ClientSession, query: str) -> dict[str, float]:
    began = time.monotonic()
    async with session.post("/embed", json={"inputs": [query]}) as answer:
        assert answer.status == 200, await answer.text()
        await answer.read()
    return {"seconds": time.monotonic() - began}


async def ask(session: aiohttp.ClientSession, query: str) -> dict[str, float]:
    """`seconds` without those of the language model; `first` is how old the first token was."""
    began, first, done = time.monotonic(), 0.0, {}
    async with session.post("/ask/stream", json={**BODY, "query": query}) as answer:
        assert answer.status == 200, await answer.text()
        async for line in answer.content:
            if b'"token"' in line and not first:
                first = time.monotonic() - float(json.loads(line[6:])["content"])
            if b'"complete"' in line:
                done = json.loads(line[6:])
    return {"seconds": time.monotonic() - began - done["llm_time"], "first": first}


def apart(provider: str) -> Work:
    """Embeds, and asks the language model without the gateway: what the cores do for an answer anyhow."""

    async def work(session: aiohttp.ClientSession, query: str) -> dict[str, float]:
        embedded = await embed(session, query)
        body = {"model": "any", "stream": True, "messages": [{"role": "user", "content": query}]}
        async with session.post(f"{provider}/chat/completions", json=body) as answer:
            await answer.read()
        return embedded

    return work


async def measured(served: Gateway, rounds: int, at_once: int, work: Work) -> dict[str, Any]:
    """Milliseconds: the middle and the 99th of a hundred of each thing that `work` tells, and `cpu`."""
    connector, queries = aiohttp.TCPConnector(limit=0), itertools.cycle(QUERIES)
    async with aiohttp.ClientSession(served.url, connector=connector) as session:
        await asyncio.gather(*(work(session, next(queries)) for _ in range(at_once)))  # for warming up
        before, found = cpu(served), list[dict[str, float]]()
        for _ in range(rounds):
            found += await asyncio.gather(*(work(session, next(queries)) for _ in range(at_once)))
        spent = {name: seconds - before[name] for name, seconds in cpu(served).items()}
    values = {name: sorted(each[name] * 1000 for each in found) for name in found[0]}
    return {
        f"{name}_{part}": round(value, 2)
        for name, each in values.items()
        for part, value in (("p50", statistics.median(each)), ("p99", each[int(0.99 * (len(each) - 1))]))
    } | {"cpu": {name: round(1000 * seconds / len(found), 2) for name, seconds in spent.items()}}


def cpu(served: Gateway) -> dict[str, float]:
    """Seconds so far."""
    gateway_process, *others = served.processes()
    return {"gateway": running_seconds(gateway_process), "hosts": sum(map(running_seconds, others))}


async def compared(served: Gateway, provider: str, rounds: int, at_once: int) -> dict[str, Any]:
    async with (
        aiohttp.ClientSession(served.url) as session,
        session.post("/kb/bench/documents", json={"documents": DOCUMENTS}) as answer,
    ):
        assert answer.status < 300, await answer.text()
    alone = await measured(served, rounds, at_once, embed)
    beside = await measured(served, rounds, at_once, apart(provider))
    asked = await measured(served, rounds, at_once, ask)
    return {
        "at_once": at_once,
        "embed": alone,
        "apart": beside,
        "ask": asked,
        "over_the_embedding_p50": round(asked["seconds_p50"] - alone["seconds_p50"], 2),
        "over_apart_p50": round(asked["seconds_p50"] - beside["seconds_p50"], 2),
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.asking", description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--at-once", type=int, default=64)
    parser.add_argument("--provider", action="store_true", help="be the provider")
    options = parser.parse_args()
    if options.provider:
        serve_provider()
        return 0
    command = [sys.executable, "-m", "bench.asking", "--provider"]
    with tempfile.TemporaryDirectory() as place, subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        folder = Path(place)
        try:
            assert other.stdout is not None
            url = f"http://127.0.0.1:{int(other.stdout.readline())}/v1"
            (folder / "providers.toml").write_text(f'[instant]\nbase_url = "{url}"\nmax_concurrency = 1000\n')
            publish(folder / "models", MODEL)
            option = f"--providers={folder / 'providers.toml'}"
            with gateway(folder / "gateway", folder / "models", option) as served:
                for at_once in sorted({1, options.at_once}):
                    print(json.dumps(asyncio.run(compared(served, url, options.rounds, at_once))))
        finally:
            other.terminate()
    return 0


if __name__ == "__main__":
    sys.exit(main())
