"""`kill -9` of the gateway at random points of an acceptance, a swap, a rollback and a pull, one after the other.

After each: no process of it is left, everything in the store with a name is whole, and the next gateway serves, from
its first answer on, the generation that was live or the one that was coming; later, what lies on the volume.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
import shutil
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp
import numpy as np

from bench.drop.endurance import contents
from bench.drop.endurance.contents import TEXTS, Content
from bench.drop.endurance.progress import Progress
from bench.drop.endurance.served import DEADLINE, GLANCE, Broken, Served, orphans
from gateway.volume.generations import DIGEST, Store
from tests.hub import Hub, Repository
from trainer.publish import publish

MODEL: Final = "finetuned/hot"
CONTENTS: Final = 4
KINDS: Final = ("accept", "swap", "rollback", "pull")
SPREAD: Final = 1.6  # kills fall into this many times what the action takes
LEAST_GUESS: Final = 0.1  # seconds that an action is thought to take at least: some find their work done
ORPHAN_SECONDS: Final = 60.0  # a busy machine takes its time to end them
EMBED_EVERY: Final = 4  # lives of which one is asked for vectors too


@dataclass
class Act:
    """What a gateway is killed in. `may` are the generations that the next one may serve `model` with at first (None:
    it may not be there yet), `must` the one that it must come to, if it must."""

    model: str
    may: set[str | None]
    must: str | None
    run: Callable[[], Awaitable[None]]
    coming: str | None = None  # what it would come to, if it need not
    again: Callable[[Served], Awaitable[object]] | None = None  # what a client would do, to get it after all


@dataclass
class Tally:
    kills: Counter[str] = field(default_factory=Counter)
    before: Counter[str] = field(default_factory=Counter)  # the next life began with what was live before
    after: Counter[str] = field(default_factory=Counter)  # or with what was coming
    staged: int = 0  # kills that left something half-made under a hidden name
    embeds: int = 0
    checked: int = 0  # generations whose every byte was read again
    to_listening: list[float] = field(default_factory=list)
    to_served: list[float] = field(default_factory=list)


class Kills:
    def __init__(self, folder: Path, found: list[Content], hub: Hub, chance: random.Random) -> None:
        self.tally = Tally()
        self._volume = folder / "models"
        self._state = folder / "state"
        self._contents = found
        self._hub = hub
        self._chance = chance
        self._number = 0
        self.took = dict.fromkeys(KINDS, LEAST_GUESS)
        self._last: tuple[str, Act, set[str]] | None = None  # what the last kill came into, and what it left staged
        self._volume.mkdir()

    def serve(self) -> Served:
        return Served(self._volume, self._state, f"--hub-endpoint={self._hub.url}", "--hub-offline=false")

    async def first(self) -> None:
        """A life that ends well enough: something is served, and each action is timed."""
        publish(self._contents[0].path, MODEL, self._volume)
        async with self.serve() as served:
            await self._comes_to(served, MODEL, self._contents[0].generation)
            await served.until_ready()
            for kind in ("swap", "accept", "pull", "rollback"):
                for _ in range(2):  # the first also pays for what is imported once
                    act = await self._act(kind, served)
                    began = time.monotonic()
                    await act.run()
                    if act.must:
                        await self._comes_to(served, act.model, act.must)
                    self.took[kind] = max(LEAST_GUESS, time.monotonic() - began)
            await self._vectors(served)

    async def one(self, kind: str) -> None:
        """A life: what the last one was killed in is brought to its end, and then this one is killed in `kind`."""
        began = time.monotonic()
        async with self.serve() as served:
            await self._first_answers(served, began)
            if kind in {"swap", "rollback"}:
                await served.until_ready()
            act = await self._act(kind, served)
            running = asyncio.ensure_future(act.run())
            await asyncio.sleep(self._chance.random() * SPREAD * self.took[kind])
            await served.kill()
            with contextlib.suppress(aiohttp.ClientError, Broken):  # its client sees the connection break
                await running
        self.tally.kills[kind] += 1
        if left := await orphans(served.pid, ORPHAN_SECONDS):
            raise served.broken(f"processes that outlived the gateway: {left}")
        self._demand_no_alarm(served)
        self._last = (kind, act, self._check_store())

    async def last(self) -> None:
        """The life after the last kill."""
        began = time.monotonic()
        async with self.serve() as served:
            await self._first_answers(served, began)
            await self._vectors(served)

    async def _first_answers(self, served: Served, began: float) -> None:
        if self._last is None:
            return
        kind, act, staged = self._last
        self.tally.to_listening.append(time.monotonic() - began)
        if left := staged & self._hidden():
            raise served.broken(f"half generations that a start did not sweep: {left}")
        entry, hot = await served.listed(act.model), await served.listed(MODEL)
        shown = entry["generation"] if entry else None
        if shown not in act.may:
            raise served.broken(f"after a kill in {kind}: {act.model} is {shown}, and may be {act.may}")
        if hot is None or hot["generation"] is None:
            raise served.broken(f"after a kill in {kind}: nothing serves {MODEL}")
        new = shown is not None and shown in {act.coming, act.must}
        (self.tally.after if new else self.tally.before)[kind] += 1
        if act.again:
            await act.again(served)
        if act.must:
            await self._comes_to(served, act.model, act.must)
        self.tally.to_served.append(time.monotonic() - began)
        if sum(self.tally.kills.values()) % EMBED_EVERY == 0:
            await self._vectors(served)
        self._demand_no_alarm(served)

    # What is done.

    async def _act(self, kind: str, served: Served) -> Act:
        self._number += 1
        hot = await served.listed(MODEL)
        assert hot is not None
        live = hot["generation"]
        match kind:
            case "swap":
                away = {live, *hot["rolled_back_from"]}  # what was rolled back from does not come back by itself
                content = self._chance.choice([each for each in self._contents if each.generation not in away])
                return Act(MODEL, {live, content.generation}, content.generation, self._publishing(content, MODEL))
            case "accept":
                content, model = self._chance.choice(self._contents), f"fresh/m{self._number}"
                shutil.rmtree(self._volume / "fresh", ignore_errors=True)  # what came before goes, too
                return Act(model, {None, content.generation}, content.generation, self._publishing(content, model))
            case "rollback" if hot["previous"]:
                target = self._chance.choice(hot["previous"])

                async def roll_back() -> None:
                    await served.post(f"/models/{MODEL}/rollback", {"to": target})

                return Act(MODEL, {live, target}, None, roll_back, coming=target)
            case "rollback":  # the last one was the end of the line: make something to go back from
                return await self._act("swap", served)
            case _:
                return self._pull(served)

    def _publishing(self, content: Content, model: str) -> Callable[[], Awaitable[None]]:
        async def run() -> None:
            await asyncio.to_thread(publish, content.path, model, self._volume)

        return run

    def _pull(self, served: Served) -> Act:
        content, model = self._chance.choice(self._contents), f"org/m{self._number}"
        shutil.rmtree(self._volume / "org", ignore_errors=True)
        self._hub.repositories[model] = Repository.of(content.path, seed=model)

        async def ask(gateway: Served) -> None:
            await gateway.post("/models/pull", {"model": model})

        return Act(model, {None, content.generation}, content.generation, lambda: ask(served), again=ask)

    # What must be true.

    async def _comes_to(self, served: Served, model: str, generation: str) -> None:
        entry: dict[str, Any] | None = None
        try:
            async with asyncio.timeout(DEADLINE):
                while entry is None or entry["generation"] != generation:
                    await asyncio.sleep(GLANCE)
                    entry = await served.listed(model)
        except TimeoutError:
            raise served.broken(f"{model} never came to {generation}: {entry}") from None

    async def _vectors(self, served: Served) -> None:
        """An answer is of one of the contents, and of the one that it names."""
        body = {"inputs": list(TEXTS), "model": MODEL}
        await served.until_ready()
        answer = await served.post("/embed", body)
        named = next((each for each in self._contents if each.generation == answer["generation"]), None)
        vectors = np.array(answer["embeddings"], dtype=np.float32)
        if named is None or not named.made(vectors, range(len(TEXTS))):
            raise served.broken(f"{answer['generation']} answered with vectors that are not its own")
        self.tally.embeds += 1

    def _check_store(self) -> set[str]:
        """What has a name in the store is what its name says; -> hidden names, which the next start must sweep."""
        store = Store(str(self._state))
        for digest in store.digests():
            if store.open(digest) is None or content_of(self._state / "generations" / digest / "files") != digest:
                raise Broken(f"half a generation has a name: {digest}")
            self.tally.checked += 1
        hidden = self._hidden()
        self.tally.staged += bool(hidden)
        return hidden

    def _hidden(self) -> set[str]:
        return {entry.name for entry in (self._state / "generations").iterdir() if not DIGEST.fullmatch(entry.name)}

    def _demand_no_alarm(self, served: Served) -> None:
        if served.alarms:
            raise served.broken("".join(served.alarms))


def content_of(folder: Path) -> str:
    """SHA-256 over sorted "path NUL sha256 newline" of the files below: what a generation is called."""
    lines = [
        f"{path.relative_to(folder)}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n"
        for path in folder.rglob("*")
        if path.is_file()
    ]
    return hashlib.sha256("".join(sorted(lines, key=lambda line: line.split("\0")[0])).encode()).hexdigest()


async def run(count: int, *, folder: Path, seed: int, quiet: bool) -> dict[str, Any]:
    """`count` kills, of each kind in turn. Raises Broken at the first promise that is not kept."""
    found = await asyncio.to_thread(contents.make, folder / "made", CONTENTS)
    progress = Progress("kills", count, quiet=quiet)
    async with Hub({}) as hub:
        kills = Kills(folder, found, hub, random.Random(seed))
        await kills.first()
        for number in range(count):
            await kills.one(KINDS[number % len(KINDS)])
            progress.show(number + 1)
        await kills.last()
    return _report(kills.tally, kills, seed)


def _report(tally: Tally, kills: Kills, seed: int) -> dict[str, Any]:
    listening, served = sorted(tally.to_listening), sorted(tally.to_served)
    return {
        "kills": sum(tally.kills.values()),
        "by_kind": dict(tally.kills),
        "began_with_the_old": dict(tally.before),
        "began_with_the_new": dict(tally.after),
        "left_something_staged": tally.staged,
        "generations_read_again": tally.checked,
        "embeds": tally.embeds,
        "orphans": 0,
        "listening_p50": listening[len(listening) // 2],
        "listening_longest": listening[-1],
        "served_longest": served[-1],
        "seconds_of_each": {kind: round(seconds, 3) for kind, seconds in kills.took.items()},
        "seed": seed,
    }
