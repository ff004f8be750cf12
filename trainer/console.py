"""What a person sees while it runs: a bar on a terminal, a line now and then elsewhere; always on stderr.

Results go to stdout and nowhere else, so that `--json` can be piped.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

Advance = Callable[[int, int], None]  # done, of how many; both grow as they become known
EVERY_SECONDS: Final = 10.0


def say(line: str) -> None:
    """One line about what goes on."""
    print(line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def progress(what: str, unit: str = "") -> Iterator[Advance]:
    """A bar that ends when the block does. `unit` `bytes` shows megabytes."""
    if sys.stderr.isatty():
        with _bar(what, unit) as advance:
            yield advance
    else:
        yield _Lines(what, unit)


@contextlib.contextmanager
def _bar(what: str, unit: str) -> Iterator[Advance]:
    from rich import progress as bars  # noqa: PLC0415  keeps `--help` instant
    from rich.console import Console  # noqa: PLC0415

    amount: Any = bars.DownloadColumn() if unit == "bytes" else bars.MofNCompleteColumn()
    columns = (bars.TextColumn("{task.description}"), bars.BarColumn(), amount, bars.TimeRemainingColumn())
    with bars.Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task(what, total=None)
        yield lambda done, total: shown.update(task, completed=done, total=total or None)


class _Lines:
    """Where nobody watches: a line every ten seconds, so that a log shows that it lives."""

    def __init__(self, what: str, unit: str) -> None:
        self._what, self._unit, self._said = what, unit, time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        if time.monotonic() - self._said >= EVERY_SECONDS:
            self._said = time.monotonic()
            say(f"{self._what}: {done} of {total} {self._unit}".rstrip())
