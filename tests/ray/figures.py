"""What the tests of a cluster have seen, in figures, and where they look it up."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from tests.running import DEADLINE, RunningGateway

REPORT: Final = Path(__file__).parents[2] / "reports" / "ray.json"


def write(part: str, **figures: Any) -> None:
    """Into the report, in place of what that part said before."""
    REPORT.parent.mkdir(exist_ok=True)
    known = json.loads(REPORT.read_text()) if REPORT.exists() else {}
    REPORT.write_text(json.dumps(known | {part: figures}, indent=2) + "\n")


async def held(gateway: RunningGateway) -> dict[str, list[str]]:
    """By model: the devices that have it loaded."""
    listed = await gateway.models()
    return {name: model["devices"] for name, model in listed.items() if model["state"] == "loaded"}


def per_device(where: dict[str, list[str]]) -> Counter[str]:
    return Counter(device for devices in where.values() for device in devices)


async def until(condition: Callable[[], Awaitable[bool]]) -> float:
    """-> the seconds that it took."""
    began = time.monotonic()
    async with asyncio.timeout(DEADLINE):
        while not await condition():
            await asyncio.sleep(0.1)
    return time.monotonic() - began


async def devices(gateway: RunningGateway) -> dict[str, dict[str, Any]]:
    """Those that are up, by name."""
    async with gateway.session.get("/info", params={"model": "m00"}) as answer:
        body = await answer.json()
    assert answer.status == 200, body
    return {device["device"]: device for device in body["devices"] if device["up"]}


def replica_of(host: int) -> int:
    """The process that started a host: Serve's replica."""
    return int(Path(f"/proc/{host}/stat").read_text().rpartition(")")[2].split()[1])


def crash(pid: int) -> None:
    os.kill(pid, signal.SIGSEGV)
