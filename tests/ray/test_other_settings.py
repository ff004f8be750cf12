"""A gateway that is started with other settings has the replicas replaced, and the others go on with those."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.clients import Clients
from tests.ray import figures
from tests.ray.conftest import MODELS, options
from tests.ray.nodes import Nodes
from tests.ray.test_cluster import all_up, summary
from tests.running import RunningGateway

pytestmark = [pytest.mark.ray, pytest.mark.asyncio(loop_scope="session")]


async def test_replicas_are_replaced_under_load(
    gateway: RunningGateway, nodes: Nodes, volume: Path, place: Path, size: int
) -> None:
    await all_up(gateway)
    budget = 6 * size
    given = [*options(nodes, place, place / "views"), f"--memory-budget={budget}"]
    clients = Clients(gateway, MODELS[:6])
    async with clients:
        await clients.more(50)
        async with RunningGateway(volume, place / "other", *given, environment=nodes.environment) as other:
            await all_up(other)

            async def followed() -> bool:
                return {each["budget"] for each in (await figures.devices(gateway)).values()} == {budget}

            await figures.until(followed)
            await clients.more(50)
    figures.write("replaced", **summary(clients.answers))
