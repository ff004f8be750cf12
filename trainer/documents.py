"""A folder of text documents, cut into chunks at paragraphs: laid behind each other the chunks are the document."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from trainer.errors import InvalidInput

SUFFIXES: Final = (".txt", ".md", ".markdown", ".rst")
ENDS: Final = (re.compile(r"\n\s*\n"), re.compile(r"[.!?]\s+"), re.compile(r"\s+"))  # where to cut, the best first


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of a document; `file_name` is relative to the folder."""

    file_name: str
    text: str

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()[:32]


def find(folder: Path) -> tuple[list[Path], list[Path]]:
    """The documents below a folder, and the files that are none; hidden ones are neither. Raises InvalidInput."""
    if not folder.is_dir():
        raise InvalidInput(f"{folder}: no such directory of documents")
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not _is_hidden(path.relative_to(folder))]
    documents = [path for path in files if path.suffix.lower() in SUFFIXES]
    if not documents:
        raise InvalidInput(f"{folder}: no documents there: none ends in {', '.join(SUFFIXES)}")
    return documents, [path for path in files if path not in set(documents)]


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def chunks(folder: Path, document: Path, size: int) -> list[Chunk]:
    """Those with words in them. Raises InvalidInput where the document is no text."""
    try:
        text = document.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{document}: cannot be read as UTF-8 text: {error}") from error
    name = document.relative_to(folder).as_posix()
    return [Chunk(name, piece.strip()) for piece in pieces(text, size) if piece.strip()]


def pieces(text: str, size: int) -> Iterator[str]:
    """Parts of at most `size` characters, cut at the last paragraph, sentence or space that fits."""
    while len(text) > size:
        end = _end(text, size)
        yield text[:end]
        text = text[end:]
    if text:
        yield text


def _end(text: str, size: int) -> int:
    for pattern in ENDS:
        found = [match.end() for match in pattern.finditer(text, 0, size)]
        if found and found[-1] > size // 2:
            return found[-1]
    return size
