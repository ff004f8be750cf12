"""Debian's HAProxy with the configuration that we ship, in front of gateways of the test's own."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Self

import aiohttp
import pytest

from tests import ports
from tests.running import DEADLINE, GLANCE

CONFIG: Final = Path(__file__).parents[2] / "deploy" / "haproxy" / "haproxy.cfg"
SERVER: Final = re.compile(r"^    server (gateway-(\d+)) \S+ ", re.MULTILINE)
needs_haproxy: Final = pytest.mark.skipif(
    shutil.which("haproxy") is None, reason="HAProxy is not on this machine: apt-get install haproxy"
)


class RunningProxy:
    """`async with RunningProxy(folder, [url, ...])`: gateway-1 is at the first of the URLs, and so on, unless there is
    a `config` of another kind. To clients it is what a `RunningGateway` is: `url`, `session`, `try_embed`. What comes
    back has its models again within two seconds, not thirty; what hangs is left after `patience` seconds, which a busy
    machine does not reach."""

    def __init__(
        self,
        folder: Path,
        urls: Sequence[str] = (),
        *,
        default_model: str = "",
        balance: int = 0,
        patience: float = 60.0,
        config: str = "",
        environment: dict[str, str] | None = None,
    ) -> None:
        folder.mkdir(parents=True)
        self.url = f"http://127.0.0.1:{free_port()}"
        self.numbers = f"http://127.0.0.1:{free_port()}/metrics"
        self.log = folder / "log"
        self._config = folder / "haproxy.cfg"
        self._config.write_text(_mended(config or at(urls), patience))
        self._environment = {
            **os.environ,
            "DROPGATE_PROXY_BIND": self.url.removeprefix("http://"),
            "DROPGATE_PROXY_METRICS_BIND": self.numbers.removeprefix("http://").removesuffix("/metrics"),
            "DROPGATE_DEFAULT_MODEL": default_model,
            "DROPGATE_BALANCE": str(balance),
            **(environment or {}),
        }

    async def __aenter__(self) -> Self:
        self._written = self.log.open("wb")
        self._process = await asyncio.create_subprocess_exec(
            *("haproxy", "-db", "-f", self._config), env=self._environment, stdout=self._written, stderr=self._written
        )
        # without a limit of connections: the proxy is asked by more clients at once than aiohttp has connections
        self.session = aiohttp.ClientSession(
            self.url, timeout=aiohttp.ClientTimeout(DEADLINE), connector=aiohttp.TCPConnector(limit=0)
        )
        try:
            await self.until(bool)
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *failure: object) -> None:
        await self.session.close()
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        self._written.close()

    async def try_embed(self, texts: list[str], model: str | None = None) -> tuple[int, dict[str, Any]]:
        """Status and body, whatever they are; the body has `by`, the gateway that answered."""
        body = {"inputs": texts} | ({"model": model} if model else {})
        async with self.session.post("/embed", json=body) as answer:
            return answer.status, {**await answer.json(), "by": answer.headers.get("X-Served-By")}

    async def ask(self, method: str, path: str, **options: Any) -> tuple[int, str | None, Any]:
        """Status, the gateway that answered, and the document."""
        async with self.session.request(method, path, **options) as answer:
            return answer.status, answer.headers.get("X-Served-By"), await answer.json(content_type=None)

    async def servers(self) -> dict[str, dict[str, float]]:
        """Of each gateway what the proxy's own metrics say: `up`, `weight`, `sessions`."""
        wanted = {"status": "up", "weight": "weight", "current_sessions": "sessions"}
        found: dict[str, dict[str, float]] = {}
        async with self.session.get(self.numbers) as answer:
            lines = (await answer.text()).splitlines()
        for line in lines:
            told = re.match(r'haproxy_server_(\w+)\{proxy="gateways",server="([^"]+)"(,state="UP")?\} (\S+)', line)
            if told and told[1] in wanted and bool(told[3]) == (told[1] == "status"):
                found.setdefault(told[2], {})[wanted[told[1]]] = float(told[4])
        return found

    async def until(self, wanted: Callable[[dict[str, dict[str, float]]], object]) -> dict[str, dict[str, float]]:
        """What `servers` says, once it is as wanted."""
        async with asyncio.timeout(DEADLINE):
            while True:
                assert self._process.returncode is None, self.log.read_text()
                try:
                    found = await self.servers()
                    if wanted(found):
                        return found
                except aiohttp.ClientConnectionError:
                    pass  # it does not listen yet
                await asyncio.sleep(GLANCE)

    async def until_up(self, *names: str) -> None:
        """Until exactly these are up, each with all its models."""
        full = 64
        await self.until(
            lambda found: {name for name, each in found.items() if each["up"] and each["weight"] == full} == set(names)
        )


def at(urls: Sequence[str]) -> str:
    """The configuration with these addresses, and as many gateways."""
    text = CONFIG.read_text()
    if os.geteuid():
        text = re.sub(r"^    (user|group) haproxy\n", "", text, flags=re.MULTILINE)
    line = SERVER.search(text)
    assert line is not None
    servers = [
        f"    server gateway-{number} {url.removeprefix('http://')} cookie gateway-{number}"
        for number, url in enumerate(urls, 1)
    ]
    first, rest = text[: line.start()], text[line.start() :]
    kept = [each for each in rest.splitlines() if not SERVER.match(each)]
    return first + "\n".join([*servers, *kept]) + "\n"


def _mended(config: str, patience: float) -> str:
    """In a test's time, and with the patience of a machine that has none to spare."""
    config = config.replace("slowstart 30s", "slowstart 2s")
    waits = rf"    timeout \1 {patience * 1000:.0f}ms"
    return re.sub(r"^    timeout (check|connect) 2s$", waits, config, flags=re.MULTILINE)


_held: Final[list[socket.socket]] = []


def free_port() -> int:
    """Given to nobody else by the kernel while this process runs. A server that reuses addresses may listen there, stop
    and come back."""
    _held.append(held := ports.reserved())
    return ports.number(held)
