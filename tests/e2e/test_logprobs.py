"""How likely tokens were: what clients are told is what transformers computes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_language_models import TINY, TURNS, events, post, rendered, serving
from tests.speaking import greedy


def expected(path: str, prompt: str, tokens: int, top: int) -> list[tuple[int, float, list[tuple[int, float]]]]:
    """Of each token that transformers says: its logprob, and the likeliest with theirs; one forward pass each."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(path)
    ids = AutoTokenizer.from_pretrained(path)(prompt)["input_ids"]
    found = []
    for token in greedy(path, prompt, tokens):
        with torch.inference_mode():
            logprobs = torch.log_softmax(model(torch.tensor([ids])).logits[0, -1].float(), dim=-1)
        values, places = logprobs.topk(min(top, len(logprobs)))
        likeliest = list(zip(places.tolist(), values.tolist(), strict=True))
        found.append((token, float(logprobs[token]), likeliest))
        ids = [*ids, token]
    return found


def spelled(path: str, tokens: Sequence[int]) -> bytes:
    """The bytes of a byte-level tokenizer's tokens."""
    from transformers import AutoTokenizer
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = {letter: byte for byte, letter in bytes_to_unicode().items()}
    words = AutoTokenizer.from_pretrained(path)
    special = set(words.all_special_ids)
    pieces = [(token, words.convert_ids_to_tokens(token)) for token in tokens]
    return b"".join(
        piece.encode() if token in special else bytes(letters[letter] for letter in piece) for token, piece in pieces
    )


def check(path: str, told: list[dict[str, Any]], want: list[tuple[int, float, list[tuple[int, float]]]]) -> None:
    assert [each["logprob"] for each in told] == pytest.approx([each[1] for each in want], abs=1e-4)
    assert [bytes(each["bytes"]) for each in told] == [spelled(path, [token]) for token, _, _ in want]
    for each, (_, _, likeliest) in zip(told, want, strict=True):
        assert [top["logprob"] for top in each["top_logprobs"]] == pytest.approx([v for _, v in likeliest], abs=1e-4)
        assert {bytes(top["bytes"]) for top in each["top_logprobs"]} == {spelled(path, [t]) for t, _ in likeliest}
        assert each["token"] == bytes(each["bytes"]).decode(errors="replace")


async def test_a_conversation_tells_how_likely_its_tokens_were_whole_and_streamed(tmp_path: Path) -> None:
    async with serving(tmp_path) as (gateway, path):
        want = expected(path, rendered(TURNS[0]["content"]), 12, 3)
        asked = {"model": TINY, "messages": TURNS, "max_tokens": 12, "logprobs": True, "top_logprobs": 3}
        status, found = await post(gateway, "/v1/chat/completions", **asked)
        assert status == 200
        check(path, found["choices"][0]["logprobs"]["content"], want)

        streamed: list[dict[str, Any]] = []
        async for chunk in events(gateway, "/v1/chat/completions", **asked):
            for choice in chunk["choices"] if chunk else ():
                told = (choice["logprobs"] or {}).get("content", [])
                text = choice["delta"].get("content", "")
                assert (
                    not text
                    or "".join(each["token"] for each in told).rstrip("\ufffd").endswith(text.rstrip("\ufffd"))
                    or not told
                )
                streamed += told
        check(path, streamed, want)

        asked |= {"top_logprobs": 0}
        _, found = await post(gateway, "/v1/chat/completions", **asked)
        check(path, found["choices"][0]["logprobs"]["content"], [(token, value, []) for token, value, _ in want])
        _, found = await post(gateway, "/v1/chat/completions", **asked | {"logprobs": False})
        assert found["choices"][0]["logprobs"] is None
        status, found = await post(gateway, "/v1/chat/completions", model=TINY, messages=TURNS, top_logprobs=2)
        assert (status, found["error"]["param"]) == (400, "top_logprobs")


async def test_a_continued_text_tells_how_likely_its_tokens_were_whole_and_streamed(tmp_path: Path) -> None:
    async with serving(tmp_path) as (gateway, path):
        want = expected(path, "the beam", 10, 2)
        asked = {"model": TINY, "prompt": "the beam", "max_tokens": 10, "logprobs": 2}
        _, found = await post(gateway, "/v1/completions", **asked)
        told = found["choices"][0]["logprobs"]
        assert told["token_logprobs"] == pytest.approx([value for _, value, _ in want], abs=1e-4)
        for top, (_, _, likeliest) in zip(told["top_logprobs"], want, strict=True):
            assert set(top) == {spelled(path, [token]).decode(errors="replace") for token, _ in likeliest}
        assert told["text_offset"] == [len("".join(told["tokens"][:at])) for at in range(10)]
        parts: dict[str, list[Any]] = {name: [] for name in told}
        async for chunk in events(gateway, "/v1/completions", **asked):
            for choice in chunk["choices"] if chunk else ():
                for name, values in (choice["logprobs"] or {}).items():
                    parts[name] += values
        assert parts == told


async def test_what_is_drawn_is_told_with_what_the_model_thinks_and_stop_sequences_are_not(tmp_path: Path) -> None:
    async with serving(tmp_path) as (gateway, path):
        asked = {"model": TINY, "prompt": "a poem", "max_tokens": 20, "logprobs": 0}
        _, greedily = await post(gateway, "/v1/completions", **asked)
        whole, told = greedily["choices"][0]["text"], greedily["choices"][0]["logprobs"]
        stop = whole[6:8]
        _, found = await post(gateway, "/v1/completions", **asked, stop=stop)
        cut = found["choices"][0]
        assert cut["text"] == whole[: whole.index(stop)]
        assert 0 < len(cut["logprobs"]["tokens"]) < 20
        assert told["tokens"][: len(cut["logprobs"]["tokens"])] == cut["logprobs"]["tokens"]
        assert sum(map(len, cut["logprobs"]["tokens"][:-1])) <= len(cut["text"]) + 3  # a character has some tokens
        _, drawn = await post(gateway, "/v1/completions", **asked, temperature=2.0, seed=5)
        assert drawn["choices"][0]["text"] != whole
        first = drawn["choices"][0]["logprobs"]
        best = expected(path, "a poem", 1, 400)[0][2]
        # a part of a character is spelled like the parts of others: one of them was drawn
        text = first["tokens"][0]
        alike = [value for token, value in best if spelled(path, [token]).decode(errors="replace") == text]
        assert any(first["token_logprobs"][0] == pytest.approx(value, abs=1e-4) for value in alike)
