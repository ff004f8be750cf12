"""The engine where weights may have to be fetched first: whatever runs a generation holds its files meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from gateway.engine.engine import Engine
from gateway.engine.through import Through
from gateway.model import Generation


class Files(Protocol):
    def holding(self, generation: Generation, deadline: float | None = None) -> AbstractAsyncContextManager[None]:
        """Its files are on the disk until the block ends. Raises ModelLoading."""

    def has(self, generation: Generation) -> bool:
        """Whether they are."""

    def want(self, generation: Generation, then: Callable[[], None]) -> None:
        """Brings them, and says so; nothing is said where they cannot be had for now."""


class Fetching(Through):
    """`engine` runs what `files` has."""

    def __init__(self, engine: Engine, files: Files) -> None:
        super().__init__(engine)
        self._files = files
        self._kept: tuple[Collection[Generation], Collection[Generation]] = ((), ())

    def _around(self, generation: Generation, deadline: float | None = None) -> AbstractAsyncContextManager[None]:
        return self._files.holding(generation, deadline)

    def keep(self, live: Collection[Generation], pinned: Collection[Generation]) -> None:
        """What is pinned is loaded by itself, once its files are there."""
        self._kept = live, pinned
        here = [each for each in pinned if self._files.has(each)]
        self._engine.keep(live, here)
        for each in pinned:
            if not self._files.has(each):
                self._files.want(each, self._keep_again)

    def _keep_again(self) -> None:
        self.keep(*self._kept)
