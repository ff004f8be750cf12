"""Hard negatives: documents that a model takes for answers, and that are none.

A document that scores nearly as high as the answer may well be one that nobody marked. So whatever comes within
`relative_margin` of the answer's own similarity is left out, as is what reads almost like an answer.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from trainer.data.example import Example
from trainer.errors import InvalidInput

BLOCK: Final = 256  # queries that are compared with the whole corpus at once
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """`count` negatives for an example, taken from the places `range_min` to `range_max` of its ranking (0 is the best
    that is no answer), and at most `1 - relative_margin` times as similar as its least similar answer. `max_score`
    bounds the similarity itself; `twin` is the similarity to an answer from which a document is taken for one too.
    `sampling`: the best of them, or some drawn from `seed`."""

    count: int = 1
    range_min: int = 0
    range_max: int = 100
    relative_margin: float = 0.05
    max_score: float | None = None
    twin: float = 0.95
    sampling: str = "top"
    seed: int = 42

    def __post_init__(self) -> None:
        if self.count < 1 or self.range_min < 0 or self.range_max <= self.range_min:
            raise InvalidInput("mining: count is at least 1, and range_min lies below range_max")
        if not 0 <= self.relative_margin < 1:
            raise InvalidInput("mining: relative_margin is at least 0 and below 1")
        if self.sampling not in ("top", "random"):
            raise InvalidInput("mining: sampling is top or random")


@dataclass(frozen=True, slots=True)
class Mined:
    """`examples` in the order given; `short` of them got fewer negatives than asked for, `none` got none at all."""

    examples: list[Example]
    short: int
    none: int


def mine(
    model: Any,
    examples: Sequence[Example],
    corpus: Sequence[str],
    rules: Rules,
    *,
    batch_size: int = 32,
    query_prompt: str = "",
    document_prompt: str = "",
    progress: Progress = lambda done, total: None,
) -> Mined:
    """Adds negatives of `corpus` to the examples; those that they have stay, and come first."""
    texts = list(dict.fromkeys([*corpus, *(text for example in examples for text in example.positives)]))
    places = {text: place for place, text in enumerate(texts)}
    answers = _answers(examples, places)
    documents = _vectors(model, texts, document_prompt, batch_size)
    queries = _vectors(model, [example.query for example in examples], query_prompt, batch_size)
    drawn = random.Random(rules.seed)
    mined: list[Example] = []
    for start in range(0, len(examples), BLOCK):
        block = examples[start : start + BLOCK]
        similar = queries[start : start + BLOCK] @ documents.T
        for example, row in zip(block, similar, strict=True):
            barred = answers[normal(example.query)] | {places[n] for n in example.negatives if n in places}
            own = [places[text] for text in example.positives]
            chosen = _allowed(row, documents, own, barred, rules)
            found = (
                drawn.sample(chosen, min(rules.count, len(chosen)))
                if rules.sampling == "random"
                else chosen[: rules.count]
            )
            mined.append(replace(example, negatives=(*example.negatives, *(texts[place] for place in found))))
        progress(len(mined), len(examples))
    gains = [len(after.negatives) - len(before.negatives) for before, after in zip(examples, mined, strict=True)]
    return Mined(mined, sum(gain < rules.count for gain in gains), gains.count(0))


def normal(text: str) -> str:
    """A text as it is compared: the same words are the same text."""
    import unicodedata  # noqa: PLC0415  used here alone

    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _answers(examples: Sequence[Example], places: dict[str, int]) -> dict[str, set[int]]:
    """For each query the places of all that answers it, in whichever example, and of texts that read the same."""
    alike: dict[str, set[int]] = {}
    for text, place in places.items():
        alike.setdefault(normal(text), set()).add(place)
    found: dict[str, set[int]] = {}
    for example in examples:
        barred = found.setdefault(normal(example.query), alike.get(normal(example.query), set()).copy())
        for text in example.positives:
            barred |= alike[normal(text)]
    return found


def _allowed(row: Any, documents: Any, own: list[int], barred: set[int], rules: Rules) -> list[int]:
    """Places of documents, best first: in the range, below the margin, and neither an answer nor its twin."""
    import torch  # noqa: PLC0415  heavy

    least = float(row[own].min())
    limit = least - abs(least) * rules.relative_margin
    limit = limit if rules.max_score is None else min(limit, rules.max_score)
    ranked = torch.topk(row, min(len(row), rules.range_max + len(barred))).indices.tolist()
    places = [place for place in ranked if place not in barred][rules.range_min : rules.range_max]
    places = [place for place in places if float(row[place]) <= limit]
    if not places:
        return []
    twins = (documents[places] @ documents[own].T).amax(dim=1) >= rules.twin
    return [place for place, twin in zip(places, twins.tolist(), strict=True) if not twin]


def _vectors(model: Any, texts: list[str], prompt: str, batch_size: int) -> Any:
    return model.encode(
        texts,
        prompt=prompt or None,
        batch_size=batch_size,
        convert_to_tensor=True,
        normalize_embeddings=True,
        show_progress_bar=False,
    ).cpu()
