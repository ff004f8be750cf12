"""What a model is evaluated on: queries, everything that can be found, and which of it answers each query.

Every text of the corpus is there once, so that a right answer is never counted as a wrong one because it was written
down twice. Queries that nothing answers cannot be scored; they are counted in `unanswered`, never lost in silence.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from trainer.data.example import Example
from trainer.errors import InvalidInput

ANSWERS_FROM: Final = 0.5  # the score of a rated pair from which its document counts as an answer


@dataclass(frozen=True, slots=True)
class Questions:
    """`relevant[n]` holds the places in `corpus` that answer `queries[n]`; never empty."""

    queries: tuple[str, ...]
    corpus: tuple[str, ...]
    relevant: tuple[frozenset[int], ...]
    unanswered: int = 0

    def __post_init__(self) -> None:
        if not self.queries:
            raise InvalidInput("nothing to evaluate on: no query has a document that answers it")
        if len(self.queries) != len(self.relevant) or not all(self.relevant):
            raise ValueError("each query has its own set of relevant documents, which is not empty")

    def digest(self) -> str:
        """Equal for equal questions, in the same order. Scores of other questions cannot be compared with these."""
        digest = hashlib.sha256()
        for text in (*self.queries, "", *self.corpus):
            digest.update(f"{len(text)} ".encode() + text.encode(errors="surrogatepass"))
        for places in self.relevant:
            digest.update(f"{sorted(places)}".encode())
        return digest.hexdigest()

    def first(self, count: int | None) -> Questions:
        """So many queries at most; what can be found stays the same, or the scores would flatter."""
        if count is None or count >= len(self.queries):
            return self
        return Questions(self.queries[:count], self.corpus, self.relevant[:count], self.unanswered)


def from_examples(examples: Iterable[Example], distractors: Iterable[str] = ()) -> Questions:
    """The answers and the negatives of all examples are the corpus, and `distractors` are found there too.

    Rows with the same query are one query. A rated pair below 0.5 adds its document, and no answer.
    """
    places: dict[str, int] = {}
    answers: dict[str, set[int]] = {}
    for example in examples:
        found = {places.setdefault(text, len(places)) for text in example.positives}
        answers.setdefault(example.query, set()).update(found if _answers(example) else ())
        for text in example.negatives:
            places.setdefault(text, len(places))
    for text in distractors:
        places.setdefault(text, len(places))
    return gathered(answers, list(places))


def gathered(answers: dict[str, set[int]], corpus: Sequence[str]) -> Questions:
    """Of the queries with what answers each; those that nothing answers are counted."""
    asked = {query: frozenset(places) for query, places in answers.items() if places}
    return Questions(tuple(asked), tuple(corpus), tuple(asked.values()), len(answers) - len(asked))


def _answers(example: Example) -> bool:
    return example.score is None or example.score >= ANSWERS_FROM
