"""A provider over HTTP: every way in which it can fail ends in one of our errors, and none of them is silent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from gateway import errors
from gateway.ask.breaker import FAILURES, PAUSE, Breaker
from gateway.ask.providers import Delta, Message, Sampling
from gateway.ask.specs import Key, Spec
from gateway.ask.upstream import Upstream
from gateway.tracing import OUTGOING
from tests import ports
from tests.ask.talking import KEY, SAID, WORDS, Talking

ASKED = [Message("user", "what holds the beam?")]
LONG = 300.0  # seconds: of limits that are over when the test says so


class Clock:
    """Time that passes when it is told to, and the pauses that were asked of it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pauses: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


@pytest_asyncio.fixture
async def server() -> AsyncIterator[Talking]:
    async with Talking() as running:
        yield running


@asynccontextmanager
async def provider(url: str, clock: Clock | None = None, **settings: Any) -> AsyncIterator[Upstream]:
    clock = clock or Clock()
    async with aiohttp.ClientSession() as session:
        spec = Spec(base_url=url, **settings)
        yield Upstream("local", spec, Key(lambda: KEY), lambda: session, breaker=Breaker(clock), sleep=clock.sleep)


async def said(upstream: Upstream, model: str, sampling: Sampling = Sampling()) -> str:  # noqa: B008  # frozen
    return "".join([delta.content async for delta in upstream.chat(ASKED, model, sampling)])


async def test_an_answer_comes_in_pieces_with_what_it_took(server: Talking) -> None:
    async with provider(server.url) as upstream:
        deltas = [delta async for delta in upstream.chat(ASKED, "answers", Sampling())]
    assert [delta.content for delta in deltas if delta.content] == list(WORDS)
    assert deltas[-1].finish == "stop"
    assert deltas[-1].spent is not None
    assert (deltas[-1].spent.prompt, deltas[-1].spent.completion) == (7, 5)
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"


async def test_a_provider_is_told_of_the_trace_that_it_is_asked_in(server: Talking) -> None:
    parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    async with provider(server.url) as upstream:
        token = OUTGOING.set(parent)
        await said(upstream, "answers")
        OUTGOING.reset(token)
        await said(upstream, "answers")
    assert [headers.get("traceparent") for headers in server.headers] == [parent, None]


async def test_a_temperature_of_0_is_sent_and_none_is_not(server: Talking) -> None:
    async with provider(server.url) as upstream:
        await said(upstream, "answers", Sampling(temperature=0.0, max_tokens=5))
        await said(upstream, "answers")
    assert server.asked[0]["temperature"] == 0.0
    assert server.asked[0]["max_tokens"] == 5
    assert server.asked[1].keys() == {"messages", "model", "stream"}


@pytest.mark.parametrize("model", ["no-done", "whole"])
async def test_an_answer_with_an_end_is_whole_however_the_stream_ends(server: Talking, model: str) -> None:
    async with provider(server.url) as upstream:
        assert await said(upstream, model) == SAID


@pytest.mark.parametrize(
    ("model", "kind", "part"),
    [
        ("cut", errors.ProviderFailed, "cut off"),
        ("drops", errors.ProviderFailed, "cut off"),
        ("vanishes", errors.ProviderFailed, "cannot be reached"),
        ("busy", errors.ProviderBusy, "slow down"),
        ("broken", errors.ProviderFailed, "500"),
        ("refuses", errors.ProviderRefused, "context is 10 tokens"),
        ("locked", errors.ProviderFailed, "does not accept the gateway's key"),
        ("moved", errors.ProviderFailed, "307"),
        ("garbage", errors.ProviderFailed, "no JSON"),
        ("shapeless", errors.ProviderFailed, "not answer as OpenAI"),
        ("endless", errors.ProviderFailed, "bytes"),
        ("html", errors.ProviderFailed, "cut off"),
        ("fails-inside", errors.ProviderFailed, "out of memory"),
    ],
)
async def test_each_failure_is_told_and_never_the_key(
    server: Talking, model: str, kind: type[errors.GatewayError], part: str
) -> None:
    async with provider(server.url, models=(model,)) as upstream:
        with pytest.raises(kind) as caught:
            await said(upstream, model)
    assert part in caught.value.message
    assert KEY not in f"{caught.value.message} {caught.value.details}"
    assert "\n" not in caught.value.message


async def test_who_refuses_the_connection_is_asked_again_and_then_told(server: Talking) -> None:
    clock = Clock()
    with ports.reserved() as nobodys:
        async with provider(f"http://127.0.0.1:{ports.number(nobodys)}/v1", clock) as upstream:
            with pytest.raises(errors.ProviderFailed, match="cannot be reached"):
                await said(upstream, "answers")
    assert len(clock.pauses) == 2
    assert all(0 < pause < 1 for pause in clock.pauses)


@pytest.mark.parametrize(("model", "pause"), [("busy-once", 2.0), ("broken-once", None)])
async def test_what_may_pass_is_tried_again_before_the_first_byte(
    server: Talking, model: str, pause: float | None
) -> None:
    clock = Clock()
    async with provider(server.url, clock) as upstream:
        assert await said(upstream, model) == SAID
    assert server.calls(model) == 2
    assert len(clock.pauses) == 1
    assert pause in {None, clock.pauses[0]}


async def test_who_asks_for_a_long_pause_is_not_asked_again_and_the_client_is_told_how_long(server: Talking) -> None:
    async with provider(server.url) as upstream:
        with pytest.raises(errors.ProviderBusy) as caught:
            await said(upstream, "busy")
    assert caught.value.retry_after == 60.0
    assert server.calls("busy") == 1


@pytest.mark.parametrize("model", ["cut", "drops", "fails-inside", "garbage"])
async def test_after_the_first_byte_nothing_is_asked_again(server: Talking, model: str) -> None:
    async with provider(server.url) as upstream:
        with pytest.raises(errors.ProviderFailed):
            await said(upstream, model)
    assert server.calls(model) == 1


async def test_who_does_not_begin_to_answer_is_given_up(server: Talking, time_passes: Callable[[float], None]) -> None:
    async with provider(server.url, first_token_timeout=LONG) as upstream:
        asking = asyncio.create_task(said(upstream, "hangs"))
        await server.hanging.wait()
        time_passes(LONG)
        with pytest.raises(errors.ProviderTimeout):
            await asking
    assert server.calls("hangs") == 1
    await server.left.wait()


@pytest.mark.parametrize(
    "limits", [{"idle_timeout": LONG, "timeout": 2 * LONG}, {"idle_timeout": 2 * LONG, "timeout": LONG}]
)
async def test_who_falls_silent_is_given_up(
    server: Talking, limits: dict[str, float], time_passes: Callable[[float], None]
) -> None:
    async with (
        provider(server.url, **limits) as upstream,
        aclosing(upstream.chat(ASKED, "waits", Sampling())) as deltas,
    ):
        await anext(deltas)
        reading = asyncio.ensure_future(anext(deltas))
        await asyncio.sleep(0)  # it waits
        time_passes(LONG)
        with pytest.raises(errors.ProviderTimeout):
            await reading
    assert server.calls("waits") == 1
    await server.left.wait()


async def test_a_whole_answer_that_does_not_come_is_given_up(server: Talking) -> None:
    async with provider(server.url, timeout=0.05) as upstream:
        with pytest.raises(errors.ProviderTimeout):
            await upstream.complete({"messages": []}, "hangs")


async def test_who_stops_reading_ends_the_call_behind_it(server: Talking) -> None:
    async with provider(server.url) as upstream, aclosing(upstream.chat(ASKED, "waits", Sampling())) as deltas:
        first: Delta = await anext(deltas)
        assert first.content == WORDS[0]
    await server.left.wait()


async def test_a_cancelled_reader_ends_the_call_behind_it(server: Talking) -> None:
    async with provider(server.url) as upstream:
        reading = asyncio.create_task(said(upstream, "hangs"))
        await server.hanging.wait()
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await server.left.wait()


async def test_an_unknown_model_is_told_with_those_there_are(server: Talking) -> None:
    async with provider(server.url) as upstream:
        with pytest.raises(errors.ProviderModelNotFound, match="answers, small:latest"):
            await said(upstream, "unheard-of")


async def test_a_model_that_is_not_pinned_is_refused_without_a_call(server: Talking) -> None:
    async with provider(server.url, models=("answers",)) as upstream:
        with pytest.raises(errors.ProviderModelNotFound):
            await said(upstream, "../../etc")
        assert await upstream.models() == ("answers",)
    assert (server.asked, server.lists) == ([], 0)


async def test_a_list_of_models_is_asked_for_once_and_believed(server: Talking) -> None:
    async with provider(server.url) as upstream:
        lists = await asyncio.gather(*(upstream.models() for _ in range(5)))
    assert set(lists) == {("answers", "small:latest", "broken")}
    assert server.lists == 1


async def test_no_more_are_in_flight_than_may_be(server: Talking) -> None:
    async with provider(server.url, max_concurrency=2) as upstream:
        found = await asyncio.gather(*(said(upstream, "answers") for _ in range(16)))
    assert found == [SAID] * 16
    assert server.most_at_once <= 2


async def test_a_tenant_with_a_long_queue_leaves_the_others_their_turn(server: Talking) -> None:
    order: list[str] = []

    async def ask(upstream: Upstream, tenant: str) -> None:
        await said(upstream.on_behalf_of(tenant), "answers")
        order.append(tenant)

    async with provider(server.url, max_concurrency=1) as upstream:
        long = [asyncio.create_task(ask(upstream, "acme")) for _ in range(20)]
        await asyncio.sleep(0)
        await asyncio.gather(*long, *(ask(upstream, "globex") for _ in range(3)))
    assert order.index("globex") <= 2
    assert order[:7].count("globex") == 3


async def test_who_waits_too_long_for_a_place_is_told_to_come_back(
    server: Talking, time_passes: Callable[[float], None]
) -> None:
    async with (
        provider(server.url, max_concurrency=1, first_token_timeout=LONG) as upstream,
        aclosing(upstream.chat(ASKED, "waits", Sampling())) as first,
    ):
        await anext(first)
        late = asyncio.create_task(said(upstream, "answers"))
        await asyncio.sleep(0)  # it waits
        time_passes(LONG)
        with pytest.raises(errors.ProviderBusy):
            await late
    assert server.calls("answers") == 0


async def test_a_provider_that_keeps_failing_is_left_alone_until_one_call_finds_it_well(server: Talking) -> None:
    clock = Clock()
    async with provider(server.url, clock) as upstream:
        for _ in range(FAILURES):
            with pytest.raises(errors.ProviderFailed):
                await said(upstream, "cut")
        with pytest.raises(errors.ProviderUnavailable) as caught:
            await said(upstream, "answers")
        assert caught.value.retry_after == PAUSE
        assert server.calls("answers") == 0
        clock.now += PAUSE
        assert await said(upstream, "answers") == SAID
        assert await said(upstream, "answers") == SAID


async def test_a_client_that_leaves_is_no_failure_of_the_provider(server: Talking) -> None:
    async with provider(server.url) as upstream:
        for _ in range(2 * FAILURES):
            async with aclosing(upstream.chat(ASKED, "waits", Sampling())) as deltas:
                await anext(deltas)
        assert await said(upstream, "answers") == SAID


async def test_a_key_that_was_replaced_counts_at_once(server: Talking, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("first\n")
    async with aiohttp.ClientSession() as session:
        upstream = Upstream("local", Spec(base_url=server.url), Key(file.read_text), lambda: session)
        await said(upstream, "answers")
        file.write_text("second\n")
        await said(upstream, "answers")
        file.write_text("in two\nlines")
        with pytest.raises(errors.ProviderFailed, match="the key of local"):
            await said(upstream, "answers")
        file.unlink()
        with pytest.raises(errors.ProviderFailed, match="the key of local cannot be read"):
            await said(upstream, "answers")
    assert [headers["Authorization"] for headers in server.headers] == ["Bearer first", "Bearer second"]
