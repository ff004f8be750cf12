"""How long a request may take, and whose fault it is when something times out."""

from __future__ import annotations

import asyncio
import errno

import pytest

from gateway.errors import DeadlineExceeded
from gateway.web.asking import within


async def wait_within(seconds: float | None) -> None:
    async with within(seconds):
        await asyncio.Event().wait()


async def time_out_within(seconds: float | None) -> None:
    async with within(seconds):
        raise OSError(errno.ETIMEDOUT, "the volume's server does not answer")


async def test_what_takes_too_long_is_told_with_how_long_it_was_given() -> None:
    with pytest.raises(DeadlineExceeded, match=r"no answer within 0\.01 s"):
        await wait_within(0.01)


@pytest.mark.parametrize("seconds", [None, 300.0])
async def test_a_disk_that_times_out_is_no_deadline(seconds: float | None) -> None:
    with pytest.raises(TimeoutError, match="the volume's server does not answer"):
        await time_out_within(seconds)


async def test_who_is_cancelled_is_not_late() -> None:
    waiting = asyncio.create_task(wait_within(300.0))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
