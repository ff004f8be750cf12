"""Other names for models: one table is in force, it changes whole or not at all, and canaries keep their clients."""

from __future__ import annotations

import errno
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from gateway import events
from gateway.catalog import alias_file
from gateway.catalog.aliases import MOST, AliasFault, parse, position
from gateway.errors import GenerationNotFound, ModelNotFound
from gateway.model import ModelId
from tests.catalog.world import World

A, B = "finetuned/a", "finetuned/b"
PROD = "prod/physics"


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that was just written counts as settled; one test looks at the settling itself."""
    monkeypatch.setattr(alias_file, "SETTLE", 0.0)


async def write(world: World, *lines: str) -> None:
    """The table is now this, by a rename."""
    fresh = world.root / ".aliases"
    fresh.write_text("\n".join(["[aliases]", *lines]))
    fresh.rename(world.root / "aliases.toml")
    await world.look()


async def two(world: World, made: list[str]) -> None:
    world.put(made[0], A)
    world.put(made[1], B)
    await world.look()


async def test_an_alias_answers_like_its_model_and_tells_both_names(world: World, made: list[str]) -> None:
    await two(world, made)
    await write(world, f'"{PROD}" = "{A}"')
    found = await world.ask(f"huggingface:{PROD}")
    assert (found.model, found.alias, found.arm) == (ModelId.of(A), ModelId.of(PROD), None)
    assert found.generation == world.find(A) == world.find(PROD)
    assert world.catalog.resolve(world.catalog.parse(PROD)) == ModelId.of(A)
    assert (await world.ask(f"{PROD}@{found.generation.short}")).generation == found.generation
    assert world.catalog.aliases() == [
        {
            "id": f"huggingface:{PROD}",
            "to": A,
            "canary": None,
            "share": None,
            "model": f"huggingface:{A}",
            "warning": None,
        }
    ]
    (told,) = world.heard(events.AliasesChanged)
    assert told.aliases == (PROD,)


async def test_an_alias_moves_when_the_file_changes_and_goes_with_it(world: World, made: list[str]) -> None:
    await two(world, made)
    await write(world, f'"{PROD}" = "{A}"', f'"other" = "{A}"')
    await write(world, f'"{PROD}" = "{B}"')
    assert (await world.ask(PROD)).model == ModelId.of(B)
    assert isinstance(await world.refused("other"), ModelNotFound)
    assert world.heard(events.AliasesChanged)[-1].removed == ("other",)
    (world.root / "aliases.toml").unlink()
    await world.look()
    assert isinstance(await world.refused(PROD), ModelNotFound)
    assert world.heard(events.AliasesRejected) == []


async def test_a_swap_of_the_model_is_one_of_the_alias(world: World, made: list[str]) -> None:
    await two(world, made)
    await write(world, f'"{PROD}" = "{A}"')
    (new,) = await world.swap(made[2], path=A)
    assert (await world.ask(PROD)).generation == new


async def test_an_alias_may_lead_through_others_to_a_version_or_a_generation(world: World, made: list[str]) -> None:
    world.put(made[0], f"{A}/1")
    world.put(made[1], f"{A}/2")
    old, _ = await world.swap(made[2], made[3], path=B)
    await write(world, f'"one" = "{A}/1"', f'"{PROD}" = "stage"', '"stage" = "one"', f'"was" = "{B}@{old.short[:6]}"')
    assert (await world.ask(PROD)).generation == (await world.ask(f"{A}/1")).generation != world.find(A)
    assert (await world.ask("was")).generation == old


async def test_a_generation_that_an_alias_names_is_kept_beyond_the_number(tmp_path: Path, made: list[str]) -> None:
    world = World(tmp_path, keep=1)
    (old,) = await world.swap(made[0], path=A)
    await world.swap(made[1], path=A)
    await write(world, f'"{PROD}" = "{A}@{old.short}"')
    await world.swap(made[2], made[3], path=A)
    assert (await world.ask(PROD)).generation == old
    assert len(world.store.digests()) == 3
    again = await world.restarted(keep=1)
    assert (await again.ask(PROD)).generation == old


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        (['"x" = "finetuned/nothing"'], "finetuned/nothing"),
        (['"x" = { to = "finetuned/a", canary = "finetuned/nothing", share = 0.1 }'], "finetuned/nothing"),
        (['"x" = "finetuned/a@ffffff"'], "no generation ffffff"),
        (['"x" = "y"', '"y" = "x"'], "cycle"),
        (['"x" = "x"'], "cycle"),
        (['"x" = "y"', '"y" = { to = "finetuned/a", canary = "z", share = 0.5 }', '"z" = "x"'], "cycle"),
        (['"x" = "../etc"'], "'x'"),
        (['"../x" = "finetuned/a"'], "'../x'"),
        (['"x@abcdef" = "finetuned/a"'], "no name for an alias"),
        (['"x" = 3'], "'x'"),
        (['"x" = { to = 3 }'], "'x'"),
        (['"x" = { to = "finetuned/a", colour = "red" }'], "'x'"),
        (['"x" = { to = "finetuned/a", share = 0.1 }'], "share without a canary"),
        (['"x" = { to = "finetuned/a", canary = "finetuned/b", share = 1.5 }'], "between 0 and 1"),
        (['"x" = { to = "finetuned/a", canary = "finetuned/b", share = nan }'], "between 0 and 1"),
        (['"x" = { to = "finetuned/a", canary = "finetuned/b", share = true }'], "between 0 and 1"),
        (['"x" = "finetuned/a"', '"huggingface:x" = "finetuned/b"'], "two ways"),
        (["x ="], "aliases.toml"),
        (["", "[colours]"], "tables"),
    ],
)
async def test_a_table_that_cannot_be_taken_is_told_once_and_the_last_good_one_goes_on(
    world: World, made: list[str], lines: list[str], why: str
) -> None:
    await two(world, made)
    await write(world, f'"{PROD}" = "{A}"')
    await write(world, f'"{PROD}" = "{B}"', *lines)
    await world.look()
    assert (await world.ask(PROD)).model == ModelId.of(A)
    (told,) = world.heard(events.AliasesRejected)
    assert why in told.message
    again = await world.restarted()
    await again.look()
    assert (await again.ask(PROD)).model == ModelId.of(A)


@pytest.mark.parametrize(
    "content", [b"\xff\xfe", b"[" * 100_000, b"aliases = 3", b"x = 1", b"[aliases]\n" + b"#" * 2**21]
)
async def test_whatever_the_file_holds_it_ends_nothing(world: World, made: list[str], content: bytes) -> None:
    await two(world, made)
    (world.root / "aliases.toml").write_bytes(content)
    await world.look()
    assert len(world.heard(events.AliasesRejected)) == 1
    assert world.find(A)


async def test_a_fifo_a_folder_and_a_link_out_of_the_volume_are_no_aliases(world: World, made: list[str]) -> None:
    await two(world, made)
    file = world.root / "aliases.toml"
    os.mkfifo(file)
    await world.look()
    file.unlink()
    file.mkdir()
    await world.look()
    file.rmdir()
    outside = world.base / "outside.toml"
    outside.write_text(f'[aliases]\n"{PROD}" = "{A}"\n')
    file.symlink_to(outside)
    await world.look()
    told = [event.message for event in world.heard(events.AliasesRejected)]  # the same news is told once
    assert told == ["aliases.toml is not a regular file", "aliases.toml is a link to something outside the volume"]
    assert isinstance(await world.refused(PROD), ModelNotFound)


async def test_a_file_that_could_not_be_opened_once_is_read_at_the_next_look(
    world: World, made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    await two(world, made)
    await write(world, f'"{PROD}" = "{A}"')
    open_ = os.open

    def full(path: str, *rest: Any, **named: Any) -> int:
        if str(path).endswith("aliases.toml"):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return open_(path, *rest, **named)

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", full)
        await write(world, f'"{PROD}" = "{B}"')
    assert (await world.ask(PROD)).model == ModelId.of(A)
    assert len(world.heard(events.AliasesRejected)) == 1
    await world.look()
    assert (await world.ask(PROD)).model == ModelId.of(B)


async def test_a_target_that_arrives_later_has_the_table_taken_without_another_change(
    world: World, made: list[str]
) -> None:
    world.put(made[0], A)
    await world.look()
    await write(world, f'"{PROD}" = "{B}"')
    assert isinstance(await world.refused(PROD), ModelNotFound)
    world.put(made[1], B)
    await world.look()
    assert (await world.ask(PROD)).model == ModelId.of(B)
    assert len(world.heard(events.AliasesRejected)) == 1


async def test_aliases_answer_from_the_first_moment_after_a_restart(world: World, made: list[str]) -> None:
    await two(world, made)
    await write(world, f'"{PROD}" = "{A}"')
    again = await world.restarted()
    assert (await again.ask(PROD)).model == ModelId.of(A)
    await again.look()
    assert (await again.ask(PROD)).model == ModelId.of(A)
    assert again.heard(events.AliasesChanged) == again.heard(events.AliasesRejected) == []


async def test_at_the_first_start_the_volume_counts_as_looked_at_only_with_its_aliases(
    world: World, made: list[str]
) -> None:
    world.put(made[0], A)
    (world.root / "aliases.toml").write_text(f'[aliases]\n"{PROD}" = "{A}"\n')
    await world.look()
    assert world.catalog.looked.is_set()
    assert (await world.ask(PROD)).model == ModelId.of(A)
    assert world.heard(events.AliasesRejected) == []


async def test_a_volume_that_is_away_takes_no_alias_with_it(world: World, made: list[str]) -> None:
    await two(world, made)
    await write(world, f'"{PROD}" = "{A}"')
    seen = world.snapshot()
    world.root.rename(world.base / "away")
    world.catalog.reconcile(seen)
    await world.quiet()
    assert (await world.ask(PROD)).model == ModelId.of(A)


async def test_a_directory_of_the_same_name_wins_and_that_is_told(world: World, made: list[str]) -> None:
    await two(world, made)
    await write(world, f'"{PROD}" = "{A}"')
    world.put(made[2], PROD)
    await world.look()
    await world.look()
    found = await world.ask(PROD)
    assert (found.model, found.alias) == (ModelId.of(PROD), None)
    assert [notice.code for notice in world.heard(events.Notice)] == ["alias_shadowed"]
    assert world.catalog.aliases()[0]["warning"]


async def test_a_file_that_changed_a_moment_ago_is_not_believed_and_looked_at_again(
    world: World, made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    await two(world, made)
    monkeypatch.setattr(alias_file, "SETTLE", 3600.0)
    asked = len(world.again)
    await write(world, f'"{PROD}" = "{A}"')
    assert world.catalog.aliases() == []
    assert len(world.again) > asked
    monkeypatch.setattr(alias_file, "SETTLE", 0.0)
    await world.look()
    assert (await world.ask(PROD)).model == ModelId.of(A)


async def test_a_canary_gets_its_share_and_every_client_stays_on_its_side(world: World, made: list[str]) -> None:
    await two(world, made)
    keys = [f"client {number}" for number in range(1000)]

    async def sides(share: float) -> dict[str, str]:
        await write(world, f'"{PROD}" = {{ to = "{A}", canary = "{B}", share = {share} }}')
        found = {key: await world.ask(PROD, key) for key in keys}
        assert all((each.arm == "canary") == (each.model == ModelId.of(B)) for each in found.values())
        return {key: str(each.arm) for key, each in found.items()}

    some, more = await sides(0.1), await sides(0.3)
    assert some == await sides(0.1)
    assert 60 <= Counter(some.values())["canary"] <= 140  # of 1,000 fixed keys: nothing here is left to chance
    assert {key for key, arm in some.items() if arm == "canary"} < {key for key, arm in more.items() if arm == "canary"}
    assert set((await sides(0.0)).values()) == {"main"}
    assert set((await sides(1.0)).values()) == {"canary"}


async def test_a_canary_may_be_another_generation_of_the_same_model(world: World, made: list[str]) -> None:
    old, new = await world.swap(*made[:2], path=A)
    await write(world, f'"{PROD}" = {{ to = "{A}@{old.short}", canary = "{A}", share = 0.5 }}')
    found = {(await world.ask(PROD, str(key))).generation.short for key in range(20)}
    assert found == {old.short, new.short}


async def test_a_canary_that_may_not_be_served_costs_nobody_an_answer(world: World, made: list[str]) -> None:
    await two(world, made)
    await write(world, f'"{PROD}" = {{ to = "{A}", canary = "{B}", share = 1 }}')
    assert (await world.ask(PROD)).arm == "canary"
    os.rename(world.root / B, world.base / "b")
    await world.look()
    found = await world.ask(PROD)
    assert (found.model, found.arm) == (ModelId.of(A), "fallback")
    assert isinstance(await world.refused(f"{PROD}@ffffff"), GenerationNotFound)


def test_different_aliases_do_not_choose_the_same_clients_first() -> None:
    first, other = ModelId.of(PROD), ModelId.of("prod/chemistry")
    keys = [str(number) for number in range(200)]
    assert {key for key in keys if position(first, key) < 0.2} != {key for key in keys if position(other, key) < 0.2}
    assert all(0 <= position(first, key) < 1 for key in [*keys, "\ud800"])


def test_long_chains_and_many_aliases_end_in_time() -> None:
    chain = "\n".join(f'"a{number}" = "a{number + 1}"' for number in range(MOST))
    assert len(parse(f"[aliases]\n{chain}".encode(), "/models")) == MOST
    with pytest.raises(AliasFault, match="at most"):
        parse(f'[aliases]\n{chain}\n"one" = "more"'.encode(), "/models")
