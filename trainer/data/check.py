"""`trainer data check`: faults, counts, repeats, leaks, lengths and suggestions of files, as JSON or as a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trainer.console import Advance
from trainer.data.fault import SHOWN, Fault
from trainer.data.leakage import Leakage, leakage
from trainer.data.lengths import Lengths, tokens, words
from trainer.data.read import Faults, stream
from trainer.data.statistics import Statistics, statistics


@dataclass(frozen=True, slots=True)
class Checked:
    """`statistics` are of the rows that are not broken; None where there are none. `codes` counts faults by code."""

    formats: dict[str, str]
    broken: int
    faults: list[Fault]
    codes: dict[str, int]
    statistics: Statistics | None
    leakage: Leakage | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def check(
    files: Sequence[Path],
    validation: Sequence[Path] = (),
    *,
    base: str | None = None,
    near: bool = False,
    progress: Advance | None = None,
) -> Checked:
    """Reads everything and refuses nothing. Raises InvalidInput only where `base` has no tokenizer."""
    ruler = tokens(base) if base else words()
    faults, formats = Counted(), dict[str, str]()
    examples = list(stream(files, faults, formats, progress))
    held_out = list(stream(validation, faults, formats))
    return Checked(
        formats=formats,
        broken=faults.count,
        faults=faults.kept,
        codes=faults.codes,
        statistics=statistics(examples, ruler, near=near) if examples else None,
        leakage=leakage(examples, held_out, near=near) if validation else None,
    )


class Counted(Faults):
    """Faults, counted by their code too."""

    def __init__(self) -> None:
        super().__init__()
        self.codes: dict[str, int] = {}

    def __call__(self, fault: Fault) -> None:
        super().__call__(fault)
        self.codes[fault.code] = self.codes.get(fault.code, 0) + 1


def table(checked: Checked) -> Iterator[str]:
    """The lines that a person reads."""
    for file, form in checked.formats.items():
        yield f"{file}: {form}"
    if found := checked.statistics:
        yield from _counts(found)
        yield ""
        yield f"{'length in ' + found.unit:20} {'texts':>9} {'p50':>7} {'p95':>7} {'p99':>7} {'max':>7} {'too long':>9}"
        yield _row("queries", found.query_lengths)
        yield _row("documents", found.document_lengths)
    if leaks := checked.leakage:
        yield ""
        yield from _leaks(leaks)
    if checked.broken:
        yield ""
        yield from _faults(checked)
    if found:
        yield ""
        yield "suggested: " + " ".join(f"--{key.replace('_', '-')} {value}" for key, value in found.suggested.items())


def _counts(found: Statistics) -> Iterator[str]:
    repeats = found.duplicates
    for name, number in (
        ("rows", found.rows),
        ("queries", found.queries),
        ("documents", found.documents),
        ("negatives", found.negatives),
        ("rows with a score", found.scored),
        ("groups", found.groups),
        ("exact duplicates", repeats.exact),
        ("near duplicates", repeats.near),
        ("conflicting scores", repeats.conflicting),
        ("merged queries", repeats.merged),
    ):
        yield f"{name:20} {number:>9}"


def _row(name: str, of: Lengths) -> str:
    return f"{name:20} {of.texts:>9} {of.p50:>7} {of.p95:>7} {of.p99:>7} {of.max:>7} {of.over:>9}"


def _leaks(leaks: Leakage) -> Iterator[str]:
    if not leaks.any:
        yield "no leaks: nothing held out is trained on"
        return
    counted = f"{leaks.queries} held-out queries, {leaks.positives} positives and {leaks.near} near rows"
    yield f"LEAKS: {counted} are trained on"
    yield from (f"  {place}" for place in leaks.first)


def _faults(checked: Checked) -> Iterator[str]:
    by_code = ", ".join(f"{code} {count}" for code, count in sorted(checked.codes.items(), key=lambda item: -item[1]))
    yield f"BROKEN: {checked.broken} ({by_code})"
    yield from (f"  {fault}" for fault in checked.faults[:SHOWN])
    if checked.broken > SHOWN:
        yield f"  and {checked.broken - SHOWN} more"
