"""Who is nearer to a model decides what it is computed with, and what nobody says is left to the host."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import wish
from gateway.wish import AUTO, DTYPES, RUNTIMES, Rule, Wish, Wishes, parse_rules

SAID = st.builds(Wish, st.sampled_from(("", *RUNTIMES)), st.sampled_from(("", *DTYPES)))


def test_the_operators_rule_wins_over_the_models_word_and_that_over_the_settings() -> None:
    wishes = Wishes(Wish("torch", "float32"), parse_rules("org/*=openvino"))
    assert wishes.of(("org/m",), Wish("torch", "bfloat16")) == Wish("openvino", "bfloat16")
    assert wishes.of(("other/m",), Wish("", "bfloat16")) == Wish("torch", "bfloat16")
    assert wishes.of(("other/m",), Wish()) == Wish("torch", "float32")


def test_the_first_rule_that_matches_wins() -> None:
    wishes = Wishes(rules=parse_rules("org/hot=torch/float32, org/*=openvino/bfloat16, *=torch/bfloat16"))
    found = [wishes.of((model,), Wish()) for model in ("org/hot", "org/cold", "elsewhere")]
    assert found == [Wish("torch", "float32"), Wish("openvino", "bfloat16"), Wish("torch", "bfloat16")]


def test_content_that_two_models_share_takes_the_first_rule_that_matches_either() -> None:
    wishes = Wishes(rules=parse_rules("b/*=torch/bfloat16,a/*=openvino"))
    assert wishes.of(("a/m", "b/m"), Wish()) == Wish("torch", "bfloat16")


def test_an_operator_may_say_auto_over_what_a_model_says() -> None:
    assert Wishes(rules=parse_rules("*=auto/auto")).of(("a/m",), Wish("openvino", "int8")) == Wish(AUTO, AUTO)


@given(st.builds(Wishes, SAID, st.lists(st.builds(Rule, st.just("a/*"), SAID)).map(tuple)), SAID)
def test_nothing_is_left_open_in_what_a_host_is_told(wishes: Wishes, own: Wish) -> None:
    found = wishes.of(("a/m",), own)
    assert found.runtime in RUNTIMES
    assert found.dtype in DTYPES


@pytest.mark.parametrize(
    ("text", "wished"),
    [
        ("a/m=openvino", Wish("openvino", "")),
        ("a/m=bfloat16", Wish("", "bfloat16")),
        ("huggingface:a/m = openvino / int8 ", Wish("openvino", "int8")),
    ],
)
def test_a_rule_may_name_a_runtime_a_dtype_or_both(text: str, wished: Wish) -> None:
    assert parse_rules(text) == (Rule("a/m", wished),)


@pytest.mark.parametrize(
    "text", ["a/m", "=torch", "a/m=", "a/m=/", "a/m=cuda", "a/m=torch/int4", "a/m=torch/float32/x"]
)
def test_a_rule_that_cannot_be_used_says_which_it_is(text: str) -> None:
    with pytest.raises(ValueError, match="is not PATTERN=RUNTIME/DTYPE") as told:
        parse_rules(f"ok/*=torch,{text}")
    assert text in str(told.value)


def test_what_a_models_metadata_asks_for_in_vain_is_left_open_and_told() -> None:
    assert wish.read({"runtime": "openvino", "dtype": "int8"}) == (Wish("openvino", "int8"), "")
    assert wish.read({"other": 1}) == (Wish(), "")
    found, wrong = wish.read({"runtime": ["torch"], "dtype": "fp16"})
    assert found == Wish()
    assert wrong.startswith("runtime is none of auto, torch, openvino; dtype is none of auto, float32")
