"""What clients see of gateways that die, stop, come back and are added, and of a swap."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from tests.e2e.clients import Clients
from tests.proxy.fleet import MODELS, Fleet, running
from tests.proxy.haproxy import needs_haproxy

pytestmark = needs_haproxy
TEXTS = ["the beam of the ring", "a laser"]
FEW = MODELS[:9]


def clients(fleet: Fleet, models: list[str]) -> Clients:
    return Clients(fleet.proxy, models, TEXTS)  # type: ignore[arg-type]  # it is asked like a gateway


def answered_by(name: str) -> Callable[[str, int, dict[str, Any]], bool]:
    return lambda model, status, body: body.get("by") == name


def number_of(name: str) -> int:
    return int(name.removeprefix("gateway-"))


async def test_a_gateway_is_killed_under_load_and_comes_back_and_no_request_fails(
    tmp_path: Path, made: list[str]
) -> None:
    async with running(tmp_path, made, models=FEW) as fleet:
        before = await fleet.places(FEW)
        victim = before[FEW[0]]
        async with clients(fleet, FEW) as asking:
            await asking.more(50)
            await fleet.gateways[number_of(victim)].kill()
            await asking.more(300)
            during = await fleet.places(FEW)
            await fleet.start(number_of(victim))
            await asking.until(answered_by(victim), 20)
            await fleet.proxy.until_up(*fleet.names)
            await asking.more(100)
        assert asking.statuses() == {200}, [each for each in asking.answers if each[1] != 200][:3]
        assert victim not in during.values()
        stayed = {model for model, place in before.items() if place != victim}
        assert {model: during[model] for model in stayed} == {model: before[model] for model in stayed}
        assert await fleet.places(FEW) == before


async def test_what_a_gateway_had_when_it_died_is_computed_by_another_unless_that_could_do_harm(
    tmp_path: Path, made: list[str]
) -> None:
    """The gateway is stopped in the middle, so that it has the requests for certain and has answered none."""
    async with running(tmp_path, made, models=FEW) as fleet:
        model = FEW[0]
        victim = (await fleet.places([model]))[model]
        gateway = fleet.gateways[number_of(victim)]
        ask = fleet.proxy.ask
        large = {"inputs": ["the beam of the ring " * 5] * 2000}
        os.kill(gateway.pid, signal.SIGSTOP)
        computed = [
            asyncio.create_task(ask("POST", f"/models/{model}/embed", json={"inputs": TEXTS})),
            asyncio.create_task(ask("POST", "/embed", json={"inputs": TEXTS, "model": model})),
            asyncio.create_task(ask("POST", "/v1/embeddings", json={"input": TEXTS, "model": model})),
            asyncio.create_task(ask("POST", f"/tei/{model}", json={"inputs": TEXTS})),
            asyncio.create_task(ask("GET", f"/models/{model}")),
        ]
        lost = [
            asyncio.create_task(ask("POST", f"/models/{model}/embed", json=large)),
            asyncio.create_task(ask("POST", f"/models/{model}/rollback")),
            asyncio.create_task(ask("POST", "/v1/completions", json={"model": model, "prompt": "x"})),
        ]
        await fleet.proxy.until(lambda found: found[victim]["sessions"] == len(computed) + len(lost))
        await gateway.kill()
        for each in computed:
            status, by, _ = await each
            assert status == 200
            assert by is not None
            assert by != victim
        for each in lost:
            status, by, body = await each
            assert (status, by, body["error"]["code"]) == (502, None, "gateway_lost")


async def test_a_gateway_that_hangs_is_left_what_it_has_waits_and_it_comes_back_by_itself(
    tmp_path: Path, made: list[str]
) -> None:
    model = FEW[0]
    async with running(tmp_path, made, models=FEW[:3], patience=2) as fleet:
        place = (await fleet.places([model]))[model]
        gateway = fleet.gateways[number_of(place)]
        os.kill(gateway.pid, signal.SIGSTOP)
        held = asyncio.create_task(fleet.proxy.try_embed(TEXTS, model))
        await fleet.proxy.until(lambda found: found[place]["sessions"] == 1)
        await fleet.proxy.until(lambda found: not found[place]["up"])
        status, body = await fleet.proxy.try_embed(TEXTS, model)
        assert status == 200
        assert body["by"] != place
        os.kill(gateway.pid, signal.SIGCONT)
        status, body = await held
        assert (status, body["by"]) == (200, place)
        await fleet.proxy.until_up(*fleet.names)
        assert (await fleet.places([model]))[model] == place


async def test_a_gateway_that_is_told_to_stop_is_left_first_and_no_request_fails(
    tmp_path: Path, made: list[str]
) -> None:
    async with running(tmp_path, made, "--drain-delay=600", models=FEW) as fleet:
        before = await fleet.places(FEW)
        leaving = before[FEW[0]]
        gateway = fleet.gateways[number_of(leaving)]
        async with clients(fleet, FEW) as asking:
            await asking.until(answered_by(leaving), 5)
            os.kill(gateway.pid, signal.SIGTERM)
            await fleet.proxy.until(lambda found: not found[leaving]["up"])
            status, _ = await gateway.try_embed(TEXTS, FEW[0])
            assert status == 200  # who asks it all the same is answered
            async with gateway.session.get("/readyz") as answer:
                assert (answer.status, (await answer.json())["checks"]["not_draining"]) == (503, False)
            await asking.more(100)
            os.kill(gateway.pid, signal.SIGTERM)  # enough
            assert await gateway.ended() == 0
            await asking.more(50)
        assert asking.statuses() == {200}
        for other in fleet.gateways.values():
            if other is not gateway:
                os.kill(other.pid, signal.SIGTERM)  # and again, when the fleet ends
    assert [each["drained"] for each in gateway.log if each.get("event") == "stopped"] == [True]


async def test_a_gateway_without_any_state_is_added_under_load_and_no_request_fails(
    tmp_path: Path, made: list[str]
) -> None:
    """It is not ready before it has copied what the volume held when it came."""
    async with running(tmp_path, made, models=FEW) as fleet:
        before = await fleet.places(FEW)
        new = before[FEW[0]]
        async with clients(fleet, FEW) as asking:
            await fleet.gateways[number_of(new)].kill()
            await asking.more(100)
            shutil.rmtree(tmp_path / f"state-{number_of(new)}")
            await fleet.start(number_of(new))
            await asking.until(answered_by(new), 20)
            await fleet.proxy.until_up(*fleet.names)
            await asking.more(100)
        assert asking.statuses() == {200}, [each for each in asking.answers if each[1] != 200][:3]
        assert await fleet.places(FEW) == before


async def test_no_client_sees_an_older_generation_after_a_newer_one_while_its_gateway_lives(
    tmp_path: Path, made: list[str]
) -> None:
    """All gateways swap, each when it has seen the new content; a model's requests are answered by one of them."""
    model = FEW[0]
    async with running(tmp_path, made, models=FEW[:3]) as fleet:
        _, body = await fleet.proxy.try_embed(TEXTS, model)
        old = body["generation"]
        async with AsyncExitStack() as stack:
            each = [await stack.enter_async_context(clients(fleet, [model])) for _ in range(4)]
            for client in each:
                await client.more(5)
            replace(fleet.volume / model, made[-1])
            for gateway in fleet.gateways.values():
                await gateway.wait_for_log("model_swapped", model=model)
            for client in each:
                await client.until(lambda _, status, body: body.get("generation") != old, 5)
        for client in each:
            assert client.statuses() == {200}
            assert in_one_step(client.generations(), old)
        assert len({body["by"] for client in each for _, _, body in client.answers}) == 1


async def test_after_a_death_an_older_generation_may_answer_and_who_asks_for_one_by_its_digest_is_never_given_another(
    tmp_path: Path, made: list[str]
) -> None:
    """What is not promised. The survivors here never come to see the new content as settled."""
    model = FEW[0]
    async with running(tmp_path, made, models=FEW[:3]) as fleet:
        place = (await fleet.places([model]))[model]
        first, slow = number_of(place), [each for each in fleet.ports if each != number_of(place)]
        for number in slow:
            await fleet.gateways[number].stop()
            await fleet.start(number, "--settle-seconds=3600", "--settle-writer-seconds=3600")
        await fleet.proxy.until_up(*fleet.names)
        _, body = await fleet.proxy.try_embed(TEXTS, model)
        old = body["generation"]
        replace(fleet.volume / model, made[-1])
        new = (await fleet.gateways[first].wait_for_log("model_swapped", model=model))["generation"]
        assert (await fleet.proxy.try_embed(TEXTS, model))[1]["generation"] == new
        await fleet.gateways[first].kill()
        assert (await fleet.proxy.try_embed(TEXTS, model))[1]["generation"] == old
        status, body = await fleet.proxy.try_embed(TEXTS, f"{model}@{new}")
        assert (status, body["error"]["code"]) == (404, "generation_not_found")


async def test_with_bounded_load_a_hot_model_is_on_several_gateways_and_without_it_on_one(
    tmp_path: Path, made: list[str]
) -> None:
    model = FEW[0]
    async with running(tmp_path, made, models=FEW[:3]) as fleet:
        async with clients(fleet, [model] * 8) as asking:
            await asking.more(200)
        assert len({body["by"] for _, _, body in asking.answers}) == 1
    async with running(tmp_path / "bounded", made, models=FEW[:3], balance=125) as fleet:
        async with clients(fleet, [model] * 8) as asking:
            for name in fleet.names:
                await asking.until(answered_by(name))
        assert asking.statuses() == {200}


async def test_without_any_gateway_the_proxy_says_so_in_the_gateways_form(tmp_path: Path, made: list[str]) -> None:
    async with running(tmp_path, made, models=FEW[:1]) as fleet:
        for gateway in fleet.gateways.values():
            await gateway.kill()
        await fleet.proxy.until(lambda found: not any(each["up"] for each in found.values()))
        async with fleet.proxy.session.post("/embed", json={"inputs": "x"}) as answer:
            assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
            assert (await answer.json())["error"]["code"] == answer.headers["X-Gateway-Error"] == "no_gateway"


def replace(target: Path, source: str) -> None:
    """New content, by renames, as the trainer publishes."""
    staging, old = target.parent / ".new", target.parent / ".old"
    shutil.copytree(source, staging)
    target.rename(old)
    staging.rename(target)
    shutil.rmtree(old)


def in_one_step(generations: list[str], old: str) -> bool:
    """All of them old, and from some answer on all of them new."""
    olds = [each == old for each in generations]
    return olds == sorted(olds, reverse=True)
