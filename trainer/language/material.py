"""What a run trains on: rows read, of one organisation, cleaned, and split into what is learnt and what is held out."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from trainer.console import progress
from trainer.data.dialogue import DIALOGUES, Dialogue
from trainer.data.fault import Fault
from trainer.data.near import Near
from trainer.data.normal import normal
from trainer.data.read import Faults, stop_at, stream_of
from trainer.data.split import split_rows
from trainer.errors import InvalidInput
from trainer.language.config import LanguageConfig
from trainer.material import Tell

ORGANISATION: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


@dataclass(frozen=True, slots=True)
class Material:
    """`shapes` are those of the rows, with how many there are of each."""

    train: list[Dialogue]
    held_out: list[Dialogue]
    shapes: dict[str, int]


def gather(config: LanguageConfig, tell: Tell) -> Material:
    """Raises InvalidInput for broken data, data of two organisations, and where nothing is left to learn from."""
    if not config.data:
        raise InvalidInput("no data; name files of rows: --data rows.jsonl")
    rows, others = _clean(config, config.data, tell), _clean(config, config.validation, tell)
    _check_one_organisation([*rows, *others])
    train, held_out = (rows, others) if others or not config.split else split_rows(rows, config.split, lambda row: ())
    if config.max_samples is not None and len(train) > config.max_samples:
        tell(f"{config.max_samples} of {len(train)} rows are trained on, as max_samples says")
        train = some(train, config.max_samples, config.seed)
    if not train:
        raise InvalidInput("nothing to train on: all rows are held out; a smaller --split leaves some")
    kinds = [row.shape for row in train]
    return Material(train, held_out, {shape: kinds.count(shape) for shape in sorted(set(kinds))})


def some(rows: Sequence[Dialogue], count: int, seed: int) -> list[Dialogue]:
    """So many at most, drawn from `seed`, in their order."""
    chosen = sorted(random.Random(seed).sample(range(len(rows)), min(count, len(rows))))
    return [rows[place] for place in chosen]


def check_organisation(name: str) -> None:
    """Raises InvalidInput for what could not be a directory's name anywhere, or would lead out of it."""
    if not ORGANISATION.fullmatch(name):
        raise InvalidInput(
            f"org {name!r}: expected at most 63 lower-case letters, digits and '-', the first no '-', such as acme-labs"
        )


def check_files(organisation: str, files: Sequence[Path]) -> None:
    """One organisation's data, as far as paths tell: all in one folder, or each below a folder of its name. Raises
    InvalidInput."""
    folders = {path.resolve().parent for path in files}
    strangers = [path for path in files if organisation not in path.resolve().parent.parts]
    if len(folders) > 1 and strangers:
        raise InvalidInput(
            f"{strangers[0]}: not below a folder {organisation!r}, and not all data is in one folder: a run has the "
            "data of one organisation alone"
        )


def _clean(config: LanguageConfig, files: Sequence[Path], tell: Tell) -> list[Dialogue]:
    faults, formats = Faults(), dict[str, str]()
    with progress("reading", "bytes") as advance:
        rows = [
            row for row in stream_of(DIALOGUES, files, faults, formats, advance) if _is_own(row, config.org, faults)
        ]
    if files:
        stop_at(faults, config.skip_broken, len(rows))
    if faults.count:
        tell(f"{faults.count} broken rows are left out; the first: {faults.kept[0]}")
    kept = without_duplicates(rows, config.dedupe)
    if files:
        tell(f"read {len(rows)} rows, kept {len(kept)} ({len(rows) - len(kept)} are there twice)")
    return kept


def _is_own(row: Dialogue, organisation: str, faults: Faults) -> bool:
    if not organisation or row.organisation in (None, organisation):
        return True
    reason = f"the row is of {row.organisation!r}, and the run of {organisation!r}"
    faults(Fault(row.file, row.line, "other_organisation", reason))
    return False


def _check_one_organisation(rows: Sequence[Dialogue]) -> None:
    found = sorted({row.organisation for row in rows if row.organisation})
    if len(found) > 1:
        raise InvalidInput(
            f"rows of {len(found)} organisations, {', '.join(found[:5])}: a run is for one; name it: --org"
        )


def without_duplicates(rows: Sequence[Dialogue], how: str) -> list[Dialogue]:
    """The first of each. One question with two answers stays: which of them is right, nobody knows here."""
    if how == "none":
        return list(rows)
    firsts: dict[tuple[tuple[str, str], ...], Dialogue] = {}
    for row in rows:
        firsts.setdefault(tuple((turn.role, normal(turn.text)) for turn in row.turns), row)
    kept = list(firsts.values())
    if how == "exact":
        return kept
    near = Near()
    return [row for row in kept if near.find_or_keep(row.query, row.answer) is None]
