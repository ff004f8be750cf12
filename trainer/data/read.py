"""Files of examples, read one row at a time. What is broken is told with its file, line and reason."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from trainer.console import Advance
from trainer.data.example import Example
from trainer.data.fault import Broken, Fault, refusal
from trainer.data.lines import opened
from trainer.data.rows import rows
from trainer.data.shapes import example, shape_of

KEPT: Final = 1000  # faults that are kept; all are counted
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Form(Generic[R]):
    """What rows become: the name of a row's shape, and the row of that shape, its file and line as what is read. Both
    raise Broken."""

    shape_of: Callable[[dict[str, Any]], str]
    made: Callable[[dict[str, Any], str, str, int], R]


PAIRS: Final = Form(shape_of, example)


@dataclass(slots=True)
class Faults:
    """The first faults, and how many there were."""

    kept: list[Fault] = field(default_factory=list)
    count: int = 0
    of_files: int = 0

    def __call__(self, fault: Fault) -> None:
        self.count += 1
        self.of_files += fault.of_file
        if len(self.kept) < KEPT or fault.of_file:
            self.kept.append(fault)


@dataclass(slots=True)
class Reading:
    """What was read: `formats` by file; `broken` counts all faults, of which `faults` are the first."""

    examples: list[Example]
    faults: list[Fault]
    broken: int
    formats: dict[str, str]


def read(paths: Sequence[Path], *, skip_broken: bool = False, progress: Advance | None = None) -> Reading:
    """Every example of the files, in their order.

    Raises InvalidInput with the first faults and their number; with `skip_broken`, only for those of whole files, and
    where nothing is left.
    """
    faults, formats = Faults(), dict[str, str]()
    examples = list(stream(paths, faults, formats, progress))
    stop_at(faults, skip_broken, len(examples))
    return Reading(examples, faults.kept, faults.count, formats)


def stop_at(faults: Faults, skip_broken: bool, examples: int) -> None:
    """Raises InvalidInput where these faults do not allow to go on."""
    if faults.count and (not skip_broken or faults.of_files or not examples):
        shown = sorted(faults.kept, key=lambda fault: not fault.of_file)
        raise refusal(shown, faults.count)


def stream(
    paths: Sequence[Path],
    faults: Callable[[Fault], None],
    formats: dict[str, str],
    progress: Advance | None = None,
) -> Iterator[Example]:
    """The examples one by one, in memory for one row; a fault is told where it is met, and reading goes on."""
    return stream_of(PAIRS, paths, faults, formats, progress)


def stream_of(
    form: Form[R],
    paths: Sequence[Path],
    faults: Callable[[Fault], None],
    formats: dict[str, str],
    progress: Advance | None = None,
) -> Iterator[R]:
    """As `stream`, of rows of any form."""
    total = sum(_size(path) for path in paths)
    before = 0
    for path in paths:
        advance = _shifted(progress, before, total) if progress else None
        yield from _of_file(form, path, faults, formats, advance)
        before += _size(path)


def _of_file(
    form: Form[R], path: Path, faults: Callable[[Fault], None], formats: dict[str, str], progress: Advance | None
) -> Iterator[R]:
    name = str(path)
    first: str | None = None
    try:
        with opened(path, progress) as lines:
            kind, found = rows(path, lines)
            for line, row in found:
                try:
                    shape = _shape(form, row, first)
                    first = first or shape
                    formats.setdefault(name, f"{kind}, {first}")
                    yield form.made(row, shape, name, line)  # type: ignore[arg-type]  # _shape raised what is Broken
                except Broken as broken:
                    broken.line = line
                    faults(broken.fault(path))
    except Broken as broken:
        faults(broken.fault(path))


def _shape(form: Form[R], row: dict[str, Any] | Broken, first: str | None) -> str:
    if isinstance(row, Broken):
        raise row
    shape = form.shape_of(row)
    if first and shape != first:
        raise Broken("mixed_formats", f"a row of {shape}; the rows before are {first}")
    return shape


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _shifted(progress: Advance, before: int, total: int) -> Advance:
    return lambda done, _: progress(before + done, total)
