"""One host process, whatever it is: shells that only live and die stand for it."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway import events
from gateway.engine import supervisor
from gateway.engine.supervisor import Death, HostProcess
from gateway.errors import HostFailed
from gateway.host import wire
from gateway.host.link import Link

PATIENCE = 300.0  # seconds: never what decides


class Rig:
    def __init__(self, host: HostProcess, told: list[events.Event]) -> None:
        self.host = host
        self.told = told

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not condition():
                await asyncio.sleep(0.01)

    def exits(self) -> list[events.HostExited]:
        return [event for event in self.told if isinstance(event, events.HostExited)]

    def lines(self) -> list[str]:
        return [event.line for event in self.told if isinstance(event, events.HostOutput)]


def made(script: str, bus: events.Events) -> HostProcess:
    return HostProcess("cpu", b"{}", bus, hang_timeout=60.0, load_timeout=60.0, command=("/bin/sh", "-c", script))


@asynccontextmanager
async def rig(script: str) -> AsyncIterator[Rig]:
    """A host that `script` is."""
    bus, told = events.Events(), list[events.Event]()
    bus.subscribe(told.append)
    host = made(script, bus)
    life = asyncio.create_task(host.supervise())
    try:
        yield Rig(host, told)
    finally:
        host.kill("the test is over")  # a shell does not know that a closed socket is the end
        await host.stop()
        life.cancel()
        await asyncio.gather(life, return_exceptions=True)


async def test_a_host_that_sigkill_does_not_end_is_given_up_and_its_device_is_left_to_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(supervisor, "UNKILLABLE", 0.1)
    async with rig("echo ready >&2; exec sleep 1000") as running:
        host = running.host
        await running.until(lambda: running.lines() == ["ready"])
        host._up.set()
        process = host._process
        assert process is not None
        end = process.send_signal
        process.send_signal = lambda number: None  # type: ignore[method-assign]  # as one that sleeps in a driver
        asked = asyncio.create_task(host.call(lambda number: wire.Load(number, "a")))
        await running.until(lambda: bool(host._calls))
        host.kill("it hangs")
        with pytest.raises(Death):
            await asyncio.wait_for(asked, PATIENCE)
        assert not host.up
        assert [event.why for event in running.exits()] == ["it hangs, and SIGKILL does not end it"]
        with pytest.raises(HostFailed, match="does not end"):
            await host.wait_until_up()
        assert (host.pid, host.restarts) == (process.pid, 0)
        end(signal.SIGKILL)
        await running.until(lambda: running.lines() == ["ready", "ready"])
        assert host.pid != process.pid
        host.check()
        assert len(running.exits()) == 1


async def test_a_stop_leaves_a_host_behind_that_sigkill_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "GRACE", 0.1)
    monkeypatch.setattr(supervisor, "UNKILLABLE", 0.1)
    async with rig("echo ready >&2; exec sleep 1000") as running:
        await running.until(lambda: running.lines() == ["ready"])
        process = running.host._process
        assert process is not None
        end = process.send_signal
        process.send_signal = lambda number: None  # type: ignore[method-assign]  # as above
        await asyncio.wait_for(running.host.stop(), PATIENCE)
        assert process.returncode is None
        end(signal.SIGKILL)


async def test_the_end_of_a_host_is_seen_though_a_child_has_its_stderr_still(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "LAST_WORDS", 0.1)
    alive = tmp_path / "alive"  # for as long the children are
    alive.touch()
    try:
        async with rig(f"while test -e {alive}; do sleep 1; done & exit 3") as running:
            await running.until(lambda: bool(running.exits()))
            assert running.exits()[0].why == "exited with 3"
    finally:
        alive.unlink()


async def test_what_a_host_wrote_last_is_told_before_its_end() -> None:
    async with rig("for line in 1 2 3; do echo $line >&2; done; exit 4") as running:
        await running.until(lambda: bool(running.exits()))
        before = running.told[: running.told.index(running.exits()[0])]
        assert [event.line for event in before if isinstance(event, events.HostOutput)] == ["1", "2", "3"]


async def test_a_host_that_nobody_asked_for_long_has_all_its_time_for_the_first_request() -> None:
    host = made("exit 0", events.Events())
    host._link = Link(wire.reports)
    host._heard = asked = time.monotonic() - 1e6
    calls = [asyncio.create_task(host.call(lambda number: wire.Load(number, "a")))]
    await asyncio.sleep(0)
    assert host._hangs(asked + 1e6 + 100.0) == ""  # of 120 s
    before = host._heard
    calls.append(asyncio.create_task(host.call(lambda number: wire.Load(number, "a"))))
    await asyncio.sleep(0)
    assert host._heard == before  # a second one gives a host that hangs no more
    assert host._hangs(before + 121.0) == "no answer"
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
