"""What every data format becomes: a query, what answers it, and what does not."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One row of data. `query` is never blank, and there is at least one positive.

    `group` is what must stay on one side of a split, such as the file that the row was made from; `score` is how well
    the positive answers, in 0 to 1, where the data says so; `file` and `line` (from 1) are where it stands.
    """

    query: str
    positives: tuple[str, ...]
    negatives: tuple[str, ...] = ()
    score: float | None = None
    group: str | None = None
    file: str
    line: int
