"""What a run came to: how the model does before and after, and what was made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.bootstrap import Difference
from trainer.language.measure import Measured
from trainer.run import RunDirectory


@dataclass(frozen=True, slots=True)
class Figures:
    """`held_out` is None where nothing is."""

    held_out: Measured | None
    recalled: Measured

    @property
    def judged(self) -> Measured:
        return self.held_out or self.recalled

    def to_json(self) -> dict[str, Any]:
        return {"held_out": self.held_out and self.held_out.to_json(), "training_rows": self.recalled.to_json()}

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Figures:
        held_out = told["held_out"]
        return cls(held_out and Measured.from_json(held_out), Measured.from_json(told["training_rows"]))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a completed run has made; `difference` is that of the held-out loss."""

    run: RunDirectory
    job: str
    base: Path
    steps: int
    train_examples: int
    eval_examples: int
    first: bool = True  # of several processes, the one that writes
    before: Figures | None = None
    after: Figures | None = None
    difference: Difference | None = None

    def told(self) -> dict[str, Any]:
        """The scores in short."""
        if self.before is None or self.after is None:
            return {}
        before, after = self.before.judged, self.after.judged
        change = {"difference": self.difference.to_json()} if self.difference else {}
        exact = {"exact_match": {"before": before.exact_match, "after": after.exact_match}}
        sides = {"before": before.loss, "after": after.loss}
        return {"metric": "loss", "judged": self.judged, **sides, **exact, **change}

    def scores(self) -> dict[str, Any]:
        """All of them, row by row."""
        if self.before is None or self.after is None:
            return {}
        recalled = {"before": self.before.recalled.to_json(), "after": self.after.recalled.to_json()}
        sides = {"before": self.before.judged.to_json(), "after": self.after.judged.to_json()}
        return {**sides, "training_rows": recalled}

    @property
    def judged(self) -> str:
        return "held out" if self.after and self.after.held_out else "of rows trained on"
