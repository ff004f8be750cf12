"""A text to chunks: by tokens of the model that will embed them, on the boundaries of headings and sentences.

Nothing is lost: the chunks of a text, laid over each other, are the text, with its white space and its tail. Offsets
count characters, and `text[start:end]` is the chunk.
"""

from __future__ import annotations

import bisect
import functools
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from gateway.errors import LoadFailed
from gateway.model import Generation

MOST_TOKENS: Final = 256  # longer passages answer worse: their vector is of too many things
LEAST_TOKENS: Final = 8
OVERLAP: Final = 8  # a chunk shares up to an eighth of itself with the next
SPECIALS: Final = 2  # tokens that nearly every model puts around a text
CHARACTERS: Final = 4  # of a token, where there is no tokenizer.json to count with
PROMPTS: Final = ("document", "passage")  # names that models give to the prompt of what is searched
MARKDOWN: Final = (".md", ".markdown", ".html", ".htm", ".xhtml")  # HTML was made Markdown of
HEADING: Final = re.compile(r"^ {0,3}#{1,6}[ \t]+(.+)$", re.MULTILINE)
CLOSING: Final = " \t#"  # what may end a heading, and is no part of it
FENCE: Final = re.compile(r"^ {0,3}(```|~~~).*?^ {0,3}\1", re.MULTILINE | re.DOTALL)

Span = tuple[int, int]


class Chunking(msgspec.Struct, frozen=True, kw_only=True):
    """How a text is cut. `tokenizer` is the path of a `tokenizer.json`; empty counts characters. `label` tells two
    ways apart: generations with an equal one cut alike."""

    tokenizer: str = ""
    tokens: int = MOST_TOKENS
    overlap: int = MOST_TOKENS // OVERLAP
    label: str = ""

    @classmethod
    def of(cls, generation: Generation) -> Chunking:
        """That of a model: as long as it reads with its prompt before it, and no longer than 256 tokens. Raises
        LoadFailed where its tokenizer cannot be read."""
        manifest = generation.manifest
        path = Path(generation.path, manifest.tokenizer_path, "tokenizer.json")
        try:
            tokenizer = str(path) if path.is_file() else ""
            counted = _digest(tokenizer) if tokenizer else "characters"
        except OSError as error:
            message = f"the tokenizer of {generation.short} cannot be read: {error.strerror}"
            raise LoadFailed(message, reason="file_unreadable", generation=generation.short) from error
        prompt = manifest.prompts.get(document_prompt(manifest.prompts) or manifest.default_prompt_name or "", "")
        room = manifest.max_tokens - SPECIALS - len(prompt.encode())  # a token is a byte at least
        tokens = max(LEAST_TOKENS, min(MOST_TOKENS, room))
        overlap = tokens // OVERLAP
        return cls(tokenizer=tokenizer, tokens=tokens, overlap=overlap, label=f"{tokens}/{overlap}/{counted}")


def document_prompt(prompts: dict[str, str]) -> str | None:
    """The name of the prompt that a model wants before what is searched; None where it has none of its own."""
    return next((name for name in PROMPTS if name in prompts), None)


def is_markdown(name: str) -> bool:
    return name.lower().endswith(MARKDOWN)


class Splitter:
    """Cuts texts in one way. Made once for many: reading a tokenizer takes longer than cutting a text."""

    def __init__(self, chunking: Chunking) -> None:
        self._chunking = chunking
        self._splitters: dict[bool, Any] = {}
        self._tokenizer = _untruncated(chunking.tokenizer) if chunking.tokenizer else ""

    def spans(self, text: str, *, markdown: bool = False) -> list[Span]:
        """Where the chunks lie, in order; none of them is white space alone, and none is there for an empty text."""
        found = self._made(markdown).chunk_indices(text)
        return _whole(text, [(start, start + len(piece)) for start, piece in found])

    def _made(self, markdown: bool) -> Any:
        if markdown not in self._splitters:
            self._splitters[markdown] = self._make(markdown)
        return self._splitters[markdown]

    def _make(self, markdown: bool) -> Any:
        from semantic_text_splitter import MarkdownSplitter, TextSplitter  # noqa: PLC0415  # an extra's

        kind, chunking = MarkdownSplitter if markdown else TextSplitter, self._chunking
        if self._tokenizer:
            return kind.from_huggingface_tokenizer_str(
                self._tokenizer, chunking.tokens, overlap=chunking.overlap, trim=False
            )
        return kind(chunking.tokens * CHARACTERS, overlap=chunking.overlap * CHARACTERS, trim=False)


def _whole(text: str, spans: Sequence[Span]) -> list[Span]:
    """The same, with white space that stood alone in a chunk at the end of the one before it, and no gaps."""
    whole: list[Span] = []
    for start, end in spans:
        if whole and not text[start:end].strip():
            whole[-1] = (whole[-1][0], max(end, whole[-1][1]))
        elif text[start:end].strip():
            covered = whole[-1][1] if whole else 0
            whole.append((min(start, covered), end))
    if whole and whole[-1][1] < len(text):
        whole[-1] = (whole[-1][0], len(text))
    return whole


def headings(text: str, spans: Sequence[Span]) -> list[str]:
    """For each span the Markdown heading that it stands under, or begins with; empty above the first."""
    found = list(_headings(text))
    named: list[str] = []
    at = -1
    for start, end in spans:
        first = start + len(text[start:end]) - len(text[start:end].lstrip())
        while at + 1 < len(found) and found[at + 1][0] <= first:
            at += 1
        named.append(found[at][1] if at >= 0 else "")
    return named


def _headings(text: str) -> Iterator[tuple[int, str]]:
    """Places and words of the headings; a line of code is none."""
    fences = [match.span() for match in FENCE.finditer(text)]
    for match in HEADING.finditer(text):
        before = bisect.bisect_right(fences, (match.start(), len(text)))
        if not before or fences[before - 1][1] <= match.start():
            yield match.start(), match[1].rstrip(CLOSING).strip()


@functools.cache
def _digest(path: str) -> str:
    return hashlib.blake2b(Path(path).read_bytes(), digest_size=6).hexdigest()


def _untruncated(path: str) -> str:
    """A tokenizer as it is on disk, but for its own limit: it would count no token behind that."""
    document = json.loads(Path(path).read_text(encoding="utf-8"))
    document["truncation"] = document["padding"] = None
    return json.dumps(document)
