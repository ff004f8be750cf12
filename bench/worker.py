"""One way to embed in a process of its own, asked over standard input, a line of JSON each time.

    python -m bench.worker encode DIRECTORY                 SentenceTransformer.encode, as a library user calls it
    python -m bench.worker torch/float32 DIRECTORY          our runtime, without a gateway around it
    python -m bench.worker openvino/bfloat16 DIRECTORY

Its first line says what it is, or why it cannot be. Texts are tokenized inside the measured time on either side.
"""

from __future__ import annotations

import base64
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from bench import texts
from gateway.host import runtimes
from gateway.host.encoder import Runtime
from gateway.host.generator import Generator
from gateway.host.tokenize import Tokenizer
from gateway.model import Accepted, Generation
from gateway.volume.manifest import judge
from gateway.wish import Wish

Vectors = npt.NDArray[np.float32]
Embed = Callable[[Sequence[str]], Vectors]
DEVICE: Final = "cpu"
VARIETY: Final = 8  # different batches that are embedded in turn


def library(path: str) -> Embed:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(path, device="cpu")

    def embed(batch: Sequence[str]) -> Vectors:
        return np.asarray(model.encode(list(batch)), dtype=np.float32)

    return embed


def runtime(path: str, kind: str, dtype: str) -> Embed:
    """As a host does it: tokenize, then the runtime. Raises RuntimeError when `kind` with `dtype` is not to be had."""
    generation = judged(path)
    tokenizer = Tokenizer(generation)
    loaded = _load(generation, kind, dtype)

    def embed(batch: Sequence[str]) -> Vectors:
        return loaded.embed(tokenizer.encode(batch))

    return embed


def judged(path: str) -> Generation:
    """What the gateway makes of a directory. Raises RuntimeError when it would be refused."""
    verdict = judge(path)
    if not isinstance(verdict, Accepted):
        raise RuntimeError(f"{path}: {verdict}")  # noqa: TRY004  # what the directory holds is wrong, and no type
    return Generation(digest="0" * 64, path=path, manifest=verdict.manifest)


def _load(generation: Generation, kind: str, dtype: str) -> Runtime:
    chosen = runtimes.load(generation, Wish(kind, dtype), DEVICE)
    if chosen.numerics.fell_back:
        raise RuntimeError(chosen.numerics.fell_back)
    runtime = chosen.runtime
    assert not isinstance(runtime, Generator), "an encoder is measured here"
    runtime.place(DEVICE)
    return runtime


def opened(what: str, path: str) -> Embed:
    if what == "encode":
        return library(path)
    kind, _, dtype = what.partition("/")
    return runtime(path, kind, dtype)


def rate(embed: Embed, question: dict[str, Any]) -> dict[str, float]:
    """Texts a second, CPU seconds of all threads for a text, and seconds of the median call."""
    batches = [_batch(question, seed) for seed in range(VARIETY)]
    embed(batches[0])
    calls: list[float] = []
    used, began = time.process_time(), time.perf_counter()
    while (start := time.perf_counter()) - began < question["seconds"] or not calls:
        embed(batches[len(calls) % VARIETY])
        calls.append(time.perf_counter() - start)
    done = len(calls) * len(batches[0])
    return {
        "texts_per_second": done / sum(calls),
        "cpu_per_text": (time.process_time() - used) / done,
        "p50": sorted(calls)[len(calls) // 2],
    }


def _batch(question: dict[str, Any], seed: int) -> list[str]:
    """`tokens` 0 is a mixture of lengths."""
    if question["tokens"]:
        return texts.of_tokens(question["tokens"], question["texts"], seed)
    return texts.mixed(question["texts"], seed)


def answered(embed: Embed, question: dict[str, Any]) -> dict[str, Any]:
    if "vectors" in question:
        vectors = embed(question["vectors"])
        return {"dim": vectors.shape[1], "data": base64.b64encode(vectors.astype("<f4").tobytes()).decode()}
    return rate(embed, question)


def main() -> None:
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints is no answer
    try:
        embed = opened(*sys.argv[1:])
        embed(["warm"])
    except Exception as error:  # told to who asked: it is what the report says of it
        print(json.dumps({"failed": f"{type(error).__name__}: {error}"[:300]}), file=answers)
        return
    print(json.dumps({"threads": torch.get_num_threads()}), file=answers)
    for line in sys.stdin:
        print(json.dumps(answered(embed, json.loads(line))), file=answers)


if __name__ == "__main__":
    main()
