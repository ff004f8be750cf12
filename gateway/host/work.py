"""The texts of requests on their way through the device: as they wait, as they are cut into calls, as they come back.

A row is handed out once and comes back once, in its place, whatever it was computed beside.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from gateway.errors import DeadlineExceeded

TokenIds = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]
WASTE: Final = 0.25  # padding that a device call may carry, as a share of its tokens
LEAST_CALL: Final = 256  # tokens below which another device call costs more than the padding it saves


class Embedder(Protocol):
    """A loaded generation, as device calls see it. `packed`: it computes tokens and no padding. There may be several of
    one generation, which share its queue and no device call."""

    @property
    def packed(self) -> bool: ...

    def embed(self, rows: Sequence[TokenIds], prompt_tokens: Sequence[int]) -> Vectors:
        """Token ids -> float32 [rows, dim], which the caller may keep. On the device lane."""


class Mixer(Protocol):
    """What computes rows of several embedders in one device call: a base, its own texts and those of its adapters."""

    @property
    def packed(self) -> bool: ...

    def embed_mixed(
        self, rows: Sequence[TokenIds], prompt_tokens: Sequence[int], embedders: Sequence[Embedder]
    ) -> Vectors:
        """As `Embedder.embed`, each row by the embedder beside it."""


class Work:
    """The texts of one request. Those that still wait are `order[taken:]`; they count `waiting` tokens."""

    def __init__(
        self,
        embedder: Embedder,
        request: int,
        rows: Sequence[TokenIds],
        prompt_tokens: int = 0,
        *,
        now: float,
        deadline: float | None = None,
        mixer: Mixer | None = None,
    ) -> None:
        self.embedder = embedder
        self.mixer = mixer  # if works of other embedders may share its calls
        self.request = request
        self.rows = rows
        self.prompt_tokens = prompt_tokens
        self.deadline = deadline
        lengths = [len(row) for row in rows]
        # where padding costs, rows of one length belong together
        self.order = range(len(rows)) if embedder.packed else sorted(range(len(rows)), key=lengths.__getitem__)
        self._ends = [0, *accumulate(lengths[index] for index in self.order)]  # tokens of so many rows, in this order
        self.taken = 0
        self.tokens = self._ends[-1]
        self.missing = len(rows)
        self.vectors: Vectors | None = None
        self.enqueued = now
        self.credit = 0  # tokens that it may still take in its turn
        self.queue_seconds: float | None = None  # until its first row was on the device
        self.compute_seconds = 0.0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def computed_by(self) -> Embedder | Mixer:
        """Works of the same one may share a call."""
        return self.mixer or self.embedder

    @property
    def waiting(self) -> int:
        return self.tokens - self._ends[self.taken]

    @property
    def over(self) -> bool:
        """Answered, failed, or given up by its client."""
        return self.done.done()

    def next_tokens(self) -> int:
        """Of the row that is handed out next; there is one."""
        return self._ends[self.taken + 1] - self._ends[self.taken]

    def take(self, tokens: int, texts: int) -> Part:
        """Hands out the next rows: as many as fit, and one in any case."""
        first = self.taken
        last = bisect_right(self._ends, self._ends[first] + tokens, lo=first) - 1
        self.taken = max(first + 1, min(last, first + texts))
        return Part(self, self.order[first : self.taken], self._ends[self.taken] - self._ends[first])

    def drop(self) -> int:
        """Nothing more is handed out; how many tokens waited."""
        waiting, self.taken = self.waiting, len(self.rows)
        return waiting

    def put(self, indices: Sequence[int], vectors: Vectors) -> None:
        """What came back for some of its rows."""
        if len(indices) == len(self.rows) and (len(indices) == 1 or isinstance(indices, range)):
            self.vectors = vectors  # as it lies: no copy
        else:
            if self.vectors is None:
                self.vectors = np.empty((len(self.rows), vectors.shape[1]), vectors.dtype)
            self.vectors[_place(indices)] = vectors
        self.missing -= len(indices)
        if not self.missing and not self.over:
            self.done.set_result(None)

    def fail(self, error: Exception) -> None:
        if not self.over:
            self.done.set_exception(error)

    def fail_if_late(self, now: float) -> None:
        if self.deadline is not None and now >= self.deadline:
            self.fail(DeadlineExceeded(f"the deadline passed after {now - self.enqueued:.3f} s in the queue"))


class Part(NamedTuple):
    """Some rows of one work, and their tokens."""

    work: Work
    indices: Sequence[int]
    tokens: int


class Call(NamedTuple):
    """One device call: of one embedder, or of several that a mixer computes together."""

    key: str
    embedder: Embedder | Mixer
    parts: Sequence[Part]

    @property
    def texts(self) -> int:
        return sum(len(part.indices) for part in self.parts)

    @property
    def tokens(self) -> int:
        return sum(part.tokens for part in self.parts)

    @property
    def padded_tokens(self) -> int:
        """What the device computes."""
        if self.embedder.packed:
            return self.tokens
        return self.texts * max(len(part.work.rows[index]) for part in self.parts for index in part.indices)

    @property
    def requests(self) -> list[int]:
        return list(dict.fromkeys(part.work.request for part in self.parts))

    def alive(self) -> Call:
        """Without the works that nobody waits for any more."""
        return self._replace(parts=[part for part in self.parts if not part.work.over])

    def run(self) -> Vectors:
        """On the device lane. The rows of each part stand together, in the order of the parts."""
        rows = [part.work.rows[index] for part in self.parts for index in part.indices]
        prompts = [part.work.prompt_tokens for part in self.parts for _ in part.indices]
        first = self.parts[0].work
        if first.mixer is None or all(part.work.embedder is first.embedder for part in self.parts):
            return first.embedder.embed(rows, prompts)
        owners = [part.work.embedder for part in self.parts for _ in part.indices]
        return first.mixer.embed_mixed(rows, prompts, owners)


def calls(key: str, parts: Sequence[Part], most_tokens: int) -> list[Call]:
    """One batch as device calls: one, unless padding makes several cheaper, or not all of it can share one."""
    embedder = parts[0].work.computed_by
    others = [part for part in parts if part.work.computed_by is not embedder]
    if others:
        same = [part for part in parts if part.work.computed_by is embedder]
        return calls(key, same, most_tokens) + calls(key, others, most_tokens)
    whole = Call(key, embedder, parts)
    padded = whole.padded_tokens
    if embedder.packed or (padded <= most_tokens and not _wasteful(padded, padded - whole.tokens)):
        return [whole]
    return [Call(key, embedder, _regrouped(rows)) for rows in split(parts, most_tokens)]


def split(parts: Sequence[Part], most_tokens: int) -> list[list[tuple[Work, int]]]:
    """Rows of one batch -> device calls of similar length: little padding, and none over `most_tokens` padded."""
    rows = [(part.work, index) for part in parts for index in part.indices]
    found: list[list[tuple[Work, int]]] = []
    longest = total = 0
    for work, index in sorted(rows, key=lambda row: len(row[0].rows[row[1]]), reverse=True):
        tokens = len(work.rows[index])
        if found:
            padded = longest * (len(found[-1]) + 1)
            if padded <= most_tokens and not _wasteful(padded, padded - total - tokens):
                found[-1].append((work, index))
                total += tokens
                continue
        found.append([(work, index)])
        longest = total = tokens
    return found


def _wasteful(padded: int, waste: int) -> bool:
    return waste > max(LEAST_CALL, WASTE * padded)


def _regrouped(rows: Sequence[tuple[Work, int]]) -> list[Part]:
    """The rows of each work together; inside a padded call their order is free."""
    works: dict[int, tuple[Work, list[int]]] = {}
    for work, index in rows:
        works.setdefault(id(work), (work, []))[1].append(index)
    return [Part(work, indices, sum(len(work.rows[i]) for i in indices)) for work, indices in works.values()]


def _place(indices: Sequence[int]) -> slice | list[int]:
    return slice(indices.start, indices.stop) if isinstance(indices, range) else list(indices)
