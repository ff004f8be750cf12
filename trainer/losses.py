"""The losses: what rows each is fed with, and where its negatives and labels come from.

A label is never invented: an example without any has negatives mined for it, and the run says so. Rows made of nothing
but good answers, all with the label 1, teach a model that everything is alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from trainer.data.example import Example
from trainer.errors import InvalidInput

GOOD: Final = 0.5  # a score from here on says that the document answers the query
TRIPLET_MARGIN: Final = 0.3  # of cosine distances, which lie in 0 to 2; the library's own is for long vectors
MINED: Final = 1  # negatives for an example that has none and needs some
Rows = dict[str, list[Any]]


@dataclass(frozen=True, slots=True)
class Kind:
    """`wants` is what rows must bring, `apart` says that no text may come twice in a batch, as its negatives are the
    other rows' answers."""

    wants: Literal["pairs", "negatives", "labels"]
    apart: bool = False


KINDS: Final = {
    "MultipleNegativesRankingLoss": Kind("pairs", apart=True),
    "CachedMultipleNegativesRankingLoss": Kind("pairs", apart=True),
    "TripletLoss": Kind("negatives"),
    "CosineSimilarityLoss": Kind("labels"),
    "ContrastiveLoss": Kind("labels"),
    "OnlineContrastiveLoss": Kind("labels"),
}


def kind(loss: str) -> Kind:
    """Raises InvalidInput that names what there is."""
    try:
        return KINDS[loss]
    except KeyError:
        raise InvalidInput(f"loss {loss!r}: there are {', '.join(KINDS)}") from None


def answered(examples: Sequence[Example]) -> list[Example]:
    """Examples whose documents answer: what a score calls bad is a negative of its query, and no positive."""
    bad: dict[str, list[str]] = {}
    for example in examples:
        if example.score is not None and example.score < GOOD:
            bad.setdefault(example.query, []).extend(example.positives)
    kept = [example for example in examples if example.score is None or example.score >= GOOD]
    return [_with_negatives(example, bad.get(example.query, ())) for example in kept]


def _with_negatives(example: Example, more: Sequence[str]) -> Example:
    new = [text for text in more if text not in example.positives and text not in example.negatives]
    return replace(example, negatives=(*example.negatives, *new)) if new else example


def without_negatives(examples: Sequence[Example], loss: str) -> list[int]:
    """Which examples need negatives mined before `loss` can be trained."""
    lacking = [number for number, example in enumerate(examples) if not example.negatives]
    match kind(loss).wants:
        case "pairs":  # rows of one shape: where some bring negatives, all must
            return lacking if len(lacking) < len(examples) else []
        case "negatives":
            return lacking
        case "labels":
            return [] if _tells_both(examples) else [n for n in lacking if examples[n].score is None]


def _tells_both(examples: Sequence[Example]) -> bool:
    """Whether the data itself has scores of good and bad answers."""
    scores = [example.score for example in examples if example.score is not None]
    return len(scores) == len(examples) and min(scores) < GOOD <= max(scores)


def rows(examples: Sequence[Example], loss: str) -> Rows:
    """Columns in the order that the loss reads them. Raises InvalidInput where nothing could be learned."""
    made = _labelled(examples, loss) if kind(loss).wants == "labels" else _ranked(examples, loss)
    if not made["anchor"]:
        raise InvalidInput(f"{loss}: no row to train on is left")
    return made


def _ranked(examples: Sequence[Example], loss: str) -> Rows:
    """anchor, positive, negative_1..n: a row for each positive. Rows have as many negatives as the richest example, and
    those with fewer repeat theirs."""
    wanted = max((len(example.negatives) for example in examples), default=0)
    if kind(loss).wants == "negatives":  # a triplet has one: a row for each
        triples = [(e.query, p, n) for e in examples for p in e.positives for n in e.negatives]
        return {
            "anchor": [t[0] for t in triples],
            "positive": [t[1] for t in triples],
            "negative": [t[2] for t in triples],
        }
    usable = [(e, p) for e in examples if e.negatives or not wanted for p in e.positives]
    made: Rows = {"anchor": [e.query for e, _ in usable], "positive": [p for _, p in usable]}
    for place in range(wanted):
        made[f"negative_{place + 1}"] = [e.negatives[place % len(e.negatives)] for e, _ in usable]
    return made


def _labelled(examples: Sequence[Example], loss: str) -> Rows:
    """anchor, document, label: the score where the data has one; else 1 for what answers and 0 for what does not."""
    labels: list[tuple[str, str, float]] = []
    for example in examples:
        good = 1.0 if example.score is None else example.score
        labels += [(example.query, text, good) for text in example.positives]
        labels += [(example.query, text, 0.0) for text in example.negatives]
    if len({label for _, _, label in labels}) < 2:
        raise InvalidInput(f"{loss}: every row has the same label, and nothing can be learned from that")
    graded = loss == "CosineSimilarityLoss"
    return {
        "anchor": [query for query, _, _ in labels],
        "document": [text for _, text, _ in labels],
        "label": [label if graded else int(label >= GOOD) for _, _, label in labels],
    }


def make(model: Any, loss: str, *, mini_batch_size: int, matryoshka: Sequence[int] = ()) -> Any:
    """The loss as a module over `model`, also at shorter dimensions if asked for."""
    from sentence_transformers.sentence_transformer import losses  # noqa: PLC0415  heavy

    made: Any
    if loss == "CachedMultipleNegativesRankingLoss":
        made = losses.CachedMultipleNegativesRankingLoss(model, mini_batch_size=mini_batch_size)
    elif loss == "TripletLoss":
        cosine = losses.TripletDistanceMetric.COSINE
        made = losses.TripletLoss(model, distance_metric=cosine, triplet_margin=TRIPLET_MARGIN)
    else:
        kind(loss)
        made = getattr(losses, loss)(model)
    return losses.MatryoshkaLoss(model, made, dimensions(model, matryoshka)) if matryoshka else made


def dimensions(model: Any, asked: Sequence[int]) -> list[int]:
    """The whole vector first, then the shorter ones that are asked for. Raises InvalidInput."""
    whole = int(model.get_embedding_dimension())
    if wrong := [size for size in asked if not 0 < size <= whole]:
        raise InvalidInput(f"matryoshka {wrong[0]}: the model's vectors have {whole} dimensions")
    return sorted({whole, *asked}, reverse=True)
