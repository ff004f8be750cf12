"""Servers under measurement, each in a process group of its own: our gateway as `gateway serve` starts it, and others.

A server is known by its URL and by the processes it consists of, whose CPU seconds and memory are read from /proc.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from bench.drop.endurance import gauges
from bench.drop.endurance.served import family
from bench.machine import cpu_seconds, running_seconds

DEADLINE: Final = 300.0  # seconds; it only ends a run that hangs
GLANCE: Final = 0.005
MODEL: Final = "bench/minilm"


class ServerFailed(RuntimeError):
    """It ended or never answered; the message has the end of what it said."""


class Server:
    """One running server. `log` has its standard output and error."""

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ) -> None:
        self.log = log
        self.url = ""
        self.began = time.monotonic()
        with log.open("wb") as stream:
            self._process = subprocess.Popen(
                command,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env={**os.environ, "HF_HUB_OFFLINE": "1", **(environment or {})},
                start_new_session=True,
                cwd=folder,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def processes(self) -> list[int]:
        """Its first process and all that came of it."""
        return [self.pid, *family(self.pid)]

    def cpu_seconds(self) -> float:
        total = 0.0
        for pid in self.processes():
            with contextlib.suppress(OSError):  # it has ended
                total += cpu_seconds(pid)
        return total

    def running_seconds(self) -> float:
        """As `cpu_seconds`, of the threads that are there now, and finer."""
        return sum(running_seconds(pid) for pid in self.processes())

    def resident(self) -> dict[str, int]:
        """Bytes of memory of the first process, and of the others together."""
        others = 0
        for pid in self.processes()[1:]:
            with contextlib.suppress(OSError):
                others += gauges.read(pid).resident
        return {"first": gauges.read(self.pid).resident, "others": others}

    def wait_until_answered(self, path: str, body: Any = None) -> float:
        """Seconds since the start at which `path` first answered 200. Raises ServerFailed."""
        end = time.monotonic() + DEADLINE
        while time.monotonic() < end:
            self.must_run()
            with contextlib.suppress(OSError):
                if self.url and ask(self.url, path, body)[0] == 200:
                    return time.monotonic() - self.began
            time.sleep(GLANCE)
        raise self.failed(f"{path} did not answer 200 within {DEADLINE:.0f} s")

    def must_run(self) -> None:
        if self._process.poll() is not None:
            raise self.failed(f"ended with status {self._process.returncode}")

    def failed(self, message: str) -> ServerFailed:
        end = self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-12:]
        return ServerFailed("\n".join([f"{self.log.stem}: {message}", *end]))

    def stop(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()


class Gateway(Server):
    """`gateway serve` on a free port, with the settings that users get unless `options` say otherwise."""

    def __init__(self, models: Path, state: Path, log: Path, *options: str) -> None:
        command = [sys.executable, "-m", "gateway", "serve", "--host=127.0.0.1", "--port=0", "--log-format=json"]
        command += [f"--models-dir={models}", f"--state-dir={state}", f"--default-model={MODEL}", *options]
        super().__init__(command, log)

    def wait_until_listening(self) -> float:
        """Seconds from the start until it said where it listens."""
        end = time.monotonic() + DEADLINE
        while time.monotonic() < end:
            self.must_run()
            if found := self.told("listening"):
                self.url = found[0]["url"]
                return time.monotonic() - self.began
            time.sleep(GLANCE)
        raise self.failed("never listened")

    def told(self, event: str) -> list[dict[str, Any]]:
        """The records of that event in its log so far."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        records = [json.loads(line) for line in lines if f'"{event}"' in line and line.endswith("}")]
        return [record for record in records if record["event"] == event]

    def listed(self, model: str) -> dict[str, Any]:
        """The entry of `namespace/name` in `GET /models`, empty while it is not there."""
        _, listing = ask(self.url, "/models")
        return next((entry for entry in listing["models"] if entry["id"] == f"huggingface:{model}"), {})

    def wait_until_served(self, model: str) -> None:
        """Returns when `model` answers: it has settled, was judged, and is loaded."""
        self.wait_until_answered("/embed", {"inputs": ["warm"], "model": model})


@contextmanager
def gateway(folder: Path, models: Path, *options: str, names: Sequence[str] = (MODEL,)) -> Iterator[Gateway]:
    """A gateway over `models` that has loaded every one of `names`. `folder` gets its state and its log."""
    folder.mkdir(parents=True, exist_ok=True)
    served = Gateway(models, folder / "state", folder / "gateway.log", *options)
    try:
        served.wait_until_listening()
        for name in names:
            served.wait_until_served(name)
        yield served
    finally:
        served.stop()


def ask(url: str, path: str, body: Any = None, timeout: float = DEADLINE) -> tuple[int, Any]:
    """Status and decoded body of one request: a GET, or a POST of `body` as JSON. Raises OSError."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{url}{path}", data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return answer.status, _decoded(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, _decoded(error.read())


def _decoded(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except ValueError:
        return raw


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
