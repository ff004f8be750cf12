"""What files of examples hold, and the settings that fit them: `trainer data check`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from trainer.data.duplicates import Removed, without_duplicates
from trainer.data.example import Example
from trainer.data.lengths import Lengths, Ruler, lengths
from trainer.data.normal import normal

SMALLEST, LARGEST = 32, 512  # tokens that a training length is kept within, where the base says nothing
FEW: Final = 1000  # examples: of fewer, each is seen more often
MANY: Final = 50_000
WORD: Final = 1.5  # tokens of an English word and its punctuation, generously


@dataclass(frozen=True, slots=True)
class Statistics:
    """Of all rows that could be read. Lengths are of queries, and of positives and negatives together."""

    rows: int
    queries: int
    documents: int
    negatives: int
    scored: int
    groups: int
    duplicates: Removed
    unit: str
    query_lengths: Lengths
    document_lengths: Lengths
    suggested: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def statistics(examples: Sequence[Example], ruler: Ruler, *, near: bool = False) -> Statistics:
    """Counts, repeats, lengths and suggestions."""
    kept, removed = without_duplicates(examples, "near" if near else "exact")
    of_queries = lengths((example.query for example in examples), ruler)
    of_documents = lengths((text for each in examples for text in (*each.positives, *each.negatives)), ruler)
    return Statistics(
        rows=len(examples),
        queries=len({normal(example.query) for example in examples}),
        documents=len({normal(text) for example in examples for text in example.positives}),
        negatives=sum(len(example.negatives) for example in examples),
        scored=sum(example.score is not None for example in examples),
        groups=len({example.group for example in examples if example.group is not None}),
        duplicates=removed,
        unit=ruler.unit,
        query_lengths=of_queries,
        document_lengths=of_documents,
        suggested=suggested(kept, ruler, max(of_queries.p95, of_documents.p95)),
    )


def suggested(examples: Sequence[Example], ruler: Ruler, p95: int) -> dict[str, Any]:
    """Settings that fit the data, as keys of the configuration."""
    tokens = p95 if ruler.unit == "tokens" else round(p95 * WORD) + 2
    length = min(max(SMALLEST, -(-tokens // 8) * 8), ruler.longest or LARGEST)
    return {
        "max_seq_length": length,
        "batch_size": _batch(len(examples), length),
        "epochs": 5 if len(examples) < FEW else 3 if len(examples) < MANY else 1,
        "loss": _loss(examples),
        "dedupe": "exact",
        "split": 0.2 if len(examples) < FEW else 0.1,
    }


def _batch(examples: int, length: int) -> int:
    """In-batch negatives want large batches; ten steps of an epoch at least, and 16,000 tokens of a batch at most."""
    fitting = min(64, max(8, examples // 10), max(8, 16384 // length))
    return int(2 ** (fitting.bit_length() - 1))


def _loss(examples: Sequence[Example]) -> str:
    scores = {example.score for example in examples if example.score is not None}
    if not scores or scores == {1.0}:
        return "MultipleNegativesRankingLoss"
    return "OnlineContrastiveLoss" if scores <= {0.0, 1.0} else "CosineSimilarityLoss"
