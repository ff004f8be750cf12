"""What all parts of a run share: how long to measure, and where to put things."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Setting:
    """`seconds` of one measurement; `folder` is gone after the run, `cache` stays for the next one."""

    folder: Path
    cache: Path
    quick: bool = False
    rounds: int = 3
    seconds: float = 2.0
    gateway_options: tuple[str, ...] = ()

    def own(self, part: str) -> Path:
        """A folder of one part's own, made."""
        path = self.folder / part
        path.mkdir(parents=True, exist_ok=True)
        return path
