"""Sentences, quotations and citations: what is quoted is there, and what is cited was checked."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.ask import citations, extractive, grounds, sentences
from gateway.ask.extractive import MOST, UNKNOWN, Extract
from gateway.ask.grounds import File, Ground
from gateway.ask.passage import Chunk, Hit
from gateway.ask.store import Vectors

BEAM = (
    "# Rings\n\nA storage ring, e.g. that of Dr. Smith, keeps electrons for hours. Where is the beam? "
    "The beam is lost when the quadrupole trips!\n- Light is made\n- in undulators of the ring\n\nSo it is."
)


def ground(text: str, number: int = 1, start: int = 0) -> Ground:
    chunk = Chunk(id=f"d:{number}", document="d", index=number, start=start, end=start + len(text), text=text, page=3)
    return grounds.of([Hit(chunk=chunk, name="rings.md", source="rings.md", cosine=0.5)] * number)[number - 1]


def bag(texts: Sequence[str]) -> Vectors:
    """Unit vectors in which texts with the same words are near each other."""
    found = np.zeros((len(texts), 4096), dtype=np.float32)
    for row, text in enumerate(texts):
        for word in sentences.words(text):
            found[row, sum(ord(letter) * 31**place for place, letter in enumerate(word)) % 4096] += 1
    return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1)


async def extract(query: str, found: Sequence[Ground], threshold: float = 0.3) -> Extract:
    async def embed_query(text: str) -> Vectors:
        vector: Vectors = bag([text])[0]
        return vector

    async def embed_texts(texts: Sequence[str]) -> Vectors:
        return bag(texts)

    return await extractive.answer(query, found, threshold, embed_query, embed_texts)


def test_a_text_is_cut_where_sentences_end_and_not_at_abbreviations() -> None:
    assert [BEAM[start:end] for start, end in sentences.split(BEAM)] == [
        "# Rings",
        "A storage ring, e.g. that of Dr. Smith, keeps electrons for hours.",
        "Where is the beam?",
        "The beam is lost when the quadrupole trips!",
        "- Light is made",
        "- in undulators of the ring",
        "So it is.",
    ]


def test_headings_questions_and_scraps_answer_nothing() -> None:
    assert [BEAM[start:end] for start, end in sentences.statements(BEAM)] == [
        "A storage ring, e.g. that of Dr. Smith, keeps electrons for hours.",
        "The beam is lost when the quadrupole trips!",
        "- in undulators of the ring",
    ]


def test_a_heading_ends_with_its_line() -> None:
    text = "# Ring\nThe beam was lost twice in March."
    assert [text[start:end] for start, end in sentences.split(text)] == text.split("\n")
    assert [text[start:end] for start, end in sentences.statements(text)] == ["The beam was lost twice in March."]


def test_scripts_that_set_no_spaces_have_sentences_too() -> None:
    text = "光は蓄積リングで作られる。電子は失われる。"
    assert [text[start:end] for start, end in sentences.split(text)] == [
        "光は蓄積リングで作られる。",
        "電子は失われる。",
    ]


@given(st.text(alphabet='ab .!?\n#-。A"”…1', max_size=80))
def test_no_letter_is_in_two_sentences_or_in_none(text: str) -> None:
    spans = sentences.split(text)
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(spans))
    left = list(text)
    for start, end in spans:
        assert text[start:end] == text[start:end].strip() != ""
        left[start:end] = " " * (end - start)
    assert "".join(left).strip() == ""


async def test_the_sentence_that_answers_best_is_quoted_to_the_character_with_its_place() -> None:
    source = ground(BEAM, number=2, start=100)
    found = await extract("when is the beam lost?", [ground("Nothing of any use is here.\nOr is it?"), source])
    assert found.text == "“The beam is lost when the quadrupole trips!” [2]"
    (citation,) = found.citations
    assert citation.quote == "The beam is lost when the quadrupole trips!"
    assert found.text[citation.start : citation.end] == citation.quote
    assert citation.ground is source


async def test_nobody_knows_where_no_sentence_comes_close() -> None:
    for query, found in {
        "who won the football cup?": [ground(BEAM)],
        "the beam": [],
        "beam": [ground("Beam?")],
    }.items():
        assert await extract(query, found) == Extract(UNKNOWN)


async def test_what_overlapping_passages_share_is_quoted_once() -> None:
    text = "The beam is lost when the quadrupole trips."
    found = await extract("when is the beam lost?", [ground(text), ground(text + " More is not known here.", 2)])
    assert found.text == f"“{text}” [1]"


async def test_sentences_that_say_the_same_are_not_both_quoted() -> None:
    text = "The beam is lost when the quadrupole trips. When the quadrupole trips the beam is lost."
    assert len((await extract("when is the beam lost?", [ground(text)])).citations) == 1


WORDS = st.lists(st.sampled_from(["beam", "ring", "lost", "light", "“quoted”", "[7]", "e.g.", "\n", "x²"]), min_size=4)


@given(st.lists(WORDS.map(lambda words: " ".join(words) + "."), min_size=1, max_size=6), st.integers(0, 1000))
async def test_every_quotation_is_a_part_of_the_passage_it_cites(texts: list[str], start: int) -> None:
    found = [ground(text, number, start) for number, text in enumerate(texts, 1)]
    answer = await extract("is the beam lost in the ring of light", found, threshold=0.0)
    assert len(answer.citations) <= MOST
    for citation in answer.citations:
        assert citation.quote in texts[citation.ground.number - 1]
        assert answer.text[citation.start : citation.end] == citation.quote


def test_citations_are_found_with_the_statement_they_stand_behind() -> None:
    answer = "The beam is lost when it trips [1]. Rings keep electrons. [2][9] Nobody said this. And light [1, 2]!"
    known = [ground("Some say. The beam is lost when the quadrupole trips."), ground("Rings keep electrons.", 2)]
    found = citations.find(answer, known)
    assert [(answer[each.start : each.end], each.ground.number) for each in found] == [
        ("The beam is lost when it trips", 1),
        ("Rings keep electrons.", 2),
        ("And light", 1),
        ("And light", 2),
    ]
    assert found[0].quote == "The beam is lost when the quadrupole trips."
    assert [each.overlap for each in found[:2]] == [1.0, 1.0]
    assert found[2].overlap == 0.0 or found[2].overlap < 1.0


@pytest.mark.parametrize(
    ("answer", "holds"),
    [
        ("The beam is lost [1].", True),
        ("The beam is lost.", False),
        ("The beam is lost [4].", False),
        ("Bananas ripen quickly indoors [1].", False),
        ("[1]", False),
    ],
)
def test_an_answer_is_supported_when_a_citation_holds(answer: str, holds: bool) -> None:
    assert citations.supported(citations.find(answer, [ground("The beam is lost when it trips.")])) is holds


@given(st.text(alphabet="beam [1]2,;.\n", max_size=60))
def test_citations_of_any_text_lie_in_it(answer: str) -> None:
    for each in citations.find(answer, [ground(BEAM), ground("The ring.", 2)]):
        assert 0 <= each.start < each.end <= len(answer)
        assert 0 <= each.quote_start < each.quote_end <= len(each.ground.text)


def test_a_file_is_a_ground_with_an_id_and_no_document() -> None:
    (found,) = grounds.of([], [File("notes.txt", "The ring is off.")])
    assert (found.number, found.id, found.document, found.text) == (1, "file:notes.txt", None, "The ring is off.")
