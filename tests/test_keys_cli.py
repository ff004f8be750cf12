"""`gateway keys` as an operator types it: a secret is shown once, alone, and the file is all that changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gateway import cli
from gateway.keys import seconds
from gateway.settings import SettingsError
from gateway.tenants.keys import KeyFile, digest


class Operator:
    """Types `gateway keys` for one state directory."""

    def __init__(self, state: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.state = state
        self._capsys = capsys

    def types(self, *words: str, status: int = 0) -> tuple[str, str]:
        """Standard output and standard error."""
        try:
            found = cli.main(["keys", *words, f"--state-dir={self.state}"])
        except SystemExit as exit:
            found = int(exit.code or 0)
        said = self._capsys.readouterr()
        assert found == status, said
        return said.out, said.err

    def json(self, *words: str) -> Any:
        return json.loads(self.types(*words, "--json")[0])

    @property
    def file(self) -> KeyFile:
        return KeyFile(str(self.state / "keys.json"))


@pytest.fixture
def operator(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Operator:
    monkeypatch.delenv("DROPGATE_KEYS_FILE", raising=False)
    return Operator(tmp_path / "state", capsys)


def test_a_new_key_is_all_that_is_printed_so_that_a_script_can_take_it(operator: Operator) -> None:
    out, err = operator.types("create", "physics")
    secret = out.strip()
    (key,) = operator.file.read()
    assert key.sha256 == digest(secret)
    assert "shown this once" in err
    assert secret not in err
    assert (key.name, key.tenant, key.role, key.namespaces) == ("physics", "physics", "use", ("*",))


def test_a_key_has_what_it_was_given(operator: Operator) -> None:
    words = ["--tenant=org", "--namespaces=finetuned, org/*", "--role=operate", "--requests-per-minute=60"]
    made = operator.json("create", "physics", *words, "--tokens-per-minute=1000", "--concurrency=2")
    shown = operator.json("show", made["id"])
    assert shown == operator.json("show", "physics") == {name: made[name] for name in made if name != "key"}
    assert (shown["tenant"], shown["namespaces"], shown["role"]) == ("org", ["finetuned", "org/*"], "operate")
    assert (shown["requests_per_minute"], shown["tokens_per_minute"], shown["concurrency"]) == (60, 1000, 2)


def test_no_secret_and_no_hash_is_shown_again(operator: Operator) -> None:
    secret = operator.types("create", "physics")[0].strip()
    operator.types("rotate", "physics")
    for words in (("list",), ("show", "physics"), ("list", "--json"), ("show", "physics", "--json")):
        out, _ = operator.types(*words)
        assert "physics" in out
        assert secret not in out
        assert digest(secret) not in out
        assert operator.file.read()[0].sha256 not in out


def test_the_list_has_every_key_and_its_limits(operator: Operator) -> None:
    assert "no key" in operator.types("list")[0]
    operator.types("create", "a", "--requests-per-minute=60")
    operator.types("create", "b", "--role=admin", "--namespaces=.")
    lines = operator.types("list")[0].splitlines()
    assert [line.split()[1] for line in lines] == ["NAME", "a", "b"]
    assert "60 requests/min" in lines[1]
    assert "admin" in lines[2]


def test_a_rotated_key_keeps_its_id_and_its_old_secret_for_the_grace(operator: Operator) -> None:
    old = operator.types("create", "physics")[0].strip()
    out, err = operator.types("rotate", "physics", "--grace=15m")
    (key,) = operator.file.read()
    assert key.id == old.split("_")[1] == out.split("_")[1]
    assert key.rotated is not None
    assert key.before is not None
    assert (key.before.sha256, key.before.until) == (digest(old), key.rotated + 900)
    assert key.sha256 == digest(out.strip())
    assert "good until 20" in err


def test_without_grace_the_old_secret_ends_at_once(operator: Operator) -> None:
    operator.types("create", "physics")
    assert "good no longer" in operator.types("rotate", "physics", "--grace=0")[1]
    assert operator.file.read()[0].before is None


def test_a_revoked_key_is_gone_and_the_others_stay(operator: Operator) -> None:
    for name in ("a", "b", "c"):
        operator.types("create", name)
    id = operator.json("show", "b")["id"]
    assert f"b ({id}) is revoked" in operator.types("revoke", id)[0]
    assert [key.name for key in operator.file.read()] == ["a", "c"]


@pytest.mark.parametrize("verb", ["show", "rotate", "revoke"])
def test_a_key_that_is_not_there_is_told(operator: Operator, verb: str) -> None:
    operator.types("create", "a")
    before = operator.file.read()
    assert "no key has the name or the id 'b'" in operator.types(verb, "b", status=1)[1]
    assert operator.file.read() == before


def test_a_name_is_given_once(operator: Operator) -> None:
    operator.types("create", "a")
    assert "two keys have the name a" in operator.types("create", "a", status=1)[1]


@pytest.mark.parametrize(
    ("words", "about"),
    [
        (["create", "a b"], "name"),
        (["create", "a", "--tenant=a/b"], "tenant"),
        (["create", "a", "--role=root"], "--role"),
        (["create", "a", "--concurrency=-1"], "concurrency"),
        (["create", "a", "--tokens-per-minute=many"], "--tokens-per-minute"),
        (["rotate", "a", "--grace=soon"], "--grace"),
    ],
)
def test_wrong_usage_exits_2_and_names_what_is_wrong(operator: Operator, words: list[str], about: str) -> None:
    assert about in operator.types(*words, status=2)[1]


def test_a_namespace_that_can_match_nothing_is_refused(operator: Operator) -> None:
    assert "'a/b/c' is no namespace" in operator.types("create", "a", "--namespaces=a/b/c", status=1)[1]


def test_the_file_may_lie_elsewhere(operator: Operator, tmp_path: Path) -> None:
    operator.types("create", "a", f"--keys-file={tmp_path}/secrets/k.json")
    assert [key.name for key in KeyFile(f"{tmp_path}/secrets/k.json").read()] == ["a"]
    assert not operator.state.exists()


@pytest.mark.parametrize(
    ("text", "value"), [("0", 0), ("90", 90), ("90s", 90), ("15m", 900), ("24h", 86400), ("7d", 604800)]
)
def test_times_are_read_with_their_unit(text: str, value: float) -> None:
    assert seconds(text) == value


@pytest.mark.parametrize("text", ["", "-1", "1.5h", "h", "1w", "٣"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="--grace"):
        seconds(text)
