"""The conversations of one language model: who is admitted to the running rows, and what becomes of each token.

All of it is on the event loop but the device calls. A row is admitted when the keys and values of all rows, padded to
the longest that they may become, fit into the room that the model has for them: nothing that was admitted ever runs
out of it. Flows take turns, so that who asks for much delays the others by a share.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from gateway.errors import DeadlineExceeded, Overloaded
from gateway.host import panic
from gateway.host.fair import Fair
from gateway.host.generator import Row
from gateway.host.likelihoods import Likelihoods
from gateway.host.prose import Prose
from gateway.host.wire import Logprob

MOST_ROWS: Final = 64  # that run at once
MOST_WAITING: Final = 256  # answers that wait for a row
FINISHED: Final = "stop"  # the model said that it has ended, or a stop sequence came up
CUT: Final = "length"


class Answer:
    """What one request is told: `tell(text, tokens, finish)` with each piece, `finish` "" until the last one."""

    def __init__(
        self,
        row: Row,
        prose: Prose,
        most: int,
        tell: Callable[[str, int, str], None],
        *,
        flow: str = "",
        deadline: float | None = None,
        alone: bool = False,
        likelihoods: Likelihoods | None = None,
    ) -> None:
        self.row = row
        self.prose = prose
        self.most = most  # tokens of the answer
        self.tell = tell
        self.flow = flow
        self.deadline = deadline
        self.alone = alone  # it was at work when a host died
        self.likelihoods = likelihoods
        self.tokens = 0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def reach(self) -> int:
        """Tokens that it may have in the cache, at most."""
        return len(self.row.prompt) + self.most

    def likely(self, text: str, finish: str) -> list[Logprob]:
        """Of the tokens of this text, which is told next."""
        if self.likelihoods is None:
            return []
        return self.likelihoods.told(text, finished=bool(finish), stopped=self.prose.stopped)

    def fail(self, error: Exception) -> None:
        if not self.done.done():
            self.done.set_exception(error)

    def take(self, token: int, endings: frozenset[int]) -> None:
        """A token came: told as far as it is text, and the end of the answer where it is one."""
        if self.done.done():
            return
        self.tokens += 1
        ended = token in endings
        begin = self.prose.length
        text = "" if ended else self.prose.add(token)
        if self.likelihoods is not None and not ended:
            self.likelihoods.add(token, begin, self.prose.length)
        finish = FINISHED if ended or self.prose.stopped else CUT if self.tokens >= self.most else ""
        if finish and not self.prose.stopped:
            text += self.prose.end()
        if text or finish:
            self.tell(text, self.tokens, finish)
        if finish:
            self.done.set_result(None)


class Continues(Protocol):
    """A generator, on the device lane."""

    def advance(self, joining: list[Row], leaving: frozenset[int]) -> list[tuple[int, int]]: ...


class Talk:
    """The answers of one model. `run(function, requests)` runs a device call; `room` in tokens of keys and values."""

    def __init__(
        self,
        generator: Continues,
        run: Callable[[Callable[[], list[tuple[int, int]]], list[int]], Awaitable[list[tuple[int, int]]]],
        endings: frozenset[int],
        room: int,
        clock: Callable[[], float],
    ) -> None:
        self._generator = generator
        self._run = run
        self._endings = endings
        self._room = room
        self._clock = clock
        self._flows: Fair[str] = Fair()
        self._waiting: dict[str, deque[Answer]] = {}
        self._running: dict[int, Answer] = {}
        self._leaving: frozenset[int] = frozenset()  # rows that the next device call lets go
        self._task: asyncio.Task[None] | None = None

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def waiting(self) -> int:
        return sum(map(len, self._waiting.values()))

    async def answer(self, answer: Answer) -> None:
        """Returns when it has been told to its end; a caller that is cancelled ends it, and nobody else's.

        Raises Overloaded, DeadlineExceeded, and whatever a device call raises.
        """
        if self.waiting >= MOST_WAITING:
            raise Overloaded(f"{self.waiting} answers wait for this language model already", retry_after=1.0)
        self._waiting.setdefault(answer.flow, deque()).append(answer)
        self._flows.enter(answer.flow)
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._serve())
            self._task.add_done_callback(self._served)
        await answer.done  # cancelled with its caller, and then it is left out of the next call

    async def _serve(self) -> None:
        """As long as there is an answer."""
        while True:
            joining, leaving = self._admit(), self._leaving
            if not (self._running or leaving):
                return
            rows = [answer.row for answer in joining]
            asked = list(self._running)
            try:
                came = await self._run(lambda: self._generator.advance(rows, leaving), asked)  # noqa: B023 - awaited here
            except Exception as error:  # nothing is left of the rows, whatever it was
                for answer in self._running.values():
                    answer.fail(error)
                self._running.clear()
                self._leaving = frozenset()
                continue
            for number, token in came:
                answer = self._running[number]
                try:
                    with panic.caught():
                        answer.take(token, self._endings)
                except Exception as error:  # in making its text: the others go on
                    answer.fail(error)
            self._leaving = self._ended()

    def _served(self, task: asyncio.Task[None]) -> None:
        """A fault of ours fails whoever waits, rather than to leave them waiting."""
        if task.cancelled() or (error := task.exception()) is None:
            return
        waiting = [answer for answers in self._waiting.values() for answer in answers]
        for answer in (*self._running.values(), *waiting):
            failure = RuntimeError("the rows of a language model were lost")
            failure.__cause__ = error
            answer.fail(failure)
        self._leaving |= self._running.keys()
        self._running.clear()

    def _ended(self) -> frozenset[int]:
        """Rows that nobody waits for any more."""
        now = self._clock()
        for answer in self._running.values():
            if answer.deadline is not None and now >= answer.deadline:
                answer.fail(DeadlineExceeded("the deadline passed before the answer was complete"))
        over = frozenset(number for number, answer in self._running.items() if answer.done.done())
        for number in over:
            del self._running[number]
        return over

    def _admit(self) -> list[Answer]:
        """Those whose turn it is, as long as there is room."""
        admitted: list[Answer] = []
        while (flow := self._flows.next()) is not None:
            waiting = self._waiting[flow]
            while waiting and self._is_over(waiting[0]):
                waiting.popleft()
            if waiting and not self._fits(waiting[0]):
                break
            if waiting:
                answer = waiting.popleft()
                self._running[answer.row.number] = answer
                admitted.append(answer)
                self._flows.charge(flow, answer.reach)
            if not waiting:
                del self._waiting[flow]
                self._flows.leave(flow)
        return admitted

    def _is_over(self, answer: Answer) -> bool:
        if answer.deadline is not None and self._clock() >= answer.deadline:
            answer.fail(DeadlineExceeded("the deadline passed while the request waited for a row"))
        return answer.done.done()

    def _fits(self, answer: Answer) -> bool:
        if not self._running:
            return True
        if answer.alone or any(each.alone for each in self._running.values()):
            return False
        longest = max([answer.reach, *(each.reach for each in self._running.values())])
        rows = len(self._running) + 1
        return rows <= MOST_ROWS and longest * rows <= self._room
