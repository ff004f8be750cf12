"""Adapters of language models on the volume: one base for all, each request by its own, swapped like any model."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from tests.e2e.test_language_models import TINY, post, rendered
from tests.running import RunningGateway
from tests.speaking import greedy, language_model, voice
from tests.volume.test_source import exchange


def said_by(base: str, text: str, tokens: int, adapter: str | None = None) -> str:
    from transformers import AutoTokenizer

    words = AutoTokenizer.from_pretrained(base)
    return str(words.decode(greedy(base, text, tokens, adapter), skip_special_tokens=True)).rstrip("\ufffd")


async def completed(gateway: RunningGateway, model: str, prompt: str, tokens: int = 8) -> str:
    status, found = await post(gateway, "/v1/completions", model=model, prompt=prompt, max_tokens=tokens)
    assert status == 200, found
    return str(found["choices"][0]["text"]).rstrip("\ufffd")


async def test_many_voices_speak_over_one_base_each_its_own(tmp_path: Path) -> None:
    root = tmp_path / "models"
    base = language_model(root / "base/tiny", endings=False)
    paths = {f"org{at}/voice": voice(root / f"org{at}/voice", base, seed=at) for at in range(1, 4)}
    async with RunningGateway(root, tmp_path / "state") as gateway:
        for name in paths:
            await gateway.wait_for(f"huggingface:{name}", "ready", "loaded")
        asked = [(name, f"the beam {at}") for at, name in enumerate([*paths, "base/tiny"] * 3)]
        found = await asyncio.gather(*(completed(gateway, name, prompt) for name, prompt in asked))
        wanted = [said_by(base, prompt, 8, paths.get(name)) for name, prompt in asked]
        assert list(found) == wanted
        assert len(set(wanted[:4])) == 4

        listed = await gateway.models()
        assert listed[TINY]["bytes_on_device"] > 20 * listed["huggingface:org1/voice"]["bytes_on_device"] > 0

        turns = [{"role": "user", "content": "who keeps the keys?"}]
        status, chat = await post(gateway, "/v1/chat/completions", model="org1/voice", messages=turns, max_tokens=8)
        assert status == 200
        want = said_by(base, rendered(turns[0]["content"]), 8, paths["org1/voice"])
        assert chat["choices"][0]["message"]["content"].rstrip("\ufffd") == want


async def test_a_voice_waits_for_its_base_is_swapped_and_is_judged_again_when_its_base_is(tmp_path: Path) -> None:
    root = tmp_path / "models"
    base = language_model(tmp_path / "made", endings=False)
    first = voice(root / "org/voice", base, seed=1)
    async with RunningGateway(root, tmp_path / "state") as gateway:
        waiting = await gateway.wait_for("huggingface:org/voice", "waiting_for_base")
        assert waiting["reasons"][0]["code"] == "base_missing"
        (root / "base").mkdir()
        os.rename(base, root / "base/tiny")
        base = str(root / "base/tiny")
        await gateway.wait_for("huggingface:org/voice", "ready", "loaded")
        assert await completed(gateway, "org/voice", "the beam") == said_by(base, "the beam", 8, first)

        before = (await gateway.models())["huggingface:org/voice"]["generation"]
        exchange(Path(voice(tmp_path / "next", base, seed=2)), Path(first))
        await changed(gateway, "huggingface:org/voice", before)
        assert await completed(gateway, "org/voice", "the beam") == said_by(base, "the beam", 8, first)

        before = (await gateway.models())["huggingface:org/voice"]["generation"]
        language_model(tmp_path / "other", seed=7, endings=False)
        exchange(tmp_path / "other", Path(base))
        await changed(gateway, "huggingface:org/voice", before)
        assert await completed(gateway, "org/voice", "the beam") == said_by(base, "the beam", 8, first)


async def test_a_voice_that_is_cut_or_for_another_base_is_never_served(tmp_path: Path) -> None:
    root = tmp_path / "models"
    base = language_model(root / "base/tiny", endings=False)
    cut = voice(root / "org/cut", base)
    tensors = load_file(Path(cut, "adapter_model.safetensors"))
    save_file(dict(list(tensors.items())[:-2]), Path(cut, "adapter_model.safetensors"))
    wider = language_model(tmp_path / "wider", hidden_size=32)
    voice(root / "org/misfit", wider)
    strange = Path(voice(root / "org/strange", base), "adapter_config.json")
    strange.write_text(json.dumps(json.loads(strange.read_text()) | {"peft_type": "IA3"}))
    async with RunningGateway(root, tmp_path / "state") as gateway:
        for name, code in (
            ("cut", "weights_mismatch"),
            ("misfit", "base_mismatch"),
            ("strange", "adapter_not_supported"),
        ):
            listed = await gateway.wait_for(f"huggingface:org/{name}", "rejected", "waiting_for_base")
            assert [reason["code"] for reason in listed["reasons"]] == [code]
            assert listed["reasons"][0]["remedy"]
            status, found = await post(gateway, "/v1/completions", model=f"org/{name}", prompt="x")
            assert status in (404, 409, 422, 503)
            assert "choices" not in found


async def changed(gateway: RunningGateway, model: str, before: Any) -> None:
    from tests.running import DEADLINE, GLANCE

    async with asyncio.timeout(DEADLINE):
        while (await gateway.models())[model]["generation"] in (before, None):
            await asyncio.sleep(GLANCE)
