"""Which generations indexes were made with, in a small file: the catalog must know them at a start, before any store
is opened, or it would free the disk from what old indexes are asked with."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Collection, Iterable
from typing import Final

import msgspec

from gateway.ask.passage import Row
from gateway.errors import KnowledgeStoreFailed
from gateway.lane import Lane

FILE: Final = "held.json"


class Holds:
    """`digests` are for the catalog. What `add` has returned for is on the disk. Both verbs raise KnowledgeStoreFailed
    where the disk takes nothing; until it does, more is held rather than less."""

    def __init__(self, state_dir: str) -> None:
        self._path = os.path.join(state_dir, FILE)
        self._lane = Lane("holds")
        self._turn = asyncio.Lock()
        self._held = _read(self._path)
        self._written: frozenset[str] | None = self._held  # None: nobody knows

    def digests(self) -> Collection[str]:
        return self._held

    async def add(self, digest: str) -> None:
        """Before an index of this generation is begun."""
        async with self._turn:
            await self._put(self._held | {digest})

    async def match(self, rows: Iterable[Row], besides: Collection[str] = ()) -> None:
        """What the rows name, and `besides`: no more and no less."""
        async with self._turn:
            await self._put(named(rows) | frozenset(besides))

    async def _put(self, held: frozenset[str]) -> None:
        if held != self._written:
            self._held |= held  # what goes, goes once that is written
            self._written = None
            try:
                await self._lane.run(_write, self._path, held)
            except OSError as error:
                raise KnowledgeStoreFailed(f"the state directory cannot be written: {error.strerror}") from error
            self._held = self._written = held


def named(rows: Iterable[Row]) -> frozenset[str]:
    """Every generation that a knowledge base may be asked with, or go back to."""
    indexes = (index for row in rows for index in (row.live, *row.previous) if index is not None)
    return frozenset(index.generation for index in indexes)


def _read(path: str) -> frozenset[str]:
    try:
        with open(path, "rb") as stream:
            return frozenset(msgspec.json.decode(stream.read(), type=list[str]))
    except (FileNotFoundError, ValueError):  # it is replaced whole; what is no list was no work of ours
        return frozenset()


def _write(path: str, held: frozenset[str]) -> None:
    fresh = f"{path}.new"
    with open(fresh, "wb") as stream:
        stream.write(msgspec.json.encode(sorted(held)))
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(fresh, path)
    folder = os.open(os.path.dirname(path), os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
