"""Loads and unloads without end, through the engine that the gateway uses, in one host: what does it keep?

Many small models of several families, and a budget that holds few of them, so that nearly every request loads one
and evicts another. The second form asks for models whose load fails, each in a way of its own.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import os
import random
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import msgspec
from safetensors.torch import load_file, save_file

from bench.drop.endurance import gauges
from bench.drop.endurance.progress import Progress
from gateway import events
from gateway.engine.process import ProcessEngine
from gateway.engine.supervisor import HostProcess
from gateway.errors import GatewayError
from gateway.host.wire import Options
from gateway.model import Generation
from tests import making

FAMILIES: Final = ("bert", "distilbert", "roberta", "mpnet", "electra", "modernbert", "xlm-roberta", "t5")
TEXTS: Final = ["the beam is stored in the ring", "a query for the log", "x-ray"]
WORKERS: Final = 3  # requests at once, so that loads, leases and evictions overlap
ROOM: Final = 4  # models that fit into the budget: more than workers, or a lease could be evicted while it is busy
# As long as the run itself: beside what libraries keep once, CPython makes its table of interned strings anew, 4 MB
# larger and once for all, when 170,000 names have come and gone. That is some 9,000 loads of our models.
WARM_UP: Final = 1.0
LEAST_WARM_UP: Final = 40
SAMPLES: Final = 60
DEADLINE: Final = 600.0  # seconds for the host to come to rest; it only ends a run that hangs


def make(folder: Path, count: int) -> list[Generation]:
    """`count` models, of each family in turn."""
    made = []
    for number in range(count):
        family = FAMILIES[number % len(FAMILIES)]
        path = making.encoder(folder / f"{family}-{number}", family=family, seed=number, positions=64)
        made.append(_generation(path))
    return made


def break_each(generations: list[Generation]) -> list[Generation]:
    """The same directories, each broken behind the back of whoever judged it."""
    for generation, breaking in zip(generations, itertools.cycle(BREAKINGS), strict=False):
        breaking(Path(generation.path))
    return generations


def _generation(path: str) -> Generation:
    judged = making.generation(path)
    return msgspec.structs.replace(judged, digest=hashlib.sha256(path.encode()).hexdigest())


def _drop_a_tensor(path: Path) -> None:
    tensors = load_file(path / "model.safetensors")
    tensors.pop(min(name for name in tensors if "layer" in name or "block" in name))
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})


def _poison(path: Path) -> None:
    tensors = {name: tensor * float("nan") for name, tensor in load_file(path / "model.safetensors").items()}
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})


def _truncate(path: Path) -> None:
    os.truncate(path / "model.safetensors", (path / "model.safetensors").stat().st_size // 2)


def _remove_the_weights(path: Path) -> None:
    (path / "model.safetensors").unlink()


def _empty_the_tokenizer(path: Path) -> None:
    (path / "tokenizer.json").write_text("{}", encoding="utf-8")


BREAKINGS: Final[tuple[Callable[[Path], None], ...]] = (
    _drop_a_tensor,
    _poison,
    _truncate,
    _remove_the_weights,
    _empty_the_tokenizer,
)


class Run:
    """One host, and what it told."""

    def __init__(self, generations: list[Generation]) -> None:
        self.loaded = self.unloaded = self.failed = 0
        tell = events.Events()
        tell.subscribe(self._heard)
        self.size = max(generation.manifest.parameters * 4 for generation in generations)
        config = {"device": "cpu", "memory_budget": ROOM * self.size, "compute_threads": 1, "tokenizer_threads": 2}
        self.host = HostProcess("cpu", msgspec.json.encode(config), tell, hang_timeout=600, load_timeout=600)
        self.engine = ProcessEngine(
            [self.host], tell, names=lambda digest: (), predict=lambda generation: generation.manifest.parameters * 4
        )
        self.engine.keep(generations, ())

    def _heard(self, event: events.Event) -> None:
        self.loaded += isinstance(event, events.GenerationLoaded)
        self.unloaded += isinstance(event, events.GenerationUnloaded)
        self.failed += isinstance(event, events.LoadFailed)

    @property
    def held(self) -> int:
        return self.loaded - self.unloaded

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        supervision = asyncio.create_task(self.host.supervise())
        try:
            async with asyncio.timeout(DEADLINE):
                await self.host.wait_until_up()
            yield
        finally:
            await self.host.stop()
            supervision.cancel()
            with suppress(asyncio.CancelledError):
                await supervision

    async def rest(self) -> gauges.Gauges:
        """The host's gauges with nothing loaded and nothing under way."""
        async with asyncio.timeout(DEADLINE):
            for digest in list(self.host.residents):
                await self.engine.unload(digest)
            while self.host.residents or self.host.residency.used or self.held:
                await asyncio.sleep(0.01)
        assert self.host.pid is not None
        return gauges.read(self.host.pid)


async def run(count: int, *, folder: Path, models: int, seed: int, failing: bool, quiet: bool) -> dict[str, Any]:
    """`count` loads (or failures) over `models` models; -> what the host held, and by how much it drifted."""
    generations = make(folder / "models", models)
    if failing:
        generations = break_each(generations)
    order = _order(generations, random.Random(seed))
    cycles = Run(generations)
    async with cycles.running():
        samples = await _measure(cycles, order, count, failing, Progress(_name(failing), count, quiet=quiet))
        restarts = cycles.host.restarts
    shutil.rmtree(folder / "models")
    return _report(cycles, samples, restarts, seed, models)


def _name(failing: bool) -> str:
    return "failing loads" if failing else "loads"


def _order(generations: list[Generation], chance: random.Random) -> Iterator[Generation]:
    """In ever new orders, and never one that is loaded still."""
    recent: list[Generation] = []
    while True:
        generation = chance.choice([each for each in generations if each not in recent])
        recent = [*recent, generation][-min(len(generations) - 1, 2 * ROOM) :]
        yield generation


async def _measure(
    cycles: Run, order: Iterator[Generation], count: int, failing: bool, progress: Progress
) -> list[gauges.Gauges]:
    warm_up = max(LEAST_WARM_UP, int(count * WARM_UP))
    step = max(1, count // SAMPLES)
    samples = []
    done = -warm_up
    while done < count:
        size = warm_up if done < 0 else min(step, count - done)
        await _spend(cycles, order, size, failing)
        done += size
        samples.append(await cycles.rest())
        progress.show(done, f"{samples[-1].resident / 1e6:.1f} MB resident")
    return samples


async def _spend(cycles: Run, order: Iterator[Generation], count: int, failing: bool) -> None:
    """`count` cycles, a few at once."""
    left = iter(range(count))

    async def work() -> None:
        for _ in left:
            await (_fail if failing else _embed)(cycles, next(order))

    await asyncio.gather(*(work() for _ in range(WORKERS)))


async def _embed(cycles: Run, generation: Generation) -> None:
    vectors = await cycles.engine.embed(generation, TEXTS, Options())
    assert vectors.rows == len(TEXTS), vectors


async def _fail(cycles: Run, generation: Generation) -> None:
    try:
        await cycles.engine.load(generation)
    except GatewayError:
        return
    raise AssertionError(f"{generation.path} was loaded")


def _report(cycles: Run, samples: list[gauges.Gauges], restarts: int, seed: int, models: int) -> dict[str, Any]:
    return {
        "loaded": cycles.loaded,
        "unloaded": cycles.unloaded,
        "failed": cycles.failed,
        "models": models,
        "seed": seed,
        "host_restarts": restarts,
        "first": asdict(samples[0]),
        "last": asdict(samples[-1]),
        "resident_drift": gauges.drift([sample.resident for sample in samples]),
        "private_drift": gauges.drift([sample.private for sample in samples]),
        "resident": [sample.resident for sample in samples],
    }
