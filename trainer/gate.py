"""The gate: a model takes the place of a live one only if it is better, by more than luck explains.

Both are asked the same questions, and each question's score is compared with itself. The new model passes when even the
lower end of the 95% interval of the gain lies above the margin: a gain that another draw of questions could have taken
away is none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from trainer import hardware, metadata, reload
from trainer.bootstrap import Difference, paired
from trainer.contents import model_directory
from trainer.errors import InvalidInput, NotAModel
from trainer.evaluate import evaluate
from trainer.publish import highest_version, parse_name
from trainer.questions import Questions
from trainer.scores import named

MARGIN: Final = 0.01
METRIC: Final = "mrr@10"

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Verdict:
    """The scores of both, and the gain with its interval."""

    metric: str
    margin: float
    queries: int
    live: float
    new: float
    gain: Difference

    @property
    def passed(self) -> bool:
        return self.gain.low > self.margin

    def line(self) -> str:
        """What a person wants to know."""
        told = (
            f"{self.metric} on {self.queries} queries: {self.live:.4f} live, {self.new:.4f} new, a gain of "
            f"{self.gain.mean:+.4f} [{self.gain.low:+.4f}, {self.gain.high:+.4f}]"
        )
        if self.passed:
            return f"{told}: better by more than {self.margin:g}"
        return f"{told}: {self.margin:g} is asked for at the lower end"

    def to_json(self) -> dict[str, Any]:
        scores = {"metric": self.metric, "queries": self.queries, "live": self.live, "new": self.new}
        return scores | {"gain": self.gain.to_json(), "margin": self.margin, "passed": self.passed}


def judge(
    new: Path,
    live: Path,
    questions: Questions,
    *,
    metric: str = METRIC,
    margin: float = MARGIN,
    progress: Progress = lambda done, total: None,
) -> Verdict:
    """Asks both. Raises InvalidInput for a metric that there is not, and what loading and evaluating raise."""
    metric = named(metric)
    total = 2 * (len(questions.queries) + len(questions.corpus))
    half = total // 2
    before = evaluate(_loaded(live), questions, progress=lambda done, _: progress(done, total))
    after = evaluate(_loaded(new), questions, progress=lambda done, _: progress(half + done, total))
    gain = paired(before, after, metric)
    return Verdict(metric, margin, len(questions.queries), before.of(metric), after.of(metric), gain)


def _loaded(directory: Path) -> Any:
    if (directory / "adapter_config.json").is_file() and not (directory / "config.json").is_file():
        raise InvalidInput(f"{directory}: an adapter is not scored by itself; merge it first: trainer merge")
    try:
        return reload.load(directory, hardware.find().device)
    except Exception as error:  # the libraries' errors have no root of their own
        raise NotAModel(f"{directory}: does not load: {type(error).__name__}: {error}") from error


def live_model(model: str, models_dir: Path) -> Path | None:
    """The directory that answers for a name: its highest version, else its own files; None where nothing does."""
    namespace, name = parse_name(model)
    place = models_dir / namespace / name
    number = highest_version(place)
    if number:
        place /= str(number)
    there = place.is_dir() and any(not entry.name.startswith(".") for entry in place.iterdir())
    return model_directory(place) if there else None  # hidden ones are staged, and no model


def described(verdict: Verdict, live: Path) -> Mapping[str, Any]:
    """For the new model's metadata: against what it was held, and what came of it."""
    return {"gate": {**verdict.to_json(), "against": metadata.weights_digest(live)}}
