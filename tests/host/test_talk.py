"""Who is continued when, and what each is told. The generator is a small one that counts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import torch

from gateway.errors import DeadlineExceeded, Overloaded
from gateway.host import talk as module
from gateway.host.generator import Row
from gateway.host.panic import Panic
from gateway.host.sampling import Sampler
from gateway.host.talk import Answer, Talk
from gateway.host.wire import Sampling

END = 0


class Counting:
    """Each row's tokens are 1, 2, 3 and so on, up to its prompt's first token and then the end. It holds itself to the
    rules of the real one."""

    def __init__(self) -> None:
        self.rows: dict[int, Row] = {}
        self.seen: list[frozenset[int]] = []
        self.fails: Exception | None = None

    def advance(self, joining: list[Row], leaving: frozenset[int]) -> list[tuple[int, int]]:
        assert leaving <= self.rows.keys() | {row.number for row in joining}
        if self.fails:
            self.rows.clear()
            raise self.fails
        self.rows = {number: row for number, row in self.rows.items() if number not in leaving}
        self.rows |= {row.number: row for row in joining}
        self.seen.append(frozenset(self.rows))
        for row in self.rows.values():
            said = len(row.sampler.tokens)
            row.sampler.tokens.append(END if said == row.prompt[0] else said + 1)
        return [(number, row.sampler.tokens[-1]) for number, row in self.rows.items()]


class Spelled:
    """Tokens as digits."""

    def __init__(self, stop: str = "") -> None:
        self.stop = stop
        self.stopped = False
        self.length = 0

    def add(self, token: int) -> str:
        self.length += len(str(token))
        self.stopped = str(token) == self.stop
        return "" if self.stopped else str(token)

    def end(self) -> str:
        return "."


class Rig:
    def __init__(self, room: int = 10_000) -> None:
        self.generator = Counting()
        self.now = 0.0
        self.gate = asyncio.Event()
        self.gate.set()
        self.talk = Talk(self.generator, self._run, frozenset({END}), room, lambda: self.now)

    async def _run(self, advance: Callable[[], Any], requests: list[int]) -> Any:
        await asyncio.sleep(0)  # as a lane would let others run
        await self.gate.wait()
        return advance()

    def answer(self, number: int, says: int, *, prompt: int = 1, most: int = 50, stop: str = "", **more: Any) -> Answer:
        row = Row(number, [says] * prompt, Sampler(Sampling(), torch.device("cpu")))
        pieces: list[tuple[str, int, str]] = []
        made = Answer(row, Spelled(stop), most, lambda *piece: pieces.append(piece), **more)  # type: ignore[arg-type]
        made.pieces = pieces  # type: ignore[attr-defined]
        return made

    def text(self, answer: Answer) -> tuple[str, str]:
        pieces = answer.pieces  # type: ignore[attr-defined]
        assert [finish for *_, finish in pieces[:-1]] == [""] * (len(pieces) - 1)
        return "".join(text for text, _, _ in pieces), pieces[-1][2]


async def test_an_answer_ends_where_the_model_ends_it_where_it_is_stopped_and_where_it_is_full() -> None:
    rig = Rig()
    ended, stopped, full = rig.answer(1, 3), rig.answer(2, 9, stop="4"), rig.answer(3, 9, most=2)
    await asyncio.gather(*map(rig.talk.answer, (ended, stopped, full)))
    assert [rig.text(each) for each in (ended, stopped, full)] == [("123.", "stop"), ("123", "stop"), ("12.", "length")]
    assert rig.generator.seen[0] == {1, 2, 3}  # all rode together
    assert (ended.tokens, full.tokens) == (4, 2)


async def test_who_comes_later_joins_at_once_and_who_is_done_leaves_at_once() -> None:
    rig = Rig()
    rig.gate.clear()
    long, short = rig.answer(1, 6), rig.answer(2, 1)
    first = asyncio.create_task(rig.talk.answer(long))
    await asyncio.sleep(0)
    second = asyncio.create_task(rig.talk.answer(short))
    await asyncio.sleep(0)
    rig.gate.set()
    await asyncio.gather(first, second)
    assert rig.generator.seen[0] == {1}
    assert rig.generator.seen[1:3] == [{1, 2}, {1, 2}]
    assert set(rig.generator.seen[3:-1]) == {frozenset({1})}
    assert not rig.generator.rows


async def test_a_client_that_leaves_ends_its_own_answer_alone() -> None:
    rig = Rig()
    gone, stays = rig.answer(1, 9), rig.answer(2, 3)
    leaving = asyncio.create_task(rig.talk.answer(gone))
    staying = asyncio.create_task(rig.talk.answer(stays))
    while not gone.tokens:
        await asyncio.sleep(0)
    leaving.cancel()
    await staying
    assert rig.text(stays) == ("123.", "stop")
    assert gone.tokens < 9
    assert not rig.generator.rows


async def test_a_fault_of_ours_fails_who_waits_and_not_who_comes_later() -> None:
    rig = Rig(room=1)  # one row at a time
    runs, waits, later = rig.answer(1, 3), rig.answer(2, 3), rig.answer(3, 3)
    rig.generator.rows[9] = Row(9, [99], Sampler(Sampling(), torch.device("cpu")))  # a row that nobody knows
    failed = await asyncio.gather(rig.talk.answer(runs), rig.talk.answer(waits), return_exceptions=True)
    assert [(type(each), type(each.__cause__)) for each in failed if isinstance(each, Exception)] == [
        (RuntimeError, KeyError)
    ] * 2
    del rig.generator.rows[9]
    await rig.talk.answer(later)
    assert rig.text(later) == ("123.", "stop")
    for _ in range(5):  # the call that lets its row go
        await asyncio.sleep(0)
    assert not rig.generator.rows


async def test_rows_never_reach_beyond_the_room_with_all_their_padding() -> None:
    rig = Rig(room=100)
    answers = [rig.answer(number, 5, prompt=number * 2, most=10) for number in range(1, 9)]
    await asyncio.gather(*map(rig.talk.answer, answers))
    reach = {answer.row.number: answer.reach for answer in answers}
    assert max(len(rows) * max(reach[number] for number in rows) for rows in rig.generator.seen if rows) <= 100
    assert max(map(len, rig.generator.seen)) > 1
    assert all(rig.text(answer)[1] == "stop" for answer in answers)


async def test_flows_take_turns_where_there_is_no_room_for_all() -> None:
    rig = Rig(room=1)  # one row at a time
    much = [rig.answer(number, 2, flow="much") for number in range(1, 5)]
    little = rig.answer(9, 2, flow="little")
    await asyncio.gather(*map(rig.talk.answer, [*much, little]))
    order = list(dict.fromkeys(number for rows in rig.generator.seen for number in rows))
    assert order.index(9) == 1


async def test_a_suspect_rides_alone() -> None:
    rig = Rig()
    answers = [rig.answer(1, 3), rig.answer(2, 3, alone=True), rig.answer(3, 3)]
    await asyncio.gather(*map(rig.talk.answer, answers))
    assert all(rows in ({1}, {2}, {3}, {1, 3}, frozenset()) for rows in rig.generator.seen)


async def test_what_a_call_raises_is_told_to_all_that_rode_in_it_and_to_nobody_else() -> None:
    rig = Rig()
    rig.generator.fails = RuntimeError("device")
    first = [asyncio.create_task(rig.talk.answer(rig.answer(number, 3))) for number in (1, 2)]
    done, _ = await asyncio.wait(first)
    assert [type(task.exception()) for task in done] == [RuntimeError, RuntimeError]
    rig.generator.fails = None
    later = rig.answer(3, 2)
    await rig.talk.answer(later)
    assert rig.text(later) == ("12.", "stop")


class PanicException(BaseException):
    """As of a library in Rust: no Exception."""


@pytest.mark.parametrize(("error", "told"), [(ZeroDivisionError, ZeroDivisionError), (PanicException, Panic)])
async def test_an_answer_whose_text_cannot_be_made_fails_alone(
    error: type[BaseException], told: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig()
    bad, good = rig.answer(1, 3), rig.answer(2, 3)

    def add(token: int) -> str:
        raise error

    monkeypatch.setattr(bad.prose, "add", add)
    failed, _ = await asyncio.gather(rig.talk.answer(bad), rig.talk.answer(good), return_exceptions=True)
    assert isinstance(failed, told)
    assert rig.text(good) == ("123.", "stop")
    assert not rig.talk.running


async def test_a_deadline_ends_an_answer_while_it_waits_and_while_it_runs() -> None:
    rig = Rig(room=1)
    running, waiting = rig.answer(1, 9, deadline=5.0), rig.answer(2, 1, deadline=4.0)
    tasks = [asyncio.create_task(rig.talk.answer(each)) for each in (running, waiting)]
    while running.tokens < 2:
        await asyncio.sleep(0)
    rig.now = 6.0
    done, _ = await asyncio.wait(tasks)
    assert [type(task.exception()) for task in done] == [DeadlineExceeded, DeadlineExceeded]
    assert not rig.generator.rows


async def test_what_waits_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_WAITING", 2)
    rig = Rig(room=1)
    rig.gate.clear()
    tasks = []
    for number in range(1, 4):
        tasks.append(asyncio.create_task(rig.talk.answer(rig.answer(number, 1))))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await rig.talk.answer(rig.answer(9, 1))
    rig.gate.set()
    await asyncio.gather(*tasks)
