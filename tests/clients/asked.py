"""Programs of other people's clients, run in their environments, and what came of each thing they were told to ask."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any, Final, NamedTuple

from tests.clients.environments import ENVIRONMENTS, made
from tests.running import DEADLINE

QUIET: Final = {"ANONYMIZED_TELEMETRY": "False", "HAYSTACK_TELEMETRY_ENABLED": "False"}


class Target(NamedTuple):
    url: str
    model: str
    key: str


class Step(NamedTuple):
    way: str  # a function of the program
    target: Target
    given: Any = None


async def outcomes(environment: str, program: str, steps: list[Step], home: Path) -> list[dict[str, Any]]:
    """One for each step: `returned`, or `raised` (its classes, nearest first), `status` and `says`.

    The program sees nothing of the environment of the tests: no proxies, no keys, no settings.
    """
    made_there = ENVIRONMENTS[environment]
    folder = await asyncio.to_thread(made, made_there)
    process = await asyncio.create_subprocess_exec(
        *made_there.command(folder, program),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"PATH": os.environ["PATH"], "HOME": str(home), **QUIET},
        cwd=home,
    )
    told = json.dumps([step._asdict() | {"target": step.target._asdict()} for step in steps]).encode()
    try:
        async with asyncio.timeout(DEADLINE):
            written, said = await process.communicate(told)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, f"{program} in {folder}: {said.decode(errors='replace')[-4000:]}"
    answered: list[dict[str, Any]] = json.loads(written)
    assert len(answered) == len(steps)
    return answered
