"""Small real models that differ in their weights: one for each name, and one more."""

from __future__ import annotations

import pytest

from tests import making
from tests.proxy.fleet import MODELS


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    base = tmp_path_factory.mktemp("made")
    return [making.encoder(base / str(seed), seed=seed) for seed in range(len(MODELS) + 1)]
