"""A Ray cluster of three nodes on this machine, a volume with 36 models, and a gateway that has them served there.

One cluster for the whole session: a node may take half a minute to start.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

import pytest
import pytest_asyncio

from tests import making
from tests.ray.nodes import RESOURCE, Nodes
from tests.running import RunningGateway

NODES: Final = 3
MODELS: Final = [f"finetuned/m{number:02}" for number in range(36)]
PER_NODE: Final = len(MODELS) // 3 // NODES  # the budget is a third of the models


@pytest.fixture(scope="session")
def nodes() -> Iterator[Nodes]:
    cluster = Nodes(NODES)
    try:
        yield cluster
    finally:
        cluster.close()


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ray")


@pytest.fixture(scope="session")
def volume(place: Path) -> Path:
    root = place / "models"
    for number, model in enumerate(MODELS):
        making.encoder(root / model, seed=number)
    return root


@pytest.fixture(scope="session")
def size(volume: Path) -> int:
    """Bytes of one of the models on a device."""
    return making.generation(str(volume / MODELS[0])).manifest.parameters * 4


@pytest.fixture(scope="session")
def views(place: Path, volume: Path) -> Path:
    """The volume as each node sees it, by the node's address: a link that a test may bend."""
    folder = place / "views"
    folder.mkdir()
    for number in range(10, 30):
        (folder / f"127.0.0.{number}").symlink_to(volume)
    return folder


def options(nodes: Nodes, place: Path, views: Path, resource: str = RESOURCE) -> list[str]:
    return [
        "--engine=ray",
        f"--ray-address={nodes.address}",
        f"--ray-resource={resource}",
        f"--ray-models-dir={views}/{{node}}",
        f"--ray-state-dir={place}/{resource}-{{node}}",
        "--device=cpu",
        "--compute-threads=1",
    ]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def gateway(nodes: Nodes, volume: Path, place: Path, views: Path, size: int) -> AsyncIterator[RunningGateway]:
    budget = f"--memory-budget={PER_NODE * size + size // 2}"
    given = [*options(nodes, place, views), budget]
    async with RunningGateway(volume, place / "state", *given, environment=nodes.environment) as running:
        yield running


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def narrow(nodes: Nodes, volume: Path, place: Path, views: Path) -> AsyncIterator[RunningGateway]:
    """Another gateway's, whose one replica, on a node of its own, works on one request at a time."""
    nodes.add("spare")
    given = [*options(nodes, place, views, "spare"), "--ray-app=narrow", "--ray-ongoing=1", "--ray-queue=2"]
    async with RunningGateway(volume, place / "narrow", *given, environment=nodes.environment) as running:
        yield running
