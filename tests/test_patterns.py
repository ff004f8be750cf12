"""Regular expressions over what strangers write: the work grows with the text, and not with its square.

A pattern that goes back over a run of characters from each of its places holds the interpreter, and everybody else,
for minutes at the sizes used here. Each finds what a plainer one does, which is written out beside it.
"""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.ask import chunks, prompt, sentences
from gateway.errors import InvalidBody
from gateway.volume import manifest
from gateway.web import ollama

LONG = 300_000
PLAIN = [
    (prompt.MARKS, r"<(?=\s*/?\s*(?:passage|file)\b)", "</ passagefile\nx"),
    (sentences.STOP, r"[.!?…]+[\"'”’»)\]]*(?=\s)", '.!…")] \nx'),
    (ollama.DURATION, r"[+-]?(?:0|(?:(?:\d+\.?\d*|\.\d+)(?:ns|us|µs|ms|s|m|h))+)", "+-01.nsmhµ"),
]


@pytest.mark.parametrize(("pattern", "plain", "characters"), PLAIN, ids=["marks", "stop", "duration"])
@given(data=st.data())
def test_it_finds_what_a_plainer_one_finds(
    pattern: re.Pattern[str], plain: str, characters: str, data: st.DataObject
) -> None:
    words = st.sampled_from([*characters, "passage", "file", "ms"])
    text = "".join(data.draw(st.lists(words, max_size=30)))
    other = re.compile(plain, pattern.flags)
    assert [found.span() for found in pattern.finditer(text)] == [found.span() for found in other.finditer(text)]
    assert bool(pattern.fullmatch(text)) == bool(other.fullmatch(text))


def test_a_file_of_spaces_closes_no_mark() -> None:
    assert len(prompt.MARKS.sub("&lt;", "<" + " " * LONG + "x")) == LONG + 2


@pytest.mark.parametrize("run", [".", "…", ".)"], ids=["stops", "ellipses", "closed"])
def test_a_text_of_full_stops_is_one_sentence(run: str) -> None:
    assert len(sentences.split(run * LONG + "x")) == 1


def test_a_duration_of_many_digits_is_none() -> None:
    with pytest.raises(InvalidBody):
        ollama.leaves("1" * LONG)


@pytest.mark.parametrize("inside", [" ", "#", "# ", "\t"])
def test_a_heading_may_be_long(inside: str) -> None:
    line = "# a" + inside * LONG + "b"
    assert chunks.headings(line, [(0, len(line))]) == [line.removeprefix("# ")]


def test_headings_are_told_from_lines_of_code_however_many_there_are() -> None:
    text = "```\n# no\n```\n# yes\n" * (LONG // 20)
    starts = [match.start() for match in re.finditer("# yes", text)]
    spans = list(zip([0, *starts], [*starts, len(text)], strict=True))
    assert chunks.headings(text, spans) == ["", *["yes"] * len(starts)]


@pytest.mark.parametrize(
    ("line", "heading"),
    [("## a b ##", "a b"), ("# a#b", "a#b"), ("#  a \t", "a"), ("# #", ""), ("#a", None), ("    # a", None)],
)
def test_what_closes_a_heading_is_no_part_of_it(line: str, heading: str | None) -> None:
    text = f"# before\n{line}\nx"
    assert chunks.headings(text, [(len(text) - 1, len(text))]) == ["before" if heading is None else heading]


def test_a_readme_that_begins_with_empty_lines_is_read_at_once() -> None:
    assert manifest.FRONT_MATTER.match(b"---" + b"\n" * LONG + b"x") is None


@pytest.mark.parametrize(
    ("readme", "front"),
    [
        (b"---\na: b\n---\n", b"a: b"),
        (b"\n --- \r\n\na: b\r\n---", b"\na: b\r"),
        (b"---\n\n---", b""),
        (b"--- a\nb\n---", None),
    ],
)
def test_front_matter_stands_between_its_lines(readme: bytes, front: bytes | None) -> None:
    found = manifest.FRONT_MATTER.match(readme)
    assert (found and found[1]) == front
