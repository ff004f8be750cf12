"""What files of dialogues hold, and the settings of `trainer language` that fit them: `trainer data check`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from trainer.data.dialogue import ASSISTANT, Dialogue
from trainer.data.duplicates import without_duplicates
from trainer.data.example import Example
from trainer.data.lengths import Lengths, Ruler, lengths
from trainer.data.statistics import FEW, WORD

MARKS: Final = 8  # tokens that a chat template sets around a turn, generously


@dataclass(frozen=True, slots=True)
class Talks:
    """Of all rows that could be read. `exact` and `near` are rows that are there twice; `several` are prompts with
    other answers elsewhere, which stay. Lengths are of what is said before the last answer, of that, and of all."""

    rows: int
    answers: int
    systems: int
    groups: int
    organisations: tuple[str, ...]
    exact: int
    near: int
    several: int
    unit: str
    prompt_lengths: Lengths
    answer_lengths: Lengths
    row_lengths: Lengths
    suggested: dict[str, Any]


def talks(rows: Sequence[Dialogue], ruler: Ruler, *, near: bool = False) -> Talks:
    _, removed = without_duplicates([as_pair(row) for row in rows], "near" if near else "exact")
    whole = lengths(("\n".join(turn.text for turn in row.turns) for row in rows), ruler)
    return Talks(
        rows=len(rows),
        answers=sum(turn.role == ASSISTANT for row in rows for turn in row.turns),
        systems=sum(row.turns[0].role == "system" for row in rows),
        groups=_different(row.group for row in rows),
        organisations=tuple(sorted({row.organisation for row in rows if row.organisation is not None})),
        exact=removed.exact,
        near=removed.near,
        several=removed.merged,
        unit=ruler.unit,
        prompt_lengths=lengths((row.query for row in rows), ruler),
        answer_lengths=lengths((row.answer for row in rows), ruler),
        row_lengths=whole,
        suggested=_suggested(rows, ruler, whole),
    )


def as_pair(row: Dialogue) -> Example:
    """What is asked, and what is answered, to be counted and compared."""
    return Example(query=row.query, positives=(row.answer,), group=row.group, file=row.file, line=row.line)


def as_whole(row: Dialogue) -> Example:
    """The same, for looking for leaks: that two rows have the same short answer is none."""
    whole = f"{row.query}\n{row.answer}"
    return Example(query=row.query, positives=(whole,), group=row.group, file=row.file, line=row.line)


def _different(values: Iterable[str | None]) -> int:
    return len({value for value in values if value is not None})


def _suggested(rows: Sequence[Dialogue], ruler: Ruler, whole: Lengths) -> dict[str, Any]:
    """A length that holds 99 of 100 rows with their template; the others are left out."""
    around = MARKS * max(len(row.turns) for row in rows)

    def tokens(length: int) -> int:
        return (length if ruler.unit == "tokens" else round(length * WORD) + 2) + around

    wanted = -(-tokens(whole.p99) // 8) * 8
    length = min(wanted, ruler.longest or wanted)
    found: dict[str, Any] = {"max_seq_length": length, "dedupe": "exact", "split": 0.2 if len(rows) < FEW else 0.1}
    return found if tokens(whole.max) <= length else found | {"too_long": "skip"}
