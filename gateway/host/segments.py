"""Texts of one device call laid end to end: each token is a row, and nothing is computed for padding.

Texts of equal length stand together as a group, so that attention and pooling see a plain [count, length] block.
A few filler rows may end the whole; no text reads them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]
FILLER = 0  # any id that is in every vocabulary


@dataclass(frozen=True, slots=True)
class Group:
    """Rows `begin` to `end`: `count` texts of `length` rows each."""

    begin: int
    count: int
    length: int

    @property
    def end(self) -> int:
        return self.begin + self.count * self.length


@dataclass(frozen=True, slots=True)
class Segments:
    """`ids` [rows]; `order` [texts] says which text of the batch each laid text is; `groups` in the order of rows."""

    ids: Integers
    order: Integers
    groups: tuple[Group, ...]

    def places(self) -> Integers:
        """Each row's place in its own text, from 0; fillers have 0."""
        runs = [np.tile(np.arange(group.length), group.count) for group in self.groups]
        return np.concatenate([*runs, np.zeros(len(self.ids) - self.groups[-1].end, dtype=np.int64)])

    def counted(self, skipped: int) -> Integers:
        """Each row's place among its text's tokens other than `skipped`, from 1; 0 for these tokens themselves."""
        real = self.ids != skipped
        if real.all():
            return self.places() + 1
        total = np.cumsum(real)
        before = np.concatenate([[0], total])[np.arange(len(self.ids)) - self.places()]
        return np.where(real, total - before, 0)


def lay(batch: Sequence[Integers], rounded: Callable[[int], int], kinds: Integers | None = None) -> Segments:
    """Without padding, short texts first, and of equal ones those of a kind together; `rounded` says how many rows,
    fillers included, there are to be."""
    lengths = np.fromiter(map(len, batch), dtype=np.int64, count=len(batch))
    order = np.argsort(lengths, kind="stable") if kinds is None else np.lexsort((kinds, lengths))
    rows = int(lengths.sum())
    ids = np.full(rounded(rows), FILLER, dtype=np.int64)
    np.concatenate([batch[index] for index in order], out=ids[:rows])
    return Segments(ids, order, tuple(_groups(lengths[order])))


def parts(batch: Sequence[Integers], most: int, least_tokens: int, slack: float) -> list[list[int]]:
    """Texts for at most `most` workers, each with about as many tokens, and texts of similar length together.

    One part where a worker would get less than `least_tokens`, or one of them over `slack` times the mean: then a
    single call that all threads work on is done sooner.
    """
    total = sum(map(len, batch))
    count = min(most, len(batch), total // least_tokens)
    if count < 2:
        return [list(range(len(batch)))]
    lengths = np.fromiter(map(len, batch), dtype=np.int64, count=len(batch))
    order = np.argsort(lengths, kind="stable")
    ends = np.cumsum(lengths[order])
    owner = np.minimum((ends - lengths[order] / 2) * count // total, count - 1)
    found = [order[owner == part] for part in range(count)]
    if max(int(lengths[part].sum()) for part in found) > slack * total / count:
        return [list(range(len(batch)))]
    return [part.tolist() for part in found]


def _groups(lengths: Integers) -> list[Group]:
    """`lengths` in rising order."""
    found = []
    begin = 0
    for length, same in itertools.groupby(lengths.tolist()):
        found.append(Group(begin, len(list(same)), length))
        begin = found[-1].end
    return found
