"""Text as it comes: whole characters, and nothing of a stop sequence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from gateway.host.prose import Prose
from tests.speaking import tokenizer


@pytest.fixture(scope="module")
def words() -> Any:
    return tokenizer(words=300).backend_tokenizer


def told(words: Any, text: str, stop: Sequence[str] = ()) -> tuple[list[str], bool]:
    prose = Prose(words, stop)
    pieces = []
    for token in words.encode(text, add_special_tokens=False).ids:
        pieces.append(prose.add(token))
        if prose.stopped:
            return pieces, True
    return [*pieces, prose.end()], False


def test_the_pieces_are_the_text(words: Any) -> None:
    text = "Grüße, 世界 🙂 – the beam"
    pieces, stopped = told(words, text)
    assert "".join(pieces) == text
    assert not stopped
    assert not any("\ufffd" in piece for piece in pieces)  # no half of a character


def test_a_special_token_is_no_text(words: Any) -> None:
    pieces, _ = told(words, "a<|im_end|>b")
    assert "".join(pieces) == "ab"


@pytest.mark.parametrize(
    ("text", "stop", "left"),
    [
        ("one two three", ["two"], "one "),
        ("one two three", ["three", "two"], "one "),
        ("one two three", ["four"], "one two three"),
        ("aab", ["ab"], "a"),
        ("xy\n\nz", ["\n\n"], "xy"),
        ("ends with a beginning of st", ["stop"], "ends with a beginning of st"),
        ("stop at once", ["stop"], ""),
    ],
)
def test_the_text_ends_before_a_stop_sequence(words: Any, text: str, stop: list[str], left: str) -> None:
    pieces, stopped = told(words, text, stop)
    assert "".join(pieces) == left
    assert stopped == (left != text)


def test_what_may_become_a_stop_sequence_is_held_back_until_it_is_none(words: Any) -> None:
    prose = Prose(words, ["END"])
    told_so_far = ""
    for token in words.encode("the EN", add_special_tokens=False).ids:
        told_so_far += prose.add(token)
    assert told_so_far == "the "
    for token in words.encode("S", add_special_tokens=False).ids:
        told_so_far += prose.add(token)
    assert told_so_far == "the ENS"
