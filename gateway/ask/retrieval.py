"""What is asked of a knowledge base, what comes back, and which of the passages that a search found are given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from gateway.ask.passage import Hit, Index, Where
from gateway.ask.store import Candidates, Vectors

MOST_HITS: Final = 200  # of one request
WIDER: Final = 4  # so many times the wanted hits are looked at, where something behind the search chooses among them
FEWEST: Final = 20  # and so many at least
BLENDED: Final = 100  # at least, where meaning and words are weighed against each other
MEANING: Final = 0.7  # of a hit's score, the rest being its words; docs/knowledge.md has how it was chosen


class RetrieveRequest(msgspec.Struct, frozen=True, kw_only=True):
    """`embedding_model` is a client's spelling of the model that it expects the base to have, None for whatever it has.

    `threshold` is a cosine in [-1, 1]. The search is by meaning and by words together (`hybrid`), or by meaning alone;
    `words` is by words alone. `rerank` is a reranker's spelling. `mmr` in (0, 1] weighs how well a passage answers
    against how much it repeats those before it: 1 is no diversity at all, None too. `key` is what an alias's canary
    knows the client by, `timeout` the seconds that it waits.
    """

    kb: str
    query: str
    embedding_model: str | None = None
    limit: int = 5
    threshold: float | None = None
    where: Where | None = None
    hybrid: bool = True
    words: bool = False
    rerank: str | None = None
    mmr: float | None = None
    key: str = ""
    timeout: float | None = None

    @property
    def wide(self) -> int:
        """Hits that the search is asked for."""
        blended = self.hybrid and not self.words
        if self.rerank is None and self.mmr is None and self.threshold is None and not blended:
            return self.limit
        return min(MOST_HITS, max(BLENDED if blended else FEWEST, WIDER * self.limit))

    def choose(self, found: Candidates) -> list[tuple[int, float]]:
        """Of what the search found, what is reranked or given: a `Choose`. Ranks that were fused say nothing of how
        well a passage fits; the threshold is of the cosine."""
        scores = blended(found)
        kept = np.argsort(-scores, kind="stable")
        if self.threshold is not None:
            assert found.cosines is not None  # a search by words has no threshold
            kept = kept[found.cosines[kept] >= self.threshold]
        kept = kept[: self.considered]
        return list(zip(kept.tolist(), scores[kept].tolist(), strict=True))

    @property
    def considered(self) -> int:
        """Hits that are reranked, or chosen from for diversity: the best of those."""
        if self.rerank is None and self.mmr is None:
            return self.limit
        return min(MOST_HITS, max(FEWEST, WIDER * self.limit))


class Timings(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds."""

    embed: float = 0.0
    search: float = 0.0
    rerank: float = 0.0
    total: float = 0.0


class Retrieval(msgspec.Struct, frozen=True, kw_only=True):
    """`hits`, best first, all from one `index`, whose generation made the query's `vector` too; a search by words has
    none. `relevance` is the reranker's score of each hit, empty without one."""

    hits: tuple[Hit, ...]
    index: Index
    vector: Vectors | None = None
    relevance: tuple[float, ...] = ()
    reranker: str | None = None
    timings: Timings = Timings()

    @property
    def model(self) -> str:
        return self.index.model

    @property
    def generation(self) -> str:
        """As answers and `model@generation` name it."""
        return self.index.generation[:12]


def blended(found: Candidates) -> NDArray[np.float64]:
    """The score of each hit of a search by meaning and by words: a weighted mean of the two, each brought to 0..1 among
    these hits. Ranks alone, by which the search gathered them, forget how much better one is than the next."""
    if found.cosines is None or found.words is None or not len(found.fused):
        return found.fused
    most = found.words.max() or 1.0
    scores: NDArray[np.float64] = MEANING * _unit(found.cosines) + (1 - MEANING) * found.words / most
    return scores


def diverse(scores: Sequence[float], vectors: Vectors, limit: int, weight: float) -> list[int]:
    """Maximal marginal relevance: places of at most `limit` of the candidates in the order in which to give them.
    `vectors` [len(scores), dim] are theirs, of any length; scores are compared with cosines, and so brought to 0..1."""
    relevance = _unit(np.asarray(scores, dtype=np.float64))
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    units = vectors / np.where(lengths == 0, 1, lengths)
    left, chosen = list(range(len(scores))), list[int]()
    repeated = np.zeros(len(scores))
    while left and len(chosen) < limit:
        best = max(left, key=lambda place: weight * relevance[place] - (1 - weight) * repeated[place])
        left.remove(best)
        chosen.append(best)
        repeated = np.maximum(repeated, units @ units[best])
    return chosen


def _unit(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    if not len(scores):
        return scores
    low, high = scores.min(), scores.max()
    return np.ones_like(scores) if high == low else (scores - low) / (high - low)
