"""A server that speaks OpenAI's protocol, well or badly: the model that it is asked for says how."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final, Self

from aiohttp import web

WORDS: Final = ("The ", "ring ", "holds ", "the beam ", "[1].")
SAID: Final = "".join(WORDS)
KEY: Final = "sk-very-secret"


def chunk(content: str | None = None, finish: str | None = None, **more: Any) -> bytes:
    delta = {} if content is None else {"content": content}
    document = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "told",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
        **more,
    }
    return b"data: " + json.dumps(document).encode() + b"\n\n"


def whole(text: str = SAID, finish: str | None = "stop") -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "told",
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12},
    }


class Talking:
    """`async with Talking() as server`. `asked` holds the bodies so far, `lists` how often its models were listed;
    `gate` lets "waits" go on, and `left` is set once a client has left "waits" or "hangs"."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.lists = 0
        self.gate = asyncio.Event()
        self.left = asyncio.Event()
        self.hanging = asyncio.Event()
        self.at_once = 0
        self.most_at_once = 0

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=2**24)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_get("/v1/models", self._models)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}/v1"
        return self

    async def __aexit__(self, *failure: object) -> None:
        self.gate.set()
        await self._runner.cleanup()

    def calls(self, model: str) -> int:
        return sum(body["model"] == model for body in self.asked)

    async def _models(self, request: web.Request) -> web.Response:
        self.lists += 1
        return web.json_response(
            {"object": "list", "data": [{"id": "answers"}, {"id": "small:latest"}, {"id": "broken"}]}
        )

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.asked.append(body)
        self.headers.append(dict(request.headers))
        self.at_once += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        try:
            return await getattr(self, "_" + body["model"].replace("-", "_"), self._nobody)(request, body)
        except asyncio.CancelledError:
            self.left.set()
            raise
        finally:
            self.at_once -= 1

    async def _nobody(self, request: web.Request, body: dict[str, Any]) -> web.Response:
        """As servers that load whatever they are asked for."""
        return web.json_response({"error": {"message": "cannot load that"}}, status=500)

    async def _answers(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        if not body.get("stream"):
            return web.json_response(whole())
        async with self._stream(request) as response:
            for word in WORDS:
                await response.write(chunk(word))
            await response.write(chunk(finish="stop", usage={"prompt_tokens": 7, "completion_tokens": 5}))
            await response.write(b"data: [DONE]\n\n")
        return response

    async def _cites_what_is_not_there(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return await self._says(request, "The ring holds the beam [1]. So they say [9].")

    async def _bare(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return await self._says(request, "Everything is fine.")

    async def _says(self, request: web.Request, text: str) -> web.StreamResponse:
        async with self._stream(request) as response:
            await response.write(chunk(text) + chunk(finish="stop") + b"data: [DONE]\n\n")
        return response

    async def _no_done(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        async with self._stream(request) as response:
            await response.write(b": a comment\r\n\r\n")
            for word in WORDS:
                await response.write(chunk(word).replace(b"\n", b"\r\n"))
            await response.write(chunk(finish="stop").rstrip())  # not even the empty line at the end
        return response

    async def _cut(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        async with self._stream(request) as response:
            await response.write(chunk(WORDS[0]))
        return response

    async def _drops(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        async with self._stream(request) as response:
            await response.write(chunk(WORDS[0]))
            assert request.transport is not None
            request.transport.close()
        return response

    async def _vanishes(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        """Each time, before a byte of an answer."""
        assert request.transport is not None
        request.transport.close()
        return web.Response()

    async def _waits(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        async with self._stream(request) as response:
            await response.write(chunk(WORDS[0]))
            self.hanging.set()
            await self.gate.wait()
            await response.write(chunk("on", finish="stop") + b"data: [DONE]\n\n")
        return response

    async def _hangs(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        self.hanging.set()
        await self.gate.wait()
        return web.json_response(whole())

    async def _busy(self, request: web.Request, body: dict[str, Any]) -> web.Response:
        return web.json_response({"error": {"message": "slow down"}}, status=429, headers={"Retry-After": "60"})

    async def _busy_once(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        if self.calls("busy-once") == 1:
            return web.json_response({}, status=429, headers={"Retry-After": "2"})
        return await self._answers(request, body)

    async def _broken(self, request: web.Request, body: dict[str, Any]) -> web.Response:
        return web.Response(status=500, text=f"a traceback with {KEY}")

    async def _broken_once(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return await (self._broken if self.calls("broken-once") == 1 else self._answers)(request, body)

    async def _refuses(self, request: web.Request, body: dict[str, Any]) -> web.Response:
        said = f"this model's context is 10 tokens; your key {KEY}\nis known"
        return web.json_response({"error": {"message": said}}, status=413)

    async def _locked(self, request: web.Request, body: dict[str, Any]) -> web.Response:
        return web.json_response({"error": {"message": f"bad key {KEY}"}}, status=401)

    async def _moved(self, request: web.Request, body: dict[str, Any]) -> web.Response:
        return web.Response(status=307, headers={"Location": "/v1/elsewhere"})

    async def _garbage(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        async with self._stream(request) as response:
            await response.write(b"data: {not json\n\n")
        return response

    async def _shapeless(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        async with self._stream(request) as response:
            await response.write(b'data: {"choices": [{"delta": "a text"}]}\n\n')
        return response

    async def _endless(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        async with self._stream(request) as response:
            for _ in range(40):
                await response.write(b"x" * 2**16)
        return response

    async def _html(self, request: web.Request, body: dict[str, Any]) -> web.Response:
        return web.Response(text="<html>welcome</html>", content_type="text/html")

    async def _whole(self, request: web.Request, body: dict[str, Any]) -> web.Response:
        return web.json_response(whole())

    async def _fails_inside(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        async with self._stream(request) as response:
            await response.write(chunk(WORDS[0]))
            await response.write(b'data: {"error": {"message": "out of memory"}}\n\n')
        return response

    @asynccontextmanager
    async def _stream(self, request: web.Request) -> AsyncIterator[web.StreamResponse]:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        try:
            yield response
        finally:
            if request.transport is not None and not request.transport.is_closing():
                await response.write_eof()
