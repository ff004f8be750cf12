"""The one parser of model identifiers: every spelling that clients send, and everything that must not get through."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import InvalidModelId
from gateway.model import DEFAULT_NAMESPACE, MAX_ID_BYTES, NAME, ModelId, ModelRef, metadata_display_name

ROOT = "/app/models"
PIECES = ("huggingface:", "/app/models/", "models/", "models--", "--", "a", "b-1", "..", "/", "@", "@abcdef", "\ud800")


def parse(text: str) -> ModelRef:
    return ModelRef.parse(text, ROOT)


def meant(text: str) -> list[str]:
    """The paths that a spelling may mean, best first."""
    return [candidate.path for candidate in parse(text).candidates]


def refusal(text: str) -> str:
    with pytest.raises(InvalidModelId) as refused:
        parse(text)
    return refused.value.message


@pytest.mark.parametrize(
    "spelling",
    [
        "huggingface:finetuned/physics-expert",
        "finetuned/physics-expert",
        "huggingface:/app/models/finetuned/physics-expert",
        "/app/models/finetuned/physics-expert",
        "huggingface:models/finetuned/physics-expert",
        "models/finetuned/physics-expert",
        "huggingface:physics-expert",
        "physics-expert",
        "huggingface:/app/models/finetuned/physics-expert/",
        " huggingface:finetuned/physics-expert ",
    ],
)
def test_every_spelling_of_a_model_means_the_same_id_first(spelling: str) -> None:
    first = parse(spelling).candidates[0]
    assert str(first) == "huggingface:finetuned/physics-expert"
    assert first.path == "finetuned/physics-expert"
    assert ModelId.of(first.path) == first


def test_a_bare_name_is_looked_up_in_finetuned_then_under_the_root_then_everywhere() -> None:
    ref = parse("physics-expert")
    assert ref.bare
    assert [candidate.path for candidate in ref.candidates] == ["finetuned/physics-expert", "physics-expert"]
    assert not parse("finetuned/physics-expert").bare


@pytest.mark.parametrize(
    "spelling", ["huggingface:/app/models/ouragboros_finetuned", "/app/models/ouragboros_finetuned"]
)
def test_an_absolute_path_directly_under_the_root_is_a_legacy_model_and_nothing_else(spelling: str) -> None:
    assert meant(spelling) == ["ouragboros_finetuned"]
    assert not parse(spelling).bare
    assert parse(spelling).candidates[0] == ModelId(None, "ouragboros_finetuned")


@pytest.mark.parametrize("spelling", ["huggingface:ouragboros_finetuned", "models/ouragboros_finetuned"])
def test_a_legacy_model_is_found_by_its_name_and_by_its_path_from_the_work_directory(spelling: str) -> None:
    assert "ouragboros_finetuned" in meant(spelling)


@pytest.mark.parametrize(
    "spelling",
    [
        "thellert/physbert_cased",
        "huggingface:thellert/physbert_cased",
        "models--thellert--physbert_cased",
        "/app/models/models--thellert--physbert_cased",
        "huggingface:/app/models/models--thellert--physbert_cased/snapshots/0123abc",
        "models/models--thellert--physbert_cased",
        "models/models--thellert--physbert_cased/snapshots/0123abc",
    ],
)
def test_a_hub_id_means_the_hub_cache_and_the_flat_cache(spelling: str) -> None:
    assert meant(spelling) == ["thellert/physbert_cased", "thellert_physbert_cased"]


def test_a_hub_id_without_an_organisation_is_a_model_directly_under_the_root() -> None:
    assert meant("models--gpt2") == meant("/app/models/models--gpt2") == ["gpt2"]


def test_openai_tei_and_ollama_clients_send_no_prefix() -> None:
    with_prefix = parse("huggingface:sentence-transformers/all-MiniLM-L6-v2")
    without = parse("sentence-transformers/all-MiniLM-L6-v2")
    assert with_prefix.candidates == without.candidates
    assert str(without.candidates[0]) == "huggingface:sentence-transformers/all-MiniLM-L6-v2"


@pytest.mark.parametrize(
    "spelling", ["finetuned/m", "huggingface:finetuned/m", "/app/models/finetuned/m", "models/finetuned/m", "m"]
)
def test_every_spelling_may_name_one_generation(spelling: str) -> None:
    ref = parse(spelling + "@0123456789ab")
    assert ref.generation == "0123456789ab"
    assert ref.candidates == parse(spelling).candidates
    assert parse(spelling).generation is None


@pytest.mark.parametrize("generation", ["", "12345", "0123456g", "ABCDEF", "abcdef@abcdef", "a" * 65, "abcdef/x"])
def test_what_is_no_generation_after_the_at_sign_is_refused(generation: str) -> None:
    assert "hexadecimal" in refusal(f"finetuned/m@{generation}")


@pytest.mark.parametrize(
    "spelling",
    [
        "..",
        "finetuned/..",
        "../etc",
        "finetuned/../../etc",
        "/app/models/../etc",
        "/app/models/finetuned/../../../etc",
        "models/../x",
        "models--..--x",
        "models--a--b--c",
        "models----x",
        "models--",
        "models--a---b",
    ],
)
def test_dots_and_broken_cache_names_never_lead_out_of_the_root(spelling: str) -> None:
    assert "a model id" in refusal(spelling) or "Hub cache" in refusal(spelling)


@pytest.mark.parametrize("spelling", ["/etc/passwd", "/app/modelsX/finetuned/m", "/app", "/app/models", "/", "//"])
def test_an_absolute_path_outside_the_root_is_refused_and_the_root_is_named(spelling: str) -> None:
    assert "/app/models" in refusal(spelling)


@pytest.mark.parametrize("spelling", ["/app/models/", "", " ", "huggingface:", ".hidden", "-m", "a//b", "a b", "a\\b"])
def test_what_is_no_name_at_all_is_refused(spelling: str) -> None:
    assert "a model id is" in refusal(spelling)


def test_a_path_below_a_model_is_refused() -> None:
    assert "nothing below" in refusal("finetuned/m/1_Pooling")
    assert "nothing below" in refusal("a/b/c/d")


@pytest.mark.parametrize("control", ["\n", "\r", "\t", "\0", "\x1b", "\x7f", "\u202e", "\ud800", "\ufffe"])
def test_control_characters_are_refused_and_told_escaped(control: str) -> None:
    with pytest.raises(InvalidModelId, match="control characters") as refused:
        parse(f"finetuned/m{control}")
    assert refused.value.details["model"].isascii()
    assert refused.value.details["model"].isprintable()


def test_512_bytes_are_read_and_513_are_refused_whatever_their_characters() -> None:
    long = "finetuned/" + "m" * 128
    assert meant(long + " " * (MAX_ID_BYTES - len(long))) == meant(long)
    assert "512 bytes" in refusal(long + " " * (MAX_ID_BYTES + 1 - len(long)))
    assert "512 bytes" in refusal("\u5149" * 171)  # 513 bytes of UTF-8
    assert "512 bytes" not in refusal("\u5149" * 170)


def test_a_name_has_at_most_128_characters() -> None:
    assert meant("finetuned/" + "m" * 128)[0] == "finetuned/" + "m" * 128
    assert "a model id is" in refusal("finetuned/" + "m" * 129)


def test_a_flat_cache_name_that_would_be_too_long_is_not_looked_for() -> None:
    assert meant("n" * 128 + "/" + "m" * 128) == ["n" * 128 + "/" + "m" * 128]


def test_the_root_may_be_called_anything() -> None:
    assert ModelRef.parse("/srv/drop/finetuned/m", "/srv/drop").candidates[0] == ModelId("finetuned", "m")
    assert ModelRef.parse("drop/finetuned/m", "/srv/drop").candidates[0] == ModelId("finetuned", "m")
    with pytest.raises(InvalidModelId):
        ModelRef.parse("/app/models/finetuned/m", "/srv/drop")


@given(st.one_of(st.text(), st.lists(st.sampled_from(PIECES), max_size=8).map("".join)))
def test_whatever_is_sent_is_either_names_or_refused(text: str) -> None:
    try:
        ref = parse(text)
    except InvalidModelId:
        return
    assert ref.candidates
    assert ref.spelling == text
    for candidate in ref.candidates:
        assert NAME.fullmatch(candidate.name)
        assert candidate.namespace is None or NAME.fullmatch(candidate.namespace)
        assert ModelId.of(candidate.path) == candidate


@given(st.from_regex(NAME, fullmatch=True), st.from_regex(NAME, fullmatch=True))
def test_a_canonical_id_is_read_back_as_itself(namespace: str, name: str) -> None:
    model = ModelId(namespace, name)
    if namespace.startswith("models--"):
        return  # that is how the Hub cache spells other ids
    assert parse(str(model)).candidates[0] == model


@given(st.from_regex(NAME, fullmatch=True), st.from_regex(NAME, fullmatch=True), st.integers(0, 10**18 - 1))
def test_a_version_is_read_back_as_itself_and_belongs_to_its_family(namespace: str, name: str, version: int) -> None:
    model = ModelId(namespace, name, version)
    if namespace.startswith("models--"):
        return  # that is how the Hub cache spells other ids
    assert parse(str(model)).candidates[0] == model
    assert ModelId.of(model.path) == model
    assert model.path == f"{namespace}/{name}/{version}"
    assert model.family == ModelId(namespace, name) == model.family.family


@pytest.mark.parametrize(
    "spelling",
    ["huggingface:finetuned/physics/3", "/app/models/finetuned/physics/3", "models/finetuned/physics/3", "physics/3"],
)
def test_a_version_is_found_by_every_spelling_of_its_model(spelling: str) -> None:
    assert "finetuned/physics/3" in meant(spelling)
    assert parse(spelling + "@0123456789ab").generation == "0123456789ab"


@pytest.mark.parametrize("below", ["03", "-1", "3.0", "v3", "1" * 19, "1_Pooling"])
def test_only_a_whole_number_in_its_shortest_spelling_is_a_version(below: str) -> None:
    assert refusal(f"finetuned/m/{below}")


def test_a_display_name_comes_from_the_metadata_or_from_the_directory() -> None:
    model = ModelId(DEFAULT_NAMESPACE, "physics-expert_v2")
    assert metadata_display_name({"display_name": " Physics "}, model) == "Physics"
    assert metadata_display_name({}, model) == "Physics Expert V2"
    assert metadata_display_name({"display_name": 5}, model) == "Physics Expert V2"
