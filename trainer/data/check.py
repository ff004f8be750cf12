"""`trainer data check`: faults, counts, repeats, leaks, lengths and suggestions of files, as JSON or as a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trainer.console import Advance
from trainer.data.dialogue import DIALOGUES
from trainer.data.fault import SHOWN, Broken, Fault
from trainer.data.leakage import Leakage, leakage
from trainer.data.lengths import Lengths, Ruler, tokens, words
from trainer.data.lines import opened
from trainer.data.read import PAIRS, Faults, Form, stream, stream_of
from trainer.data.rows import rows
from trainer.data.statistics import Statistics, statistics
from trainer.data.talks import Talks, as_whole, talks


@dataclass(frozen=True, slots=True)
class Checked:
    """`verb` is who trains on such rows. `statistics` are of the rows that are not broken; None where there are none.
    `codes` counts faults by code."""

    verb: str
    formats: dict[str, str]
    broken: int
    faults: list[Fault]
    codes: dict[str, int]
    statistics: Statistics | Talks | None
    leakage: Leakage | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def check(
    files: Sequence[Path],
    validation: Sequence[Path] = (),
    *,
    verb: str | None = None,
    base: str | None = None,
    near: bool = False,
    progress: Advance | None = None,
) -> Checked:
    """Reads everything and refuses nothing. `verb` is finetune or language; without, it is seen from the rows. Raises
    InvalidInput only where `base` has no tokenizer."""
    ruler = tokens(base) if base else words()
    verb = verb or verb_of(files)
    faults, formats = Counted(), dict[str, str]()
    counted, leaks = (_of_dialogues if verb == "language" else _of_pairs)(
        files, validation, ruler, faults, formats, near=near, progress=progress
    )
    return Checked(
        verb=verb,
        formats=formats,
        broken=faults.count,
        faults=faults.kept,
        codes=faults.codes,
        statistics=counted,
        leakage=leaks,
    )


def verb_of(files: Sequence[Path]) -> str:
    """Who trains on rows like the first that can be read: `language` on dialogues, else `finetune`."""
    for path in files:
        try:
            with opened(path, None) as lines:
                row = next((row for _, row in rows(path, lines)[1] if isinstance(row, dict)), None)
                if row is not None:
                    return "language" if _is(DIALOGUES, row) and not _is(PAIRS, row) else "finetune"
        except Broken:
            continue  # it is told when all is read
    return "finetune"


def _is(form: Form[Any], row: dict[str, Any]) -> bool:
    try:
        form.shape_of(row)
    except Broken:
        return False
    return True


def _of_pairs(
    files: Sequence[Path],
    validation: Sequence[Path],
    ruler: Ruler,
    faults: Faults,
    formats: dict[str, str],
    *,
    near: bool,
    progress: Advance | None,
) -> tuple[Statistics | None, Leakage | None]:
    examples = list(stream(files, faults, formats, progress))
    held_out = list(stream(validation, faults, formats))
    return (
        statistics(examples, ruler, near=near) if examples else None,
        leakage(examples, held_out, near=near) if validation else None,
    )


def _of_dialogues(
    files: Sequence[Path],
    validation: Sequence[Path],
    ruler: Ruler,
    faults: Faults,
    formats: dict[str, str],
    *,
    near: bool,
    progress: Advance | None,
) -> tuple[Talks | None, Leakage | None]:
    said = list(stream_of(DIALOGUES, files, faults, formats, progress))
    held_out = map(as_whole, stream_of(DIALOGUES, validation, faults, formats))
    return (
        talks(said, ruler, near=near) if said else None,
        leakage([as_whole(row) for row in said], list(held_out), near=near) if validation else None,
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
        yield from _counts_of_talks(found) if isinstance(found, Talks) else _counts(found)
        yield ""
        yield f"{'length in ' + found.unit:20} {'texts':>9} {'p50':>7} {'p95':>7} {'p99':>7} {'max':>7} {'too long':>9}"
        yield from (_row(name, of) for name, of in _lengths(found).items())
    if leaks := checked.leakage:
        yield ""
        yield from _leaks(leaks, "rows as a whole" if isinstance(found, Talks) else "positives")
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


def _counts_of_talks(found: Talks) -> Iterator[str]:
    for name, number in (
        ("rows", found.rows),
        ("answers to learn", found.answers),
        ("with a system", found.systems),
        ("groups", found.groups),
        ("organisations", len(found.organisations)),
        ("exact duplicates", found.exact),
        ("near duplicates", found.near),
        ("other answers", found.several),
    ):
        yield f"{name:20} {number:>9}"
    if len(found.organisations) > 1:
        yield f"ORGANISATIONS: {', '.join(found.organisations)}: a run is for one"


def _lengths(found: Statistics | Talks) -> dict[str, Lengths]:
    if isinstance(found, Talks):
        return {"prompts": found.prompt_lengths, "answers": found.answer_lengths, "rows": found.row_lengths}
    return {"queries": found.query_lengths, "documents": found.document_lengths}


def _row(name: str, of: Lengths) -> str:
    return f"{name:20} {of.texts:>9} {of.p50:>7} {of.p95:>7} {of.p99:>7} {of.max:>7} {of.over:>9}"


def _leaks(leaks: Leakage, texts: str) -> Iterator[str]:
    if not leaks.any:
        yield "no leaks: nothing held out is trained on"
        return
    counted = f"{leaks.queries} held-out queries, {leaks.positives} {texts} and {leaks.near} near rows"
    yield f"LEAKS: {counted} are trained on"
    yield from (f"  {place}" for place in leaks.first)


def _faults(checked: Checked) -> Iterator[str]:
    by_code = ", ".join(f"{code} {count}" for code, count in sorted(checked.codes.items(), key=lambda item: -item[1]))
    yield f"BROKEN: {checked.broken} ({by_code})"
    yield from (f"  {fault}" for fault in checked.faults[:SHOWN])
    if checked.broken > SHOWN:
        yield f"  and {checked.broken - SHOWN} more"
