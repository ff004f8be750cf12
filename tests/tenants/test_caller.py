"""What a caller may see and do."""

from __future__ import annotations

import pytest

from gateway.errors import Forbidden
from gateway.model import ModelId
from gateway.tenants.caller import NOBODY, OPEN, ROLES, Caller, check_pattern

PHYSICS = "finetuned/physics"


@pytest.mark.parametrize(
    ("namespaces", "seen", "hidden"),
    [
        (("finetuned",), ["finetuned/physics", "finetuned/physics/3"], ["trained/physics", "physics", "finetuned2/x"]),
        (("team-*",), ["team-a/x", "team-b/y"], ["team/x", "x", "a-team-b/x"]),
        (("org/*",), ["org/x", "org/x/2"], ["org2/x", "x"]),
        (("finetuned/physics*",), ["finetuned/physics", "finetuned/physics-2/7"], ["finetuned/biology"]),
        ((".",), ["physics"], ["finetuned/physics"]),
        (("?",), ["a/x"], ["physics", "ab/x"]),
        (("a", "b"), ["a/x", "b/x"], ["c/x"]),
        (("*",), ["a/x", "physics", "a/x/1"], []),
        ((), [], ["a/x", "physics"]),
    ],
)
def test_a_caller_sees_its_namespaces_and_nothing_else(
    namespaces: tuple[str, ...], seen: list[str], hidden: list[str]
) -> None:
    caller = Caller(namespaces=namespaces)
    assert [path for path in seen + hidden if caller.sees(ModelId.of(path))] == seen
    assert [path for path in seen + hidden if caller.sees_path(path)] == seen


def test_without_keys_anybody_may_do_everything_and_nobody_may_do_nothing() -> None:
    assert OPEN.unrestricted
    assert all(OPEN.may(role) for role in ROLES)
    OPEN.must_see_everything("admin", "anything")
    assert not NOBODY.unrestricted
    assert not NOBODY.sees_path(PHYSICS)


def test_a_role_may_do_what_those_below_it_may() -> None:
    for number, role in enumerate(ROLES):
        caller = Caller(role=role)
        assert [caller.may(other) for other in ROLES] == [below <= number for below in range(len(ROLES))]


def test_a_role_that_is_too_small_is_told_which_one_it_takes() -> None:
    with pytest.raises(Forbidden, match="loading a model takes a key of the role operate; this one has use"):
        Caller(role="use").must("operate", "loading a model")


def test_what_is_about_the_whole_gateway_takes_a_key_of_all_namespaces() -> None:
    with pytest.raises(Forbidden, match="all namespaces"):
        Caller(role="admin", namespaces=("a",)).must_see_everything("operate", "this")
    with pytest.raises(Forbidden, match="role operate"):
        Caller(role="use").must_see_everything("operate", "this")
    Caller(role="operate").must_see_everything("operate", "this")


@pytest.mark.parametrize("pattern", ["", "/", "a/", "/a", "a/b/c", "a b", "ä", "a\n", "a,b"])
def test_a_pattern_that_can_match_nothing_is_a_slip(pattern: str) -> None:
    with pytest.raises(ValueError, match="is no namespace"):
        check_pattern(pattern)


@pytest.mark.parametrize("pattern", ["*", ".", "finetuned", "team-*", "org/*", "org/m?del-[ab]", "a.b_c"])
def test_a_pattern_that_can_match_is_taken(pattern: str) -> None:
    check_pattern(pattern)
