"""A bar on a terminal; elsewhere a line for every tenth of the way."""

from __future__ import annotations

import sys
import time
from typing import Final

WIDTH: Final = 30


class Progress:
    """`total` steps of what `name` says. With `quiet`, nothing is shown."""

    def __init__(self, name: str, total: int, *, quiet: bool = False) -> None:
        self._name = name
        self._total = total
        self._quiet = quiet
        self._began = time.monotonic()
        self._tenth = 0

    def show(self, done: int, note: str = "") -> None:
        if self._quiet:
            return
        share = min(1.0, done / self._total)
        seconds = time.monotonic() - self._began
        line = f"{self._name} {done}/{self._total} {seconds:.0f}s {note}"
        if sys.stderr.isatty():
            bar = "#" * int(WIDTH * share)
            print(f"\r[{bar:.<{WIDTH}}] {line}\x1b[K", end="\n" if done >= self._total else "", file=sys.stderr)
        elif int(10 * share) > self._tenth:
            self._tenth = int(10 * share)
            print(line, file=sys.stderr, flush=True)
