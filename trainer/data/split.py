"""Which examples are held out: whole groups, chosen by a hash, so that the same rows are when data is appended.

What shares a group, a query or an answer hangs together and is on one side. Sizes follow the share by chance: of
few groups, roughly.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Final, Protocol, TypeVar

from trainer.data.example import Example
from trainer.data.normal import normal

FEWEST: Final = 10  # groups; of fewer, whole files would decide


class Row(Protocol):
    @property
    def query(self) -> str: ...

    @property
    def group(self) -> str | None: ...


R = TypeVar("R", bound=Row)


def split(examples: Sequence[Example], share: float) -> tuple[list[Example], list[Example]]:
    """What to train on, and what is held out. Where all hang together nothing is held out."""
    return split_rows(examples, share, lambda example: example.positives)


def split_rows(examples: Sequence[R], share: float, also: Callable[[R], Iterable[str]]) -> tuple[list[R], list[R]]:
    """As `split`, of any rows: those hang together that share a group, a query, or one of the texts that are `also`
    looked at."""
    by_group = len(set(_clusters(examples, True, also))) >= FEWEST
    clusters = _clusters(examples, by_group, also)
    held = _held_out({cluster: _place(examples[cluster], by_group) for cluster in sorted(set(clusters))}, share)
    train = [example for example, cluster in zip(examples, clusters, strict=True) if cluster not in held]
    return train, [example for example, cluster in zip(examples, clusters, strict=True) if cluster in held]


def has_groups(examples: Sequence[Example]) -> bool:
    """Whether groups are many enough to be split by; else what shares a query or an answer is kept together."""
    return len(set(_clusters(examples, True, lambda example: example.positives))) >= FEWEST


def _held_out(places: dict[int, float], share: float) -> set[int]:
    held = {cluster for cluster, place in places.items() if place < share}
    if share and len(places) > 1:  # neither side is empty
        ordered = sorted(places, key=lambda cluster: (places[cluster], cluster))
        held = (held or {ordered[0]}) - ({ordered[-1]} if len(held) == len(places) else set())
    return held


def _place(first: Row, by_group: bool) -> float:
    """The place in 0 to 1 of what hangs together, by its first row, which appending does not change."""
    key = first.group if by_group and first.group is not None else normal(first.query)
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) / 2**64


def _clusters(examples: Sequence[R], by_group: bool, also: Callable[[R], Iterable[str]]) -> list[int]:
    """For each example the number of the first that it hangs together with, over any number of steps."""
    parents = list(range(len(examples)))
    firsts: dict[Hashable, int] = {}
    for number, example in enumerate(examples):
        for key in _keys(example, by_group, also(example)):
            one, other = _root(parents, firsts.setdefault(key, number)), _root(parents, number)
            parents[max(one, other)] = min(one, other)
    return [_root(parents, number) for number in range(len(examples))]


def _keys(example: Row, by_group: bool, also: Iterable[str]) -> Iterator[Hashable]:
    if by_group and example.group is not None:
        yield "group", example.group
    yield "query", normal(example.query)
    for text in also:
        yield "text", normal(text)


def _root(parents: list[int], number: int) -> int:
    while parents[number] != number:
        parents[number] = parents[parents[number]]
        number = parents[number]
    return number
