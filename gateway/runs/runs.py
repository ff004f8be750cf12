"""Training runs for those who ask: looked for on a lane, at most every other second, however many ask."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any, Final

from gateway.errors import RunNotFound
from gateway.lane import Lane
from gateway.runs import places, record
from gateway.runs.places import Run
from gateway.settings import Settings
from gateway.tenants.caller import Caller

FRESH: Final = 2.0  # seconds that a listing is handed out for
MOST: Final = 500  # runs that are read; of more, those that spoke last


class Listing:
    """`left_out` is how many runs there are beyond those that are read."""

    def __init__(self, runs: list[tuple[Run, dict[str, Any]]], left_out: int) -> None:
        self.runs = runs
        self.left_out = left_out
        self.made = time.monotonic()


class Runs:
    """Reads and never writes."""

    def __init__(self, settings: Settings) -> None:
        self._models = settings.models_dir
        self._runs = settings.runs_dir
        self._lane = Lane("runs")
        self._listing: asyncio.Task[Listing] | None = None

    @property
    def folder(self) -> str:
        """Where a run belongs that is to be seen."""
        return places.folder_of_runs(self._models, self._runs)

    async def listing(self, caller: Caller) -> tuple[list[dict[str, Any]], int]:
        """What the caller sees, the newest first, and how many more there are for those who see everything."""
        found = await self._latest()
        seen = [shown for run, shown in found.runs if sees(caller, run)]
        return seen, found.left_out if caller.unrestricted else 0

    async def detail(self, caller: Caller, wanted: str) -> dict[str, Any]:
        """Raises RunNotFound, also for what the caller may not see."""
        found = await self._latest()
        run = next((run for run, _ in found.runs if run.id == wanted and sees(caller, run)), None)
        if run is None:
            raise RunNotFound("there is no such run; GET /runs lists them", run=wanted[:200])
        return await self._lane.run(record.detail, run, time.time())

    async def _latest(self) -> Listing:
        """One look for all who ask at once; whoever leaves ends only its own waiting."""
        task = self._listing
        if task is None or (task.done() and _is_old(task)):
            task = self._listing = asyncio.create_task(self._lane.run(self._look))
        return await asyncio.shield(task)

    def _look(self) -> Listing:
        found = sorted(places.find(self._models, self._runs), key=_touched, reverse=True)
        now = time.time()
        read = [(run, record.summary(run, now)) for run in found[:MOST]]
        read.sort(key=lambda each: each[1]["started_at"] or each[1]["updated_at"] or 0.0, reverse=True)
        return Listing(read, max(0, len(found) - MOST))


def sees(caller: Caller, run: Run) -> bool:
    """By where it lies alone: what a run says of itself lets nobody in."""
    return caller.unrestricted or (run.owner is not None and caller.sees(run.owner))


def _is_old(task: asyncio.Task[Listing]) -> bool:
    failed = task.cancelled() or task.exception() is not None
    return failed or time.monotonic() - task.result().made > FRESH


def _touched(run: Run) -> float:
    times = [0.0]
    for name in places.MARKS:
        try:
            times.append(os.lstat(os.path.join(run.path, name)).st_mtime)
        except OSError:
            continue
    return max(times)
