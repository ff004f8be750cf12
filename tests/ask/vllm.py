"""A server that speaks vLLM's protocol for adapters, as vllm/entrypoints/openai/models has it: same routes, same
answers, same failures. What an adapter says is the digest of the file that it was loaded from."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Self

from aiohttp import web

from tests import ports

BASE: Final = "org/Tiny"
LONGEST: Final = 4096


def digest(folder: str | Path) -> str:
    """Of an adapter's weights: what it says."""
    return hashlib.sha256(Path(folder, "adapter_model.safetensors").read_bytes()).hexdigest()[:8]


class Vllm:
    """`async with Vllm() as server`; `stop` and `start` are a restart, which forgets all adapters. A prompt with `wait`
    in it has its second token when `gate` is set, and `waiting` says that it has its first; one with `long` in it is
    too long."""

    def __init__(self, *, max_rank: int = 16, updates: bool = True, base: str = BASE) -> None:
        self.base = base
        self.max_rank = max_rank
        self.updates = updates
        self.broken: set[str] = set()  # what adapters say that load and then do not answer
        self.adapters: dict[str, tuple[str, str]] = {}  # name -> (folder, what it says)
        self.calls: list[tuple[str, str]] = []  # loads and unloads: (verb, name)
        self.asked: list[dict[str, Any]] = []
        self.cached: list[str] = []  # prompts that were found in the prefix cache
        self.gate = asyncio.Event()
        self.waiting = asyncio.Event()
        self.forgets = False  # every adapter, once it was loaded and proven
        self.balanced = False  # another server answers what is to be unloaded, and has none of it
        self.lists: bytes | None = None  # what it says instead of its list
        self.loading = 200  # what it answers to a load; 0: it cuts the connection
        self.loses = False  # the answer to a load that went well
        self._cache: set[tuple[str, str, str]] = set()

    async def __aenter__(self) -> Self:
        self._held = ports.reserved()
        await self.start()
        return self

    async def __aexit__(self, *failure: object) -> None:
        self.gate.set()
        await self.stop()
        self._held.close()

    async def start(self) -> None:
        """On the port that it had before."""
        self.adapters, self._cache = {}, set()
        app = web.Application()
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_post("/v1/completions", self._continue)
        if self.updates:
            app.router.add_post("/v1/load_lora_adapter", self._load)
            app.router.add_post("/v1/unload_lora_adapter", self._unload)
        app.router.add_route("*", "/{other:.*}", self._no_route)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", ports.number(self._held), reuse_address=True).start()
        self.url = f"http://127.0.0.1:{ports.number(self._held)}/v1"

    async def stop(self) -> None:
        """Connections are cut, whatever goes over them."""
        for connection in list(self._runner.server.connections if self._runner.server else ()):
            if connection.transport is not None:
                connection.transport.abort()
        await self._runner.cleanup()

    def loads(self, name: str) -> int:
        return self.calls.count(("load", name))

    async def _models(self, request: web.Request) -> web.Response:
        if self.lists is not None:
            return web.Response(body=self.lists, content_type="application/json")
        cards: list[dict[str, Any]] = [{"id": self.base, "object": "model", "root": self.base, "parent": None}]
        cards += [
            {"id": name, "object": "model", "root": folder, "parent": self.base}
            for name, (folder, _) in self.adapters.items()
        ]
        return web.json_response({"object": "list", "data": cards})

    async def _load(self, request: web.Request) -> web.Response:
        body = await request.json()
        name, folder = body.get("lora_name"), body.get("lora_path")
        if not name or not folder:
            return _error(400, "Both 'lora_name' and 'lora_path' must be provided.", "InvalidUserInput")
        self.calls.append(("load", name))
        if not self.loading and request.transport is not None:
            request.transport.abort()
        if self.loading != 200:
            return _error(self.loading or 500, "Unauthorized", "AuthenticationError")
        if name in self.adapters and not body.get("load_inplace"):
            how = "If you want to load the adapter in place, set 'load_inplace' to True."
            said = f"The lora adapter '{name}' has already been loaded. {how}"
            return _error(400, said, "InvalidUserInput")
        try:
            config = json.loads(Path(folder, "adapter_config.json").read_text(encoding="utf-8"))
            says = digest(folder)
        except OSError:
            return _error(404, f"Loading lora {name} failed: No adapter found for {folder}", "NotFoundError")
        if config["r"] > self.max_rank:
            said = f"LoRA rank {config['r']} is greater than max_lora_rank {self.max_rank}."
            return _error(400, said, "BadRequestError")
        self.adapters[name] = folder, says
        if self.loses and request.transport is not None:
            request.transport.abort()
        return web.Response(text=f"Success: LoRA adapter '{name}' added successfully.")

    async def _unload(self, request: web.Request) -> web.Response:
        name = (await request.json()).get("lora_name")
        if not name:
            return _error(400, "either 'lora_name' and 'lora_int_id' needs to be provided.", "InvalidUserInput")
        self.calls.append(("unload", name))
        if self.balanced or name not in self.adapters:
            return _error(404, f"The lora adapter '{name}' cannot be found.", "NotFoundError")
        del self.adapters[name]
        return web.Response(text=f"Success: LoRA adapter '{name}' removed successfully.")

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        return await self._say(request, body, json.dumps(body["messages"]), chat=True)

    async def _continue(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        return await self._say(request, body, body["prompt"], chat=False)

    async def _say(self, request: web.Request, body: dict[str, Any], prompt: str, *, chat: bool) -> web.StreamResponse:
        self.asked.append(body)
        name = body["model"]
        if self.forgets and body.get("stream"):
            self.adapters.pop(name, None)
        if name != self.base and name not in self.adapters:
            return _error(404, f"The model `{name}` does not exist.", "NotFoundError", param="model")
        if body.get("cache_salt") == "":
            return _error(400, "Parameter 'cache_salt' must be a non-empty string if provided.", "BadRequestError")
        if "long" in prompt:
            said = f"This model's maximum context length is {LONGEST} tokens. However, you requested 9000 tokens."
            return _error(400, said, "BadRequestError")
        says = "base" if name == self.base else self.adapters[name][1]
        if says in self.broken:
            return _error(500, "CUDA error: device-side assert triggered", "InternalServerError")
        self._remember(name, body.get("cache_salt", ""), prompt)
        most = body.get("max_tokens") or 8
        read = len(prompt.split())
        if not body.get("stream"):
            said = " ".join([says] * most)
            counted = _counted(read, most)
            return web.json_response({"object": "x", "model": name, "choices": [_choice(said, chat)], "usage": counted})
        return await self._stream(request, body, (says, most, read), chat=chat, waits="wait" in prompt)

    async def _stream(
        self, request: web.Request, body: dict[str, Any], saying: tuple[str, int, int], *, chat: bool, waits: bool
    ) -> web.StreamResponse:
        says, most, read = saying
        options = body.get("stream_options") or {}
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for number in range(most):
            if waits and number == 1:
                self.waiting.set()
                await self.gate.wait()
            chunk = {"model": body["model"], "choices": [_piece(says + " ", chat, body)]}
            if options.get("continuous_usage_stats"):
                chunk["usage"] = _counted(read, number + 1)
            await response.write(_event(chunk))
        end = _piece("", chat, {}) | {"finish_reason": "length"}
        await response.write(_event({"model": body["model"], "choices": [end]}))
        if options.get("include_usage"):
            await response.write(_event({"choices": [], "usage": _counted(read, most)}))
        await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
        return response

    async def _no_route(self, request: web.Request) -> web.Response:
        return web.json_response({"detail": "Not Found"}, status=404)

    def _remember(self, name: str, salt: str, prompt: str) -> None:
        key = (name, salt, prompt)
        self.cached += [prompt] if key in self._cache else []
        self._cache.add(key)


def _counted(read: int, said: int) -> dict[str, int]:
    return {"prompt_tokens": read, "completion_tokens": said, "total_tokens": read + said}


def _choice(text: str, chat: bool) -> dict[str, Any]:
    said: dict[str, Any] = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
    return {"index": 0, "finish_reason": "length", **said}


def _piece(text: str, chat: bool, body: Mapping[str, Any]) -> dict[str, Any]:
    said: dict[str, Any] = {"delta": {"content": text}} if chat else {"text": text}
    if chat and body.get("logprobs"):
        top = [{"token": text, "logprob": -0.5, "bytes": list(text.encode())}] * body["top_logprobs"]
        said["logprobs"] = {"content": [{"token": text, "logprob": -0.5, "bytes": None, "top_logprobs": top}]}
    elif body.get("logprobs") is not None:
        said["logprobs"] = {"tokens": [text], "token_logprobs": [-0.5], "top_logprobs": [{text: -0.5}]}
    return {"index": 0, "finish_reason": None, **said}


def _event(document: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(document).encode() + b"\n\n"


def _error(status: int, message: str, kind: str, param: str | None = None) -> web.Response:
    told = {"message": message, "type": kind, "param": param, "code": status}
    return web.json_response({"error": told}, status=status)
