"""Language models on the volume, as clients see them: real hosts, real HTTP, tiny models made on the spot."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from tests.running import DEADLINE, GLANCE, RunningGateway, descendants
from tests.speaking import CHATML, greedy, language_model
from tests.volume.test_source import exchange

TINY = "huggingface:base/tiny"
TURNS = [{"role": "user", "content": "who keeps the keys?"}]


def said_by(path: str, text: str, tokens: int) -> str:
    """As transformers has it, without the bytes at the end that are no character yet."""
    from transformers import AutoTokenizer

    words = AutoTokenizer.from_pretrained(path)
    return str(words.decode(greedy(path, text, tokens), skip_special_tokens=True)).rstrip("\ufffd")


def rendered(content: str) -> str:
    return f"<|im_start|>user\n{content}<|im_end|>\n<|im_start|>assistant\n"


@asynccontextmanager
async def serving(tmp_path: Path, *options: str, **model: Any) -> AsyncIterator[tuple[RunningGateway, str]]:
    """A gateway with one model that never ends by itself, and where that lies."""
    path = language_model(tmp_path / "models/base/tiny", **{"endings": False, **model})
    async with RunningGateway(tmp_path / "models", tmp_path / "state", *options) as gateway:
        await gateway.wait_for(TINY, "ready", "loaded")
        yield gateway, path


async def post(gateway: RunningGateway, route: str, **body: Any) -> tuple[int, dict[str, Any]]:
    async with gateway.session.post(route, json=body) as answer:
        return answer.status, await answer.json()


async def events(gateway: RunningGateway, route: str, **body: Any) -> AsyncIterator[dict[str, Any] | None]:
    """The chunks of a stream; None is its [DONE]."""
    async with gateway.session.post(route, json=body | {"stream": True}) as answer:
        assert answer.status == 200, await answer.text()
        async for line in answer.content:
            if line.startswith(b"data: "):
                data = line[6:].strip()
                yield None if data == b"[DONE]" else json.loads(data)


async def until(gateway: RunningGateway, is_so: Callable[[dict[str, Any]], bool]) -> None:
    """Waits for the listing of the model to be so."""
    async with asyncio.timeout(DEADLINE):
        while not is_so((await gateway.models())[TINY]):
            await asyncio.sleep(GLANCE)


async def test_a_language_model_is_dropped_and_answers_in_both_of_openais_protocols(tmp_path: Path) -> None:
    async with serving(tmp_path) as (gateway, path):
        listed = (await gateway.models())[TINY]
        assert listed["kind"] == "generator"

        want = said_by(path, "the beam is stored", 12)
        status, found = await post(
            gateway, "/v1/completions", model="base/tiny", prompt="the beam is stored", max_tokens=12
        )
        assert (status, found["choices"][0]["text"], found["choices"][0]["finish_reason"]) == (200, want, "length")
        assert found["usage"]["completion_tokens"] == 12

        want = said_by(path, rendered(TURNS[0]["content"]), 9)
        status, found = await post(gateway, "/v1/chat/completions", model=TINY, messages=TURNS, max_tokens=9)
        assert (status, found["choices"][0]["message"]["content"]) == (200, want)
        status, found = await post(gateway, "/v1/chat/completions", model="base/tiny", messages=TURNS, max_tokens=9)
        assert (status, found["choices"][0]["message"]["content"]) == (200, want)

        chunks = [
            each
            async for each in events(
                gateway,
                "/v1/chat/completions",
                model=TINY,
                messages=TURNS,
                max_tokens=9,
                stream_options={"include_usage": True},
            )
        ]
        assert chunks[-1] is None
        *spoken, counted = [each for each in chunks if each]
        assert "".join(each["choices"][0]["delta"].get("content", "") for each in spoken) == want
        assert spoken[-1]["choices"][0]["finish_reason"] == "length"
        assert (counted["choices"], counted["usage"]["completion_tokens"]) == ([], 9)

        async with gateway.session.get("/models/llms") as answer:
            assert TINY in (await answer.json())["models"]
        async with gateway.session.get("/v1/models") as answer:
            assert "base/tiny" in [each["id"] for each in (await answer.json())["data"]]


async def test_many_conversations_at_once_say_what_each_says_alone(tmp_path: Path) -> None:
    async with serving(tmp_path) as (gateway, path):
        prompts = [f"the keys {'of the gate ' * (number % 5)}{number}" for number in range(16)]
        asked = [
            post(gateway, "/v1/completions", model=TINY, prompt=prompt, max_tokens=5 + number)
            for number, prompt in enumerate(prompts)
        ]
        found = await asyncio.gather(*asked)
        assert [body["choices"][0]["text"].rstrip("\ufffd") for _, body in found] == [
            said_by(path, prompt, 5 + number) for number, prompt in enumerate(prompts)
        ]


async def test_stop_sequences_seeds_and_several_prompts(tmp_path: Path) -> None:
    async with serving(tmp_path) as (gateway, path):
        whole = said_by(path, "a poem", 30)
        stop = whole[6:8]
        _, found = await post(gateway, "/v1/completions", model=TINY, prompt="a poem", max_tokens=30, stop=stop)
        choice = found["choices"][0]
        assert (choice["text"], choice["finish_reason"]) == (whole[: whole.index(stop)], "stop")

        drawn = {"model": TINY, "prompt": "a poem", "max_tokens": 20, "temperature": 1.0}
        first, again, other = [
            (await post(gateway, "/v1/completions", **drawn, seed=seed))[1]["choices"][0]["text"] for seed in (1, 1, 2)
        ]
        assert first == again != other

        _, found = await post(gateway, "/v1/completions", model=TINY, prompt=["a", "b c"], max_tokens=4, echo=True)
        assert [each["text"] for each in found["choices"]] == [
            prompt + said_by(path, prompt, 4) for prompt in ("a", "b c")
        ]


async def test_a_model_ends_its_answer_itself(tmp_path: Path) -> None:
    async with serving(tmp_path, endings=True) as (gateway, path):
        for number in range(200):
            prompt = f"{number} the beam"
            _, found = await post(gateway, "/v1/completions", model=TINY, prompt=prompt, max_tokens=200)
            if found["choices"][0]["finish_reason"] == "stop":
                assert found["choices"][0]["text"] == said_by(path, prompt, 200)
                return
        raise AssertionError("none of the prompts leads to an end")


REFUSED: Final[list[tuple[dict[str, Any], int, str]]] = [
    ({"prompt": "x " * 300}, 400, "context_length_exceeded"),
    ({"prompt": ""}, 400, "empty_input"),
    ({"prompt": []}, 400, "empty_input"),
    ({"prompt": "x", "logprobs": 21}, 400, "invalid_body"),
    ({"prompt": "x", "logprobs": 1, "echo": True}, 400, "invalid_body"),
    ({"prompt": "x", "logit_bias": {"5": 1}}, 400, "invalid_body"),
    ({"prompt": "x", "n": 2}, 400, "invalid_body"),
    ({"prompt": "x", "suffix": "y"}, 400, "invalid_body"),
    ({"prompt": "x", "temperature": 9}, 400, "invalid_body"),
    ({"prompt": "x", "max_tokens": 0}, 400, "invalid_body"),
    ({"prompt": "x", "stop": ["a"] * 40}, 400, "invalid_body"),
    ({"prompt": "x", "model": "base/none"}, 404, "model_not_found"),
    ({"prompt": "x", "model": "openai:gpt"}, 404, "provider_model_not_found"),
    ({"prompt": "x", "model": "extractive"}, 404, "provider_model_not_found"),
]


async def test_what_cannot_be_answered_says_why(tmp_path: Path) -> None:
    async with serving(tmp_path) as (gateway, _):
        for asked, status, code in REFUSED:
            for stream in (False, True):
                found = await post(gateway, "/v1/completions", **{"model": TINY, **asked, "stream": stream})
                assert (found[0], found[1]["error"]["code"]) == (status, code), asked
        status, body = await gateway.try_embed(["x"], TINY)
        assert (status, body["error"]["code"]) == (400, "wrong_kind")


async def test_a_conversation_that_the_template_refuses_says_so(tmp_path: Path) -> None:
    strict = "{% if messages[0]['role'] != 'user' %}{{ raise_exception('begin with the user') }}{% endif %}" + CHATML
    async with serving(tmp_path, template=strict) as (gateway, _):
        status, found = await post(
            gateway, "/v1/chat/completions", model=TINY, messages=[{"role": "assistant", "content": "x"}]
        )
        assert (status, found["error"]["code"]) == (400, "invalid_input")
        assert "begin with the user" in found["error"]["message"]
        pictures = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]
        status, found = await post(gateway, "/v1/chat/completions", model=TINY, messages=pictures)
        assert (status, found["error"]["code"]) == (400, "invalid_body")
        long = [{"role": "user", "content": "x " * 300}]
        for stream in (False, True):  # in a stream too it is known before anything was said
            found = await post(gateway, "/v1/chat/completions", model=TINY, messages=long, stream=stream)
            assert (found[0], found[1]["error"]["code"]) == (400, "context_length_exceeded")
        tools = [{"type": "function", "function": {"name": "f"}}]
        status, found = await post(gateway, "/v1/chat/completions", model=TINY, messages=TURNS, tools=tools)
        assert (status, found["error"]["param"]) == (400, "tools")


async def test_a_client_that_leaves_frees_its_row(tmp_path: Path) -> None:
    async with serving(tmp_path, max_position_embeddings=32_768) as (gateway, path):
        stream = events(gateway, "/v1/completions", model=TINY, prompt="the", max_tokens=30_000)
        async for _ in stream:
            break
        await stream.aclose()  # type: ignore[attr-defined]
        async with gateway.session.post(f"/models/{TINY}/unload") as answer:
            assert answer.status == 200  # which waits until nobody uses the model any more
        assert (await gateway.models())[TINY]["state"] == "ready"
        _, found = await post(gateway, "/v1/completions", model=TINY, prompt="a poem", max_tokens=5)
        assert found["choices"][0]["text"] == said_by(path, "a poem", 5)


async def test_a_swap_in_the_middle_of_an_answer_changes_none_of_it(tmp_path: Path) -> None:
    async with serving(tmp_path, max_position_embeddings=2048) as (gateway, path):
        want = said_by(path, "the beam", 600)
        stream = events(gateway, "/v1/completions", model=TINY, prompt="the beam", max_tokens=600)
        first = await anext(stream)
        assert first is not None
        before = (await gateway.models())[TINY]["generation"]
        language_model(tmp_path / "next", seed=1, endings=False, max_position_embeddings=2048)
        exchange(tmp_path / "next", Path(path))
        await until(gateway, lambda listed: listed["generation"] != before)
        text = first["choices"][0]["text"]
        async for each in stream:
            text += each["choices"][0]["text"] if each else ""
        assert text == want
        _, found = await post(gateway, "/v1/completions", model=TINY, prompt="the beam", max_tokens=9)
        assert found["choices"][0]["text"] == said_by(path, "the beam", 9)


async def test_a_host_that_dies_in_the_middle_of_an_answer_is_told_and_the_next_answer_comes(tmp_path: Path) -> None:
    async with serving(tmp_path, max_position_embeddings=32_768) as (gateway, path):
        stream = events(gateway, "/v1/completions", model=TINY, prompt="the beam", max_tokens=30_000)
        assert await anext(stream) is not None
        for pid in descendants(gateway.pid):
            os.kill(pid, signal.SIGKILL)
        told = [each async for each in stream if each]
        assert told[-1]["error"]["code"] == "host_failed"
        _, found = await post(gateway, "/v1/completions", model=TINY, prompt="the beam", max_tokens=5)
        assert found["choices"][0]["text"] == said_by(path, "the beam", 5)


async def test_ollamas_protocol_says_the_same_whole_and_in_lines(tmp_path: Path) -> None:
    async with serving(tmp_path) as (gateway, path):
        asked = {"model": "base/tiny:latest", "options": {"num_predict": 9, "num_ctx": 4096}}
        want = said_by(path, rendered(TURNS[0]["content"]), 9)
        ways = {"/api/chat": {"messages": TURNS}, "/api/generate": {"prompt": TURNS[0]["content"]}}
        for route, body in ways.items():
            status, whole = await post(gateway, route, **asked, **body, stream=False)
            assert (status, _said(whole), whole["done_reason"], whole["eval_count"]) == (200, want, "length", 9)
            async with gateway.session.post(route, json=asked | body) as answer:
                assert answer.content_type == "application/x-ndjson"
                lines = [json.loads(line) async for line in answer.content]
            assert "".join(map(_said, lines)) == want
            assert [line["done"] for line in lines] == [False] * (len(lines) - 1) + [True]
            assert lines[-1]["prompt_eval_count"] == whole["prompt_eval_count"]
            assert lines[-1].items() >= {"done_reason": "length", "eval_count": 9}.items()
        raw = {"prompt": "the beam", "raw": True, "stream": False}
        _, found = await post(gateway, "/api/generate", **asked, **raw)
        assert found["response"] == said_by(path, "the beam", 9)

        for given in ({"options": {"min_p": 0.1}}, {"format": "json"}, {"images": ["x"]}, {"think": True}):
            status, found = await post(gateway, "/api/generate", **{**asked, "prompt": "x", **given})
            assert status == 400
            assert next(iter(given.get("options", given))) in found["error"]
        status, found = await post(gateway, "/api/show", model="base/tiny")
        assert found["capabilities"] == ["completion"]
        status, found = await post(gateway, "/api/chat", model="base/tiny", messages=[], keep_alive=0)
        assert (status, found["done_reason"]) == (200, "unload")
        assert (await gateway.models())[TINY]["state"] == "ready"


def _said(line: dict[str, Any]) -> str:
    return str(line["message"]["content"] if "message" in line else line["response"])
