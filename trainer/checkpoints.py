"""Checkpoints: what a run goes on from. One is used only when it is whole.

The library fills a checkpoint's directory in place, and takes the newest without looking into it. So each is looked
into first; what a crash has cut is moved aside, and the one before it is taken.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

NAME: Final = re.compile(r"checkpoint-(\d+)")
STATE: Final = "trainer_state.json"
PICKLED: Final = ("optimizer.pt", "scheduler.pt")


def step(checkpoint: Path) -> int:
    found = NAME.fullmatch(checkpoint.name)
    return int(found[1]) if found else -1


def newest_whole(folder: Path, processes: int = 1) -> tuple[Path | None, list[str]]:
    """The checkpoint to go on from, and what was found broken on the way: `checkpoint-40: optimizer.pt is cut`.

    Broken ones are renamed to `broken-checkpoint-N`, so that nothing else takes them for whole.
    """
    told: list[str] = []
    for checkpoint in sorted(_all(folder), key=step, reverse=True):
        reason = fault(checkpoint, processes)
        if not reason:
            return checkpoint, told
        told.append(f"{checkpoint.name}: {reason}")
        move_aside(checkpoint)
    return None, told


def _all(folder: Path) -> Iterable[Path]:
    return [path for path in folder.glob("checkpoint-*") if NAME.fullmatch(path.name) and path.is_dir()]


def move_aside(checkpoint: Path) -> None:
    for count in range(1, 1000):
        aside = checkpoint.with_name(f"broken-{checkpoint.name}" + (f"-{count}" if count > 1 else ""))
        if not aside.exists():
            checkpoint.rename(aside)
            return


def fault(checkpoint: Path, processes: int = 1) -> str:
    """What keeps a checkpoint from being used; "" when it is whole."""
    state = _state(checkpoint)
    if isinstance(state, str):
        return state
    if state.get("global_step") != step(checkpoint):
        return f"{STATE} is of step {state.get('global_step')}"
    random = ["rng_state.pth"] if processes == 1 else [f"rng_state_{number}.pth" for number in range(processes)]
    for name in (*PICKLED, *random):
        if reason := _archive_fault(checkpoint / name):
            return f"{name} {reason}"
    return weights_fault(checkpoint)


def _state(checkpoint: Path) -> dict[str, Any] | str:
    try:
        state = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return f"no {STATE}"
    except (OSError, ValueError):
        return f"{STATE} cannot be read"
    return state if isinstance(state, dict) else f"{STATE} is no object"


def _archive_fault(path: Path) -> str:
    """torch writes zip archives, whose directory is their end; each entry has a checksum."""
    try:
        with zipfile.ZipFile(path) as archive:
            return "is damaged" if archive.testzip() else ""
    except FileNotFoundError:
        return "is missing"
    except (OSError, zipfile.BadZipFile):
        return "is cut"


def weights_fault(directory: Path) -> str:
    """Whether the safetensors of a directory open: their header says how long they must be."""
    from safetensors import SafetensorError, safe_open  # noqa: PLC0415  heavy

    files = sorted(directory.glob("**/*.safetensors"))
    if not files:
        return "no weights"
    for path in files:
        try:
            with safe_open(path, framework="numpy") as opened:
                opened.keys()
        except (OSError, SafetensorError):
            return f"{path.name} is cut"
    return ""
