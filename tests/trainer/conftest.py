"""What the trainer loads in another process is loaded in another process here too, but in one that begins warm."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from tests import warm
from trainer import reload

COLD = reload.elsewhere


def _warm(entry: str, wanted: bytes) -> subprocess.CompletedProcess[bytes]:
    return warm.run(entry, input=wanted, environment=reload.environment())


@pytest.fixture(autouse=True, scope="module")
def begin_warm() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reload, "elsewhere", _warm)
        yield


@pytest.fixture
def cold(monkeypatch: pytest.MonkeyPatch) -> None:
    """For the test that shows it as users have it: with a process that begins at its beginning."""
    monkeypatch.setattr(reload, "elsewhere", COLD)
