"""The models that a provider offers: those its table pins, or those it lists, which are believed for a while.

A list decides nothing by itself: some servers serve more than they list. It explains a failure.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import aiohttp
import msgspec
from aiohttp.http_exceptions import HttpProcessingError

from gateway.ask.frames import Garbage
from gateway.ask.specs import Spec
from gateway.errors import ProviderFailed, ProviderModelNotFound, ProviderTimeout

KNOWN_FOR: Final = 60.0  # seconds that a list is believed
PATIENCE: Final = 5.0  # seconds that it may take
LARGEST: Final = 8 * 1024**2  # bytes of it
SHOWN: Final = 10
BROKEN: Final = (aiohttp.ClientError, HttpProcessingError, ConnectionError)


class Card(msgspec.Struct):
    id: str


class Cards(msgspec.Struct):
    data: list[Card]


_cards: Final = msgspec.json.Decoder(Cards)


class Offer:
    """Of one provider."""

    def __init__(
        self,
        name: str,
        spec: Spec,
        headers: Callable[[], Mapping[str, str]],
        session: Callable[[], aiohttp.ClientSession],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._spec = spec
        self._headers = headers
        self._session = session
        self._clock = clock
        self._listed: tuple[float, tuple[str, ...]] | None = None
        self._listing = asyncio.Lock()

    def demand(self, model: str) -> None:
        """Raises ProviderModelNotFound where models are pinned and this is none of them."""
        if self._spec.pinned and model not in self._spec.pinned:
            raise self._no(model, self._spec.pinned)

    async def models(self) -> tuple[str, ...]:
        """Raises ProviderFailed or ProviderTimeout."""
        if self._spec.pinned:
            return self._spec.pinned
        async with self._listing:  # who comes meanwhile waits for the one that asks
            now = self._clock()
            if self._listed is None or now - self._listed[0] > KNOWN_FOR:
                self._listed = now, await self._list()
            return self._listed[1]

    async def unknown(self, model: str) -> ProviderModelNotFound | None:
        """Why a call for this model may have failed: it is not there. None where it is, or nobody knows."""
        try:
            known = await self.models()
        except (ProviderFailed, ProviderTimeout):
            return None
        return self._no(model, known) if known and model not in known and f"{model}:latest" not in known else None

    async def _list(self) -> tuple[str, ...]:
        url, timeout = f"{self._spec.base_url.rstrip('/')}/models", aiohttp.ClientTimeout(PATIENCE)
        request = self._session().get(url, headers=self._headers(), timeout=timeout, allow_redirects=False)
        try:
            async with request as response:
                if response.status != 200:
                    message = f"{self._name} does not list its models ({response.status})"
                    raise ProviderFailed(message, provider=self._name)
                return tuple(card.id for card in _cards.decode(await limited(response, LARGEST)).data)
        except TimeoutError as error:
            raise ProviderTimeout(f"{self._name} did not list its models in time", provider=self._name) from error
        except (*BROKEN, Garbage, ValueError, RecursionError) as error:  # no JSON, no text, or lists in lists in lists
            raise ProviderFailed(f"{self._name} does not list its models", provider=self._name) from error

    def _no(self, model: str, known: Sequence[str]) -> ProviderModelNotFound:
        some = ", ".join(known[:SHOWN]) + (" and more" if len(known) > SHOWN else "")
        message = f"{self._name} has no model {model!r}; it has {some}"
        return ProviderModelNotFound(message, provider=self._name, llm=model)


async def limited(response: aiohttp.ClientResponse, most: int) -> bytes:
    """The body. Raises Garbage when it is larger."""
    found = bytearray()
    async for part in response.content.iter_any():
        found += part
        if len(found) > most:
            raise Garbage(f"more than {most} bytes")
    return bytes(found)
