"""What a replica does by itself, and what is told when it does it no more. Its host is a shell that only lives."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.cluster import replica
from gateway.cluster.messages import Event
from gateway.cluster.replica import Config, Replica
from gateway.errors import Internal

PATIENCE = 300.0  # seconds: never what decides


@asynccontextmanager
async def made(tmp_path: Path) -> AsyncIterator[Replica]:
    config = Config(
        host={},
        device="cpu",
        models_dir=str(tmp_path / "models"),
        state_dir=str(tmp_path / "state"),
        allow_pickle=False,
        copy_budget=0,
        in_place=False,
        hang_timeout=60.0,
        load_timeout=60.0,
        command=("/bin/sh", "-c", "exec sleep 1000"),
    )
    made = Replica(config, "one", "one/cpu")
    try:
        yield made
    finally:
        made._host.kill("the test is over")
        await made.stop()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_replica_that_looks_after_nothing_any_more_is_not_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replica, "TICK", 0.0)
    async with made(tmp_path) as one:
        one.check()

        def broken(*, always: bool = False) -> None:
            raise ValueError("a bug")

        monkeypatch.setattr(one, "_apply", broken)
        await asyncio.wait({one._tasks[1]}, timeout=PATIENCE)
        with pytest.raises(Internal, match="ValueError"):
            one.check()


async def test_a_disk_that_cannot_be_pruned_is_told_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replica, "TICK", 0.0)
    monkeypatch.setattr(replica, "PRUNE", -1.0)
    pruned: list[Collection[str]] = []

    def prune(keep: Collection[str]) -> set[str]:
        pruned.append(keep)
        if len(pruned) == 1:
            raise OSError(5, "Input/output error")
        return set()

    async with made(tmp_path) as one:
        monkeypatch.setattr(one._stock, "prune", prune)
        await one.keep("a gateway", 1, ["a"], [])
        await until(lambda: len(pruned) > 1)
        one.check()
        assert [each.facts["code"] for each in one._happened if isinstance(each, Event)] == ["store_not_pruned"]
