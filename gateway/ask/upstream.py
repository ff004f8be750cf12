"""A provider over HTTP, in OpenAI's protocol (https://platform.openai.com/docs/api-reference/chat).

One call: let in by the limit and the breaker, tried again until the first byte, then read to its end within the
timeouts. Whoever stops reading closes the connection, and so ends the work at the other end. No timeout spans a
`yield`: there the task belongs to whoever reads.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, Self, TypeVar

import aiohttp
import msgspec
import orjson
from yarl import URL

from gateway.ask import frames, retries
from gateway.ask.breaker import Breaker
from gateway.ask.offer import BROKEN, Offer, limited
from gateway.ask.places import Places
from gateway.ask.providers import Delta, Message, Sampling
from gateway.ask.specs import Key, Spec
from gateway.errors import (
    GatewayError,
    InvalidBody,
    ProviderBusy,
    ProviderFailed,
    ProviderModelNotFound,
    ProviderRefused,
    ProviderTimeout,
    ProviderUnavailable,
)
from gateway.tracing import OUTGOING

T = TypeVar("T")
PATHS: Final = ("chat/completions", "completions")
LARGEST: Final = 32 * 1024**2  # bytes of an answer in one piece
TOLD: Final = 64 * 1024  # bytes that are read of an error
PARTING: Final = 0.1  # seconds that the end of a finished stream may take, so that its connection can be used again
EXPLAINING: Final = 5.0  # seconds that the body of an error may take
FAULTS: Final = (ProviderFailed, ProviderTimeout)  # what the breaker counts
Sleep = Callable[[float], Awaitable[None]]


class Way(msgspec.Struct, frozen=True):
    """What is asked for, and where. `ours`: a name that the gateway gave, which no client may use."""

    model: str
    path: str = PATHS[0]
    ours: bool = False


class Limits(msgspec.Struct, frozen=True):
    """Of one call, on the loop's clock: when its first token must have come, and its last."""

    first: float
    end: float


class Upstream:
    """One provider. `session` is shared with the others; the limits are its own."""

    def __init__(
        self,
        name: str,
        spec: Spec,
        key: Key,
        session: Callable[[], aiohttp.ClientSession],
        *,
        breaker: Breaker | None = None,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self.name = name
        self.context = spec.context
        self._spec = spec
        self._key = key
        self._session = session
        self._breaker = breaker or Breaker()
        self._sleep = sleep
        self._urls = {path: URL(f"{spec.base_url.rstrip('/')}/{path}") for path in PATHS}
        self._timeout = aiohttp.ClientTimeout(
            total=None, connect=spec.connect_timeout, sock_connect=spec.connect_timeout
        )
        self._places = Places(spec.max_concurrency)
        self._tenant = ""
        self._offer = Offer(name, spec, self.headers, session)

    def on_behalf_of(self, tenant: str) -> Self:
        """The same provider, asked by this tenant: tenants share its places."""
        bound = copy.copy(self)
        bound._tenant = tenant
        return bound

    def chat(self, messages: Sequence[Message], model: str, sampling: Sampling) -> AsyncGenerator[Delta]:
        body: dict[str, Any] = {"messages": [{"role": each.role, "content": each.content} for each in messages]}
        if sampling.temperature is not None:
            body["temperature"] = sampling.temperature
        if sampling.max_tokens is not None:
            body["max_tokens"] = sampling.max_tokens
        return self._pieces(body, Way(model), lambda _, piece: frames.delta(piece))

    def stream(self, body: Mapping[str, Any], model: str) -> AsyncGenerator[dict[str, Any]]:
        return self._pieces(body, Way(model), lambda found, _: found)

    def say(self, body: Mapping[str, Any], name: str, path: str) -> AsyncGenerator[frames.Chunk]:
        """The same of a model of the volume, under the name that the gateway gave it there. Raises
        ProviderModelNotFound where it has none of that name."""
        return self._pieces(body, Way(name, path, ours=True), lambda _, piece: piece)

    async def _pieces(
        self, body: Mapping[str, Any], way: Way, told: Callable[[dict[str, Any], frames.Chunk], T]
    ) -> AsyncGenerator[T]:
        """What is to be told of each chunk as it came, and of what it means: both protocols of ours are served from
        here, and each chunk is read once. Who leaves early ends the call."""
        limits = self._limits()
        async with self._call({**body, "model": way.model, "stream": True}, way, limits) as response:
            if response.content_type == "application/json":  # it does not stream
                found = await self._whole(response, limits)
                yield told(found, frames.chunk(found))
                return
            finished = False
            async for data in self._events(response, limits):
                found = frames.read(data)
                piece = frames.chunk(found)
                finished |= frames.finished(piece)
                yield told(found, piece)
            if not finished:
                raise ProviderFailed(f"{self.name} was cut off in the middle of its answer", provider=self.name)

    async def complete(self, body: Mapping[str, Any], model: str) -> dict[str, Any]:
        limits = self._limits()
        limits = Limits(limits.end, limits.end)
        async with self._call({**body, "model": model, "stream": False}, Way(model), limits) as response:
            return await self._whole(response, limits)

    async def models(self) -> tuple[str, ...]:
        return await self._offer.models()

    def _limits(self) -> Limits:
        now = asyncio.get_running_loop().time()
        return Limits(now + min(self._spec.first_token_timeout, self._spec.timeout), now + self._spec.timeout)

    @asynccontextmanager
    async def _call(self, body: Mapping[str, Any], way: Way, limits: Limits) -> AsyncIterator[aiohttp.ClientResponse]:
        """A good answer whose body is still to be read, and everything that can go wrong until it was."""
        if not way.ours:
            self._offer.demand(way.model)
        await self._come_in(limits)
        try:
            self._demand_well()
            told, response = self._breaker.left, None
            try:
                response = await self._answered(body, way, limits)
                yield response
                told = self._breaker.succeeded
                response.release()
            except FAULTS:
                told = self._breaker.failed
                raise
            except GatewayError:
                told = self._breaker.succeeded  # it answers
                raise
            except (frames.Garbage, frames.Trouble, *BROKEN) as error:
                told = self._breaker.failed
                raise self._broken(error) from error
            finally:
                told()
                if response is not None:
                    response.close()  # nothing, where it was released
        finally:
            self._places.give_back(self._tenant)

    async def _come_in(self, limits: Limits) -> None:
        """Takes one of so many places; who waits too long for one is told to come back."""
        try:
            await self._places.take(self._tenant, until=limits.first)
        except TimeoutError as error:
            message = f"{self.name} has {self._spec.max_concurrency} requests in flight"
            raise ProviderBusy(message, retry_after=1.0, provider=self.name) from error

    def _demand_well(self) -> None:
        """Raises ProviderUnavailable where the breaker lets nobody through."""
        if wait := self._breaker.remaining():
            message = f"{self.name} has failed several times in a row"
            raise ProviderUnavailable(message, retry_after=wait, provider=self.name)

    def _broken(self, error: Exception) -> ProviderFailed:
        said = self._clean(str(error)) or type(error).__name__
        match error:
            case frames.Garbage():
                message = f"{self.name} does not answer as OpenAI does: {said}"
            case frames.Trouble():
                message = f"{self.name} failed: {said}"
            case _:
                message = f"{self.name} was cut off in the middle of its answer: {said}"
        return ProviderFailed(message, provider=self.name)

    async def _answered(self, body: Mapping[str, Any], way: Way, limits: Limits) -> aiohttp.ClientResponse:
        """The first good answer within the tries. Each failure that may pass is waited out, if there is time."""
        tried = 0
        while True:
            tried += 1
            response, asked, failure = None, None, None
            try:
                response = await self._post(body, way, limits)
            except (aiohttp.ClientConnectionError, ConnectionError) as error:
                failure = self._unreached(error)
            else:
                if response.status == 200:
                    return response
                asked = retries.wait(response.headers)
            wait = retries.pause(tried, asked)
            final = wait is None or asyncio.get_running_loop().time() + wait > limits.first
            if response is not None and (final or response.status not in retries.AGAIN):
                failure = await self._refused(response, way, asked)
                final = True
            if response is not None:
                response.close()
            if final and failure is not None:
                raise failure
            await self._sleep(wait or 0.0)

    async def _post(self, body: Mapping[str, Any], way: Way, limits: Limits) -> aiohttp.ClientResponse:
        try:
            data, headers = orjson.dumps(body), self.headers()
        except TypeError as error:  # lists in lists in lists
            raise InvalidBody(f"the request cannot be handed on: {error}") from error
        try:
            async with asyncio.timeout_at(limits.first):
                return await self._session().post(
                    self._urls[way.path], data=data, headers=headers, timeout=self._timeout, allow_redirects=False
                )
        except aiohttp.ConnectionTimeoutError:
            raise
        except TimeoutError as error:
            raise self._late("has not begun to answer") from error

    async def _events(self, response: aiohttp.ClientResponse, limits: Limits) -> AsyncIterator[bytes]:
        """The data of its events, up to `[DONE]` or the end."""
        lines, loop = frames.Lines(), asyncio.get_running_loop()
        until, begun = limits.first, False
        while True:
            try:
                received = await _received(response.content, min(until, limits.end))
            except TimeoutError as error:
                raise self._late("did not go on, or come to its end,") from error
            for data in lines.feed(received) if received else lines.end():
                if data == frames.DONE:
                    await _to_the_end(response)
                    return
                begun = True
                yield data
            if not received:
                return
            if begun:
                until = loop.time() + self._spec.idle_timeout

    async def _whole(self, response: aiohttp.ClientResponse, limits: Limits) -> dict[str, Any]:
        try:
            async with asyncio.timeout_at(limits.end):
                found = frames.read(await limited(response, LARGEST))
        except TimeoutError as error:
            raise self._late("did not come to its end") from error
        if not frames.finished(frames.chunk(found)):
            raise frames.Garbage("no choice that has an end")
        return found

    async def _refused(self, response: aiohttp.ClientResponse, way: Way, asked: float | None) -> GatewayError:
        """What a status means for whoever asked."""
        status, said = response.status, await self._said(response)
        message = f"{self.name} answered {status}{': ' if said else ''}{said}"
        if status == 429:
            return ProviderBusy(message, retry_after=asked, provider=self.name)
        if status in {401, 403}:
            return ProviderFailed(f"{self.name} does not accept the gateway's key ({status})", provider=self.name)
        if not way.ours and (status in {400, 404, 422} or status >= 500):
            unknown = await self._offer.unknown(way.model)
            if unknown is not None:
                return unknown
        if status == 404:
            return ProviderModelNotFound(message, provider=self.name)
        if 400 <= status < 500 and status not in retries.AGAIN:
            return ProviderRefused(message, provider=self.name)
        return ProviderFailed(message, provider=self.name)

    async def _said(self, response: aiohttp.ClientResponse) -> str:
        """Of an error, what is for people."""
        try:
            async with asyncio.timeout(EXPLAINING):
                return self._clean(frames.trouble(orjson.loads(await limited(response, TOLD))))
        except (*BROKEN, TimeoutError, ValueError):
            return ""

    def _unreached(self, error: Exception) -> GatewayError:
        if isinstance(error, TimeoutError):
            return self._late("could not be connected to")
        why = getattr(getattr(error, "os_error", None), "strerror", None) or type(error).__name__
        return ProviderFailed(f"{self.name} cannot be reached: {why}", provider=self.name)

    def _late(self, what: str) -> ProviderTimeout:
        return ProviderTimeout(f"{self.name} {what} in time", provider=self.name)

    def headers(self) -> dict[str, str]:
        """Of each call."""
        key = self._key.read(self.name)
        trace = {"traceparent": parent} if (parent := OUTGOING.get()) else {}
        known = {"Content-Type": "application/json", **trace, **self._spec.headers}
        return {**known, "Authorization": f"Bearer {key}"} if key else known

    def _clean(self, text: str) -> str:
        """What a provider said, in one line, without the key, which some repeat."""
        key = self._key.read(self.name)
        line = " ".join(text.split())
        return (line.replace(key, "***") if key else line)[:500]


async def _received(content: aiohttp.StreamReader, until: float) -> bytes:
    """What has come; empty at the end. A timer is set only where there is something to wait for."""
    if content.at_eof():
        return b""
    if received := content.read_nowait():
        return received
    async with asyncio.timeout_at(until):
        return await content.readany()


async def _to_the_end(response: aiohttp.ClientResponse) -> None:
    if response.content.at_eof():
        return
    with suppress(TimeoutError, *BROKEN):
        async with asyncio.timeout(PARTING):
            while await response.content.readany():
                pass
