"""Who gets how much of a device: what an operator writes, and what it means."""

from __future__ import annotations

import pytest

from gateway.settings import SettingsError, load
from gateway.shares import Shares, parse


def test_without_rules_all_models_are_equal() -> None:
    assert Shares().of(("finetuned/m",)) == 1.0


def test_the_first_pattern_that_matches_counts() -> None:
    shares = parse("finetuned/hot=4, finetuned/*=0.5,org/*=2")
    assert shares.of(("finetuned/hot",)) == 4.0
    assert shares.of(("finetuned/other",)) == 0.5
    assert shares.of(("org/m",)) == 2.0
    assert shares.of(("else/m",)) == 1.0


def test_content_that_several_models_share_has_the_largest_of_their_weights() -> None:
    shares = parse("a/*=4,b/*=0.5")
    assert shares.of(("b/m", "a/m")) == 4.0
    assert shares.of(("b/m", "c/m")) == 1.0


def test_content_that_nobody_owns_any_more_is_equal_to_others() -> None:
    assert parse("a/*=4").of(()) == 1.0


def test_a_pattern_may_be_a_whole_id() -> None:
    assert parse("huggingface:org/m=3").of(("org/m",)) == 3.0


@pytest.mark.parametrize("text", ["x", "x=", "=2", "x=0", "x=-1", "x=nan", "x=inf", "x=much", "a/b=2,c"])
def test_what_cannot_be_read_is_an_error_that_names_the_setting(text: str) -> None:
    with pytest.raises(SettingsError, match=r"--model-shares.*PATTERN=WEIGHT"):
        load({"model_shares": text}, {})


def test_settings_hold_what_was_written() -> None:
    settings = load({"model_shares": "a/*=4"}, {})
    assert settings.shares.of(("a/m",)) == 4.0
