"""Question and answer pairs from a folder of documents, through any endpoint that speaks OpenAI's protocol."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from trainer import book, documents
from trainer.book import Book
from trainer.console import Advance
from trainer.documents import Chunk
from trainer.endpoint import Endpoint, Unanswered
from trainer.errors import InvalidInput
from trainer.pairs import SYSTEM, judge, wanted

IN_A_ROW: Final = 10  # chunks without an answer, after which the endpoint is taken for gone


@dataclass(slots=True)
class Outcome:
    """`known` chunks were asked about in an earlier run; `failed` ones had no answer, and the next run asks again."""

    chunks: int = 0
    known: int = 0
    asked: int = 0
    failed: int = 0
    pairs: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    passed_over: list[str] = field(default_factory=list)
    last_failure: str = ""
    in_a_row: int = 0


async def generate(
    folder: Path,
    out: Path,
    endpoint: Endpoint,
    *,
    pairs: int = 3,
    size: int = 1500,
    at_once: int = 4,
    most: int | None = None,
    progress: Advance | None = None,
) -> Outcome:
    """Asks about every chunk that was not asked about before, `at_once` of them at a time.

    Raises InvalidInput where the endpoint refuses for good; what was answered until then is kept.
    """
    outcome = Outcome()
    found = _chunks(folder, size, outcome)
    with book.opened(out) as pages:
        waiting = [chunk for chunk in found if not pages.is_asked(chunk)]
        outcome.chunks, outcome.known = len(found), len(found) - len(waiting)
        await _Round(waiting[:most], pages, endpoint, pairs=pairs, outcome=outcome, progress=progress).run(at_once)
    return outcome


def _chunks(folder: Path, size: int, outcome: Outcome) -> list[Chunk]:
    """Each text once, in the order of files; a document that is no text is passed over, and told."""
    paths, others = documents.find(folder)
    outcome.passed_over += [str(path) for path in others]
    found: dict[str, Chunk] = {}
    for path in paths:
        try:
            for chunk in documents.chunks(folder, path, size):
                found.setdefault(chunk.digest, chunk)
        except InvalidInput as error:
            outcome.passed_over.append(str(error))
    return list(found.values())


class _Round:
    """Workers that take one chunk after another from one list."""

    def __init__(
        self,
        waiting: Sequence[Chunk],
        pages: Book,
        endpoint: Endpoint,
        *,
        pairs: int,
        outcome: Outcome,
        progress: Advance | None,
    ) -> None:
        self._left, self._of = iter(waiting), len(waiting)
        self._pages, self._endpoint, self._pairs = pages, endpoint, pairs
        self._outcome, self._progress = outcome, progress

    async def run(self, at_once: int) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(min(at_once, self._of)):
                    tasks.create_task(self._work())
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None  # the first that failed; the others were cancelled for it

    async def _work(self) -> None:
        for chunk in self._left:
            await self._ask(chunk)
            if self._outcome.in_a_row >= IN_A_ROW:
                return
            if self._progress:
                self._progress(self._outcome.asked + self._outcome.failed, self._of)

    async def _ask(self, chunk: Chunk) -> None:
        outcome = self._outcome
        try:
            said = await self._endpoint.ask(SYSTEM, wanted(chunk.text, self._pairs))
        except Unanswered as error:
            outcome.failed, outcome.in_a_row, outcome.last_failure = (
                outcome.failed + 1,
                outcome.in_a_row + 1,
                str(error),
            )
            return
        kept, refused = judge(said, chunk.text, self._pairs)
        outcome.pairs += self._pages.add(chunk, kept, refused)
        outcome.refused += refused
        outcome.asked, outcome.in_a_row = outcome.asked + 1, 0
