"""Closed loops of clients: each connection sends its next request when the last one is answered.

The load comes from `bench.client`, which waits for what is in flight at the end; wrk throws that away, and of a slow
server it is most. That the generator does not limit a server is shown in three ways: the cores it took, its rate
`against_nothing`, and wrk (compiled) on the same cell where it is installed.
"""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.rounds import Figures
from bench.servers import Server, free_port

SCRIPT: Final = Path(__file__).with_name("wrk.lua")
FORMS: Final = {"json": "", "base64": "", "octets": "application/octet-stream"}
TIMEOUT: Final = 60  # seconds that one request may take


@dataclass(frozen=True, slots=True)
class Target:
    """Where requests go. `bodies` are sent in turn; `accept` is the Accept header, if any."""

    url: str
    bodies: tuple[str, ...]
    texts: int  # in one request
    accept: str = ""


def target(url: str, texts: Sequence[Sequence[str]], form: str = "json", models: Sequence[str] = ()) -> Target:
    """Requests to a gateway's `/embed`: one for each list of texts, and the models in turn."""
    bodies = []
    for number, inputs in enumerate(texts):
        body: dict[str, Any] = {"inputs": list(inputs)}
        body |= {"model": models[number % len(models)]} if models else {}
        body |= {"encoding_format": "base64"} if form == "base64" else {}
        bodies.append(json.dumps(body))
    return Target(f"{url}/embed", tuple(bodies), len(texts[0]), FORMS[form])


def has_wrk() -> bool:
    return shutil.which("wrk") is not None


def drive(aim: Target, connections: int, seconds: float, server: Server | None = None, *, wrk: bool = False) -> Figures:
    """texts_per_second, p50, p95 and p99 in seconds, refused and broken requests, and what it cost: CPU of the
    generator and of `server`, in cores. Raises RuntimeError when nothing was answered."""
    used = server.cpu_seconds() if server else 0.0
    before = _children()
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
        file.write("\n".join(aim.bodies))
        file.flush()
        command = _wrk if wrk else _client
        ran = subprocess.run(command(aim, connections, seconds, file.name), capture_output=True, text=True, check=False)
    found = [line for line in ran.stdout.splitlines() if line.startswith("JSON ")]
    if not found:
        raise RuntimeError(f"the load generator failed: {ran.stdout[-500:]} {ran.stderr[-500:]}")
    told = json.loads(found[0].removeprefix("JSON "))
    answered = told["requests"] - told["refused"]
    if answered <= 0:
        raise RuntimeError(f"no request was answered at {aim.url}: {told}")
    return {
        "texts_per_second": answered * aim.texts / told["seconds"],
        "requests_per_second": answered / told["seconds"],
        "p50": told["p50"],
        "p95": told["p95"],
        "p99": told["p99"],
        "refused": told["refused"],
        "broken": told["broken"],
        "generator_cores": told.get("cpu", _children() - before) / told["seconds"],
        "server_cores": (server.cpu_seconds() - used) / told["seconds"] if server else 0.0,
    }


def _wrk(aim: Target, connections: int, seconds: float, file: str) -> list[str]:
    command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", f"--timeout={TIMEOUT}s", "--latency"]
    return [*command, "-s", str(SCRIPT), aim.url, "--", file, *([aim.accept] if aim.accept else [])]


def _client(aim: Target, connections: int, seconds: float, file: str) -> list[str]:
    command = [sys.executable, "-m", "bench.client", "--url", aim.url, "--bodies", file, "--accept", aim.accept]
    return [*command, "--connections", str(connections), "--seconds", str(seconds)]


def _children() -> float:
    """CPU seconds of child processes that have ended: the generator is one."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def against_nothing(folder: Path, body: str, answer: int, connections: int, seconds: float) -> Figures:
    """The generator's own rate: against a server that reads requests and answers `answer` bytes, and does no more."""
    port = free_port()
    bare = Server([sys.executable, "-m", "bench.bare", str(port), str(answer)], folder / "bare.log")
    bare.url = f"http://127.0.0.1:{port}"
    try:
        bare.wait_until_answered("/", {})
        return drive(Target(bare.url, (body,), 1), connections, seconds, bare)
    finally:
        bare.stop()


def wrk_version() -> str:
    told = subprocess.run(["wrk", "--version"], capture_output=True, text=True, check=False)
    return (told.stdout or told.stderr).splitlines()[0].partition(" [")[0]
