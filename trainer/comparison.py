"""A model before and after: what `scores.json` of a run holds, and which queries moved."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from trainer.bootstrap import Difference, paired
from trainer.errors import InvalidInput
from trainer.scores import Scored, Scores

MOVERS: Final = 5
LARGEST: Final = 512_000_000  # bytes of a file of scores that is read


@dataclass(frozen=True, slots=True)
class Move:
    """A query whose first right document came at another rank, or did not."""

    query: str
    before: int
    after: int
    answer: str
    found: str  # what came first, after


@dataclass(frozen=True, slots=True)
class Comparison:
    metric: str
    before: Scores
    after: Scores
    difference: Difference

    def to_json(self) -> dict[str, Any]:
        scores = {"before": self.before.to_json(), "after": self.after.to_json()}
        return {"metric": self.metric, **scores, "difference": self.difference.to_json()}

    def moves(self) -> list[Move]:
        """Every query, in order."""
        return [_move(b, a) for b, a in zip(self.before.each_query, self.after.each_query, strict=True)]

    def worst(self, count: int = MOVERS) -> list[Move]:
        """What is found worst now; of equals, what lost most."""
        return sorted(self.moves(), key=lambda move: (-move.after, move.before))[:count]

    def gained(self, count: int = MOVERS) -> list[Move]:
        moved = [move for move in self.moves() if move.after < move.before]
        return sorted(moved, key=lambda move: (1 / move.before - 1 / move.after, move.after))[:count]

    def lost(self, count: int = MOVERS) -> list[Move]:
        moved = [move for move in self.moves() if move.after > move.before]
        return sorted(moved, key=lambda move: (1 / move.after - 1 / move.before, -move.after))[:count]


def compare(before: Scores, after: Scores, metric: str) -> Comparison:
    """Raises InvalidInput when the two are not of the same questions."""
    return Comparison(metric, before, after, paired(before, after, metric))


def read_json(path: Path) -> Any:
    """Raises InvalidInput for what cannot be read."""
    try:
        if path.stat().st_size > LARGEST:
            raise InvalidInput(f"{path}: too large for a file of scores")
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidInput(f"{path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{path}: no JSON: {error}") from error


def read_scores(path: Path) -> Scores:
    """Scores that `trainer evaluate --out` wrote, or the final ones of a run. Raises InvalidInput."""
    document = read_json(path)
    if isinstance(document, dict) and "after" in document:
        document = document["after"]
    try:
        return Scores.from_json(document)
    except InvalidInput as error:
        raise InvalidInput(f"{path}: {error}") from error


def read_comparison(path: Path) -> Comparison:
    """A run's `scores.json`. Raises InvalidInput."""
    document = read_json(path)
    if not isinstance(document, dict) or not {"before", "after"} <= document.keys():
        raise InvalidInput(f"{path}: scores of one model, not of two")
    metric = str(document.get("metric", "mrr@10"))
    return compare(Scores.from_json(document["before"]), Scores.from_json(document["after"]), metric)


def _move(before: Scored, after: Scored) -> Move:
    return Move(after.query, before.ranks[0], after.ranks[0], after.answer, after.found)
