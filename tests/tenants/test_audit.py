"""The audit log: whole lines in order, in files of a bounded size; a disk that fails costs lines and nothing else."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from gateway import events
from gateway.tenants import audit
from gateway.tenants.audit import Audit, AuditFile, Line
from tests.running import DEADLINE


def line(number: int = 0, **fields: Any) -> Line:
    made = {"time": "t", "request_id": f"r{number}", "remote": "::1", "method": "POST", "route": "/embed"}
    return Line(**(made | {"path": "/embed", "status": 200, "seconds": 0.5} | fields))


def ids(path: Path) -> list[str]:
    return [json.loads(text)["request_id"] for text in path.read_text(encoding="utf-8").splitlines()]


class Disk(AuditFile):
    """Full whenever a test says so; half of what is written then arrives before that is found out."""

    def __init__(self, path: str) -> None:
        super().__init__(path, 10**9, 2)
        self.full = False
        self.tries = 0

    def append(self, lines: bytes) -> None:
        full = self.full
        self.tries += 1  # from here on the test goes on, and may change its mind
        if full:
            raise OSError(errno.ENOSPC, "No space left on device")
        super().append(lines)


class Rig:
    def __init__(self, base: Path) -> None:
        self.path = base / "audit.jsonl"
        self.disk = Disk(str(self.path))
        self.told: list[Any] = []
        tell = events.Events()
        tell.subscribe(self.told.append)
        self.audit = Audit(self.disk, tell, pause=0.0)

    async def tried(self, times: int) -> None:
        async with asyncio.timeout(DEADLINE):
            while self.disk.tries < times:
                await asyncio.sleep(0)


@pytest.fixture
async def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


async def test_every_line_is_there_once_and_in_order_when_it_is_closed(rig: Rig) -> None:
    for number in range(500):
        rig.audit.add(line(number))
        if number % 7 == 0:
            await asyncio.sleep(0)
    await rig.audit.close()
    assert ids(rig.path) == [f"r{number}" for number in range(500)]
    assert rig.told == []
    assert stat.S_IMODE(os.stat(rig.path).st_mode) == 0o600


async def test_a_full_disk_costs_lines_is_told_and_is_tried_again(rig: Rig) -> None:
    rig.disk.full = True
    rig.audit.add(line(0))
    rig.audit.add(line(1))
    await rig.tried(1)
    rig.audit.add(line(2))
    rig.disk.full = False
    await rig.tried(2)
    await rig.audit.close()
    assert ids(rig.path) == ["r2"]
    (lost,) = rig.told
    assert (lost.lines, "No space left" in lost.message) == (2, True)


async def test_a_disk_that_is_full_at_the_end_holds_nothing_up(rig: Rig) -> None:
    rig.disk.full = True
    rig.audit.add(line())
    await asyncio.wait_for(rig.audit.close(), DEADLINE)
    assert sum(event.lines for event in rig.told) == 1


async def test_what_waits_for_a_slow_disk_is_bounded_and_the_rest_is_counted(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "MOST_WAITING", 1000)
    for number in range(100):
        rig.audit.add(line(number))
    await rig.audit.close()
    kept = ids(rig.path)
    assert kept == [f"r{number}" for number in range(len(kept))]
    assert 1000 <= rig.path.stat().st_size < 1500
    assert [event.lines for event in rig.told] == [100 - len(kept)]


async def test_whatever_a_client_has_written_is_a_line_of_json(rig: Rig) -> None:
    rig.audit.add(line(path="/\ud800\n\x00", inputs=["a\nb", "ä", [1, 2], "\udfff"]))
    await rig.audit.close()
    (text,) = rig.path.read_text(encoding="utf-8").splitlines()
    assert json.loads(text)["inputs"] == ["a\nb", "ä", [1, 2], "\udfff"]


def test_files_are_changed_before_they_are_too_large_and_so_many_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    file = AuditFile(str(path), 100, 3)
    for number in range(10):
        file.append(b"%d" % number * 39 + b"\n")  # two of them fit
    names = [path, *(tmp_path / f"a.jsonl.{number}" for number in (1, 2))]
    assert [found.read_text(encoding="utf-8").split()[0][0] for found in names] == ["8", "6", "4"]
    assert sorted(tmp_path.iterdir()) == sorted(names)
    assert all(found.stat().st_size <= 100 for found in names)


def test_one_file_that_is_kept_begins_anew(tmp_path: Path) -> None:
    file = AuditFile(str(tmp_path / "a"), 10, 1)
    file.append(b"12345678\n")
    file.append(b"abc\n")
    assert [found.read_bytes() for found in tmp_path.iterdir()] == [b"abc\n"]


def test_a_file_that_is_moved_away_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "a"
    file = AuditFile(str(path), 100, 3)
    file.append(b"1\n")
    path.rename(tmp_path / "elsewhere")
    file.append(b"2\n")
    assert path.read_bytes() == b"2\n"


def test_half_a_line_does_not_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that the disk takes in part only."""
    path = tmp_path / "a"
    file = AuditFile(str(path), 100, 3)
    file.append(b"first\n")
    write = os.write
    turns = iter([3, None])

    def partly(descriptor: int, data: memoryview) -> int:
        most = next(turns)
        if most is None:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data[:most])

    monkeypatch.setattr(os, "write", partly)
    with pytest.raises(OSError, match="No space left"):
        file.append(b"second\n")
    monkeypatch.undo()
    file.append(b"third\n")
    assert path.read_bytes() == b"first\nthird\n"


def test_a_file_that_cannot_be_moved_on_closes_nothing_but_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A number that is closed twice may by then be somebody else's."""
    file = AuditFile(str(tmp_path / "audit"), limit=1, files=2)
    file.append(b"a\n")
    closed: list[int] = []
    close = os.close
    monkeypatch.setattr(os, "close", lambda number: (closed.append(number), close(number)))
    (tmp_path / "audit.1/full").mkdir(parents=True)
    with pytest.raises(IsADirectoryError, match=r"audit\.1"):
        file.append(b"b\n")
    assert len(closed) == len(set(closed)) <= 1
    assert (tmp_path / "audit").read_bytes() == b"a\n"
