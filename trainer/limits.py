"""What an evaluation has to reach, and whether it did: gates for a build that must not get worse.

`--fail-below mrr@10=0.6` compares the score. `--max-drop` decides on the interval: the gate opens when the low end of
the paired 95% interval of after minus before is no lower than minus the drop that is allowed. So a drop has to be ruled
out; that none was seen among few queries is not enough, and more queries make the interval narrower.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from trainer.comparison import Comparison
from trainer.errors import InvalidInput
from trainer.scores import Scores, named


@dataclass(frozen=True, slots=True)
class Floor:
    metric: str
    least: float


def floor(text: str) -> Floor:
    """`mrr@10=0.6`. Raises InvalidInput."""
    metric, equals, number = text.partition("=")
    try:
        least = float(number)
    except ValueError:
        least = math.nan
    if not equals or not 0 <= least <= 1:
        raise InvalidInput(f"--fail-below {text!r}: expected METRIC=SCORE with a score of 0 to 1, such as mrr@10=0.6")
    return Floor(named(metric), least)


def faults(scores: Scores, floors: Sequence[Floor], comparison: Comparison | None, max_drop: float | None) -> list[str]:
    """Why the gate stays closed; empty when it is open."""
    found = [
        f"{each.metric} is {scores.of(each.metric):.4f}, below {each.least:g}"
        for each in floors
        if scores.of(each.metric) < each.least
    ]
    if comparison is not None and max_drop is not None and comparison.difference.low < -max_drop:
        change = comparison.difference
        found.append(
            f"{comparison.metric} changed by {change.mean:+.4f}, 95% interval {change.low:+.4f} to {change.high:+.4f}: "
            f"a drop of more than {max_drop:g} cannot be ruled out"
        )
    return found
