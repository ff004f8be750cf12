"""A gateway dies and comes back behind HAProxy, under load: what clients see of it.

    python -m bench.proxy --out proxy.json

Small models with random weights, asked for by Zipf's law over the names; each gateway has room for a third of them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final, NamedTuple

from tests import making
from tests.proxy.fleet import Fleet, running

MODELS: Final = 36
GATEWAYS: Final = 3
CLIENTS: Final = 12
BEFORE: Final = 10.0  # seconds of load
AWAY: Final = 15.0
AFTER: Final = 10.0
TEXTS: Final = ["the beam of the ring", "a laser"]


class Asked(NamedTuple):
    model: str
    began: float
    ended: float
    status: int
    by: str | None


async def measure(base: Path) -> dict[str, Any]:
    names = [f"bench/m{number}" for number in range(MODELS)]
    made = [making.encoder(base / "made" / name, seed=seed, dim=128, layers=4) for seed, name in enumerate(names)]
    room = f"--max-loaded-models={MODELS // GATEWAYS}"
    async with running(base / "fleet", made, room, models=names) as fleet:
        homes = await fleet.places(names)
        victim = homes[names[0]]
        number = int(victim.removeprefix("gateway-"))
        asked: list[Asked] = []
        clients = [asyncio.create_task(_ask(fleet, names, seed, asked)) for seed in range(CLIENTS)]
        await asyncio.sleep(BEFORE)
        killed = time.monotonic()
        await fleet.gateways[number].kill()
        await asyncio.sleep(AWAY)
        await fleet.start(number, room)
        await fleet.proxy.until_up(*fleet.names)
        await asyncio.sleep(AFTER)
        for client in clients:
            client.cancel()
        await asyncio.wait(clients)
        moved = [each for each in asked if each.by != homes[each.model]]
        return {
            "models_of_each": sorted(Counter(homes.values()).values()),
            "requests": len(asked),
            "statuses": dict(Counter(each.status for each in asked)),
            "answered_elsewhere": len(moved),
            "of_models_of_survivors": sum(homes[each.model] != victim for each in moved),
            "seconds_to_the_first_answer_elsewhere": min(each.ended for each in moved) - killed,
            "slowest_before": max(each.ended - each.began for each in asked if each.ended < killed),
            "slowest_after": max(each.ended - each.began for each in asked if each.ended > killed),
            "all_at_home_again": await fleet.places(names) == homes,
        }


async def _ask(fleet: Fleet, names: list[str], seed: int, asked: list[Asked]) -> None:
    """Until it is cancelled: a request that is under way then counts for nothing."""
    chance = random.Random(seed)
    weights = [1 / (rank + 1) for rank in range(len(names))]
    while True:
        (model,) = chance.choices(names, weights)
        began = time.monotonic()
        status, body = await fleet.proxy.try_embed(TEXTS, model)
        asked.append(Asked(model, began, time.monotonic(), status, body["by"]))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.proxy", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, help="a file for the figures; they are shown too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = json.dumps(asyncio.run(measure(Path(folder))), indent=1)
    if options.out:
        options.out.write_text(found + "\n", encoding="utf-8")
    print(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
