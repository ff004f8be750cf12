"""The gateway as a user starts it: its own process, its own process group, spoken to over HTTP.

What it says on standard error is kept as records, so that a test waits for what was told and never for a time.
However a test ends, no process of it is left.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, Final, Self

import aiohttp
import numpy as np
import numpy.typing as npt

DEADLINE: Final = 300.0  # seconds; generous, it only ends a test that hangs
GLANCE: Final = 0.02  # seconds between looks at the gateway's own listing


class GatewayFailed(AssertionError):
    """The gateway ended, or did not do in time what was waited for; the message has the end of its log."""


class RunningGateway:
    """`async with RunningGateway(models_dir, state_dir)`; further options go to `gateway serve` as they are.

    `log` holds the records of its log so far, `session` speaks to it: paths are relative to its `url`.
    """

    def __init__(self, models_dir: Path, state_dir: Path, *options: str, environment: dict[str, str] | None = None):
        self.command = [sys.executable, "-m", "gateway", "serve", "--host=127.0.0.1", "--port=0", "--log-format=json"]
        self.command += [f"--models-dir={models_dir}", f"--state-dir={state_dir}", *options]
        self.environment = {**os.environ, "HF_HUB_OFFLINE": "1", **(environment or {})}
        self.log: list[dict[str, Any]] = []
        self.url = ""
        self.headers: dict[str, str] = {}  # of every request that names none itself
        self._told = asyncio.Condition()
        self._ended = False

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            *self.command, env=self.environment, stderr=asyncio.subprocess.PIPE, start_new_session=True, limit=2**24
        )
        self._reader = asyncio.create_task(self._read_log())
        try:
            self.url = (await self.wait_for_log("listening"))["url"]
            self.session = aiohttp.ClientSession(
                self.url, timeout=aiohttp.ClientTimeout(DEADLINE), headers=self.headers
            )
            await self._wait_until_ready()
        except BaseException:
            await self._kill()
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *failure: object) -> None:
        try:
            if kind is None and self._process.returncode is None:
                await self.stop()
        finally:
            await self._kill()

    @property
    def pid(self) -> int:
        return self._process.pid

    async def stop(self) -> None:
        """SIGTERM, as a supervisor sends it: the gateway ends with status 0, leaves no child behind, and nothing that
        hears of events has failed, which no request shows."""
        children = descendants(self.pid)
        self._process.terminate()
        async with asyncio.timeout(DEADLINE):
            status = await self._process.wait()
        if status != 0:
            raise GatewayFailed(f"exit status {status} after SIGTERM\n{self._end_of_log()}")
        if left := [pid for pid in children if is_running(pid)]:
            raise GatewayFailed(f"processes that outlived the gateway: {left}\n{self._end_of_log()}")
        if broken := [each["message"] for each in self.log if each.get("code") == "subscriber_failed"]:
            raise GatewayFailed("\n".join(broken))

    async def kill(self) -> None:
        """SIGKILL, as the kernel sends it when memory runs out. Returns when the gateway has ended."""
        self._process.kill()
        async with asyncio.timeout(DEADLINE):
            await self._process.wait()

    async def deafen(self) -> None:
        """Its log is read no more: whoever collected it has gone. Returns when that is so."""
        transport = self._process._transport.get_pipe_transport(2)  # type: ignore[attr-defined]  # there is no other way
        transport.close()
        async with asyncio.timeout(DEADLINE):
            await asyncio.shield(self._reader)

    async def ended(self) -> int:
        """Its exit status, once it has ended."""
        async with asyncio.timeout(DEADLINE):
            return await self._process.wait()

    async def embed(self, texts: list[str], model: str | None = None) -> tuple[npt.NDArray[np.float32], str]:
        """The vectors, one row for each text, and the generation that made them. Anything but 200 fails the test."""
        status, body = await self.try_embed(texts, model)
        if status != 200:
            raise GatewayFailed(f"POST /embed for {model}: {status} {body}\n{self._end_of_log()}")
        return np.array(body["embeddings"], dtype=np.float32), body["generation"]

    async def try_embed(self, texts: list[str], model: str | None = None) -> tuple[int, dict[str, Any]]:
        """Status and body, whatever they are."""
        body = {"inputs": texts} | ({"model": model} if model else {})
        async with self.session.post("/embed", json=body) as answer:
            return answer.status, await answer.json()

    async def models(self) -> dict[str, dict[str, Any]]:
        """`GET /models`, by id."""
        async with self.session.get("/models") as answer:
            assert answer.status == 200, await answer.text()
            return {model["id"]: model for model in (await answer.json())["models"]}

    async def wait_for(self, model: str, *states: str) -> dict[str, Any]:
        """The listing of `model` as soon as it is in one of `states`."""
        listed: dict[str, Any] | None = None
        try:
            async with asyncio.timeout(DEADLINE):
                while listed is None or listed["state"] not in states:
                    self._must_run()
                    await asyncio.sleep(GLANCE)
                    listed = (await self.models()).get(model)
        except TimeoutError:
            raise GatewayFailed(f"{model} is {listed}, not {' or '.join(states)}\n{self._end_of_log()}") from None
        return listed

    async def wait_for_log(self, event: str, *, after: int = 0, **fields: Any) -> dict[str, Any]:
        """The first record of that event with these fields, from the `after`-th record on."""

        def find() -> dict[str, Any] | None:
            wanted = {"event": event, **fields}.items()
            return next((each for each in self.log[after:] if wanted <= _flat(each).items()), None)

        try:
            async with asyncio.timeout(DEADLINE), self._told:
                await self._told.wait_for(lambda: find() is not None or self._ended)
        except TimeoutError:
            raise GatewayFailed(f"never logged: {event} {fields}\n{self._end_of_log()}") from None
        if (found := find()) is None:
            raise GatewayFailed(f"ended before it logged {event} {fields}\n{self._end_of_log()}")
        return found

    async def _wait_until_ready(self) -> None:
        async with asyncio.timeout(DEADLINE):
            while True:
                self._must_run()
                async with self.session.get("/readyz") as answer:
                    if answer.status == 200:
                        return
                await asyncio.sleep(GLANCE)

    async def _read_log(self) -> None:
        assert self._process.stderr is not None
        async for line in self._process.stderr:
            record = _record(line.decode(errors="replace").rstrip())
            async with self._told:
                self.log.append({"seen": time.monotonic(), **record})
                self._told.notify_all()
        async with self._told:
            self._ended = True
            self._told.notify_all()

    def _must_run(self) -> None:
        if self._process.returncode is not None:
            raise GatewayFailed(f"ended with status {self._process.returncode}\n{self._end_of_log()}")

    def _end_of_log(self) -> str:
        return "\n".join(json.dumps(record) for record in self.log[-40:])

    async def _kill(self) -> None:
        """Whatever still runs of it. Its hosts are found as its children, should they be in groups of their own."""
        if self._process.returncode is None:
            for pid in descendants(self.pid):
                _kill(pid)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        await self._process.wait()
        await asyncio.wait({self._reader}, timeout=DEADLINE)
        if session := getattr(self, "session", None):
            await session.close()


def _record(line: str) -> dict[str, Any]:
    """A line that is no record (a warning of a library, a traceback) is kept too: failures show it."""
    try:
        record = json.loads(line)
    except ValueError:
        return {"text": line}
    return record if isinstance(record, dict) else {"text": line}


def _flat(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if isinstance(value, str | int | float | bool | None)}


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def descendants(pid: int) -> list[int]:
    """Children of `pid`, theirs, and so on."""
    found: list[int] = []
    for listing in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # that thread is gone
            found += [int(child) for child in listing.read_text().split()]
    return found + [below for child in found for below in descendants(child)]


def is_running(pid: int) -> bool:
    """False for a zombie too: it has ended, and waits for its parent to read its status."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
