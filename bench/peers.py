"""Other servers on the same machine with the same model, texts and load: one short text a request, float32, JSON.

All servers are up at once and only one has work at any time. Every cell measures all of them right after one another,
and a ratio is taken inside its round.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from bench import directories, texts
from bench.environments import Environment, NotInstalled, demand
from bench.generator import Target, drive
from bench.generator import target as gateway_target
from bench.http import GATEWAY, VARIETY, runtime_of
from bench.machine import library
from bench.rounds import Measure, interleaved, told
from bench.servers import MODEL, Server, ServerFailed, ask, free_port, gateway
from bench.setting import Setting

CONNECTIONS: Final = (1, 8, 32, 64)
QUICK: Final = (1, 64)
INFINITY: Final = "infinity-emb[torch,server]==0.0.78"  # the newest there is
INFINITY_ONNX: Final = "infinity-emb[torch,server,optimum]==0.0.78"
HERE: Final = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Peer:
    """How a server is installed, started and asked. `command` gets the programs' folder, the model and the port;
    `prepare` the programs, the model and a folder, and gives the model as this server wants it: it starts there."""

    name: str
    environment: Environment
    command: Callable[[Path, Path, int], list[str]]
    path: str
    body: Callable[[Sequence[str]], dict[str, Any]]
    prepare: Callable[[Path, Path, Path], Path] = lambda programs, model, folder: model

    def start(self, setting: Setting, model: Path, folder: Path) -> Server:
        """Answers when this returns. Raises NotInstalled or ServerFailed."""
        port = free_port()
        programs = self.environment.ensure(setting.cache)
        wanted = self.prepare(programs, model, folder)
        own = {"MODEL": str(wanted), "DO_NOT_TRACK": "1", "PYTHONPATH": ""}
        server = Server(self.command(programs, wanted, port), folder / f"{self.environment.name}.log", own, wanted)
        server.url = f"http://127.0.0.1:{port}"
        try:
            server.wait_until_answered(self.path, self.body(["warm"]))
        except ServerFailed:
            server.stop()
            raise
        return server

    def aim(self, server: Server, batches: Sequence[Sequence[str]]) -> Target:
        bodies = tuple(json.dumps(self.body(batch)) for batch in batches)
        return Target(f"{server.url}{self.path}", bodies, len(batches[0]))


def _wrapper(programs: Path, model: Path, port: int) -> list[str]:
    return [str(programs / "uvicorn"), f"--app-dir={HERE}", "--port", str(port), "--no-access-log", "wrapper:app"]


def _infinity(programs: Path, model: Path, port: int) -> list[str]:
    return [*_any_infinity(programs, port), "--model-id", str(model), "--engine", "torch", "--dtype", "float32"]


def _infinity_onnx(programs: Path, model: Path, port: int) -> list[str]:
    """It starts in the model's folder: optimum finds no file by the whole path that Infinity would give it. Left to
    itself this engine takes the first token's vector, which is not what the model's directory says."""
    return [*_any_infinity(programs, port), "--model-id", ".", "--engine", "optimum", "--pooling-method", "mean"]


def _any_infinity(programs: Path, port: int) -> list[str]:
    command = [str(programs / "infinity_emb"), "v2", "--served-model-name", "m", "--device", "cpu", "--no-compile"]
    return [*command, "--no-bettertransformer", "--no-model-warmup", "--host", "127.0.0.1", "--port", str(port)]


def _with_onnx(programs: Path, model: Path, folder: Path) -> Path:
    """The model with its network as ONNX in float32, written by optimum. Raises NotInstalled."""
    target, exported = folder / "with-onnx", folder / "exported"
    shutil.copytree(model, target)
    export = [str(programs / "optimum-cli"), "export", "onnx", "--model", str(model), "--library", "transformers"]
    demand(*export, "--task", "feature-extraction", str(exported))
    shutil.copy(exported / "model.onnx", target)
    return target


PEERS: Final = (
    Peer(
        "FastAPI + encode",
        Environment(
            "wrapper", (f"sentence-transformers=={library('sentence-transformers')}", "fastapi", "uvicorn[standard]")
        ),
        _wrapper,
        "/embed",
        lambda batch: {"inputs": list(batch)},
    ),
    Peer(
        "Infinity, torch",
        Environment("infinity", (INFINITY,)),
        _infinity,
        "/embeddings",
        lambda batch: {"model": "m", "input": list(batch)},
    ),
    Peer(
        "Infinity, ONNX",
        Environment("infinity-onnx", (INFINITY_ONNX, "onnx")),
        _infinity_onnx,
        "/embeddings",
        lambda batch: {"model": "m", "input": list(batch)},
        _with_onnx,
    ),
)


def run(setting: Setting) -> dict[str, Any]:
    """Rates and latencies of the gateway and of every peer over connections; the peers that are not there, and why."""
    folder = setting.own("peers")
    directory = directories.publish(folder / "models", MODEL)
    absent: dict[str, str] = {}
    versions: dict[str, dict[str, str]] = {}
    aims: dict[str, tuple[Target, Server]] = {}
    batches = [texts.of_tokens(16, 1, seed) for seed in range(VARIETY)]
    with gateway(folder, folder / "models", *setting.gateway_options) as served, ExitStack() as stack:
        what = runtime_of(served)
        aims[GATEWAY] = gateway_target(served.url, batches), served
        for peer in PEERS:
            try:
                server = peer.start(setting, directory, folder)
            except (NotInstalled, ServerFailed) as error:
                absent[peer.name] = str(error)
                told(f"{peer.name} is not there: {error}")
                continue
            stack.callback(server.stop)
            aims[peer.name] = peer.aim(server, batches), server
            versions[peer.name] = peer.environment.versions(setting.cache)
        cells = {_name(count): _cell(aims, count, setting) for count in (QUICK if setting.quick else CONNECTIONS)}
        measured = interleaved(cells, setting.rounds)
        cosines = {name: _cosine(aims[GATEWAY][0], aim) for name, (aim, _) in aims.items() if name != GATEWAY}
    return {"cells": measured, "absent": absent, "versions": versions, "cosines": cosines, "runtime": what}


def _cosine(ours: Target, theirs: Target) -> float:
    """The lowest over the texts of the load: whether both serve the same model."""
    pairs = zip(_vectors(ours), _vectors(theirs), strict=True)
    return min(float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)) for a, b in pairs)


def _vectors(aim: Target) -> list[npt.NDArray[np.float64]]:
    """Of one text of each request, in either shape of answer."""
    found = []
    for body in aim.bodies:
        status, answer = ask(aim.url, "", json.loads(body))
        if status != 200:
            raise ServerFailed(f"{aim.url}: {status} {answer}")
        found.append(np.array(answer["embeddings"][0] if "embeddings" in answer else answer["data"][0]["embedding"]))
    return found


def _name(connections: int) -> str:
    return f"{connections} connections"


def _cell(aims: dict[str, tuple[Target, Server]], connections: int, setting: Setting) -> dict[str, Measure]:
    return {name: partial(drive, aim, connections, setting.seconds, server) for name, (aim, server) in aims.items()}
