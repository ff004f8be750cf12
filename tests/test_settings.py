"""Where each setting comes from, which source wins, and that every error names the one it is about."""

from __future__ import annotations

import os
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import settings
from gateway.parsing import PARSERS, parse_bytes
from gateway.settings import CHOICES, Settings, SettingsError, environment_names, flag, load

NAMES = [spec.name for spec in fields(Settings)]
# a text of every kind and its value, and a text that is none of its kind
GOOD: dict[str, tuple[str, Any]] = {
    "text": (" debug ", "debug"),
    "path": ("/srv/elsewhere", "/srv/elsewhere"),
    "volume": ("/srv/elsewhere", "/srv/elsewhere"),
    "maybe_path": ("/srv/keys.json", "/srv/keys.json"),
    "place": (" s3://bucket/papers/ ", "s3://bucket/papers"),
    "origins": (" https://A.example/, http://localhost:3000", "https://a.example,http://localhost:3000"),
    "bytes": ("2GiB", 2 * 1024**3),
    "bytes_or_auto": ("2GiB", 2 * 1024**3),
    "switch": ("Yes", True),
    "maybe": ("false", False),
    "count": ("7", 7),
    "positive": ("7", 7),
    "port": ("9000", 9000),
    "seconds": ("1.5", 1.5),
    "url": ("http://hub.example:8080/", "http://hub.example:8080"),
    "maybe_url": ("http://models.example/v1/", "http://models.example/v1"),
    "cosine": ("-0.25", -0.25),
    "rules": (" org/*=openvino/bfloat16,m=torch ", "org/*=openvino/bfloat16,m=torch"),
    "shares": (" finetuned/hot=4,org/*=0.5 ", "finetuned/hot=4,org/*=0.5"),
}
BAD: dict[str, list[str]] = {
    "path": ["~nobody-of-this-name/models"],
    "volume": ["s3://", "s3://b?region=x", "~nobody-of-this-name/models"],
    "maybe_path": ["~nobody-of-this-name/keys.json"],
    "place": ["s3://", "s3://b?region=x", "~nobody-of-this-name/knowledge"],
    "origins": ["*", "app.example", "https://a.example/path", "https://*.example"],
    "bytes": ["many", "-1", "2TiB", "1e9", "9" * 400],
    "bytes_or_auto": ["many", "-1"],
    "switch": ["maybe", "2", "auto"],
    "maybe": ["perhaps", "2"],
    "count": ["-1", "1.5", "many", "\u00b2", "9" * 30],
    "positive": ["0", "-1", "many"],
    "port": ["65536", "-1", "http"],
    "seconds": ["-1", "soon", "nan", "inf", "1e10"],
    "rules": ["org/*", "org/*=", "=torch", "org/*=cuda", "org/*=torch/int4"],
    "shares": ["finetuned/hot", "finetuned/hot=0", "=1", "org/*=many"],
    "maybe_url": ["hub.example", "ftp://hub.example"],
    "cosine": ["1.5", "nan", "close"],
    "url": ["hub.example", "ftp://hub.example", "http://", "https://hub.example/?a=b"],
}
KINDS = {spec.name: spec.metadata["parse"] for spec in fields(Settings)}
BAD_CASES = [(name, text) for name in NAMES for text in BAD.get(KINDS[name], [])]
BAD_CASES += [(name, "loud") for name in CHOICES]


def good(name: str) -> tuple[str, Any]:
    """A choice has its own texts, of which any will do."""
    if name in CHOICES:
        text = max(CHOICES[name])
        return f" {text} ", text
    return GOOD[KINDS[name]]


def refusal(*args: Any) -> str:
    with pytest.raises(SettingsError) as refused:
        load(*args)
    return str(refused.value)


def test_the_command_line_wins_over_the_environment_over_the_file_over_the_default(tmp_path: Path) -> None:
    file = tmp_path / "dropgate.toml"
    file.write_text("port = 3\n")
    environment = {"DROPGATE_PORT": "2"}
    assert load({"port": "1"}, environment, str(file)).port == 1
    assert load({}, environment, str(file)).port == 2
    assert load({}, {}, str(file)).port == 3
    assert load({}, {}).port == 8001


def test_every_kind_of_setting_has_a_parser_that_these_tests_know() -> None:
    assert set(KINDS.values()) <= PARSERS.keys()
    assert GOOD.keys() == PARSERS.keys()
    assert BAD.keys() == PARSERS.keys() - {"text"}


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_comes_from_its_flag_its_variable_and_its_key(name: str, tmp_path: Path) -> None:
    text, value = good(name)
    file = tmp_path / "dropgate.toml"
    file.write_text(f'{name} = "{text}"\n')
    assert getattr(load({name: text}, {}), name) == value
    assert getattr(load({}, {"DROPGATE_" + name.upper(): text}), name) == value
    assert getattr(load({}, {}, str(file)), name) == value


@pytest.mark.parametrize(
    ("variable", "name"),
    [
        ("SERVE_MODEL", "default_model"),
        ("SERVE_HOST", "host"),
        ("SERVE_PORT", "port"),
        ("SERVE_DEVICE", "device"),
        ("SERVE_CONCURRENCY", "tokenizer_threads"),
        ("SERVE_BATCH_SIZE", "max_batch_texts"),
        ("SERVE_NORMALIZE", "normalize"),
        ("MODELS_DIR", "models_dir"),
        ("SENTENCE_TRANSFORMERS_HOME", "models_dir"),
        ("HUGGINGFACE_EMBEDDING_MODEL_DEFAULT", "default_model"),
        ("EMBEDDING_MODEL", "default_model"),
        ("HUGGINGFACE_FINETUNED_EMBEDDING_MODEL", "default_model"),
        ("EMBEDDING_DEVICE", "device"),
        ("EMBEDDING_DIM", "expect_dim"),
        ("MODEL_CACHE_SIZE", "max_loaded_models"),
        ("HF_ENDPOINT", "hub_endpoint"),
        ("HF_HUB_OFFLINE", "hub_offline"),
        ("HF_TOKEN", "hub_token"),
    ],
)
def test_a_variable_of_an_older_system_still_sets(variable: str, name: str) -> None:
    text, value = good(name)
    assert variable in environment_names(name)
    assert getattr(load({}, {variable: text}), name) == value


def test_every_older_variable_gives_way_to_our_own_and_to_those_before_it() -> None:
    for name in NAMES:
        if KINDS[name] != "text" or name in CHOICES:
            continue
        variables = environment_names(name)
        everything = {variable: variable for variable in variables}
        for variable in variables:
            assert getattr(load({}, everything), name) == variable
            del everything[variable]


def test_no_variable_sets_two_settings() -> None:
    every = [variable for name in NAMES for variable in environment_names(name)]
    assert len(every) == len(set(every))


def test_a_variable_that_is_set_to_nothing_is_not_set() -> None:
    assert load({}, {"DROPGATE_PORT": " ", "SERVE_PORT": "9000"}).port == 9000


@pytest.mark.parametrize(("name", "text"), BAD_CASES)
def test_bad_input_names_the_flag_the_variable_or_the_key(name: str, text: str, tmp_path: Path) -> None:
    file = tmp_path / "dropgate.toml"
    file.write_text(f'{name} = "{text}"\n', encoding="utf-8")
    assert refusal({name: text}, {}).startswith(f"{flag(name)}={text!r}: ")
    for variable in environment_names(name):
        assert refusal({}, {variable: text}).startswith(f"{variable}={text!r}: ")
    assert refusal({}, {}, str(file)).startswith(f"{file}: {name}={text!r}: ")


@pytest.mark.parametrize("text", ["", " ", "a\0b"])
def test_what_is_no_path_is_refused(text: str) -> None:
    assert refusal({"models_dir": text}, {}).endswith("expected a path")


def test_a_choice_that_is_none_tells_the_choices() -> None:
    assert "console, json" in refusal({"log_format": "xml"}, {})
    assert "debug, error, info, warning" in refusal({}, {"DROPGATE_LOG_LEVEL": "loud"})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("1000000", 10**6),
        ("500MB", 500 * 10**6),
        ("500m", 500 * 10**6),
        ("1.5 GiB", 3 * 2**29),
        ("0.3GB", 300_000_000),
        ("16KiB", 16384),
        ("9007199254740993", 9007199254740993),  # more than a float can hold
    ],
)
def test_bytes_are_read_with_their_unit_and_exactly(text: str, value: int) -> None:
    assert parse_bytes(text) == value


@given(st.text() | st.from_regex(r"[0-9.]{1,400} ?[KMG]?i?B?", fullmatch=True), st.sampled_from(sorted(PARSERS)))
def test_a_parser_gives_a_value_or_a_value_error_and_nothing_else(text: str, kind: str) -> None:
    try:
        value = PARSERS[kind](text)
    except ValueError:
        return
    assert isinstance(value, int | float | str | None)


def test_normalize_is_left_to_the_model_unless_somebody_says_otherwise() -> None:
    assert load({}, {}).normalize is None
    assert load({}, {"SERVE_NORMALIZE": "true"}).normalize is True
    assert load({"normalize": "auto"}, {"SERVE_NORMALIZE": "true"}).normalize is None


def test_a_file_has_the_types_of_toml(tmp_path: Path) -> None:
    file = tmp_path / "dropgate.toml"
    file.write_text('allow_pickle = true\nport = 9000\nrequest_timeout = 2.5\nmax_body_bytes = "1MiB"\n')
    loaded = load({}, {"DROPGATE_CONFIG": str(file)})
    assert (loaded.allow_pickle, loaded.port, loaded.request_timeout) == (True, 9000, 2.5)
    assert loaded.max_body_bytes == 1024**2


def test_the_file_of_the_command_line_wins_over_that_of_the_environment(tmp_path: Path) -> None:
    for port in (1, 2):
        (tmp_path / f"{port}.toml").write_text(f"port = {port}\n")
    assert load({}, {"DROPGATE_CONFIG": str(tmp_path / "1.toml")}, str(tmp_path / "2.toml")).port == 2


@pytest.mark.parametrize("content", [b"port 9000", b"\xff\xfe", b"port = 1\nport = 2", b'a = "\xe9"'])
def test_a_file_that_is_not_toml_is_named(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "dropgate.toml"
    file.write_bytes(content)
    assert refusal({}, {}, str(file)).startswith(f"{file}: ")


def test_a_file_that_is_not_there_or_has_an_unknown_key_is_named(tmp_path: Path) -> None:
    file = tmp_path / "dropgate.toml"
    assert str(file) in refusal({}, {}, str(file))
    file.write_text("prot = 9000\n")
    assert refusal({}, {}, str(file)) == f"{file}: no such setting: prot"


@pytest.mark.parametrize("state", ["", "state", "a/../state", "..data/state"])
def test_a_state_directory_inside_the_models_directory_is_refused(state: str, tmp_path: Path) -> None:
    message = refusal({"models_dir": str(tmp_path), "state_dir": os.path.join(tmp_path, state)}, {})
    assert "--state-dir" in message
    assert "--models-dir" in message


def test_models_may_lie_in_a_bucket_beside_which_any_state_directory_is_fine() -> None:
    chosen = load({"models_dir": " s3://bucket/models/ ", "state_dir": "/srv/state"}, {})
    assert chosen.models_dir == "s3://bucket/models"


@pytest.mark.parametrize(
    ("name", "text"), [("copy_budget", "1GB"), ("serve_in_place", "true"), ("hub_allow", "a/*"), ("watch", "events")]
)
def test_what_needs_a_file_system_is_refused_of_a_bucket(name: str, text: str) -> None:
    message = refusal({"models_dir": "s3://bucket", name: text}, {})
    assert "--" + name.replace("_", "-") in message
    assert "s3://bucket" in message


@pytest.mark.parametrize(
    ("others", "named"),
    [({}, "--ray-models-dir"), ({"ray_models_dir": "/mnt/models", "disk_budget": "1GB"}, "--disk-budget")],
)
def test_nodes_of_a_cluster_read_a_bucket_by_a_folder(others: dict[str, str], named: str) -> None:
    assert named in refusal({"models_dir": "s3://bucket", "engine": "ray", **others}, {})
    load({"models_dir": "s3://bucket", "engine": "ray", "ray_models_dir": "/mnt/models"}, {})


def test_a_state_directory_that_a_link_leads_into_the_models_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "models/inside").mkdir(parents=True)
    (tmp_path / "state").symlink_to("models/inside")
    assert "--state-dir" in refusal({"models_dir": f"{tmp_path}/models", "state_dir": f"{tmp_path}/state"}, {})
    assert "--state-dir" in refusal({"models_dir": "/", "state_dir": f"{tmp_path}/state"}, {})


def test_a_state_directory_beside_the_models_directory_is_fine_even_with_a_name_that_begins_alike() -> None:
    loaded = load({"models_dir": "/srv/models", "state_dir": "/srv/models-state"}, {})
    assert (loaded.models_dir, loaded.state_dir) == ("/srv/models", "/srv/models-state")


def test_paths_are_absolute_wherever_they_come_from(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert load({}, {}).models_dir == str(tmp_path / "models")
    assert load({"state_dir": "there"}, {}).state_dir == str(tmp_path / "there")


def test_without_an_environment_the_processes_own_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DROPGATE_PORT", "9123")
    assert settings.load().port == 9123
