"""Three gateways over one volume, each with a state directory of its own, and the proxy before them."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

from tests.proxy.haproxy import RunningProxy, free_port
from tests.running import RunningGateway

MODELS: Final = [f"finetuned/m{number}" for number in range(12)]
OPTIONS: Final = ("--device=cpu", "--compute-threads=1", "--settle-seconds=0.2")


class Fleet:
    """A volume, gateways by number from 1 on, each always at the same port, and a proxy."""

    def __init__(self, base: Path, count: int = 3, **proxy: Any) -> None:
        self.base = base
        self.volume = base / "models"
        self.ports = {number: free_port() for number in range(1, count + 1)}
        self.gateways: dict[int, RunningGateway] = {}
        self.proxy = RunningProxy(base / "proxy", [f"http://127.0.0.1:{port}" for port in self.ports.values()], **proxy)
        self._stack = AsyncExitStack()

    async def start(self, number: int, *options: str) -> RunningGateway:
        """Gateway `number`, on the state that it had before."""
        gateway = RunningGateway(self.volume, self.base / f"state-{number}", *OPTIONS, *options)
        gateway.command.remove("--port=0")
        gateway.command.append(f"--port={self.ports[number]}")
        self.gateways[number] = await self._stack.enter_async_context(gateway)
        return gateway

    @property
    def names(self) -> list[str]:
        return [f"gateway-{number}" for number in self.ports]

    async def loaded(self) -> dict[str, list[str]]:
        """Gateway -> the models that it holds in memory."""
        return {
            f"gateway-{number}": sorted(
                model.removeprefix("huggingface:")
                for model, listed in (await gateway.models()).items()
                if listed["state"] == "loaded"
            )
            for number, gateway in self.gateways.items()
        }

    async def places(self, models: Iterable[str]) -> dict[str, str]:
        """Model -> the gateway that answers for it. Anything but 200 fails the test."""
        found = {}
        for model in models:
            status, body = await self.proxy.try_embed(["the beam of the ring"], model)
            assert status == 200, body
            found[model] = body["by"]
        return found


@asynccontextmanager
async def running(
    base: Path, made: list[str], *options: str, models: Iterable[str] = MODELS, **proxy: Any
) -> AsyncIterator[Fleet]:
    """All three, and the proxy, which sees them up. Equal content has equal names: each model is loaded once."""
    fleet = Fleet(base, **proxy)
    for number, model in enumerate(models):
        target = fleet.volume / model
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(made[number], target)
    async with fleet._stack:
        for number in fleet.ports:
            await fleet.start(number, *options)
        for gateway in fleet.gateways.values():
            for model in models:
                await gateway.wait_for(f"huggingface:{model}", "ready", "loaded")
        async with fleet.proxy:
            await fleet.proxy.until_up(*fleet.names)
            yield fleet
