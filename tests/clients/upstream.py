"""A server of language models that is not ours: `transformers serve`, offline, with a tiny model made on the spot.

What it needs beyond this project's own packages is installed in an environment of its own, from a lock, and stands
before them on its path: torch and transformers are not installed twice.
"""

from __future__ import annotations

import asyncio
import os
import sys
import sysconfig
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import aiohttp

from tests.clients.environments import Python, made, said
from tests.ports import number, reserved
from tests.running import DEADLINE

TRAINED_ON: Final = "the ring holds the beam, and the beam is lost when the quadrupole trips"
START: Final = "from transformers.cli.transformers import main; main()"


class Beside(Python):
    """Exactly the packages of the lock, and behind them this interpreter's own."""

    @property
    def lock(self) -> Path:
        return Path(__file__).parent / "servers" / f"{self.name}.txt"

    def install(self, folder: Path, *, newest: bool = False) -> None:
        said([sys.executable, "-m", "venv", "--without-pip", str(folder)])
        install = ["install", "--quiet", "--no-compile", "--no-deps", "--only-binary=:all:", "-r", str(self.lock)]
        said([*self._pip(folder), *install])
        site = next(folder.glob("lib/python*/site-packages"))
        (site / "beside.pth").write_text(sysconfig.get_path("purelib") + "\n")


SERVER: Final = Beside("transformers")


def language_model(folder: Path) -> Path:
    """A Qwen2 of two small layers with random weights, and a tokenizer of bytes."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<eos>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator([TRAINED_ON], trainer)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<eos>")
    wrapped.chat_template = (
        "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}assistant:"
    )
    wrapped.save_pretrained(folder)
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = Qwen2Config(vocab_size=len(wrapped), num_key_value_heads=2, eos_token_id=0, pad_token_id=0, **shape)
    Qwen2ForCausalLM(config).save_pretrained(folder)
    return folder


@asynccontextmanager
async def transformers_serve(base: Path) -> AsyncIterator[tuple[str, str]]:
    """Its base URL and the name of its one model, for as long as the block lasts."""
    environment = await asyncio.to_thread(made, SERVER)
    model = str(await asyncio.to_thread(language_model, base / "tiny"))
    (base / "home/hub").mkdir(parents=True)  # without it /v1/models is a 500
    held = reserved()
    port = number(held)
    process = await asyncio.create_subprocess_exec(
        *(str(environment / "bin/python"), "-c", START, "serve", model),
        *("--host", "127.0.0.1", "--port", str(port), "--device", "cpu"),
        env={"PATH": os.environ["PATH"], "HOME": str(base), "HF_HOME": str(base / "home"), "HF_HUB_OFFLINE": "1"},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}/v1"
    try:
        async with asyncio.timeout(DEADLINE):
            await _listening(process, url)
        yield url, model
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        held.close()


async def _listening(process: asyncio.subprocess.Process, url: str) -> None:
    async with aiohttp.ClientSession() as session:
        while process.returncode is None:
            try:
                async with session.get(f"{url}/models") as answer:
                    assert answer.status == 200
                    return
            except aiohttp.ClientConnectionError:
                await asyncio.sleep(0.1)
    raise AssertionError(f"transformers serve has ended with status {process.returncode}")
