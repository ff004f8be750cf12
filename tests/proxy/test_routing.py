"""Each model on one gateway, whatever route and spelling names it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from tests.e2e.clients import least_cosine, reference, until, vectors_of
from tests.proxy.fleet import MODELS, Fleet, running
from tests.proxy.haproxy import RunningProxy, needs_haproxy
from tests.running import DEADLINE, descendants

pytestmark = [needs_haproxy, pytest.mark.asyncio(loop_scope="module")]

TEXTS = ["the beam of the ring", "a laser"]
# every way to name {model} = finetuned/{name}: method, path, body, headers
WAYS: list[tuple[str, str, Any, dict[str, str]]] = [
    ("POST", "/models/{model}/embed", {"inputs": "x"}, {}),
    ("POST", "/models/{name}/embed", {"inputs": "x"}, {}),
    ("POST", "/models/huggingface:{model}/embed", {"inputs": "x"}, {}),
    ("POST", "/models/finetuned%2F{name}/embed", {"inputs": "x"}, {}),
    ("GET", "/models/{model}", None, {}),
    ("POST", "/models/{model}/load", None, {}),
    ("POST", "/embed", {"inputs": "x", "model": "{model}"}, {}),
    ("POST", "/embed", {"model": "{name}", "inputs": "x"}, {}),
    ("POST", "/embed", {"model": "huggingface:{model}", "inputs": "x"}, {}),
    ("POST", "/embed", {"model": "models/{model}", "inputs": "x"}, {}),
    ("POST", "/embed", {"model": "{root}/{model}", "inputs": "x"}, {}),
    ("POST", "/embed", {"inputs": "x"}, {"X-Model": "{model}"}),
    ("POST", "/v1/embeddings", {"input": "x", "model": "{model}"}, {}),
    ("POST", "/api/embed", {"input": "x", "model": "{model}:latest"}, {}),
    ("POST", "/tei/{model}/embed", {"inputs": "x"}, {}),
    ("POST", "/tei/{model}", {"inputs": "x"}, {}),
    ("POST", "/tei/{model}/v1/embeddings", {"input": "x", "model": "no"}, {}),
    ("GET", "/tei/{model}/info", None, {}),
    ("GET", "/v1/models/{model}", None, {}),
    ("GET", "/info?model={model}", None, {}),
    ("GET", "/v2/models/{model}/ready", None, {}),
    ("POST", "/v2/repository/models/{model}/load", None, {}),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fleet(tmp_path_factory: pytest.TempPathFactory, made: list[str]) -> AsyncIterator[Fleet]:
    default = f"--default-model={MODELS[3]}"
    async with running(tmp_path_factory.mktemp("fleet"), made, default, default_model=MODELS[3]) as found:
        yield found


async def test_every_model_is_on_one_gateway_every_gateway_has_some_and_each_is_in_memory_once(
    fleet: Fleet, made: list[str]
) -> None:
    asked = await asyncio.gather(*(fleet.proxy.try_embed(TEXTS, model) for model in MODELS for _ in range(10)))
    by: dict[str, Counter[str]] = {model: Counter() for model in MODELS}
    for model, (status, body) in zip((model for model in MODELS for _ in range(10)), asked, strict=True):
        assert status == 200, body
        assert body["model"] == f"huggingface:{model}"
        by[model][body["by"]] += 1
    assert all(len(each) == 1 for each in by.values()), by
    assert {name for each in by.values() for name in each} == set(fleet.names)
    held = await fleet.loaded()
    assert sorted(model for models in held.values() for model in models) == sorted(MODELS)
    for model, each in by.items():
        assert [name for name, models in held.items() if model in models] == list(each)
    right = vectors_of(asked[0][1])
    assert least_cosine(right, reference(made[0], TEXTS)) > 0.9999


@pytest.mark.parametrize("way", WAYS, ids=lambda way: f"{way[0]} {way[1]} {json.dumps(way[2])} {way[3] or ''}")
async def test_a_model_is_answered_for_by_the_same_gateway_however_it_is_named(
    way: tuple[str, str, Any, dict[str, str]], fleet: Fleet
) -> None:
    method, path, body, headers = way
    places = await fleet.places(MODELS[:6])
    assert len(set(places.values())) > 1
    for model, place in places.items():
        words = {"{model}": model, "{name}": model.removeprefix("finetuned/"), "{root}": str(fleet.volume)}

        def named(text: str, words: dict[str, str] = words) -> str:
            for word, stands_for in words.items():
                text = text.replace(word, stands_for)
            return text

        given = None if body is None else named(json.dumps(body))
        async with fleet.proxy.session.request(
            method, _raw(fleet.proxy, named(path)), data=given, headers={k: named(v) for k, v in headers.items()}
        ) as answer:
            assert answer.status == 200, await answer.text()
            assert answer.headers["X-Served-By"] == place, (way, model)


def _raw(proxy: RunningProxy, path: str) -> Any:
    """As it stands: aiohttp would write %2F as a slash."""
    from yarl import URL

    return URL(proxy.url + path, encoded=True)


async def test_a_generation_is_asked_for_where_its_model_is(fleet: Fleet) -> None:
    _, body = await fleet.proxy.try_embed(TEXTS, MODELS[5])
    status, pinned = await fleet.proxy.try_embed(TEXTS, f"{MODELS[5]}@{body['generation']}")
    assert (status, pinned["by"], pinned["generation"]) == (200, body["by"], body["generation"])


async def test_requests_that_name_no_model_stay_with_the_default_one(fleet: Fleet) -> None:
    place = (await fleet.places([MODELS[3]]))[MODELS[3]]
    for _ in range(6):
        status, body = await fleet.proxy.try_embed(TEXTS)
        assert (status, body["by"], body["model"]) == (200, place, f"huggingface:{MODELS[3]}")


async def test_what_concerns_no_model_goes_to_all_of_them(fleet: Fleet) -> None:
    assert {(await fleet.proxy.ask("GET", "/models"))[1] for _ in range(40)} == set(fleet.names)


async def test_a_body_is_read_as_far_as_the_buffer_goes_and_a_name_elsewhere_always_counts(fleet: Fleet) -> None:
    """128 KiB, less what the proxy keeps for headers. Beyond it the answer is the same, from another gateway."""
    places = await fleet.places(MODELS)
    default = places[MODELS[3]]
    model = next(model for model, place in places.items() if place != default)

    async def by(size: int, *, last: bool, path: str = "/embed", headers: dict[str, str] | None = None) -> str | None:
        inputs = ["the beam of the ring " * 5] * (size // 105)
        body = {"inputs": inputs, "model": model} if last else {"model": model, "inputs": inputs}
        status, place, answer = await fleet.proxy.ask("POST", path, json=body, headers=headers)
        assert (status, answer["model"]) == (200, f"huggingface:{model}")
        return place

    assert await by(100_000, last=True) == places[model]
    assert await by(200_000, last=False) == places[model]
    assert await by(200_000, last=True) == default
    assert await by(200_000, last=True, headers={"X-Model": model}) == places[model]
    assert await by(200_000, last=True, path=f"/models/{model}/embed") == places[model]


async def test_a_second_proxy_sends_each_model_to_the_same_gateway(fleet: Fleet, tmp_path: Path) -> None:
    urls = [f"http://127.0.0.1:{port}" for port in fleet.ports.values()]
    places = await fleet.places(MODELS)
    async with RunningProxy(tmp_path / "other", urls, default_model=MODELS[3]) as other:
        await other.until_up(*fleet.names)
        for model, place in places.items():
            assert (await other.try_embed(TEXTS, model))[1]["by"] == place


async def test_events_come_through_as_they_are_told(fleet: Fleet) -> None:
    async with fleet.proxy.session.get("/events") as stream:
        place = stream.headers["X-Served-By"]
        places = await fleet.places(MODELS)
        model = next(model for model, by in places.items() if by == place)
        assert (await fleet.proxy.ask("POST", f"/models/{model}/unload"))[:2] == (200, place)
        async with asyncio.timeout(DEADLINE):
            while b"generation_unloaded" not in await stream.content.readline():
                pass  # comments and earlier events


async def test_a_client_that_leaves_is_told_to_the_gateway(fleet: Fleet) -> None:
    model = MODELS[0]
    place = (await fleet.places([model]))[model]
    gateway = fleet.gateways[int(place.removeprefix("gateway-"))]
    hosts = descendants(gateway.pid)
    for host in hosts:
        os.kill(host, signal.SIGSTOP)  # so that no answer comes before the client has left
    try:
        ask = fleet.proxy.session.post(
            f"/models/{model}/embed", json={"inputs": TEXTS}, headers={"X-Request-Id": "gone"}
        )
        asking = asyncio.create_task(ask)
        await fleet.proxy.until(lambda found: found[place]["sessions"] > 0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert (await gateway.wait_for_log("request", request_id="gone"))["status"] == 499
    finally:
        for host in hosts:
            os.kill(host, signal.SIGCONT)


async def test_one_id_stands_in_the_proxys_log_and_in_the_gateways(fleet: Fleet) -> None:
    async with fleet.proxy.session.get(f"/models/{MODELS[0]}") as answer:
        given = answer.headers["X-Request-Id"]
        gateway = fleet.gateways[int(answer.headers["X-Served-By"].removeprefix("gateway-"))]
    assert (await gateway.wait_for_log("request", request_id=given))["status"] == 200

    async def logged() -> bool:
        return given in fleet.proxy.log.read_text()

    await until(logged)


async def test_a_knowledge_base_stays_on_one_gateway(fleet: Fleet) -> None:
    seen = set()
    for method, path, body in (
        ("GET", "/kb/ring", None),
        ("POST", "/kb/ring/search", {"query": "x"}),
        ("POST", "/ask", {"query": "x", "knowledge_base": "ring"}),
        ("POST", "/ask", {"knowledge_base": "ring", "query": "x"}),
    ):
        for _ in range(3):
            seen.add((await fleet.proxy.ask(method, path, json=body))[1])
    assert len(seen) == 1
    named = {(await fleet.proxy.ask("GET", f"/kb/base{number}"))[1] for number in range(12)}
    assert named == set(fleet.names)


async def test_the_proxy_refuses_in_the_gateways_form(fleet: Fleet) -> None:
    status, by, body = await fleet.proxy.ask("GET", "/metrics")
    assert (status, by, body["error"]["code"]) == (404, None, "ask_each_gateway")
    status, by, body = await fleet.proxy.ask("POST", "/embed", json={"inputs": "x", "model": "finetuned/none"})
    assert (status, body["error"]["code"]) == (404, "model_not_found")
    assert by is not None


async def test_a_canary_knows_a_client_without_a_key_by_its_address_and_one_that_says_who_it_is_by_that(
    fleet: Fleet,
) -> None:
    """Half of the clients get the canary. All of them come from 127.0.0.1 here, so they are on one side; with a name of
    their own they are on both."""
    (fleet.volume / ".aliases").write_text(
        f'[aliases]\n"prod/m" = {{ to = "{MODELS[0]}", canary = "{MODELS[1]}", share = 0.5 }}\n'
    )
    (fleet.volume / ".aliases").rename(fleet.volume / "aliases.toml")
    for gateway in fleet.gateways.values():
        await gateway.wait_for_log("aliases_changed")
    unnamed = {(await fleet.proxy.try_embed(TEXTS, "prod/m"))[1]["model"] for _ in range(12)}
    assert len(unnamed) == 1
    sides = set()
    for number in range(24):
        body = {"inputs": "x", "model": "prod/m"}
        _, _, answer = await fleet.proxy.ask("POST", "/embed", json=body, headers={"X-Canary-Key": str(number)})
        sides.add(answer["model"])
    assert len(sides) == 2
    assert np.isfinite(np.array(answer["embeddings"])).all()
