"""A small real server of chat completions, which answers as a test says."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from typing import Any, Self

from aiohttp import web

Reply = Callable[[str], "Awaitable[web.StreamResponse] | web.StreamResponse"]
CHUNK = re.compile(r"<text>\n(.*)\n</text>", re.DOTALL)


def says(text: str) -> web.Response:
    """A completion with this text."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return web.json_response({"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]})


def pairs(*made: tuple[str, str]) -> str:
    return json.dumps({"pairs": [{"question": question, "answer": answer} for question, answer in made]})


def honest(chunk: str) -> web.Response:
    """One good pair about a chunk: its first words, and all of it."""
    return says(pairs((f"What is said about {' '.join(chunk.split()[:3])}?", chunk)))


class Scripted:
    """Answers with what `reply` makes of a chunk's text; keeps what it was asked, and how many it answered at once."""

    def __init__(self, reply: Reply = honest) -> None:
        self.reply = reply
        self.asked: list[str] = []
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.at_once = self.most_at_once = 0

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *failure: object) -> None:
        await self._runner.cleanup()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        found = CHUNK.search(body["messages"][-1]["content"])
        assert found
        self.asked.append(found[1])
        self.bodies.append(body)
        self.keys.append(request.headers.get("Authorization"))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await asyncio.sleep(0)
            replied = self.reply(found[1])
            return replied if isinstance(replied, web.StreamResponse) else await replied
        finally:
            self.at_once -= 1
