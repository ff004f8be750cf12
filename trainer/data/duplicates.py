"""Rows that are there twice, and queries with several answers.

Two rows are the same when query and positive are (`normal`); near, when both nearly are. What is left of a query's rows
is one example with several positives, so that an answer is never a negative of its own question.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from trainer.data.example import Example
from trainer.data.normal import normal

How = Literal["none", "exact", "near"]


@dataclass(frozen=True, slots=True)
class Removed:
    """Rows that are left out: the same as one before, near one before, of the same texts with another score. `merged`
    rows are in a row before, as one more positive."""

    exact: int = 0
    near: int = 0
    conflicting: int = 0
    merged: int = 0

    @property
    def all(self) -> int:
        return self.exact + self.near + self.conflicting


def without_duplicates(examples: Sequence[Example], how: How) -> tuple[list[Example], Removed]:
    """The first of each, in their order, and what was done. With `none` nothing is."""
    if how == "none":
        return list(examples), Removed()
    kept, exact, conflicting = _without_the_same(examples)
    near = 0
    if how == "near":
        before = len(kept)
        kept = _without_near(kept)
        near = before - len(kept)
    merged = _merged(kept)
    return merged, Removed(exact, near, conflicting, len(kept) - len(merged))


def pair(example: Example) -> tuple[str, ...]:
    """What makes a row the same as another: negatives do not."""
    return (normal(example.query), *sorted(normal(text) for text in example.positives))


def _without_the_same(examples: Iterable[Example]) -> tuple[list[Example], int, int]:
    scores: dict[tuple[str, ...], float | None] = {}
    places: dict[tuple[str, ...], int] = {}
    kept: list[Example] = []
    exact = conflicting = 0
    for example in examples:
        key = pair(example)
        if key not in scores:
            scores[key], places[key] = example.score, len(kept)
            kept.append(example)
        elif scores[key] != example.score:
            conflicting += 1
        else:
            exact += 1
            kept[places[key]] = _with_negatives(kept[places[key]], example.negatives)
    return kept, exact, conflicting


def _without_near(examples: Sequence[Example]) -> list[Example]:
    from trainer.data.near import Near  # noqa: PLC0415  numpy is loaded only where it is asked for

    near = {score: Near() for score in {example.score for example in examples}}
    return [
        example
        for example in examples
        if near[example.score].find_or_keep(example.query, "\n".join(example.positives)) is None
    ]


def _merged(examples: Iterable[Example]) -> list[Example]:
    """Rows with a score stay alone: each score is of one pair."""
    places: dict[str, int] = {}
    kept: list[Example] = []
    for example in examples:
        key = normal(example.query)
        if example.score is None and key in places:
            kept[places[key]] = _with_positives(kept[places[key]], example)
            continue
        if example.score is None:
            places[key] = len(kept)
        kept.append(example)
    return kept


def _with_positives(one: Example, other: Example) -> Example:
    known = {normal(text) for text in one.positives}
    new = tuple(text for text in other.positives if normal(text) not in known)
    return _with_negatives(replace(one, positives=one.positives + new), other.negatives)


def _with_negatives(one: Example, more: tuple[str, ...]) -> Example:
    """What answers the query in any row is a negative in none."""
    wanted = {normal(text) for text in one.positives}
    chosen = {key: text for text in (*more, *one.negatives) if (key := normal(text)) not in wanted}
    first = {key: chosen[key] for text in (*one.negatives, *more) if (key := normal(text)) in chosen}
    return replace(one, negatives=tuple(first.values()))
