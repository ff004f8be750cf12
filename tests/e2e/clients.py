"""Clients that ask without pause, and what they were answered; and a gateway whose hosts can be made to fail."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Self

import aiohttp
import numpy as np
import numpy.typing as npt

from tests.running import DEADLINE, RunningGateway
from tests.volume.test_source import exchange

Vectors = npt.NDArray[np.float32]
TEXTS = ["the beam of the ring", "a laser", "light source vacuum orbit cavity lattice tune", "power supply trip"]


class FaultyGateway(RunningGateway):
    """A gateway that `please crash` and `please hang` reach. To be started from the repository's root."""

    def __init__(self, models_dir: Path, state_dir: Path, *options: str, environment: dict[str, str] | None = None):
        super().__init__(models_dir, state_dir, *options, environment=environment)
        self.command[self.command.index("gateway")] = "tests.e2e.faulty_gateway"


class Clients:
    """`async with Clients(gateway, [model, ...])`: one client for each, which asks again as soon as it is answered.

    `answers` are (model, status, body) in order of arrival. A connection that breaks is an answer of status 0.
    """

    def __init__(self, gateway: RunningGateway, models: list[str], texts: list[str] = TEXTS) -> None:
        self.gateway = gateway
        self.models = models
        self.texts = texts
        self.answers: list[tuple[str, int, dict[str, Any]]] = []
        self._answered = asyncio.Condition()
        self._done = False

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._ask(model)) for model in self.models]
        return self

    async def __aexit__(self, *failure: object) -> None:
        self._done = True
        await asyncio.gather(*self._tasks)

    async def until(self, wanted: Callable[[str, int, dict[str, Any]], bool], count: int = 1) -> None:
        """Until `count` of the answers from now on are as wanted."""
        begin = len(self.answers)
        async with asyncio.timeout(DEADLINE), self._answered:
            await self._answered.wait_for(lambda: sum(wanted(*each) for each in self.answers[begin:]) >= count)

    async def more(self, count: int) -> None:
        """Until `count` answers more have come, whatever they are."""
        await self.until(lambda *_: True, count)

    def statuses(self) -> set[int]:
        return {status for _, status, _ in self.answers}

    def generations(self) -> list[str]:
        """Of the answers that came out well, in order."""
        return [body["generation"] for _, status, body in self.answers if status == 200]

    async def _ask(self, model: str) -> None:
        while not self._done:
            try:
                status, body = await self.gateway.try_embed(self.texts, model)
            except aiohttp.ClientError as error:
                status, body = 0, {"error": repr(error)}
            async with self._answered:
                self.answers.append((model, status, body))
                self._answered.notify_all()


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Looks again and again; the bound only ends a test that hangs."""
    async with asyncio.timeout(DEADLINE):
        while not await condition():
            await asyncio.sleep(0.02)


def drop(source: str | Path, target: Path) -> None:
    """A copy, in one step, as the trainer publishes: with two renames the model is away between them, and who is away
    for long is removed."""
    fresh = target.parent / f".{target.name}"
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(source, fresh)
    if target.exists():
        exchange(fresh, target)
        shutil.rmtree(fresh)
    else:
        fresh.rename(target)


def vectors_of(body: dict[str, Any]) -> Vectors:
    return np.array(body["embeddings"], dtype=np.float32)


def reference(path: str | Path, texts: list[str], **options: Any) -> Vectors:
    """What sentence-transformers makes of the same directory."""
    from sentence_transformers import SentenceTransformer

    made = SentenceTransformer(str(path), device="cpu").encode(texts, convert_to_numpy=True, **options)
    return np.asarray(made, dtype=np.float32)


def least_cosine(one: Vectors, other: Vectors) -> float:
    """The worst of the rows."""
    assert one.shape == other.shape
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return float(((one * other).sum(axis=1) / norms).min())
