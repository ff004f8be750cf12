"""Cutting: nothing is lost, offsets are exact, and no chunk is longer than its model reads."""

from __future__ import annotations

import functools
import itertools
import re
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from gateway.ask.chunks import Chunking, Splitter, headings
from gateway.errors import LoadFailed
from tests.making import encoder, generation, minilm

pytest.importorskip("semantic_text_splitter", reason="the extra `ask` is not installed")

TOKENIZER: Final = f"{minilm()}/tokenizer.json"
SMALL: Final = Chunking(tokenizer=TOKENIZER, tokens=24, overlap=3)
TEXT: Final = st.lists(
    st.one_of(
        st.text(max_size=60),
        st.text(alphabet="日本語の文章。漢字かな", max_size=60),
        st.text(alphabet="👩‍👩‍👧🇩🇪👍🏽 é", max_size=30),
        st.sampled_from(
            ["# Heading\n\n", "\n\n", "A sentence. ", "```\n# no heading\n```\n", "| a | b |\n", "- item\n", " " * 40]
        ),
    ),
    max_size=40,
).map("".join)


@functools.cache
def splitter(tokens: int, overlap: int, counted: bool) -> Splitter:
    return Splitter(Chunking(tokenizer=TOKENIZER if counted else "", tokens=tokens, overlap=overlap))


@settings(max_examples=150, deadline=None)
@given(
    text=TEXT,
    tokens=st.sampled_from([8, 24]),
    overlap=st.sampled_from([0, 3]),
    counted=st.booleans(),
    markdown=st.booleans(),
)
@example(text="   \n leading and trailing   \n\n  ", tokens=8, overlap=0, counted=True, markdown=True)
def test_the_chunks_of_a_text_are_the_text(text: str, tokens: int, overlap: int, counted: bool, markdown: bool) -> None:
    spans = splitter(tokens, overlap, counted).spans(text, markdown=markdown)
    assert bool(spans) == bool(text.strip())
    rebuilt, covered = "", 0
    for start, end in spans:
        assert start <= covered < end, "no gap, and each goes further than the one before"
        assert text[start:end].strip()
        rebuilt += text[covered:end]
        covered = end
    assert rebuilt == (text if spans else "")


@settings(max_examples=60, deadline=None)
@given(text=TEXT, markdown=st.booleans())
def test_no_chunk_has_more_tokens_than_it_may(text: str, markdown: bool) -> None:
    tokenizer = Tokenizer.from_file(TOKENIZER)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    for start, end in splitter(24, 3, True).spans(text, markdown=markdown):
        assert len(tokenizer.encode(text[start:end], add_special_tokens=False).ids) <= 24


def test_tokens_behind_the_limit_of_the_tokenizer_itself_are_counted() -> None:
    text = "word " * 2000
    spans = Splitter(Chunking(tokenizer=TOKENIZER, tokens=200, overlap=0)).spans(text)
    assert len(spans) >= 10


def test_chunks_end_where_sentences_do() -> None:
    text = "The first sentence is here. The second one follows it. A third is the last of all of them."
    spans = Splitter(Chunking(tokenizer=TOKENIZER, tokens=12, overlap=0)).spans(text)
    assert all(re.search(r"\.\s*$", text[start:end]) for start, end in spans)


def test_neighbours_overlap() -> None:
    text = " ".join(f"Sentence number {n}." for n in range(60))
    spans = Splitter(Chunking(tokenizer=TOKENIZER, tokens=40, overlap=10)).spans(text)
    assert all(after[0] < before[1] for before, after in itertools.pairwise(spans))


def test_a_chunk_is_told_the_heading_that_it_stands_under() -> None:
    text = "before\n\n# One #\n\nfirst\n\n```\n# a comment\n```\n\n## Two\n\nsecond\n"
    places = [text.index(word) for word in ("before", "first", "# a comment", "## Two", "second")]
    assert headings(text, [(place, place + 4) for place in places]) == ["", "One", "One", "Two", "Two"]


def test_the_budget_is_what_the_model_reads_and_no_more_than_256_tokens(tmp_path: Any) -> None:
    assert Chunking.of(generation(minilm())).tokens == 254
    long = encoder(str(tmp_path / "long"), max_tokens=512, positions=600)
    assert Chunking.of(generation(long)).tokens == 256
    prompted = encoder(
        str(tmp_path / "prompted"), max_tokens=128, positions=200, prompts={"document": "passage: ", "query": "q"}
    )
    assert Chunking.of(generation(prompted)).tokens == 128 - 2 - len("passage: ")


def test_ways_to_cut_differ_with_the_tokenizer_and_the_budget(tmp_path: Any) -> None:
    one, other = encoder(str(tmp_path / "a"), max_tokens=64), encoder(str(tmp_path / "b"), max_tokens=32)
    assert Chunking.of(generation(one)).label != Chunking.of(generation(other)).label
    assert Chunking.of(generation(one)).label == Chunking.of(generation(one)).label


def test_a_tokenizer_that_cannot_be_read_is_told_as_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = generation(encoder(tmp_path / "e", seed=1, dim=16, layers=1, heads=2))

    def fails(*args: Any) -> Any:
        raise OSError(116, "Stale file handle")

    for name in ("is_file", "read_bytes"):
        with monkeypatch.context() as patched:
            patched.setattr(Path, name, fails)
            with pytest.raises(LoadFailed, match="Stale file handle"):
                Chunking.of(made)
