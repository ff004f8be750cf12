"""One name, swapped again and again under load: is any request lost, and is every answer of a generation that was
live while it was made?

Between two swaps there is a moment of rest, in which exactly one generation can be the right one; while a swap goes
on, from the publishing until it is told, the old and the new one can.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp
import numpy as np

from bench.drop.endurance import contents, gauges
from bench.drop.endurance.contents import TEXTS, Content
from bench.drop.endurance.progress import Progress
from bench.drop.endurance.served import DEADLINE, GLANCE, Served
from trainer.publish import publish

MODEL: Final = "finetuned/hot"
CLIENTS: Final = 16
CONTENTS: Final = 4  # more than the live one and the two earlier ones that are kept, so that the store is pruned too
LONGEST_REST: Final = 0.2  # seconds between two swaps, drawn anew each time
SHOWN: Final = 20  # failures that a report holds


@dataclass
class Life:
    """A content on the volume: `since` before it was published, `until` its successor was told live."""

    content: Content
    since: float
    until: float = float("inf")


@dataclass
class Load:
    """What the clients saw. `certain` answers came while exactly one generation could be live."""

    lives: list[Life] = field(default_factory=list)
    requests: int = 0
    certain: int = 0
    by_generation: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    going: asyncio.Event = field(default_factory=asyncio.Event)
    under_way: int = 0

    def live_between(self, began: float, ended: float) -> list[Content]:
        found = []
        for life in reversed(self.lives):
            if life.until < began:
                break
            if life.since <= ended:
                found.append(life.content)
        return found

    def judge(self, answer: dict[str, Any], texts: list[int], began: float, ended: float) -> None:
        """Holds one answer to the truth."""
        live = self.live_between(began, ended)
        self.requests += 1
        self.certain += len(live) == 1
        self.seconds.append(ended - began)
        vectors = np.array(answer["embeddings"], dtype=np.float32)
        named = next((content for content in live if content.generation == answer["generation"]), None)
        self.by_generation[answer["generation"]] += 1
        if answer["header"] != answer["generation"]:
            self.failures.append(f"header {answer['header']}, body {answer['generation']}")
        elif named is None:
            self.failures.append(f"{answer['generation']} answered; live were {[each.generation for each in live]}")
        elif not named.made(vectors, texts):
            self.failures.append(f"{answer['generation']} answered with vectors that are not its own")


async def client(served: Served, load: Load, chance: random.Random) -> None:
    """A closed loop of requests, while the load is `going`."""
    while True:
        await load.going.wait()
        texts = chance.sample(range(len(TEXTS)), chance.randint(1, 3))
        body = {"inputs": [TEXTS[text] for text in texts], "model": MODEL}
        load.under_way += 1
        began = time.monotonic()
        try:
            async with served.session.post("/embed", json=body) as response:
                answer = await response.json()
            if response.status == 200:
                answer["header"] = response.headers["X-Model-Generation"]
                load.judge(answer, texts, began, time.monotonic())
            else:
                load.failures.append(f"{response.status} {answer}")
        except (aiohttp.ClientError, TimeoutError) as error:
            load.failures.append(f"{type(error).__name__}: {error}")
        finally:
            load.under_way -= 1


class Swaps:
    """Publishes, and knows from the gateway's own events when the new generation is live."""

    def __init__(self, served: Served, load: Load, volume: Path, found: list[Content], chance: random.Random) -> None:
        self._served = served
        self._load = load
        self._volume = volume
        self._contents = found
        self._chance = chance
        self._told: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.seconds: list[float] = []
        self.done = 0

    async def listen(self, listening: asyncio.Event) -> None:
        """Follows `GET /events`."""
        async with self._served.session.get("/events", timeout=aiohttp.ClientTimeout(None)) as stream:
            listening.set()
            name = ""
            async for line in stream.content:
                if line.startswith(b"event: "):
                    name = line[7:].strip().decode()
                elif line.startswith(b"data: ") and name in {"model_swapped", "model_accepted", "model_rejected"}:
                    self._told.put_nowait({"event": name, **json.loads(line[6:])})

    async def swap(self) -> None:
        """The next content in turn; returns when it is live."""
        content = self._contents[self.done % len(self._contents)]
        self.done += 1
        began = time.monotonic()
        self._load.lives.append(Life(content, began))
        await asyncio.to_thread(publish, content.path, MODEL, self._volume)
        async with asyncio.timeout(DEADLINE):
            told = await self._told.get()
        if told["event"] == "model_rejected" or told["generation"] != content.generation:
            raise self._served.broken(f"swap {self.done}, to {content.generation}, ended in {told}")
        ended = time.monotonic()
        self.seconds.append(ended - began)
        if len(self._load.lives) > 1:
            self._load.lives[-2].until = ended

    async def several(self, count: int, progress: Progress | None = None) -> None:
        for number in range(count):
            await self.swap()
            await asyncio.sleep(self._chance.uniform(0, LONGEST_REST))
            if progress:
                progress.show(number + 1, f"{self._load.requests} answers, {len(self._load.failures)} failed")
            if len(self._load.failures) >= SHOWN:
                raise self._served.broken("\n".join(self._load.failures))


async def rest(served: Served, load: Load) -> dict[str, Any]:
    """Stops the load, and -> what is held when only the live generation is left. It has answered alone before."""
    certain = load.certain
    async with asyncio.timeout(DEADLINE):
        while load.certain == certain:
            await asyncio.sleep(GLANCE)
        load.going.clear()
        while True:
            entry = await served.listed(MODEL)
            device = (await served.get(f"/info?model={MODEL}"))["devices"][0]
            assert entry is not None
            if not load.under_way and entry["state"] == "loaded" and device["used"] == entry["bytes_on_device"]:
                break
            await asyncio.sleep(GLANCE)
    held = {
        "device_bytes": device["used"],
        "gateway": asdict(gauges.read(served.pid)),
        "host": asdict(gauges.read(device["pid"])),
        "host_restarts": device["restarts"],
    }
    load.going.set()
    return held


async def run(
    count: int, *, folder: Path, seed: int, warm_up: int, clients: int = CLIENTS, quiet: bool
) -> dict[str, Any]:
    """`count` swaps after `warm_up` others (both are rounded up to whole rounds of the contents, so that the same
    content is live at both ends)."""
    chance = random.Random(seed)
    found = await asyncio.to_thread(contents.make, folder / "made", CONTENTS, dim=64, layers=3)
    (volume := folder / "models").mkdir()
    count, warm_up = (-(-number // CONTENTS) * CONTENTS for number in (count, warm_up))
    load = Load()
    async with Served(volume, folder / "state") as served, asyncio.TaskGroup() as group:
        swaps = Swaps(served, load, volume, found, chance)
        await served.until_ready()
        listening = asyncio.Event()
        tasks = [group.create_task(swaps.listen(listening))]
        await listening.wait()
        await swaps.swap()  # the first is an acceptance
        load.going.set()
        tasks += [group.create_task(client(served, load, random.Random(chance.random()))) for _ in range(clients)]
        await swaps.several(warm_up)
        start = await rest(served, load)
        began, before = time.monotonic(), load.requests
        await swaps.several(count, Progress("swaps", count, quiet=quiet))
        took, answers = time.monotonic() - began, load.requests - before
        end = await rest(served, load)
        for task in tasks:
            task.cancel()
    return _report(load, swaps, start, end) | {
        "swaps": count,
        "warm_up": warm_up,
        "clients": clients,
        "seed": seed,
        "seconds": took,
        "answers": answers,
    }


def _report(load: Load, swaps: Swaps, start: dict[str, Any], end: dict[str, Any]) -> dict[str, Any]:
    latencies, swapping = sorted(load.seconds), sorted(swaps.seconds)
    return {
        "failed": len(load.failures),
        "failures": load.failures[:SHOWN],
        "answers_with_warm_up": load.requests,
        "answers_with_one_live_generation": load.certain,
        "answers_by_generation": dict(load.by_generation),
        "answer_p50": latencies[len(latencies) // 2],
        "answer_p99": latencies[int(len(latencies) * 0.99)],
        "answer_longest": latencies[-1],
        "swap_p50": swapping[len(swapping) // 2],
        "swap_longest": swapping[-1],
        "start": start,
        "end": end,
        "device_drift": end["device_bytes"] / start["device_bytes"] - 1,
        "host_drift": end["host"]["resident"] / start["host"]["resident"] - 1,
        "gateway_drift": end["gateway"]["resident"] / start["gateway"]["resident"] - 1,
    }
