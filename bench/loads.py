"""Models that come and go: a load from the page cache, a return from host memory, and a swap while requests run.

A gateway that may hold one model is asked for two in turn, so that each `load` evicts one and brings the other. What a
cold disk costs is the disk's own, and is not measured: the page cache cannot be dropped without a right to.
"""

from __future__ import annotations

import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final

from bench import directories, tensors, texts
from bench.generator import drive, target
from bench.rounds import told
from bench.servers import MODEL, Gateway, ServerFailed, ask, gateway
from bench.setting import Setting

OTHER: Final = "bench/other"
ROUND_TRIPS: Final = 6
CONNECTIONS: Final = 8
SHAPES: Final[dict[str, dict[str, int]]] = {"MiniLM": {}, "BERT-base, random": {"vocab_size": 30522}}
PATIENCE: Final = 300.0  # seconds in which a swap must have happened


def run(setting: Setting) -> dict[str, Any]:
    """Seconds of loads for each size of model, and what swaps do to requests."""
    sizes = list(SHAPES)[:1] if setting.quick else list(SHAPES)
    return {"sizes": {name: _size(name, setting) for name in sizes}, "swaps": _swaps(setting)}


def _size(name: str, setting: Setting) -> dict[str, Any]:
    folder = setting.own("loads") / name.split(",", maxsplit=1)[0]
    volume = folder / "models"
    for number, model in enumerate((MODEL, OTHER)):
        if SHAPES[name]:
            directories.publish_random(volume, model, seed=number, **SHAPES[name])
        else:
            directories.publish(volume, model, number)
    file = volume / MODEL / "model.safetensors"
    size = file.stat().st_size
    disk = _turns(folder / "disk", volume, "--host-memory-budget=0", setting=setting)
    memory = _turns(folder / "memory", volume, f"--host-memory-budget={4 * size}", setting=setting)
    alone = tensors.seconds(file, ROUND_TRIPS)
    told(f"loads of {name}")
    return {"bytes": size, "tensors_alone": alone, "from_page_cache": disk, "from_host_memory": memory}


def _turns(folder: Path, volume: Path, option: str, setting: Setting) -> dict[str, Any]:
    """Seconds of each load as the client waited for it, and as the host told it; how many did not need the disk. Then
    seconds of a request with one short text for a model that is not loaded: what a client sees of all that a load puts
    off."""
    options = ["--max-loaded-models=1", option, *setting.gateway_options]
    with gateway(folder, volume, *options, names=[MODEL, OTHER]) as served:
        for model in (MODEL, OTHER):  # once each beforehand: what is imported and converted once is no part of it
            _load(served, model)
        before = len(served.told("generation_loaded"))
        waited = [_load(served, model) for _ in range(ROUND_TRIPS // 2) for model in (MODEL, OTHER)]
        records = served.told("generation_loaded")[before:]
        answered = [_first_answer(served, model) for _ in range(ROUND_TRIPS // 2) for model in (MODEL, OTHER)]
    return {
        "answered": answered,
        "waited": waited,
        "told": [record["seconds"] for record in records],
        "returned": sum(bool(record.get("returned")) for record in records),
    }


def _load(served: Gateway, model: str) -> float:
    began = time.perf_counter()
    status, answer = ask(served.url, f"/models/{model}/load", {})
    if status != 200:
        raise served.failed(f"load of {model}: {status} {answer}")
    return time.perf_counter() - began


def _first_answer(served: Gateway, model: str) -> float:
    (text,) = texts.of_tokens(16, 1)
    began = time.perf_counter()
    status, answer = ask(served.url, "/embed", {"inputs": text, "model": model})
    if status != 200:
        raise served.failed(f"first request for {model}: {status} {answer}")
    return time.perf_counter() - began


def _swaps(setting: Setting) -> dict[str, Any]:
    """Requests without and with swaps of their model: p50, p99, and how many were not answered with 200."""
    folder = setting.own("swaps")
    directories.publish(folder / "models", MODEL)
    seconds = 5 * setting.seconds
    batches = [texts.of_tokens(16, 1, seed) for seed in range(16)]
    with gateway(folder, folder / "models", *setting.gateway_options) as served:
        load = partial(drive, target(served.url, batches), CONNECTIONS, seconds, served)
        load()
        calm = load()
        with ThreadPoolExecutor(1) as thread:
            running = thread.submit(load)
            took: list[float] = []
            while not (took and running.done()):
                took.append(_swap(served, folder / "models", len(took) + 1))
            shaken = running.result()
    told(f"{len(took)} swaps under load")
    return {"without": calm, "with": shaken, "swaps": len(took), "until_live": statistics.median(took)}


def _swap(served: Gateway, volume: Path, number: int) -> float:
    """New content, until it answers; seconds from its appearance on the volume."""
    before = served.listed(MODEL)["generation"]
    directories.publish(volume, MODEL, number)
    began = time.perf_counter()
    while served.listed(MODEL)["generation"] == before:
        if time.perf_counter() - began > PATIENCE:
            raise ServerFailed(f"no swap within {PATIENCE:.0f} s")
        time.sleep(0.02)
    return time.perf_counter() - began
