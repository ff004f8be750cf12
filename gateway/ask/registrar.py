"""What an upstream has loaded, and how that is changed: vLLM's protocol
(https://docs.vllm.ai/en/latest/features/lora/#dynamically-serving-lora-adapters).

Loading is told apart in what only this adapter has (`Refusal`) and what all have who wait for this upstream.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final

import aiohttp
import msgspec
import orjson

from gateway.ask import frames
from gateway.ask.offer import BROKEN, LARGEST, PATIENCE, limited
from gateway.ask.specs import Adapters, Spec
from gateway.errors import ProviderFailed, ProviderTimeout

TOLD: Final = 64 * 1024  # bytes that are read of an answer
LOADED: Final = "already been loaded"
NO_ROUTE: Final = "not found"  # all that a server says that knows no such route


class Refusal(Exception):
    """The upstream does not serve this adapter; `code` as in `gateway.volume.reasons`."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class AlreadyLoaded(Exception):
    """There is an adapter of this name."""


class Card(msgspec.Struct):
    """Of a model there: `parent` is an adapter's base, and then `root` is the folder that it came from."""

    id: str
    root: str | None = None
    parent: str | None = None


class Cards(msgspec.Struct):
    data: list[Card]


_cards: Final = msgspec.json.Decoder(Cards)


class Registrar:
    """Of one upstream. Each method raises ProviderFailed or ProviderTimeout where it cannot be spoken to."""

    def __init__(
        self,
        name: str,
        spec: Spec,
        adapters: Adapters,
        headers: Callable[[], Mapping[str, str]],
        session: Callable[[], aiohttp.ClientSession],
    ) -> None:
        self._name = name
        self._spec = spec
        self._patience = adapters.load_timeout
        self._headers = headers
        self._session = session

    async def cards(self) -> list[Card]:
        """What it has now."""
        status, told = await self._call("GET", "models", None, PATIENCE)
        try:
            if status == 200:
                return _cards.decode(told).data
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            pass
        raise ProviderFailed(f"{self._name} does not list its models ({status})", provider=self._name)

    async def load(self, name: str, path: str) -> None:
        """Raises AlreadyLoaded, or Refusal."""
        status, told = await self._call("POST", "load_lora_adapter", {"lora_name": name, "lora_path": path})
        if status == 200:
            return
        said = _said(told)
        if status == 400 and LOADED in said:
            raise AlreadyLoaded(name)
        raise self._refusal(status, said, path)

    async def unload(self, name: str) -> None:
        """It is not there afterwards, whoever unloaded it."""
        status, told = await self._call("POST", "unload_lora_adapter", {"lora_name": name})
        if status not in {200, 404}:
            message = f"{self._name} does not unload an adapter ({status}): {_said(told)}"
            raise ProviderFailed(message, provider=self._name)

    async def prove(self, path: str, body: Mapping[str, Any]) -> None:
        """That it answers: one token. Raises Refusal."""
        asked = {**body, "max_tokens": 1, "temperature": 0.0, "stream": False}
        status, told = await self._call("POST", path, asked)
        if status != 200:
            raise Refusal("upstream_refused", f"{self._name} loaded it, and does not answer ({status}): {_said(told)}")
        try:
            frames.read(told)
        except (frames.Garbage, frames.Trouble) as error:
            raise Refusal("upstream_refused", f"{self._name} loaded it, and does not answer: {error}") from error

    def _refusal(self, status: int, said: str, path: str) -> Refusal:
        if status in {401, 403}:
            return Refusal("upstream_refused", f"{self._name} does not accept the gateway's key ({status})")
        if status == 404 and said.strip().lower() in {"", NO_ROUTE}:
            return Refusal("upstream_without_adapters", f"{self._name} loads no adapters while it runs")
        if status == 404:
            return Refusal("upstream_path_missing", f"{self._name} finds no adapter at {path}: {said}")
        return Refusal("upstream_refused", f"{self._name} does not load it ({status}): {said}")

    async def _call(
        self, method: str, path: str, body: Mapping[str, Any] | None, patience: float | None = None
    ) -> tuple[int, bytes]:
        """Status and body."""
        url = f"{self._spec.base_url.rstrip('/')}/{path}"
        timeout = aiohttp.ClientTimeout(total=None, connect=self._spec.connect_timeout)
        data = None if body is None else orjson.dumps(body)
        try:
            async with (
                asyncio.timeout(patience or self._patience),
                self._session().request(
                    method, url, data=data, headers=self._headers(), timeout=timeout, allow_redirects=False
                ) as response,
            ):
                return response.status, await limited(response, LARGEST if method == "GET" else TOLD)
        except TimeoutError as error:
            raise ProviderTimeout(f"{self._name} did not answer in time", provider=self._name) from error
        except (*BROKEN, frames.Garbage) as error:
            why = getattr(getattr(error, "os_error", None), "strerror", None) or type(error).__name__
            raise ProviderFailed(f"{self._name} cannot be reached: {why}", provider=self._name) from error


def _said(told: bytes) -> str:
    """Of an answer that is none, what is for people."""
    try:
        return frames.trouble(orjson.loads(told))
    except ValueError:
        return " ".join(told.decode(errors="replace").split())[:500]
