"""Which providers there are, what their names mean, and the plain parts of a call: frames, pauses, the breaker."""

from __future__ import annotations

from email.utils import formatdate
from pathlib import Path
from typing import cast

import pytest

from gateway import errors
from gateway.ask import frames, retries
from gateway.ask.breaker import FAILURES, PAUSE, Breaker
from gateway.ask.providers import Named
from gateway.ask.roster import Roster
from gateway.ask.specs import specs
from gateway.service import Service
from gateway.settings import Settings, SettingsError, load
from tests.ask.serving import Words


def test_a_name_is_a_provider_and_a_model_whose_own_colons_belong_to_it() -> None:
    assert Named.parse("Ollama:llama3:8b") == Named("ollama", "llama3:8b")
    for nothing in ("openai:", "gpt-4o", ""):
        with pytest.raises(errors.ProviderModelNotFound):
            Named.parse(nothing)


def test_there_are_no_providers_unless_they_are_set_up() -> None:
    assert specs(Settings()) == {}


def test_the_environment_sets_up_those_that_earlier_systems_knew() -> None:
    environment = {
        "OPENAI_API_KEY": "sk-1",
        "STANFORD_BASE_URL": "https://ai.example.edu/v1/",
        "STANFORD_API_KEY": "st-1",
        "OLLAMA_BASE_URL": "http://localhost:11434",
    }
    found = specs(load({}, environment))
    assert {name: spec.base_url for name, (spec, _) in found.items()} == {
        "openai": "https://api.openai.com/v1",
        "stanford": "https://ai.example.edu/v1",
        "ollama": "http://localhost:11434/v1",
    }
    assert {name: key.read(name) for name, (_, key) in found.items()} == {
        "openai": "sk-1",
        "stanford": "st-1",
        "ollama": "",
    }


def test_no_key_shows_in_the_settings() -> None:
    chosen = load({}, {"OPENAI_API_KEY": "sk-1", "STANFORD_API_KEY": "st-1"})
    assert "sk-1" not in repr(chosen)
    assert "st-1" not in repr(chosen)


def test_a_file_names_others_and_where_their_keys_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "key").write_text("of a file\n")
    (tmp_path / "providers.toml").write_text(
        f'[vllm]\nbase_url = "http://127.0.0.1:8000/v1"\napi_key_file = "{tmp_path / "key"}"\nmodels = ["small"]\n'
        '[openai]\nbase_url = "http://127.0.0.1:9000/v1"\napi_key_env = "SOME_KEY"\n'
    )
    found = specs(Settings(providers=str(tmp_path / "providers.toml"), openai_api_key="sk-1"))
    assert found["vllm"][0].models == ("small",)
    assert found["vllm"][1].read("vllm") == "of a file"
    monkeypatch.setenv("SOME_KEY", "of a variable")
    assert found["openai"][1].read("openai") == "of a variable"


@pytest.mark.parametrize(
    "text",
    [
        "[x]",
        '[x]\nbase_url = "ftp://x"',
        '[x]\nbase_url = "http://x"\ntimeot = 1',
        '[extractive]\nbase_url = "http://x"',
        '["a:b"]\nbase_url = "http://x"',
        "not toml",
    ],
)
def test_a_file_that_cannot_be_meant_is_refused_at_the_start(tmp_path: Path, text: str) -> None:
    (tmp_path / "providers.toml").write_text(text)
    with pytest.raises(SettingsError, match=r"providers\.toml"):
        specs(Settings(providers=str(tmp_path / "providers.toml")))


def test_a_provider_that_is_not_set_up_is_refused_with_how_to() -> None:
    roster, service = Roster({}), cast(Service, Words(Settings()))
    with pytest.raises(errors.ProviderNotFound, match="OPENAI_API_KEY"):
        roster.find(Named("openai", "gpt"), service)
    with pytest.raises(errors.ProviderNotFound, match="--providers"):
        roster.find(Named("elsewhere", "gpt"), service)
    with pytest.raises(errors.ModelNotFound, match="finetuned/talker"):
        roster.find(Named("huggingface", "finetuned/talker"), service)


def test_an_event_may_come_in_any_pieces() -> None:
    whole = b': hello\r\ndata: {"a":\r\ndata: 1}\r\n\r\nevent: x\ndata:2\n\ndata: [DONE]'
    for size in range(1, len(whole)):
        lines = frames.Lines()
        found = [data for start in range(0, len(whole), size) for data in lines.feed(whole[start : start + size])]
        assert [*found, *lines.end()] == [b'{"a":\n1}', b"2", b"[DONE]"]


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "3"}, 3.0),
        ({"retry-after-ms": "250", "Retry-After": "3"}, 0.25),
        ({"Retry-After": formatdate(110.0, usegmt=True)}, 10.0),
        ({"Retry-After": formatdate(90.0, usegmt=True)}, 0.0),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "-1"}, None),
        ({"Retry-After": "nan"}, None),
        ({}, None),
    ],
)
def test_a_provider_says_how_long_to_wait_in_any_of_the_usual_ways(
    headers: dict[str, str], seconds: float | None
) -> None:
    assert retries.wait(headers, now=lambda: 100.0) == seconds


def test_pauses_double_with_chance_in_them_and_end() -> None:
    assert [retries.pause(tried, None, chance=lambda: 1.0) for tried in (1, 2, 3)] == [0.25, 0.5, None]
    assert retries.pause(1, None, chance=lambda: 0.0) == 0.125
    assert retries.pause(1, 2.0) == 2.0
    assert retries.pause(1, 60.0) is None


def test_a_breaker_lets_one_through_after_the_pause_and_stays_open_if_that_fails() -> None:
    now = [0.0]
    breaker = Breaker(lambda: now[0])
    for _ in range(FAILURES):
        assert breaker.remaining() == 0
        breaker.failed()
    assert breaker.remaining() == PAUSE
    now[0] += PAUSE
    assert breaker.remaining() == 0, "one"
    assert breaker.remaining() > 0, "and no other beside it"
    breaker.failed()
    assert breaker.remaining() == PAUSE
    now[0] += PAUSE
    assert breaker.remaining() == 0
    breaker.left()
    assert breaker.remaining() == 0, "who left has told nothing"
    breaker.succeeded()
    assert [breaker.remaining() for _ in range(2)] == [0, 0]
