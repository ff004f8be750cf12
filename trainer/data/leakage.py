"""What is held out and trained on all the same: scores on it say nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trainer.data.example import Example
from trainer.data.normal import normal


@dataclass(frozen=True, slots=True)
class Leakage:
    """Of the held-out examples: how many have a query that is trained on, a positive that is, and how many are near a
    training row. `first` are the file and line of some of them."""

    queries: int
    positives: int
    near: int
    first: tuple[str, ...]

    @property
    def any(self) -> bool:
        return bool(self.queries or self.positives or self.near)


def leakage(train: Sequence[Example], held_out: Sequence[Example], *, near: bool = False) -> Leakage:
    """`near` looks for held-out rows that are nearly trained on too, which costs about a millisecond a row."""
    queries = {normal(example.query) for example in train}
    positives = {normal(text) for example in train for text in example.positives}
    by_query = [example for example in held_out if normal(example.query) in queries]
    by_positive = [example for example in held_out if any(normal(text) in positives for text in example.positives)]
    by_near = _near(train, held_out) if near else []
    found = dict.fromkeys(f"{each.file}:{each.line}" for each in (*by_query, *by_positive, *by_near))
    return Leakage(len(by_query), len(by_positive), len(by_near), tuple(found)[:20])


def _near(train: Sequence[Example], held_out: Sequence[Example]) -> list[Example]:
    from trainer.data.near import Near  # noqa: PLC0415  numpy is loaded only where it is asked for

    index = Near()
    for example in train:
        index.find_or_keep(example.query, "\n".join(example.positives))
    return [each for each in held_out if index.find(each.query, "\n".join(each.positives)) is not None]
