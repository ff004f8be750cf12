"""A run that is going on, and what it works with."""

from __future__ import annotations

import math
from dataclasses import dataclass

from trainer.console import progress
from trainer.errors import QualityGate
from trainer.hardware import Hardware
from trainer.journal import Journal
from trainer.language.config import LanguageConfig
from trainer.language.encoding import Sample
from trainer.language.golden import Form
from trainer.language.job import Job
from trainer.language.material import Material
from trainer.language.measure import Measured, measure
from trainer.language.outcome import Figures
from trainer.language.speaker import Speaker
from trainer.plan import RunPlan
from trainer.run import RunDirectory


@dataclass(frozen=True, slots=True)
class Rows:
    """As tokens. `recalled` are some of those that are trained on: what of them the model has learnt by heart."""

    train: list[Sample]
    held_out: list[Sample]
    recalled: list[Sample]


@dataclass(frozen=True, slots=True)
class Task:
    """`targets` are what the adapter changes, once there is one."""

    config: LanguageConfig
    hardware: Hardware
    run: RunDirectory
    journal: Journal
    job: Job
    speaker: Speaker
    plan: RunPlan
    material: Material
    rows: Rows
    form: Form
    targets: tuple[str, ...] = ()

    def scored(self, samples: list[Sample], what: str = "evaluating") -> Measured:
        with progress(what, "rows") as advance:
            model, pad = self.speaker.model, self.speaker.pad
            return measure(model, samples, pad=pad, batch_size=self.plan.eval_batch_size, advance=advance)

    def figures(self, what: str) -> Figures:
        """Raises QualityGate for a model that answers with anything but numbers."""
        held_out = self.scored(self.rows.held_out, what) if self.rows.held_out else None
        found = Figures(held_out, self.scored(self.rows.recalled, what))
        if not math.isfinite(found.judged.loss) or not math.isfinite(found.recalled.loss):
            raise QualityGate("the loss is no finite number: the model diverged; a lower --learning-rate may help")
        return found
