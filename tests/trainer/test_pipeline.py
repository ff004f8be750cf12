"""The make targets of an earlier pipeline: pairs, a model, an endpoint that its clients ask."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest

from tests import making
from tests.running import DEADLINE, descendants
from trainer import drift, metadata, reload

ROOT = Path(__file__).parent.parent.parent
PAIRS = [(f"how is beam {number} stored", f"beam {number} lies in ring {number}") for number in range(24)]


@pytest.fixture
def make(tmp_path: Path) -> list[str]:
    """`make`, where everything is installed already: its python is this one, and its stamps are there."""
    venv = tmp_path / "venv"
    (venv / "bin").mkdir(parents=True)
    python = venv / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    python.chmod(0o755)
    key = subprocess.run(
        "cat pyproject.toml requirements.lock | cksum", shell=True, cwd=ROOT, capture_output=True, check=True
    )
    digits = key.stdout.split()[0].decode()
    for stamp in (".torch-2.13.0-cpu", f".demo-{digits}-cpu", f".train-{digits}-cpu"):
        (venv / stamp).touch()
    return ["make", "--no-print-directory", f"VENV={venv}", f"STATE={tmp_path / 'state'}"]


def environment() -> dict[str, str]:
    """Without what a `make test` around this one hands down."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS", "SERVE_", "PORT"))}
    return kept | {"HF_HUB_OFFLINE": "1"}


def command(make: list[str], *arguments: str) -> list[str]:
    """What a target would run, as words, without the path of the python."""
    done = subprocess.run(
        [*make, "-n", *arguments], cwd=ROOT, capture_output=True, text=True, check=False, env=environment()
    )
    assert done.returncode == 0, done.stderr
    words = shlex.split(done.stdout.replace("\\\n", " "))
    return words[words.index("-m") + 1 :]


def test_every_variable_of_embed_finetune_reaches_the_trainer(make: list[str]) -> None:
    given = ["DATA=p.tsv", "OUTPUT=models/o", "BASE=models/b", "EPOCHS=2", "BATCH=128", "LR=2e-5", "USE_LORA=1"]
    assert command(make, "embed-finetune", *given) == shlex.split(
        "trainer finetune --data p.tsv --output models/o --base-model models/b --epochs 2 --batch-size 128 --lr 2e-5 "
        "--use-lora"
    )


def test_what_is_not_given_to_embed_finetune_is_the_trainers_own_default(make: list[str]) -> None:
    assert command(make, "embed-finetune", "DATA=p.tsv", "OUTPUT=o", "USE_LORA=0") == shlex.split(
        "trainer finetune --data p.tsv --output o --base-model BAAI/bge-small-en-v1.5"
    )


def test_every_variable_of_embed_quantize_reaches_the_trainer(make: list[str]) -> None:
    assert command(make, "embed-quantize", "MODEL=m", "OUTPUT=o", "DTYPE=int4") == shlex.split(
        "trainer quantize m --output o --dtype int4"
    )


@pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("bitsandbytes", "accelerate"))), reason="bitsandbytes is not installed"
)
def test_embed_quantize_makes_a_smaller_model_as_documented(make: list[str], tmp_path: Path) -> None:
    documented = next(
        line for line in (ROOT / "docs" / "closed-loop.md").read_text().splitlines() if "make embed-quantize" in line
    )
    model, made = Path(making.encoder(tmp_path / "models" / "mine", dim=64)), tmp_path / "models" / "mine-int8"
    arguments = shlex.split(documented.replace("models/", f"{tmp_path}/models/"))[1:]
    done = subprocess.run([*make, *arguments], cwd=ROOT, capture_output=True, text=True, check=False, env=environment())
    assert done.returncode == 0, done.stderr
    quantization = metadata.read(made)["quantization"]
    assert quantization["form"] == "bnb-int8"
    texts = [question for question, _ in PAIRS]
    found = drift.between(*(reload.embed(each, texts) for each in (model, made)))
    assert found.cosine is not None
    assert 0.98 < found.cosine.mean < 1
    assert (made / "model.safetensors").stat().st_size < (model / "model.safetensors").stat().st_size


def test_every_variable_of_embed_serve_reaches_the_gateway(make: list[str], tmp_path: Path) -> None:
    given = ["MODEL=models/o", "PORT=8010", "HOST=0.0.0.0", "DEVICE=cpu", "CONCURRENCY=2", "BATCH=8"]
    assert command(make, "embed-serve", *given) == shlex.split(
        f"gateway serve --host 0.0.0.0 --port 8010 --models-dir {ROOT}/models --state-dir {tmp_path}/state-8010 "
        "--default-model o --device cpu --tokenizer-threads 2 --max-batch-texts 8"
    )


def test_embed_serve_listens_on_8000_unless_a_port_is_given(make: list[str]) -> None:
    words = command(make, "embed-serve", "MODEL=models/o")
    assert words[words.index("--port") + 1] == "8000"


@pytest.mark.parametrize(
    "arguments", [["embed-finetune", "DATA=p.tsv"], ["embed-quantize", "MODEL=m"], ["embed-serve"]]
)
def test_a_target_names_the_variable_that_it_needs(arguments: list[str], make: list[str]) -> None:
    done = subprocess.run([*make, *arguments], cwd=ROOT, capture_output=True, text=True, check=False, env=environment())
    assert done.returncode == 2
    assert f"{arguments[0]} needs" in done.stderr


async def test_from_pairs_to_an_endpoint_that_older_clients_ask(make: list[str], tmp_path: Path) -> None:
    data = tmp_path / "pairs.tsv"
    data.write_text("".join(f"{question}\t{answer}\n" for question, answer in PAIRS))
    base = making.encoder(
        tmp_path / "base", layers=1, words=sorted({word for pair in PAIRS for word in " ".join(pair).split()})
    )
    model = tmp_path / "models" / "test-embed"
    arguments = [f"DATA={data}", f"OUTPUT={model}", f"BASE={base}", "EPOCHS=1", "BATCH=8"]
    trained = subprocess.run(
        [*make, "embed-finetune", *arguments], cwd=ROOT, capture_output=True, text=True, check=False, env=environment()
    )
    assert trained.returncode == 0, trained.stderr

    words = [*make, "embed-serve", f"MODEL={model}", "PORT=0", "NORMALIZE=1", "ARGS=--log-format=json"]
    process = await asyncio.create_subprocess_exec(
        *words, cwd=ROOT, env=environment(), stderr=asyncio.subprocess.PIPE, start_new_session=True
    )
    url = asyncio.get_running_loop().create_future()
    reading = asyncio.create_task(follow(process, url))
    try:
        async with asyncio.timeout(DEADLINE), aiohttp.ClientSession(await url) as session:
            documented = await ask(session, "/embed", {"inputs": ["hello", "world"]})
            older = await ask(session, "/model/embed", {"texts": ["hello", "world"]})
        assert documented["dim"] == 32
        assert documented["embeddings"] == older["embeddings"]
        assert sum(x * x for x in documented["embeddings"][0]) == pytest.approx(1, abs=1e-5)
    finally:
        for pid in [*descendants(process.pid), process.pid]:
            terminate(pid)
        async with asyncio.timeout(DEADLINE):
            await reading
        await process.wait()


async def follow(process: asyncio.subprocess.Process, url: asyncio.Future[str]) -> None:
    """Reads its log to the end: a request is a line, and a gateway whose log nobody reads is held up by it."""
    assert process.stderr is not None
    async for line in process.stderr:
        if not url.done() and line.startswith(b"{") and json.loads(line).get("event") == "listening":
            url.set_result(str(json.loads(line)["url"]))
    if not url.done():
        url.set_exception(AssertionError("the gateway ended before it listened"))


async def ask(session: aiohttp.ClientSession, path: str, body: dict[str, list[str]]) -> dict[str, list[list[float]]]:
    """As soon as the model is served: until then it is unknown, or being loaded."""
    while True:
        async with session.post(path, json=body) as answer:
            if answer.status == 200:
                found: dict[str, list[list[float]]] = await answer.json()
                return found
            assert answer.status in {404, 409, 503}, await answer.text()
        await asyncio.sleep(0.05)


def terminate(pid: int) -> None:
    try:
        os.kill(pid, 15)
    except ProcessLookupError:
        return
