"""Knowledge bases follow their models: when another generation goes live, its index is built beside the old one, and
then both change together.

Level-triggered: every look reads which generation is live and which one a base answers with, and works off what
differs. A swap, a rollback, a numbered version, an alias that leads elsewhere, a process that was killed in the middle
and a base that never got its first index are all the same to it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Literal

import msgspec

from gateway import events
from gateway.ask.first_use import FirstUse
from gateway.ask.heartbeat import Contender, Heartbeat
from gateway.ask.holds import Holds
from gateway.ask.move import Means, Move, Target, Worse
from gateway.ask.passage import Row
from gateway.ask.rebuild import Cutter
from gateway.ask.store import Store
from gateway.errors import GatewayError, KnowledgeBaseNotFound
from gateway.model import Generation
from gateway.service import Service

LOOK_SECONDS: Final = 15.0  # what another gateway has changed in a shared store is seen that late
CLAIMED_SECONDS: Final = 5.0  # until a base that somebody else has claimed is looked at again
RETRY_SECONDS: Final = (30.0, 600.0)  # after a failure, and at most: twice as long each time

MOVES: Final = (
    events.ModelAccepted,
    events.ModelSwapped,
    events.ModelRolledBack,
    events.ModelRemoved,
    events.AliasesChanged,
)


class Reindex(msgspec.Struct, frozen=True, kw_only=True):
    """How far a base is with another generation, or why it stays with its old one."""

    generation: str
    state: Literal["building", "failed"]
    documents: int = 0
    total: int = 0
    code: str = ""
    message: str = ""
    tries: int = 0  # that failed
    retry_at: float = 0.0  # monotonic


class Follow:
    """One for each gateway. Bases are brought up one after the other; of several gateways over one store, one does."""

    def __init__(
        self,
        opened: FirstUse,
        service: Service,
        holds: Holds,
        cutter: Cutter,
        tell: events.Events,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.states: dict[str, Reindex] = {}  # by the key of the base
        self._opened = opened
        self._service = service
        self._holds = holds
        self._cutter = cutter
        self._tell = tell
        self._clock = clock
        self._contender = Contender(clock)
        self._waiting = False  # for a base that somebody else builds, or that one who died has claimed
        self._asked: set[str] = set()
        self._refused: set[tuple[str, str]] = set()  # bases, and digests that found too little
        self._wake = asyncio.Event()
        self._complained = ""
        tell.subscribe(self._heard)

    # What others ask of it.

    def look_again(self) -> None:
        self._wake.set()

    def ask(self, kb: str) -> None:
        """Builds the index of this base anew, at the next look."""
        self._asked.add(kb)
        self.states.pop(kb, None)
        self._refused = {each for each in self._refused if each[0] != kb}
        self._wake.set()

    def forget(self, kb: str) -> None:
        self._asked.discard(kb)
        self.states.pop(kb, None)
        self._contender.forget(kb)
        self._refused = {each for each in self._refused if each[0] != kb}

    async def follow(self) -> None:
        """For as long as the gateway runs."""
        await self._service.catalog.looked.wait()
        while True:
            self._wake.clear()
            await self.look()
            with suppress(TimeoutError):
                async with asyncio.timeout(CLAIMED_SECONDS if self._waiting else LOOK_SECONDS):
                    await self._wake.wait()

    async def look(self) -> None:
        """Once: every base is brought up to what is live."""
        if not self._opened.worth_opening:
            return
        try:
            store = await self._opened()
            rows = await store.rows()
            await self._holds.match(rows)
        except GatewayError as error:
            self._complain(error.message)
            return
        self._waiting = False
        for row in rows:
            await self._bring_up(store, row)

    # One base.

    async def _bring_up(self, store: Store, row: Row) -> None:
        target = self._target(row)
        if target is None or not self._due(row, target):
            return
        means = Means(store, self._service, self._holds, self._cutter, self._tell)
        try:
            claim = await self._contender.claim(store, row.kb)
            if claim is None:
                self._waiting = True
                return
            async with claim.beating():
                await self._move(means, await store.row(row.kb), target, claim)
        except KnowledgeBaseNotFound:  # dropped meanwhile
            self.forget(row.kb)
        except Worse as error:
            self._refused.add((row.kb, target.generation.digest))
            self._failed(row, target.generation, "worse", str(error))
        except GatewayError as error:
            self._failed(row, target.generation, error.code, error.message)

    async def _move(self, means: Means, row: Row, target: Target, claim: Heartbeat) -> None:
        """With the claim, by which somebody else may have done it before."""
        if not self._due(row, target):
            return

        def told(done: int, total: int) -> None:
            short = target.generation.short
            tries = self._tries(row, short)
            state = Reindex(generation=short, state="building", documents=done, total=total, tries=tries)
            self.states[row.kb] = state

        def goal() -> Generation | None:
            now = self._target(row)
            return now.generation if now else None

        await Move(means, row, target, told=told, goal=goal, lost=lambda: claim.lost).run()
        if claim.lost:  # whoever has it now goes on; what was asked of this one still is
            self._waiting = True
            return
        self._asked.discard(row.kb)
        self.states.pop(row.kb, None)

    def _target(self, row: Row) -> Target | None:
        """What is live of its model; None while nothing is, or nothing that makes vectors."""
        try:
            model, generation = self._service.live(row.embedding_model)
        except GatewayError:
            return None
        if generation.manifest.kind != "encoder":
            return None
        return Target(str(model), generation, row.kb in self._asked)

    def _due(self, row: Row, target: Target) -> bool:
        if target.asked:
            return True
        digest = target.generation.digest
        if row.live is not None and (row.live.model, row.live.generation) == (target.model, digest):
            self.states.pop(row.kb, None)
            return False
        state = self.states.get(row.kb)
        waits = state is not None and state.generation == target.generation.short and self._clock() < state.retry_at
        return not waits and (row.kb, digest) not in self._refused

    def _failed(self, row: Row, generation: Generation, code: str, message: str) -> None:
        """Another try comes by itself, unless what is new was found worse."""
        tries = self._tries(row, generation.short) + 1
        wait = min(RETRY_SECONDS[1], RETRY_SECONDS[0] * 2 ** (tries - 1))
        self.states[row.kb] = Reindex(
            generation=generation.short,
            state="failed",
            code=code,
            message=message,
            tries=tries,
            retry_at=self._clock() + wait,
        )
        self._tell.emit(
            events.ReindexFailed(
                kb=row.name,
                owner=row.owner,
                model=row.embedding_model.removeprefix("huggingface:"),
                generation=generation.short,
                serving=row.live.generation[:12] if row.live else None,
                code=code,
                message=message,
            )
        )

    def _tries(self, row: Row, short: str) -> int:
        state = self.states.get(row.kb)
        return state.tries if state is not None and state.generation == short else 0

    def _heard(self, event: events.Event) -> None:
        if isinstance(event, MOVES):
            self._wake.set()

    def _complain(self, message: str) -> None:
        """Once for each thing that is wrong."""
        if message != self._complained:
            self._complained = message
            self._tell.emit(events.Notice(code="knowledge_unreadable", message=message))
