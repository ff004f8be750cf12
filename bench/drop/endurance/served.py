"""A gateway in a process of its own, as a user starts it, that may be killed at any moment.

Of its log only the end is kept, for whoever must explain a failure: a long run under load writes millions of lines.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any, Final, Self

import aiohttp

DEADLINE: Final = (
    600.0  # seconds; generous, it only ends a run that hangs: a shared machine may take minutes for a host
)
GLANCE: Final = 0.01  # seconds between looks at what cannot be waited for
PROMPT: Final = ("--settle-seconds=0.05", "--settle-in-place-seconds=0.3", "--settle-writer-seconds=0.05")
ALARMS: Final = (b"ledger_unreadable", b"judge_failed", b'"level":"error"')


class Broken(AssertionError):
    """A promise was not kept; the message says which, and has the end of the gateway's log where that helps."""


class Served:
    """`async with Served(models_dir, state_dir)`: it listens; `until_ready` when a host is needed too."""

    def __init__(self, models_dir: Path, state_dir: Path, *options: str) -> None:
        self._command = [sys.executable, "-m", "gateway", "serve", "--host=127.0.0.1", "--port=0", "--log-format=json"]
        self._command += [f"--models-dir={models_dir}", f"--state-dir={state_dir}", *PROMPT, *options]
        self._end: deque[bytes] = deque(maxlen=40)
        self.alarms: list[str] = []  # lines of its log that no run may have

    async def __aenter__(self) -> Self:
        environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
        self._process = await asyncio.create_subprocess_exec(
            *self._command, env=environment, stderr=asyncio.subprocess.PIPE, start_new_session=True, limit=2**24
        )
        listening: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._reader = asyncio.create_task(self._read(listening))
        try:
            async with asyncio.timeout(DEADLINE):
                self.url = await listening
            self.session = aiohttp.ClientSession(
                self.url,
                timeout=aiohttp.ClientTimeout(DEADLINE),
                connector=aiohttp.TCPConnector(limit=0),
            )
        except BaseException:
            await self.kill()
            raise
        return self

    async def __aexit__(self, *failure: object) -> None:
        await self.kill()
        await self.session.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    async def until_ready(self) -> None:
        async with asyncio.timeout(DEADLINE):
            while True:
                async with self.session.get("/readyz") as answer:
                    if answer.status == 200:
                        return
                await asyncio.sleep(GLANCE)

    async def kill(self) -> None:
        """SIGKILL to the gateway alone: what becomes of its hosts is its own affair. Returns when it is dead."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGKILL)
        await self._process.wait()
        await asyncio.wait({self._reader}, timeout=DEADLINE)

    async def get(self, path: str) -> dict[str, Any]:
        """The JSON of a GET. Raises Broken for anything but 200."""
        return await self._ask("GET", path, None)

    async def post(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """The JSON of a POST. Raises Broken for anything but 200 and 202."""
        return await self._ask("POST", path, body)

    async def _ask(self, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        async with self.session.request(method, path, json=body) as answer:
            if answer.status not in {200, 202}:
                raise self.broken(f"{method} {path}: {answer.status} {await answer.text()}")
            document: dict[str, Any] = await answer.json()
            return document

    async def listed(self, model: str) -> dict[str, Any] | None:
        """The entry of `namespace/name` in `GET /models`."""
        models = (await self.get("/models"))["models"]
        return next((entry for entry in models if entry["id"] == f"huggingface:{model}"), None)

    def broken(self, message: str) -> Broken:
        return Broken(f"{message}\n{b''.join(self._end).decode(errors='replace')}")

    async def _read(self, listening: asyncio.Future[str]) -> None:
        assert self._process.stderr is not None
        async for line in self._process.stderr:
            if b'"event":"request"' not in line:
                self._end.append(line)
            if any(alarm in line for alarm in ALARMS):
                self.alarms.append(line.decode(errors="replace"))
            if not listening.done() and b'"listening"' in line:
                listening.set_result(json.loads(line)["url"])
        if not listening.done():
            listening.set_exception(self.broken("the gateway ended before it listened"))


def family(gateway: int) -> list[int]:
    """Living processes of a gateway's session, be it dead or alive itself: its hosts, its pulls, and theirs."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            with contextlib.suppress(OSError):  # it has gone
                state, _, _, session = (process / "stat").read_text().rpartition(")")[2].split()[:4]
                if int(session) == gateway and state != "Z" and int(process.name) != gateway:
                    found.append(int(process.name))
    return found


async def orphans(gateway: int, seconds: float) -> list[int]:
    """What a dead gateway leaves running for longer than `seconds`: nothing, when all is well."""
    end = time.monotonic() + seconds
    while (left := family(gateway)) and time.monotonic() < end:
        await asyncio.sleep(GLANCE)
    return left
