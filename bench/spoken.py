"""A language model and its adapters, made on the spot, and ways to have many texts continued in one process: our rows,
and what transformers and peft have for it.

Weights are random, so the model never ends an answer: every side makes as many tokens as it is asked for, greedily.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch

from bench.rounds import Figures
from tests import speaking

SHAPE: Final = {
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
}
WORDS: Final = 8192
RANK: Final = 8
TARGETS: Final = ("q_proj", "k_proj", "v_proj", "o_proj")
BASE: Final = "base/bench"
TOKENS: Final = "tokens_per_second"
ADAPTER: Final = "adapter_model.safetensors"


class Asked(NamedTuple):
    """A prompt, how many tokens are to follow, and the number of the adapter that says them; None is the base."""

    prompt: list[int]
    tokens: int
    voice: int | None = None


def asked(count: int, tokens: int, voices: int = 0, *, seed: int = 0, mixed: bool = False) -> list[Asked]:
    """Prompts of 16 to 64 tokens; `mixed` answers have from an eighth of `tokens` to all of them."""
    draw = random.Random(seed)
    return [
        Asked(
            [draw.randrange(3, WORDS // 2) for _ in range(draw.randint(16, 64))],
            draw.randint(max(1, tokens // 8), tokens) if mixed else tokens,
            number % voices if voices else None,
        )
        for number in range(count)
    ]


def make(volume: Path, voices: int, shape: dict[str, Any]) -> tuple[str, list[str]]:
    """The model, and so many adapters over it, below the volume; their paths."""
    from safetensors.torch import load_file, save_file

    draw = random.Random(1)
    syllables = [a + b for a in "bdfgklmnprstvz" for b in "aeiou"]
    lines = ["".join(draw.choices(syllables, k=draw.randint(1, 5))) for _ in range(30_000)]
    words = speaking.tokenizer(lines, WORDS)
    base = speaking.language_model(volume / BASE, endings=False, words=words, **{**SHAPE, **shape})
    if not voices:
        return base, []
    first = Path(speaking.voice(volume / "voices/0", base, named=BASE, targets=TARGETS, r=RANK, lora_alpha=RANK))
    tensors = load_file(first / ADAPTER)
    paths = [first]
    for number in range(1, voices):
        path = volume / f"voices/{number}"
        shutil.copytree(first, path)
        others = {name: torch.randn_like(tensor).mul_(tensor.std()) for name, tensor in tensors.items()}
        (path / ADAPTER).unlink()
        save_file(others, path / ADAPTER)
        paths.append(path)
    return base, [str(path) for path in paths]


class Rows:
    """Our own, as a host does it: admitted by `Talk`, continued together, told as text."""

    def __init__(self, volume: Path, base: str, voices: Sequence[str]) -> None:
        from gateway.host import causal, factors
        from gateway.host.generator import Generator
        from gateway.host.tokenize import Tokenizer
        from gateway.lane import Lane

        below = judged(volume, base)
        self._words = Tokenizer(below)
        self._generator = Generator(causal.read(below, torch.float32))
        self.branches = [factors.read_branches(judged(volume, path, below), torch.float32) for path in voices]
        self._lane = Lane("device")

    def run(self, rows: Sequence[Asked]) -> Figures:
        return asyncio.run(self._run(rows))

    async def _run(self, rows: Sequence[Asked]) -> Figures:
        from gateway.host.talk import Talk

        async def run(advance: Callable[[], Any], requests: list[int]) -> Any:
            return await self._lane.run(advance)

        await self._lane.run(self._generator.clear)  # the last run ended before its last rows had left
        talk = Talk(self._generator, run, frozenset(), 1 << 20, time.monotonic)
        began = time.perf_counter()
        answers = [self._answer(number, each) for number, each in enumerate(rows)]
        await asyncio.gather(*map(talk.answer, answers))
        return figures(rows, began)

    def _answer(self, number: int, each: Asked) -> Any:
        from gateway.host.generator import Row
        from gateway.host.prose import Prose
        from gateway.host.sampling import Sampler
        from gateway.host.talk import Answer
        from gateway.host.wire import Sampling

        sampler = Sampler(Sampling(), torch.device("cpu"))
        owner = None if each.voice is None else self.branches[each.voice]
        row = Row(number, each.prompt, sampler, owner)
        return Answer(row, Prose(self._words.backend), each.tokens, lambda text, tokens, finish: None)


class Library:
    """transformers, and with adapters peft."""

    def __init__(self, base: str, voices: Sequence[str]) -> None:
        from transformers import AutoModelForCausalLM

        self._network: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
        self._network.generation_config.eos_token_id = None
        if voices:
            from peft import PeftModel

            self._network = PeftModel.from_pretrained(self._network, voices[0], adapter_name="0").eval()
            for number, path in enumerate(voices[1:], 1):
                self._network.load_adapter(path, str(number))

    def one_at_a_time(self, rows: Sequence[Asked]) -> Figures:
        began = time.perf_counter()
        for each in rows:
            self._generate([each])
        return figures(rows, began)

    def padded(self, rows: Sequence[Asked]) -> Figures:
        """All in one batch, which goes on until the longest is done."""
        began = time.perf_counter()
        self._generate(rows)
        return figures(rows, began)

    def paged(self, rows: Sequence[Asked]) -> Figures:
        """`generate_batch`: its own continuous batching, whose answers are all of one length."""
        from transformers import GenerationConfig

        settings = GenerationConfig(max_new_tokens=rows[0].tokens, do_sample=False, eos_token_id=-1, pad_token_id=0)
        began = time.perf_counter()
        found = self._network.generate_batch([each.prompt for each in rows], generation_config=settings)
        made = sum(len(each.generated_tokens) for each in found.values())
        if made != sum(each.tokens for each in rows):
            raise RuntimeError(f"generate_batch made {made} tokens")
        return figures(rows, began)

    def swapping(self, rows: Sequence[Asked]) -> Figures:
        """One adapter at a time, its rows in one padded batch."""
        began = time.perf_counter()
        for voice in dict.fromkeys(each.voice for each in rows):
            self._network.set_adapter(str(voice))
            self._generate([each for each in rows if each.voice == voice])
        return figures(rows, began)

    def named(self, rows: Sequence[Asked]) -> Figures:
        """peft's `adapter_names`: all in one padded batch."""
        began = time.perf_counter()
        self._generate(rows, adapter_names=[str(each.voice) for each in rows])
        return figures(rows, began)

    def _generate(self, rows: Sequence[Asked], **more: Any) -> None:
        longest = max(len(each.prompt) for each in rows)
        ids = torch.tensor([[0] * (longest - len(each.prompt)) + each.prompt for each in rows])
        mask = torch.tensor([[0] * (longest - len(each.prompt)) + [1] * len(each.prompt) for each in rows])
        tokens = max(each.tokens for each in rows)
        with torch.inference_mode():
            self._network.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=tokens,
                min_new_tokens=tokens,
                do_sample=False,
                pad_token_id=0,
                **more,
            )


def figures(rows: Sequence[Asked], began: float) -> Figures:
    seconds = time.perf_counter() - began
    return {TOKENS: sum(each.tokens for each in rows) / seconds, "texts_per_second": len(rows) / seconds}


def judged(volume: Path, path: str, base: Any = None) -> Any:
    """What the gateway makes of a directory. Raises RuntimeError where it would be refused."""
    from gateway.model import Accepted, Generation
    from gateway.volume.manifest import judge

    verdict = judge(path, root=str(volume))
    if not isinstance(verdict, Accepted):
        raise RuntimeError(f"{path}: {verdict}")  # noqa: TRY004  # what the directory holds is wrong, and no type
    return Generation(digest=path, path=path, manifest=verdict.manifest, base=base)


def tensor_bytes(path: str) -> int:
    """Of an adapter's file, without its header."""
    with open(Path(path, ADAPTER), "rb") as stream:
        head = int.from_bytes(stream.read(8), "little")
        json.loads(stream.read(head))
        return os.path.getsize(stream.name) - 8 - head
