"""What is stored and not indexed yet, of one knowledge base, and what was tried in vain. Changed between two awaits."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice

import msgspec

from gateway.ask.passage import Document
from gateway.errors import GatewayError


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """`pending` documents are stored and not indexed yet; `error` is what keeps them."""

    pending: int = 0
    failed: tuple[tuple[str, str, GatewayError], ...] = ()  # id, name, why
    error: GatewayError | None = None


@dataclass(slots=True)
class Work:
    """Everything by the documents' ids. Documents at hand spare a look into the store; `gone` were deleted while they
    were indexed."""

    pending: dict[str, Document | None] = field(default_factory=dict)
    underway: set[str] = field(default_factory=set)
    gone: set[str] = field(default_factory=set)
    failed: dict[str, tuple[str, GatewayError]] = field(default_factory=dict)  # name and why
    error: GatewayError | None = None
    task: asyncio.Task[None] | None = None
    moved: asyncio.Condition = field(default_factory=asyncio.Condition)

    @property
    def left(self) -> int:
        return len(self.pending.keys() | self.underway)

    def add(self, documents: Mapping[str, Document | None]) -> None:
        self.pending.update(documents)
        for document in documents:
            self.failed.pop(document, None)
            self.gone.discard(document)

    def delete(self, document: str) -> None:
        self.pending.pop(document, None)
        self.failed.pop(document, None)
        if document in self.underway:
            self.gone.add(document)

    def take(self, most: int) -> dict[str, Document | None]:
        """So many of those that are pending, which are under way from now on: what comes for them is newer."""
        taken = dict(islice(self.pending.items(), most))
        for id in taken:
            del self.pending[id]
        self.underway = set(taken)
        return taken

    def give_back(self, taken: Mapping[str, Document | None]) -> None:
        """They are not indexed after all. What came for them meanwhile is newer."""
        for id, document in taken.items():
            if id not in self.gone:
                self.pending.setdefault(id, document)
        self.rest()

    def rest(self) -> None:
        self.underway, self.gone = set(), set()

    def fail(self, id: str, name: str, error: GatewayError, most: int) -> None:
        """At most so many are remembered, the latest. Nothing of what was replaced or deleted meanwhile."""
        if id in self.pending or id in self.gone:
            return
        self.failed[id] = (name, error)
        while len(self.failed) > most:
            del self.failed[next(iter(self.failed))]

    def progress(self) -> Progress:
        failed = tuple((id, name, error) for id, (name, error) in self.failed.items())
        return Progress(pending=self.left, failed=failed, error=self.error)

    async def settled(self, documents: frozenset[str], seconds: float) -> bool:
        """Waits until none of these is pending or under way; False when that takes longer."""
        try:
            async with asyncio.timeout(seconds), self.moved:
                await self.moved.wait_for(lambda: not documents & (self.pending.keys() | self.underway))
        except TimeoutError:
            return False
        return True
