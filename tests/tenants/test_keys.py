"""The file of keys: replaced whole, for its owner alone, and without a secret in it."""

from __future__ import annotations

import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from gateway.tenants.keys import Before, Key, KeyFault, KeyFile, digest, id_of, new_id, new_secret


def key(name: str = "a", secret: str = "", **fields: object) -> Key:
    id = id_of(secret) or new_id()
    return msgspec.convert(
        {"id": id, "name": name, "tenant": name, "sha256": digest(secret), "created": 1.0} | fields, Key
    )


def file(tmp_path: Path) -> KeyFile:
    return KeyFile(str(tmp_path / "state" / "keys.json"))


def test_a_secret_has_256_bits_of_its_own_and_names_its_key() -> None:
    made = [new_secret("0123456789ab") for _ in range(100)]
    assert len({secret.rpartition("_")[2] for secret in made}) > 1
    assert len(set(made)) == 100
    assert {id_of(secret) for secret in made} == {"0123456789ab"}
    assert {len(secret) - len("dg_0123456789ab_") for secret in made} == {43}  # 32 bytes as base64


@pytest.mark.parametrize(
    "text", ["", "x", "dg_0123456789ab_", "dg_0123456789AB_" + "a" * 43, "dg_0123456789ab_" + "a" * 44, "\ud800"]
)
def test_what_is_no_key_has_no_id(text: str) -> None:
    assert id_of(text) is None
    assert len(digest(text)) == 64


def test_a_key_opens_with_its_secret_and_with_no_other() -> None:
    secret = new_secret(new_id())
    it = key(secret=secret)
    assert it.opens(digest(secret), 0.0)
    assert not it.opens(digest(new_secret(it.id)), 0.0)
    assert not it.opens("0" * 64, 0.0)


def test_the_secret_before_is_good_until_its_grace_ends() -> None:
    old, new = new_secret("0123456789ab"), new_secret("0123456789ab")
    it = msgspec.structs.replace(key(secret=new), before=Before(sha256=digest(old), until=10.0))
    assert it.opens(digest(old), 9.9)
    assert not it.opens(digest(old), 10.0)
    assert it.opens(digest(new), 10.0)


def test_what_is_written_is_read_and_only_its_owner_may(tmp_path: Path) -> None:
    made, secret = file(tmp_path), new_secret(new_id())
    it = key(secret=secret, namespaces=["finetuned", "org/*"], role="operate", tokens_per_minute=5)
    made.change(lambda keys: (*keys, it))
    assert made.read() == (it,)
    assert stat.S_IMODE(os.stat(made.path).st_mode) == 0o600
    content = Path(made.path).read_text(encoding="utf-8")
    assert secret.rpartition("_")[2] not in content
    assert json.loads(content)["version"] == 1


def test_a_leftover_that_all_may_read_does_not_make_the_file_so(tmp_path: Path) -> None:
    made = file(tmp_path)
    made.change(lambda keys: (key(),))
    Path(made.path + ".partial").write_text("half", encoding="utf-8")
    os.chmod(made.path + ".partial", 0o644)
    made.change(lambda keys: (*keys, key("b")))
    assert stat.S_IMODE(os.stat(made.path).st_mode) == 0o600


def test_changes_at_once_are_all_there(tmp_path: Path) -> None:
    made = file(tmp_path)
    names = [f"k{number}" for number in range(20)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda name: KeyFile(made.path).change(lambda keys: (*keys, key(name))), names))
    assert sorted(each.name for each in made.read()) == sorted(names)


def test_a_change_that_is_refused_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    made, it = file(tmp_path), key()
    made.change(lambda keys: (it,))
    with pytest.raises(KeyFault, match="two keys have the name a"):
        made.change(lambda keys: (*keys, key("a")))
    with pytest.raises(KeyFault, match="is no namespace"):
        made.change(lambda keys: (*keys, key("b", namespaces=["a/b/c"])))
    assert made.read() == (it,)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '{"version": 2, "keys": []}',
        '{"keys": [{}]}',
        '{"keys": [{"id": "x", "name": "a", "tenant": "a", "sha256": "0", "created": 1}]}',
        "\udcff",
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "keys.json"
    path.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(KeyFault, match=r"keys\.json"):
        KeyFile(str(path)).read()


def test_a_field_that_this_version_does_not_know_is_refused_and_not_passed_over(tmp_path: Path) -> None:
    """A limit that is written by a newer version must not be dropped in silence."""
    made = file(tmp_path)
    made.change(lambda keys: (key(),))
    path = Path(made.path)
    document = json.loads(path.read_text(encoding="utf-8"))
    document["keys"][0]["only_on_mondays"] = True
    path.write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(KeyFault, match="only_on_mondays"):
        made.read()


def test_what_the_operating_system_forbids_is_told(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.mkdir()
    with pytest.raises(KeyFault, match=r"keys\.json: Is a directory"):
        KeyFile(str(path)).read()
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(KeyFault):
        KeyFile(str(tmp_path / "file" / "keys.json")).change(lambda keys: keys)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_key_that_root_makes_can_be_read_by_the_owner_of_the_directory(tmp_path: Path) -> None:
    os.chown(tmp_path, 12345, 12346)
    made = KeyFile(str(tmp_path / "keys.json"))
    made.change(lambda keys: (key(),))
    found = os.stat(made.path)
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (12345, 12346, 0o600)
