"""A stranger's pattern is matched only where there are few ways to match it."""

from __future__ import annotations

import pytest

from gateway.volume.patterns import LONGEST, MOST_STEPS, flaw, is_simple, steps

ALL = "q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj"


@pytest.mark.parametrize(
    "pattern",
    [
        "query",
        r".*\.(q_proj|v_proj)",
        rf".*(self_attn|mlp).*\.({ALL})",
        rf".*?(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense).*?(?:{ALL})",
        r"^model\.layers\.\d\d?\.self_attn\.(q|k|v|o)_proj",
        r"encoder\.layer\.\d*\.attention\.self\.(query|value)",
    ],
)
def test_patterns_that_people_write_are_simple(pattern: str) -> None:
    assert is_simple(pattern)
    assert not flaw(pattern)


@pytest.mark.parametrize("key", ["query", r".*\.q_proj", rf".*(self_attn|mlp).*\.({ALL})"])
def test_patterns_of_scales_are_simple_also_behind_any_beginning(key: str) -> None:
    assert is_simple(rf"(.*\.)?({key})$")


@pytest.mark.parametrize(
    "pattern",
    [
        r"(\w|.)" * 24 + "zzz",
        "(a|ab|abc)" * 16 + "z",
        "(q|q)" * 24 + "z",
        "a?" * 40 + "z",
        "(a?)?" * 20 + "z",
        ".*" * 6 + "z",
        "(.*|.*)" * 4 + "z",
        "(.*)*z",
        "(a|b)*" * 20 + "z",
        r"(.*)\1*z",
        "(?=.*.*)z",
        "[ab]*" * 20,
        "a" * (LONGEST + 1),
    ],
)
def test_patterns_that_may_take_for_ever_are_not(pattern: str) -> None:
    assert not is_simple(pattern)


def test_of_words_of_which_one_can_stand_there_only_one_is_a_way() -> None:
    assert steps("(ab|cd)" * 30) < MOST_STEPS < steps("(ab|a)" * 30)


@pytest.mark.parametrize("pattern", ["(", "a)", "*", "a**", "(" * 500, "(?\ud800)"])
def test_what_is_no_pattern_is_said_in_ascii(pattern: str) -> None:
    assert flaw(pattern).isascii()
    assert flaw(pattern)
    assert not is_simple(pattern) or pattern == "a**"
