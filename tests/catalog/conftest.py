"""Small real models, and a world to drop them in."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import making
from tests.catalog.world import World


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Five models that differ in their weights alone."""
    base = tmp_path_factory.mktemp("made")
    return [making.encoder(base / str(seed), seed=seed, dim=16, layers=1, heads=2) for seed in range(5)]


@pytest.fixture(scope="session")
def wide(tmp_path_factory: pytest.TempPathFactory) -> str:
    return making.encoder(tmp_path_factory.mktemp("wide") / "m", dim=32, layers=1, heads=2)


@pytest.fixture
async def world(tmp_path: Path) -> World:
    return World(tmp_path)
