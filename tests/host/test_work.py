"""One request's rows, on their way out and back; and how a batch with padding is split."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gateway.host.work import LEAST_CALL, WASTE, Call, Part, Work, calls
from tests.host.rigs import Model, ids

MOST = 4096
lengths = st.lists(st.integers(1, 600), min_size=1, max_size=120)


def work(lengths: Sequence[int], *, packed: bool) -> Work:
    return Work(Model(packed=packed), 1, ids(*lengths), now=0.0)


def all_of(each: Work) -> Part:
    return each.take(1 << 60, 1 << 30)


@given(lengths, st.booleans(), st.integers(1, 700), st.integers(1, 9))
def test_rows_are_handed_out_once_in_parts_that_fit(lengths: list[int], packed: bool, tokens: int, texts: int) -> None:
    async def check() -> None:
        each = work(lengths, packed=packed)
        handed: list[int] = []
        while each.waiting:
            before, following = each.waiting, each.next_tokens()
            part = each.take(tokens, texts)
            assert part.tokens == sum(lengths[index] for index in part.indices) == before - each.waiting
            assert part.tokens <= max(tokens, following)
            assert len(part.indices) <= texts
            handed += part.indices
        assert sorted(handed) == list(range(len(lengths)))

    asyncio.run(check())


@given(lengths, st.lists(lengths, max_size=3))
def test_splitting_keeps_every_row_and_bounds_the_padding(lengths: list[int], others: list[list[int]]) -> None:
    """No device call computes more than its padded budget, nor more padding than a call is worth."""

    async def check() -> None:
        works = [work(each, packed=False) for each in [lengths, *others]]
        parts = [all_of(each) for each in works]
        made = calls("m", parts, MOST)
        rows = [(id(part.work), index) for call in made for part in call.parts for index in part.indices]
        assert sorted(rows) == sorted((id(each), index) for each in works for index in range(len(each.rows)))
        for call in made:
            assert call.padded_tokens <= MOST or call.texts == 1
            assert call.padded_tokens - call.tokens <= max(LEAST_CALL, WASTE * call.padded_tokens)
        assert sum(call.tokens for call in made) == sum(each.tokens for each in works)

    asyncio.run(check())


@given(lengths)
def test_what_waits_together_without_waste_is_one_call(lengths: list[int]) -> None:
    async def check() -> None:
        packed, alike = work(lengths, packed=True), work([7] * len(lengths), packed=False)
        assert len(calls("m", [all_of(packed)], MOST)) == 1
        assert len(calls("m", [all_of(alike)], MOST)) == 1

    asyncio.run(check())


async def test_vectors_that_come_whole_are_not_copied() -> None:
    each = work([3, 5, 4], packed=True)
    vectors = Call("m", each.embedder, [all_of(each)]).run()
    each.put(each.order, vectors)
    assert each.vectors is vectors
    assert each.over


async def test_vectors_that_come_in_parts_are_put_where_they_belong() -> None:
    each = work([9, 2, 30, 5], packed=False)
    while each.waiting:
        part = each.take(10, 2)
        each.put(part.indices, Call("m", each.embedder, [part]).run())
    assert each.vectors is not None
    np.testing.assert_array_equal(each.vectors[:, 0], [9, 2, 30, 5])
    assert each.over


async def test_a_work_that_failed_is_not_answered_by_what_comes_back_later() -> None:
    each = work([3, 5], packed=True)
    part = all_of(each)
    each.fail(RuntimeError("a bug"))
    each.put(part.indices, Call("m", each.embedder, [part]).run())
    assert isinstance(each.done.exception(), RuntimeError)
