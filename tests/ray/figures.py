"""What the tests of a cluster have seen, in figures, and where they look it up."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
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


async def heard(gateway: RunningGateway, after: int) -> None:
    """Until it has heard of all that replicas have done so far: what an unload tells comes behind all that. `after` as
    of the log."""
    listed = [model for model in (await gateway.models()).values() if model["state"] == "loaded"]
    for model in listed:
        async with gateway.session.post(f"/models/{model['namespace']}/{model['name']}/unload") as answer:
            assert answer.status == 200, await answer.text()
    for model in listed:
        await gateway.wait_for_log("generation_unloaded", after=after, generation=model["generation"])


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


def table(figures: dict[str, dict[str, Any]]) -> str:
    """As docs/scale.md has it."""
    f = figures
    per_node = lambda counts: "/".join(str(count) for count in counts)  # noqa: E731  # it has no use elsewhere
    rows = [
        ("what was done", "requests", "failed", "what was seen"),
        ("---", "---", "---", "---"),
        (
            f"{f['sticky']['models']} models, as many as fit, each asked for 10 times, at once and in random order",
            f["sticky"]["requests"],
            0,
            f"{per_node(f['sticky']['per_node'])} models on the nodes; {f['sticky']['loads']} loaded once more",
        ),
        (
            f"all {f['mixed']['models']}, by Zipf's law, with room for {f['mixed']['fits']}; 12 clients",
            f["mixed"]["requests"],
            f["mixed"]["failed"],
            f"{per_node(f['mixed']['per_node'])} models on the nodes; {f['mixed']['loads']} loads; "
            f"of the {f['mixed']['models_loaded']} models that were loaded "
            f"{f['mixed']['models_on_one_node']} always on the same node",
        ),
        (
            "a node killed (SIGKILL of its raylet) under load, later a new one added",
            f["node_killed"]["requests"],
            f["node_killed"]["failed"],
            f"the next 200 answers came within {f['node_killed']['seconds_for_200_answers']} s; the new node served "
            f"{f['node_killed']['seconds_until_a_new_node_serves']} s after it was started",
        ),
        (
            "a replica's process crashed (SIGSEGV) under load",
            f["replica_crashed"]["requests"],
            f["replica_crashed"]["failed"],
            f"it served again after {f['replica_crashed']['seconds_until_it_serves']} s",
        ),
        (
            "a host crashed (SIGSEGV) under load",
            f["host_crashed"]["requests"],
            f["host_crashed"]["failed"],
            f"its replica had another after {f['host_crashed']['seconds_until_it_serves']} s",
        ),
        (
            "a swap under load",
            f["swap"]["requests"],
            f["swap"]["failed"],
            f"{f['swap']['of_the_model']} answers of that model, each by the generation that it names",
        ),
        (
            f"a new model that {f['stale']['with_an_old_view']} of {f['stale']['nodes']} nodes do not see",
            f["stale"]["requests"],
            f["stale"]["failed"],
            "all answered by the third",
        ),
        (
            "two gateways, the same models, 12 clients",
            f["two_gateways"]["requests"],
            f["two_gateways"]["failed"],
            f"copies of the {f['two_gateways']['models']} models: {per_node(f['two_gateways']['copies'])}",
        ),
        (
            "another gateway's settings replace all replicas under load",
            f["replaced"]["requests"],
            f["replaced"]["failed"],
            "both gateways go on with the new ones",
        ),
        (
            "60 requests at once for a replica that takes 1, with 2 that may wait",
            f["back_pressure"]["requests"],
            f["back_pressure"]["requests"] - f["back_pressure"]["answered"] - f["back_pressure"]["refused"],
            f"{f['back_pressure']['answered']} answered, {f['back_pressure']['refused']} times 429 with `Retry-After`",
        ),
    ]
    return "\n".join("| " + " | ".join(str(cell) for cell in row) + " |" for row in rows)


BLOCK: Final = re.compile(r"(<!-- ray: make test-ray -->\n).*(<!-- /ray -->)", re.DOTALL)
PAGE: Final = Path(__file__).parents[2] / "docs/scale.md"

if __name__ == "__main__":
    seen = json.loads(REPORT.read_text())
    written = BLOCK.sub(lambda found: f"{found[1]}{table(seen)}\n{found[2]}", PAGE.read_text())
    if "--write" in sys.argv:
        PAGE.write_text(written)
    else:
        print(table(seen))
