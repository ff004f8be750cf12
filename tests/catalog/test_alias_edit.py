"""aliases.toml, edited by the gateway: one line changes, and nothing else that somebody wrote."""

from __future__ import annotations

import asyncio
import fcntl
import os
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import events
from gateway.catalog import alias_file
from gateway.catalog.alias_edit import Pointer, edited
from gateway.catalog.alias_file import AliasFile
from gateway.catalog.aliases import AliasFault
from gateway.errors import InvalidAlias, VolumeUnwritable
from tests.catalog.world import World

A, B = "finetuned/a", "finetuned/b"
WRITTEN = f"""# ours
[bases] # of adapters
"some/base" = "{A}"

[aliases]
'prod/one' = "{A}"   # the first # and its comment
prod = {{ to = "{A}", canary = "{B}", share = 0.5 }}

# the end
"""


def test_a_line_is_replaced_and_everything_else_stays() -> None:
    made = edited(WRITTEN, "prod/one", Pointer(A, B, 0.1))
    before, after = WRITTEN.splitlines(), made.splitlines()
    assert [number for number in range(len(before)) if before[number] != after[number]] == [5]
    wanted = f'\'prod/one\' = {{ to = "{A}", canary = "{B}", share = 0.1 }}   # the first # and its comment'
    assert after[5] == wanted


def test_a_new_alias_stands_at_the_end_of_its_table() -> None:
    made = edited(WRITTEN, "prod/two", Pointer(B))
    assert made.replace(f'"prod/two" = "{B}"\n', "") == WRITTEN
    assert tomllib.loads(made)["aliases"]["prod/two"] == B


def test_a_file_that_is_not_there_is_begun() -> None:
    assert edited("", "prod/two", Pointer(B)) == f'[aliases]\n"prod/two" = "{B}"\n'


@pytest.mark.parametrize("text", ['aliases = { prod = "a" }\n', '[aliases.prod]\nto = "a"\n', 'aliases.prod = "a"\n'])
def test_what_cannot_be_edited_safely_is_refused_with_the_line_to_write(text: str) -> None:
    with pytest.raises(AliasFault, match=f'by hand: "{A}"'):
        edited(text, "prod", Pointer(A))


SPELLED = st.text("ab/._-:#'\"= []{}\\\x7f\u00e9\U0001f600", min_size=1, max_size=12)


@given(st.dictionaries(SPELLED, SPELLED, max_size=4), SPELLED, SPELLED)
def test_whatever_is_written_reads_as_it_was_meant(there: dict[str, str], name: str, to: str) -> None:
    text = ""
    for key, value in there.items():
        text = edited(text, key, Pointer(value))
    made = tomllib.loads(edited(text, name, Pointer(to)))["aliases"]
    found = next(key for key in made if key.removeprefix("huggingface:") == name or key == name)
    assert made[found] == to


@pytest.mark.parametrize("name", ['"', "\\", 'a"b\\', "\x7f"])
def test_a_name_is_found_again_however_it_had_to_be_written(name: str) -> None:
    text = edited(edited("", name, Pointer(A)), name, Pointer(B))
    assert tomllib.loads(text) == {"aliases": {name: B}}


async def test_a_canary_is_in_force_as_soon_as_it_is_written(world: World, made: list[str]) -> None:
    world.put(made[0], A)
    world.put(made[1], B)
    await world.look()
    await world.catalog.point("prod/x", Pointer(A, B, 0.25))
    (shown,) = world.catalog.aliases()
    assert (shown["to"], shown["canary"], shown["share"]) == (A, B, 0.25)
    assert len(world.heard(events.AliasesChanged)) == 1
    assert (world.root / "aliases.toml").read_text().startswith("[aliases]\n")


async def test_a_table_that_would_not_be_taken_is_not_written(world: World, made: list[str]) -> None:
    world.put(made[0], A)
    await world.look()
    await world.catalog.point("prod/x", Pointer(A))
    before = (world.root / "aliases.toml").read_text()
    for name, pointer in (("prod/x", Pointer("finetuned/none")), ("prod/x", Pointer("prod/x"))):
        with pytest.raises(InvalidAlias):
            await world.catalog.point(name, pointer)
    assert (world.root / "aliases.toml").read_text() == before
    assert sorted(path.name for path in world.root.glob(".aliases*")) == []


async def test_a_volume_that_cannot_be_written_is_told(world: World, made: list[str]) -> None:
    world.put(made[0], A)
    await world.look()
    (world.root / "aliases.toml").mkdir()  # which no rename replaces
    with pytest.raises(VolumeUnwritable, match=r"aliases\.toml cannot be written"):
        await world.catalog.point("prod/x", Pointer(A))


async def test_a_fifo_in_its_place_is_told_and_keeps_nobody_waiting(world: World, made: list[str]) -> None:
    world.put(made[0], A)
    await world.look()
    os.mkfifo(world.root / "aliases.toml")
    with pytest.raises(VolumeUnwritable, match="not a regular file"):
        await asyncio.wait_for(world.catalog.point("prod/x", Pointer(A)), 300)


async def test_what_lies_outside_the_volume_is_neither_read_nor_replaced(world: World, made: list[str]) -> None:
    world.put(made[0], A)
    await world.look()
    outside = world.base / "outside.toml"
    outside.write_text(f'[aliases]\n"prod/y" = "{A}"\n')
    (world.root / "aliases.toml").symlink_to(outside)
    with pytest.raises(VolumeUnwritable, match="outside the volume"):
        await world.catalog.point("prod/x", Pointer(A))
    assert (world.root / "aliases.toml").is_symlink()


@contextmanager
def editing(world: World) -> Iterator[None]:
    """As `trainer alias` does."""
    folder = os.open(world.root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


async def test_whoever_edits_the_file_at_the_same_time_undoes_nothing(
    world: World, made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = asyncio.Event()
    loop, replace = asyncio.get_running_loop(), AliasFile.replace

    def watched(self: AliasFile, before: str, text: str) -> bool:
        answer = replace(self, before, text)
        loop.call_soon_threadsafe(tried.set)
        return answer

    monkeypatch.setattr(AliasFile, "replace", watched)
    monkeypatch.setattr(alias_file, "TRIES", 10**6)
    monkeypatch.setattr(alias_file, "PAUSE", 0.0)
    world.put(made[0], A)
    await world.look()
    with editing(world):
        pointing = asyncio.create_task(world.catalog.point("prod/x", Pointer(A)))
        await asyncio.wait_for(tried.wait(), 300)
        assert not (world.root / "aliases.toml").exists()
        (world.root / "aliases.toml").write_text(f'[aliases]\n"prod/y" = "{A}"\n')
    await asyncio.wait_for(pointing, 300)
    written = tomllib.loads((world.root / "aliases.toml").read_text())
    assert written == {"aliases": {"prod/x": A, "prod/y": A}}


async def test_who_edits_the_file_for_ever_keeps_nobody_waiting_for_ever(
    world: World, made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alias_file, "PAUSE", 0.0)
    world.put(made[0], A)
    await world.look()
    with editing(world), pytest.raises(VolumeUnwritable, match="somebody else is editing it"):
        await world.catalog.point("prod/x", Pointer(A))
    assert not (world.root / "aliases.toml").exists()
