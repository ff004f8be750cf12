"""Every provider by its name, and the one HTTP client that they share, which is made when it is first used."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

import aiohttp

from gateway import events
from gateway.ask.annex import Annex
from gateway.ask.local import Local, offered
from gateway.ask.providers import LOCAL, Named, Provider
from gateway.ask.registrar import Registrar
from gateway.ask.specs import Key, Spec
from gateway.ask.upstream import Upstream
from gateway.errors import GatewayError, ProviderNotFound
from gateway.service import Service

ELSEWHERE: Final = {
    "openai": "set OPENAI_API_KEY",
    "stanford": "set STANFORD_BASE_URL and STANFORD_API_KEY",
    "ollama": "set OLLAMA_BASE_URL",
}


class Roster:
    """`found` has the providers that were set up."""

    def __init__(self, found: Mapping[str, tuple[Spec, Key]]) -> None:
        self._session: aiohttp.ClientSession | None = None
        self._specs = {name: spec for name, (spec, _) in found.items()}
        self._upstreams = {name: Upstream(name, spec, key, self._shared) for name, (spec, key) in found.items()}

    def annexes(
        self, tell: events.Events, names: Callable[[str], tuple[str, ...]], looked: Callable[[], bool]
    ) -> list[Annex]:
        """Of the providers that serve language models of the volume. `names` has the models of a digest."""
        found = []
        for name, spec in self._specs.items():
            if (adapters := spec.adapters) is not None:
                upstream = self._upstreams[name]
                registrar = Registrar(name, spec, adapters, upstream.headers, self._shared)
                found.append(Annex(upstream, registrar, adapters, tell=tell, names=names, looked=looked))
        return found

    def find(self, named: Named, service: Service) -> Provider:
        """On behalf of the service's caller. Raises ProviderNotFound; of a model on the volume also what the service
        has for one that is not there."""
        if named.provider == LOCAL:
            return Local(service, named.model)
        if (found := self._upstreams.get(named.provider)) is not None:
            return found.on_behalf_of(service.caller.tenant)
        known = ", ".join(sorted(self._upstreams)) or "none"
        hint = ELSEWHERE.get(named.provider, "the file of --providers names others")
        message = f"no provider {named.provider!r} is set up ({hint}); those that are: {known}"
        raise ProviderNotFound(message, llm=str(named), providers=sorted(self._upstreams))

    async def offered(self, service: Service) -> list[str]:
        """`provider:model` of all that the service's caller can ask for; a provider that does not tell has none."""
        lists = await asyncio.gather(*(_models(name, each) for name, each in self._upstreams.items()))
        return [f"{LOCAL}:{model}" for model in offered(service)] + [name for names in lists for name in names]

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _shared(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30.0),
                cookie_jar=aiohttp.DummyCookieJar(),
                read_bufsize=2**16,
            )
        return self._session


async def _models(name: str, provider: Provider) -> list[str]:
    try:
        return [f"{name}:{model}" for model in await provider.models()]
    except GatewayError:
        return []
