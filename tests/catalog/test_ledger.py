"""What the catalog believed is on disk whole, or as it was before."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway import events
from gateway.catalog import holdings
from gateway.catalog.ledger import Kept, Ledger, Record, Seen
from gateway.model import Generation, ModelId
from gateway.settings import SettingsError
from tests.catalog.world import M, World

LIVE = Kept(digest="a" * 64, version=3, number=7, since=1.5, bytes=100)
FIRST = Record(
    model="finetuned/m",
    live=LIVE,
    directories=(Seen(version=3, content=LIVE, fingerprint="f", inode=2**63), Seen(version=2)),
    earlier=(Kept(digest="b" * 64, version=2), Kept(digest="c" * 64)),
    held=("e" * 64,),
    breaking=True,
    pinned=True,
)
SECOND = Record(model="legacy", live=Kept(digest="d" * 64))


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    Ledger(str(tmp_path)).write([FIRST, SECOND])
    assert Ledger(str(tmp_path)).read() == [FIRST, SECOND]
    Ledger(str(tmp_path)).write([])
    assert Ledger(str(tmp_path)).read() == []


def test_without_a_file_nothing_was_believed(tmp_path: Path) -> None:
    assert Ledger(str(tmp_path)).read() == []


@pytest.mark.parametrize(
    "content",
    [b"", b"[", b"{}", b"null", b'[{"model":"m"}]', b'[{"model":5}]', b"\xff\xfe", b"[" * 10**5, b'[{"model":"\xff"}]'],
)
def test_a_file_that_this_version_cannot_read_is_a_value_error_that_names_it_and_is_put_aside(
    content: bytes, tmp_path: Path
) -> None:
    (tmp_path / "catalog.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"catalog\.json"):
        Ledger(str(tmp_path)).read()
    assert (tmp_path / "catalog.json.broken").read_bytes() == content
    assert Ledger(str(tmp_path)).read() == []


def test_fields_of_a_later_version_are_passed_over(tmp_path: Path) -> None:
    Ledger(str(tmp_path)).write([SECOND])
    path = tmp_path / "catalog.json"
    path.write_text(path.read_text().replace('"model"', '"colour": "red", "model"'))
    assert Ledger(str(tmp_path)).read() == [SECOND]


def test_when_writing_fails_the_old_file_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(str(tmp_path))
    ledger.write([FIRST])

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        ledger.write([SECOND])
    assert ledger.read() == [FIRST]


def test_a_half_written_file_of_a_killed_process_is_not_read_and_not_in_the_way(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path))
    ledger.write([FIRST])
    (tmp_path / "catalog.json.partial").write_text('[{"model": "finetu')
    assert ledger.read() == [FIRST]
    ledger.write([SECOND])
    assert os.listdir(tmp_path) == ["catalog.json"]
    assert ledger.read() == [SECOND]


def test_a_state_directory_that_is_not_there_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        Ledger(str(tmp_path / "nowhere")).write([FIRST])


async def test_many_changes_at_once_are_few_writes_and_the_last_of_them_is_what_stays(
    tmp_path: Path, made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path)
    world.put(made[0])
    await world.look()
    writes: list[int] = []
    write = Ledger.write
    monkeypatch.setattr(Ledger, "write", lambda ledger, records: (writes.append(len(records)), write(ledger, records)))
    for number in range(41):
        world.catalog.pin(ModelId.of(M), pinned=number % 2 == 0)
    await world.quiet()
    assert 1 <= len(writes) <= 2
    assert [record.pinned for record in Ledger(str(world.state)).read()] == [True]


async def last_good(world: World, made: list[str]) -> Generation:
    """What is served, of which the volume has nothing whole any more."""
    world.put(made[0])
    await world.look()
    os.truncate(world.root / M / "model.safetensors", 1)
    await world.look()
    await world.quiet()
    return world.find()


async def test_a_ledger_that_the_disk_does_not_give_at_once_is_asked_for_again(
    world: World, made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    live = await last_good(world, made)
    read, failures = Ledger.read, [OSError(24, "Too many open files"), OSError(5, "Input/output error")]

    def at_the_third_try(ledger: Ledger) -> list[Record]:
        if failures:
            raise failures.pop()
        return read(ledger)

    monkeypatch.setattr(Ledger, "read", at_the_third_try)
    monkeypatch.setattr(holdings, "PAUSES", (0.0, 0.0))
    again = await world.restarted()
    await again.look()
    assert again.find() == live
    assert again.heard(events.Notice) == []


async def test_without_a_ledger_that_is_there_nothing_starts_and_nothing_is_lost(
    world: World, made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    live = await last_good(world, made)
    path = world.state / "catalog.json"
    path.rename(world.state / "away")
    path.mkdir()
    monkeypatch.setattr(holdings, "PAUSES", (0.0,))
    with pytest.raises(SettingsError, match=r"--state-dir .*ledger .*catalog\.json"):
        await world.restarted()
    path.rmdir()
    (world.state / "away").rename(path)
    again = await world.restarted()
    await again.look()
    assert again.find() == live


async def test_what_a_broken_ledger_may_have_named_stays_until_the_next_start_and_it_can_be_mended(
    world: World, made: list[str]
) -> None:
    live = await last_good(world, made)
    path = world.state / "catalog.json"
    path.write_bytes(b"?" + path.read_bytes())
    again = await world.restarted()
    again.put(made[1], "finetuned/next")
    await again.look()  # which is written down, and frees the disk from what nobody wants
    assert again.store.open(live.digest) == live
    (notice,) = again.heard(events.Notice)
    assert (notice.code, "catalog.json.broken" in notice.message) == ("ledger_unreadable", True)
    await again.quiet()
    path.write_bytes((world.state / "catalog.json.broken").read_bytes()[1:])
    mended = await again.restarted()
    await mended.look()
    assert mended.find() == live
    assert mended.find("finetuned/next")
