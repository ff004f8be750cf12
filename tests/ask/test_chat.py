"""`POST /v1/chat/completions`: a provider's answer as it is, and its failures in OpenAI's words."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from gateway import events
from gateway.errors import GatewayError, InvalidBody
from gateway.web import errors, sse
from tests.ask.serving import Serving, serving
from tests.ask.talking import KEY, SAID, WORDS, whole
from tests.running import DEADLINE

MESSAGES = [{"role": "user", "content": "what holds the beam?"}]


@pytest_asyncio.fixture
async def gateway() -> AsyncIterator[Serving]:
    async with serving() as running:
        yield running


def body(model: str = "local:answers", **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": MESSAGES, **more}


async def chat(gateway: Serving, asked: Any) -> tuple[int, dict[str, Any]]:
    async with gateway.session.post("/v1/chat/completions", json=asked) as answer:
        return answer.status, await answer.json()


@pytest.mark.parametrize(
    ("field", "code"),
    [
        (b'"x": "\xff"', "invalid_json"),
        (b'"temperature": 1e400', "invalid_json"),
        (b'"x": ' + b"[" * 300 + b"]" * 300, "invalid_body"),
    ],
    ids=["half a character", "beyond all floats", "nested"],
)
async def test_a_field_that_cannot_be_handed_on_is_refused(gateway: Serving, field: bytes, code: str) -> None:
    asked = json.dumps(body()).encode().removesuffix(b"}") + b", " + field + b"}"
    headers = {"Content-Type": "application/json"}
    async with gateway.session.post("/v1/chat/completions", data=asked, headers=headers) as answer:
        assert (answer.status, (await answer.json())["error"]["code"]) == (400, code)


async def stream(gateway: Serving, asked: Any) -> list[str]:
    async with gateway.session.post("/v1/chat/completions", json={**asked, "stream": True}) as answer:
        assert (answer.status, answer.content_type) == (200, "text/event-stream")
        return [event.removeprefix("data: ") for event in (await answer.text()).split("\n\n") if event]


async def test_an_answer_comes_back_as_it_is_but_for_the_models_name(gateway: Serving) -> None:
    status, found = await chat(gateway, body())
    assert (status, found) == (200, {**whole(), "model": "local:answers"})
    assert gateway.lines[0].tokens == 12


async def test_what_else_a_client_says_is_handed_on(gateway: Serving) -> None:
    more = {"temperature": 0, "top_p": 0.5, "tools": [{"type": "function"}], "stream_options": {"include_usage": True}}
    await chat(gateway, body(**more))
    assert gateway.upstream.asked == [{**more, "messages": MESSAGES, "model": "answers", "stream": False}]


async def test_a_stream_is_in_openais_chunks_and_ends_with_done(gateway: Serving) -> None:
    *chunks, done = await stream(gateway, body())
    assert done == "[DONE]"
    found = [json.loads(chunk) for chunk in chunks]
    assert {chunk["model"] for chunk in found} == {"local:answers"}
    assert [chunk["choices"][0]["delta"].get("content", "") for chunk in found] == [*WORDS, ""]
    assert found[-1]["choices"][0]["finish_reason"] == "stop"


async def test_a_provider_that_sends_no_done_has_it_added(gateway: Serving) -> None:
    *chunks, done = await stream(gateway, body("local:no-done"))
    assert done == "[DONE]"
    assert "".join(json.loads(chunk)["choices"][0]["delta"].get("content", "") for chunk in chunks) == SAID


@pytest.mark.parametrize("model", ["cut", "drops", "fails-inside"])
async def test_what_breaks_in_mid_stream_is_told_there_and_not_done(gateway: Serving, model: str) -> None:
    *_, last = await stream(gateway, body(f"local:{model}"))
    assert json.loads(last)["error"].keys() == {"message", "type", "param", "code"}
    assert json.loads(last)["error"]["code"] == "provider_failed"
    assert gateway.lines[0].code == "provider_failed"


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("asked", "status", "code"),
    [
        (body("nobody:x"), 404, "provider_not_found"),
        (body("gpt-4o"), 404, "provider_model_not_found"),
        (body("extractive"), 404, "provider_model_not_found"),
        ({"messages": MESSAGES}, 404, "provider_model_not_found"),
        (body("huggingface:finetuned/talker"), 404, "model_not_found"),
        (body("finetuned/talker"), 404, "model_not_found"),
        (body("local:unheard-of"), 404, "provider_model_not_found"),
        (body(messages=[]), 400, "empty_input"),
        (body(messages=[{"content": "x"}]), 400, "invalid_body"),
        (body(messages="x"), 400, "invalid_body"),
        (body("local:busy"), 429, "rate_limit_exceeded"),
        (body("local:broken"), 502, "provider_failed"),
        (body("local:refuses"), 400, "provider_refused"),
        (body("local:locked"), 502, "provider_failed"),
        (body("local:vanishes"), 502, "provider_failed"),
        (body("local:garbage"), 502, "provider_failed"),
    ],
)
async def test_what_fails_before_the_first_byte_has_a_status_and_openais_words(
    gateway: Serving, asked: dict[str, Any], status: int, code: str, *, streamed: bool
) -> None:
    found_status, found = await chat(gateway, {**asked, "stream": streamed})
    assert (found_status, found["error"]["code"]) == (status, code)
    assert found["error"].keys() == {"message", "type", "param", "code"}
    assert KEY not in json.dumps(found)


async def test_a_client_that_leaves_ends_the_call_to_the_provider(gateway: Serving) -> None:
    async with asyncio.timeout(DEADLINE):
        async with gateway.session.post("/v1/chat/completions", json=body("local:waits", stream=True)) as answer:
            assert b"data: " in await answer.content.readline()
        await gateway.upstream.left.wait()


async def test_64_at_once_are_all_answered(gateway: Serving) -> None:
    found = await asyncio.gather(*(chat(gateway, body()) for _ in range(64)))
    assert [status for status, _ in found] == [200] * 64


async def test_silence_is_broken_by_comments_and_a_failure_behind_one_is_told_in_the_stream() -> None:
    """`sse.send`, with a heart that beats faster."""
    on = asyncio.Event()

    async def made() -> AsyncGenerator[bytes]:
        await on.wait()
        yield b"data: 1\n\n"
        raise InvalidBody("it was not meant to be")

    def tell(error: GatewayError) -> bytes:
        return b"data: %s\n\n" % error.code.encode()

    async def handle(request: web.Request) -> web.StreamResponse:
        return await sse.send(request, made(), tell, heartbeat=0.01)

    app = web.Application(middlewares=[errors.middleware(events.Events())])
    app.router.add_get("/", handle)
    async with TestClient(TestServer(app)) as client, asyncio.timeout(DEADLINE), client.get("/") as answer:
        assert await answer.content.readline() == b": waiting\n"
        on.set()
        text = (await answer.text()).replace(": waiting\n\n", "").lstrip("\n")
    assert text == "data: 1\n\ndata: invalid_body\n\n"
