"""Merges waiting texts into device calls, cut by tokens. There is no timer: while the device works, the next batch
grows; when it is free, it takes what is there, so a lone text never waits.

Three levels share the device by tokens: models by weight, the flows of a model equally (both `fair`), and the requests
of a flow in rounds (deficit round robin: Shreedhar, Varghese 1995), each a slice at a time. So whatever is large, one
request, one tenant or one model, delays the others by its share and no more, and their texts still ride in one call.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from gateway.host.backlog import Backlog
from gateway.host.fair import Fair
from gateway.host.work import Call, Embedder, Mixer, Part, TokenIds, Vectors, Work, calls

SLICE: Final = 256  # tokens of one request in its turn: more than a short one has
HANDED: Final = 2  # calls on the device lane at once: one that runs and, where it costs no batching, the next


class Queue:
    """What waits for one model: its flows, and the works of each, all with one row to hand out at least. Models of one
    `group` may share device calls; of "" none does."""

    def __init__(self, group: str) -> None:
        self.group = group
        self.flows: Fair[str] = Fair()
        self.works: dict[str, deque[Work]] = {}

    def add(self, flow: str, work: Work) -> None:
        self.flows.enter(flow)
        self.works.setdefault(flow, deque()).append(work)

    def head(self, now: float) -> tuple[str, Work] | None:
        """The flow whose turn it is, and its work. Those that ended while they waited are passed over."""
        while (flow := self.flows.next()) is not None:
            works = self.works[flow]
            while works:
                works[0].fail_if_late(now)
                if not works[0].over:
                    return flow, works[0]
                works.popleft()
            self._left(flow)
        return None

    def lone(self) -> bool:
        """One request has the model to itself."""
        return len(self.flows) == 1 and all(len(works) == 1 for works in self.works.values())

    def took(self, flow: str, tokens: int) -> None:
        """The flow's first work has handed out so much; the turn passes on when its credit is used up."""
        self.flows.charge(flow, tokens)
        works = self.works[flow]
        if not works[0].waiting:
            works.popleft()
        elif works[0].credit < works[0].next_tokens():
            works.rotate(-1)
        if not works:
            self._left(flow)

    def _left(self, flow: str) -> None:
        del self.works[flow]
        self.flows.leave(flow)


@dataclass(slots=True)
class Room:
    """What a batch that is being filled may still take."""

    tokens: int
    texts: int

    @property
    def is_left(self) -> bool:
        return self.tokens > 0 and self.texts > 0

    def take(self, part: Part) -> None:
        self.tokens -= part.tokens
        self.texts -= len(part.indices)


class Batcher:
    """The queues of one device.

    `run(function, key, requests)` runs a device call on the device lane. `max_tokens` and `max_texts` bound one call,
    `max_queue_tokens` all that waits. `enough_tokens` (0: half of `max_tokens`) compute as fast as more of them do.
    From there on a batch is not held back to grow, but handed over behind the call that runs; and it takes no more
    than half of what waits, so that there is another when it ends, while its own clients come back.
    """

    def __init__(
        self,
        run: Callable[[Callable[[], Vectors], str, list[int]], Awaitable[Vectors]],
        *,
        max_tokens: int,
        max_texts: int,
        max_queue_tokens: int,
        enough_tokens: int = 0,
        on_call: Callable[[Call, float], None] = lambda call, seconds: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run = run
        self._max_tokens = max_tokens
        self._max_texts = max_texts or 1 << 30
        self._enough_tokens = enough_tokens or max_tokens // 2
        self._on_call = on_call
        self._clock = clock
        self.backlog = Backlog(max_queue_tokens)
        self._models: Fair[str] = Fair()
        self._queues: dict[str, Queue] = {}
        self._alone: deque[tuple[str, str, Work]] = deque()
        self._cuts: deque[Call] = deque()  # of the last batch, not yet handed over
        self._handed = 0
        self._since = 0.0  # when the device was last free, or given something after it had been idle
        self._waiting = 0  # tokens in the queues
        self._wake = asyncio.Event()

    @property
    def queue_tokens(self) -> int:
        """Tokens that wait, or are on their way here: neither cut into a call nor dropped."""
        return self.backlog.tokens

    @property
    def queue_seconds(self) -> float:
        """Until they are computed, and what is being computed; 0 before anything was measured."""
        return self.backlog.clearing

    async def embed(
        self,
        key: str,
        embedder: Embedder,
        request: int,
        rows: Sequence[TokenIds],
        prompt_tokens: int = 0,
        *,
        flow: str = "",
        weight: float = 1.0,
        deadline: float | None = None,
        alone: bool = False,
        group: str = "",
        mixer: Mixer | None = None,
    ) -> Work:
        """The vectors of one request, float32 [rows, dim], in its order. `rows` has one at least. `deadline` is on the
        batcher's clock. What has the same `group` and `mixer` may be computed in one call.

        Raises DeadlineExceeded if that passes while it waits, and whatever the embedder raises. It is never refused
        here: ask `backlog` first, before the texts are tokenized.
        """
        work = Work(embedder, request, rows, prompt_tokens, now=self._clock(), deadline=deadline, mixer=mixer)
        if not (self._waiting or self._handed or self._cuts):
            self._since = work.enqueued
        self._enqueue(key, flow, work, weight, group="" if alone else group, alone=alone)
        self._wake.set()
        try:
            await work.done
        finally:  # its client has gone, or a call of it failed: what still waits is not computed
            self._taken(key, flow, work.drop())
        return work

    async def serve(self) -> None:
        """Feeds the device for ever. To be run once, as a task."""
        async with asyncio.TaskGroup() as group:
            while True:
                await self._wake.wait()
                self._wake.clear()
                self._feed(group)

    # Deciding: no awaits.

    def _enqueue(self, key: str, flow: str, work: Work, weight: float, *, group: str, alone: bool) -> None:
        self.backlog.add(key, flow, work.tokens, weight)
        self._waiting += work.tokens
        if alone:
            self._alone.append((key, flow, work))
            return
        queue = self._queues.get(key)
        if queue is None:
            queue = self._queues[key] = Queue(group)
        queue.add(flow, work)
        self._models.enter(key, weight)

    def _feed(self, group: asyncio.TaskGroup) -> None:
        """Hands calls to the device: one when it is idle, the next when it will not grow any more."""
        while self._handed < HANDED:
            if not self._cuts:
                if self._handed and self._waiting < self._enough_tokens:
                    return
                self._cuts.extend(self._cut())
                if not self._cuts:
                    return
                self.backlog.underway += sum(call.tokens for call in self._cuts)
            self._handed += 1
            group.create_task(self._call(self._cuts.popleft(), group))

    def _cut(self) -> list[Call]:
        """The next batch: of the model whose turn it is."""
        now = self._clock()
        if self._alone and (lone := self._cut_alone(now)):
            return lone
        while (key := self._models.next()) is not None:
            group = self._queues[key].group
            room = Room(min(self._max_tokens, max(self._enough_tokens, self._waiting // 2)), self._max_texts)
            parts = self._serve(key, room, now)
            if parts:
                riders = self._riders(group, room, now) if group and room.is_left else []
                return calls(group if riders else key, [*parts, *riders], self._max_tokens)
        return []

    def _serve(self, key: str, room: Room, now: float, *, early: bool = False) -> list[Part]:
        """A batch, or a part of one, of what waits for one model, which is charged for it."""
        queue = self._queues[key]
        parts = self._fill(key, room, now, rides=early)
        if parts:
            self._models.charge(key, sum(part.tokens for part in parts), early=early)
        if not queue.works:
            del self._queues[key]
            self._models.leave(key)
        return parts

    def _riders(self, group: str, room: Room, now: float) -> list[Part]:
        """What fits beside a batch of a model of the group, of the others there, in the order of their turns."""
        found: list[Part] = []
        for key in self._models.in_order():
            if not room.is_left:
                break
            if self._queues[key].group == group:
                found += self._serve(key, room, now, early=True)
        return found

    def _cut_alone(self, now: float) -> list[Call]:
        """A suspect shares no call, so that it takes nobody along."""
        while self._alone:
            key, flow, work = self._alone.popleft()
            work.fail_if_late(now)
            if not work.over:
                part = self._take(key, flow, work, 1 << 60, 1 << 30)
                return calls(key, [part], self._max_tokens)
        return []

    def _fill(self, key: str, room: Room, now: float, *, rides: bool) -> list[Part]:
        """What of one model's goes into a batch, in turns."""
        queue = self._queues[key]
        parts: list[Part] = []
        while room.is_left and (head := queue.head(now)):
            flow, work = head
            tokens = room.tokens if parts or rides else max(room.tokens, work.next_tokens())  # too long for any: alone
            if work.next_tokens() > tokens:
                break  # it begins the next batch
            part = self._turn(key, flow, work, tokens, room.texts, lone=queue.lone())
            if part:
                parts.append(part)
                room.take(part)
            queue.took(flow, part.tokens if part else 0)
        return parts

    def _turn(self, key: str, flow: str, work: Work, room: int, texts: int, *, lone: bool) -> Part | None:
        """What a work may hand out now; None if it has to save up for its next row, which is long."""
        if lone:
            return self._take(key, flow, work, room, texts)
        if work.credit < work.next_tokens():
            work.credit += SLICE
        if work.credit < work.next_tokens():
            return None
        part = self._take(key, flow, work, min(room, work.credit), texts)
        work.credit -= part.tokens
        return part

    def _take(self, key: str, flow: str, work: Work, tokens: int, texts: int) -> Part:
        part = work.take(tokens, texts)
        self._taken(key, flow, part.tokens)
        return part

    def _taken(self, key: str, flow: str, tokens: int) -> None:
        if tokens:
            self.backlog.remove(key, flow, tokens)
            self._waiting -= tokens

    # Acting.

    async def _call(self, call: Call, group: asyncio.TaskGroup) -> None:
        cut, call = call.tokens, call.alive()
        began, error, vectors = self._clock(), None, None
        if call.parts:
            try:
                vectors = await self._run(call.run, call.key, call.requests)
            except Exception as raised:  # it belongs to the requests of this call, and ends nobody else's
                error = raised
        ended = self._clock()
        began, self._since, owed = max(began, self._since), ended, ended - self._since
        self._handed -= 1
        self.backlog.underway -= cut
        self._feed(group)
        await asyncio.sleep(0)  # the next call is on its way to the device before this one is told
        if error is not None:
            for part in call.parts:
                part.work.fail(error)
        elif vectors is not None:
            self.backlog.measured(call.key, call.tokens, owed)
            self._on_call(call, ended - began)
            _deliver(call, vectors, began, ended - began)


def _deliver(call: Call, vectors: Vectors, began: float, seconds: float) -> None:
    start = 0
    for work, indices, _ in call.parts:
        work.compute_seconds += seconds
        if work.queue_seconds is None:
            work.queue_seconds = began - work.enqueued
        work.put(indices, vectors[start : (start := start + len(indices))])
