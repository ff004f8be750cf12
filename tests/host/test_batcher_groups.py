"""Models of one group share device calls, and each has its share of the device as if it did not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from gateway.host.fair import Fair
from gateway.host.work import Embedder, Vectors, Work
from tests.host.rigs import Ids, Model, Rig, answer, ids


class Mixer(Model):
    """Computes rows of several models, and notes how many of each were in a call."""

    def __init__(self) -> None:
        super().__init__()
        self.mixed: list[list[str]] = []
        self.names: dict[int, str] = {}

    def embed_mixed(self, rows: Sequence[Ids], prompt_tokens: Sequence[int], embedders: Sequence[Embedder]) -> Vectors:
        self.mixed.append([self.names[id(each)] for each in embedders])
        return self.embed(rows, prompt_tokens)


class Groups(Rig):
    """Models `a`, `b`, ... of the group `g`, and others of none."""

    def __init__(self, **options: int) -> None:
        super().__init__(**options)  # type: ignore[arg-type]
        self.mixer = Mixer()
        self.members: dict[str, Model] = {}

    def member(
        self, key: str, *lengths: int, weight: float = 1.0, alone: bool = False, mixer: Mixer | None = None
    ) -> asyncio.Task[Work]:
        model = self.members.setdefault(key, Model())
        self.mixer.names[id(model)] = key
        self._number += 1
        asking = self.batcher.embed(
            key,
            model,
            self._number,
            ids(*lengths),
            weight=weight,
            alone=alone,
            group="g",
            mixer=mixer or self.mixer,
        )
        return asyncio.create_task(asking)

    async def held(self) -> asyncio.Task[Work]:
        """The device works on something, and what comes now waits."""
        self.device.gate.clear()
        first = self.ask(1, key="first")
        await self.turns()
        return first

    async def let_go(self, *waiting: asyncio.Task[Work]) -> list[Work]:
        await self.turns()
        self.device.gate.set()
        return await asyncio.gather(*waiting)


@pytest.fixture
async def rig() -> AsyncIterator[Groups]:
    made = Groups()
    yield made
    await made.close()


async def test_what_waits_for_models_of_one_group_is_one_call_and_each_row_comes_back_to_its_own(rig: Groups) -> None:
    first = await rig.held()
    waiting = [rig.member(key, *lengths) for key, lengths in (("a", (3, 5)), ("b", (4,)), ("c", (3,)), ("a", (7,)))]
    works = await rig.let_go(first, *waiting)
    assert [answer(work) for work in works[1:]] == [[3, 5], [4], [3], [7]]
    assert [sorted(call) for call in rig.mixer.mixed] == [["a", "a", "a", "b", "c"]]
    assert rig.device.order == ["first", "g"]


async def test_others_do_not_ride_along_and_keep_their_turn(rig: Groups) -> None:
    first = await rig.held()
    waiting = [rig.member("a", 3), rig.ask(4, key="other"), rig.member("b", 5)]
    await rig.let_go(first, *waiting)
    assert rig.device.order == ["first", "g", "other"]


async def test_a_lone_model_of_a_group_is_called_by_its_own_name(rig: Groups) -> None:
    await rig.let_go(rig.member("a", 3), rig.member("a", 4))
    assert set(rig.device.order) == {"a"}
    assert rig.mixer.mixed == []


async def test_a_suspect_rides_with_nobody(rig: Groups) -> None:
    first = await rig.held()
    await rig.let_go(first, rig.member("a", 3, alone=True), rig.member("b", 4), rig.member("c", 4))
    assert rig.device.order == ["first", "a", "g"]


async def test_what_another_mixer_computes_is_a_call_of_its_own(rig: Groups) -> None:
    """As after the base was evicted and came back."""
    first = await rig.held()
    again = Mixer()
    works = await rig.let_go(first, rig.member("a", 3), rig.member("b", 4, mixer=again), rig.member("c", 5))
    assert [answer(work) for work in works[1:]] == [[3], [4], [5]]
    assert [sorted(call) for call in rig.mixer.mixed] == [["a", "c"]]


async def test_riders_take_only_the_room_that_is_left_and_nothing_too_long_for_it(rig: Groups) -> None:
    first = await rig.held()
    waiting = [rig.member("a", 60), rig.member("b", 50), rig.member("c", 30)]
    await rig.let_go(first, *waiting)
    texts = [sorted(call) for call in rig.mixer.mixed]
    assert texts == [["a", "c"]]
    assert rig.device.order == ["first", "g", "b"]


async def test_a_model_beside_a_group_has_as_much_of_the_device_as_each_of_its_models() -> None:
    rig = Groups(max_tokens=120, enough_tokens=120, max_queue_tokens=1_000_000)
    rig.device.seconds = 0.0
    first = await rig.held()
    waiting = [rig.member(key, *[10] * 60) for key in "abc"]
    lone = rig.ask(*[10] * 60, key="other")
    await rig.let_go(first, *waiting, lone)
    had = {"other": 0, "group": 0}
    for call in rig.seen[1:]:
        had["other" if call.key == "other" else "group"] += call.tokens
        if had["other"] == 600:
            break
    # when `other` has had all of its own, each of the three has had as much, to a batch
    assert abs(had["group"] - 3 * had["other"]) <= 2 * 120 * 3
    await rig.close()


async def test_weights_hold_among_models_that_share_calls() -> None:
    rig = Groups(max_tokens=40, enough_tokens=40, max_queue_tokens=1_000_000)
    first = await rig.held()
    heavy, light = rig.member("a", *[10] * 90, weight=3.0), rig.member("b", *[10] * 90)
    done: list[str] = []
    heavy.add_done_callback(lambda _: done.append("a"))
    light.add_done_callback(lambda _: done.append("b"))
    await rig.let_go(first, heavy, light)
    assert done == ["a", "b"]
    await rig.close()


def test_what_was_served_before_its_turn_waits_the_longer_for_the_next() -> None:
    fair: Fair[str] = Fair()
    for key in "abc":
        fair.enter(key)
    fair.charge("a", 10)
    fair.charge("b", 30, early=True)
    assert fair.in_order() == ["c", "a", "b"]
    fair.enter("d")  # a rider's account is not what who comes begins with
    assert fair.in_order()[:2] == ["c", "d"]
