"""A gateway that runs, on a volume of the test's own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.running import RunningGateway


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """The models root, with the namespace that an image creates."""
    root = tmp_path / "models"
    (root / "finetuned").mkdir(parents=True)
    return root


@pytest.fixture
async def gateway(volume: Path, tmp_path: Path) -> AsyncIterator[RunningGateway]:
    async with RunningGateway(volume, tmp_path / "state", "--device=cpu", "--log-level=debug") as running:
        yield running
