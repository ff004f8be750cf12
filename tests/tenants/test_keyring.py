"""The keys in force: picked up without a restart, and never lost to a slip."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from gateway import events
from gateway.settings import Settings, SettingsError
from gateway.tenants.caller import OPEN
from gateway.tenants.keyring import Keyring, opened
from gateway.tenants.keys import Before, Key, KeyFile, digest, new_id, new_secret


class Rig:
    """A keys file and the keyring that reads it; `now` is its time."""

    def __init__(self, tmp_path: Path) -> None:
        self.path = tmp_path / "keys.json"
        self.file = KeyFile(str(self.path))
        self.told: list[events.Event] = []
        tell = events.Events()
        tell.subscribe(self.told.append)
        self.now = 1000.0
        self.keyring = Keyring(str(self.path), tell, clock=lambda: self.now)

    def add(self, name: str, **fields: object) -> str:
        id = new_id()
        secret = new_secret(id)
        made = {"id": id, "name": name, "tenant": name, "sha256": digest(secret), "created": 1.0} | fields
        self.file.change(lambda keys: (*keys, msgspec.convert(made, Key)))
        return secret

    def remove(self, name: str) -> None:
        self.file.change(lambda keys: tuple(key for key in keys if key.name != name))


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


def test_without_a_file_no_key_is_needed(rig: Rig) -> None:
    rig.keyring.read()
    assert not rig.keyring.closed
    assert rig.keyring.empty
    assert rig.keyring.holds(OPEN)


def test_a_key_of_the_file_is_found_with_what_it_may(rig: Rig) -> None:
    secret = rig.add("a", tenant="org", role="operate", namespaces=["x", "y/*"])
    rig.keyring.read()
    caller = rig.keyring.find(secret)
    assert rig.keyring.closed
    assert caller is not None
    assert (caller.tenant, caller.name, caller.role, caller.namespaces) == ("org", "a", "operate", ("x", "y/*"))
    assert rig.keyring.tenants == {"org"}
    assert not rig.keyring.holds(OPEN)
    assert rig.keyring.holds(caller)


def test_no_other_text_is_a_key(rig: Rig) -> None:
    secret = rig.add("a")
    rig.keyring.read()
    id = secret.split("_")[1]
    for text in ["", "x", secret[:-1], secret + "x", new_secret(id), new_secret(new_id()), digest(secret)]:
        assert rig.keyring.find(text) is None


async def test_keys_that_are_made_and_revoked_count_without_a_restart(rig: Rig) -> None:
    rig.keyring.read()
    secret = rig.add("a")
    await rig.keyring.look()
    caller = rig.keyring.find(secret)
    assert caller is not None
    assert rig.told == [events.KeysChanged(keys=1)]
    rig.remove("a")
    await rig.keyring.look()
    assert rig.keyring.find(secret) is None
    assert not rig.keyring.holds(caller)


async def test_a_gateway_stays_closed_when_its_last_key_is_revoked(rig: Rig) -> None:
    rig.add("a")
    rig.keyring.read()
    rig.remove("a")
    await rig.keyring.look()
    assert rig.keyring.closed
    assert rig.keyring.empty


@pytest.mark.parametrize("slip", ["{", '{"keys": 3}', None])
async def test_a_broken_or_lost_file_keeps_the_last_good_keys_and_says_so_once(rig: Rig, slip: str | None) -> None:
    secret = rig.add("a")
    rig.keyring.read()
    rig.path.unlink()
    if slip is not None:
        rig.path.write_text(slip, encoding="utf-8")
    for _ in range(3):
        await rig.keyring.look()
    assert rig.keyring.find(secret) is not None
    assert rig.keyring.closed
    assert [type(event) for event in rig.told] == [events.KeysRejected]
    rig.path.unlink(missing_ok=True)
    other = rig.add("b")
    await rig.keyring.look()
    assert rig.keyring.find(other) is not None
    assert rig.keyring.find(secret) is None


async def test_a_file_that_has_not_changed_is_nobodys_news(rig: Rig) -> None:
    rig.add("a")
    rig.keyring.read()
    await rig.keyring.look()
    assert rig.told == []


async def test_a_rotated_key_is_good_in_both_forms_until_its_grace_ends(rig: Rig) -> None:
    old = rig.add("a")
    new = new_secret(old.split("_")[1])
    before = Before(sha256=digest(old), until=1060.0)
    rig.file.change(lambda keys: (msgspec.structs.replace(keys[0], sha256=digest(new), before=before),))
    rig.keyring.read()
    assert rig.keyring.find(old) == rig.keyring.find(new) is not None
    rig.now = 1060.0
    assert rig.keyring.find(old) is None
    assert rig.keyring.find(new) is not None


async def test_a_caller_whose_key_has_changed_is_held_no_more(rig: Rig) -> None:
    secret = rig.add("a", namespaces=["x"])
    rig.keyring.read()
    caller = rig.keyring.find(secret)
    assert caller is not None
    rig.file.change(lambda keys: (msgspec.structs.replace(keys[0], namespaces=("y",)),))
    await rig.keyring.look()
    assert not rig.keyring.holds(caller)


def test_a_broken_file_at_the_start_lets_nobody_in(rig: Rig, tmp_path: Path) -> None:
    rig.path.write_text("{", encoding="utf-8")
    with pytest.raises(SettingsError, match=r"API keys cannot be read: .*keys\.json"):
        opened(Settings(state_dir=str(tmp_path)), events.Events())


def test_a_file_that_the_operator_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"--keys-file .*/other\.json: no such file"):
        opened(Settings(state_dir=str(tmp_path), keys_file=str(tmp_path / "other.json")), events.Events())
    assert not opened(Settings(state_dir=str(tmp_path)), events.Events()).closed
