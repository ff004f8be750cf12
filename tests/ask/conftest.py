"""Fixtures of the tests of knowledge bases."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest

from tests import making
from tests.ask.buckets import Bucket, serving


@pytest.fixture(scope="session")
def bucket() -> Iterator[Bucket]:
    """An S3-compatible server with an empty bucket; `bucket.fresh()` is a place in it."""
    with serving() as bucket:
        yield bucket


@pytest.fixture
async def time_passes() -> Callable[[float], None]:
    """Sets the clock of the test's loop forward: a time is over when the test says so, and not because the machine has
    stood still."""
    loop, ahead = asyncio.get_running_loop(), 0.0
    right = loop.time

    def passes(seconds: float) -> None:
        nonlocal ahead
        ahead += seconds

    loop.time = lambda: right() + ahead  # type: ignore[method-assign]  # the loop goes with the test
    return passes


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Five models that differ in their weights alone."""
    base = tmp_path_factory.mktemp("made")
    return [making.encoder(base / str(seed), seed=seed, dim=16, layers=1, heads=2) for seed in range(5)]
