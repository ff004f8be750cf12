"""Where a verb puts the model that it makes: beside its place under a dot-name, and in its place when it is proven.

Whatever goes wrong, nothing half-made has the name; what stood there before stands there still.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from trainer.errors import InvalidInput
from trainer.exchange import put_in_place
from trainer.staging import staging, sweep


@contextlib.contextmanager
def staged(place: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """An empty folder, which is `place` when the block has ended well. What was begun beside it and killed is ended
    first. Raises InvalidInput where something is there and `overwrite` is false."""
    sweep(place.parent)
    if os.path.lexists(place) and not overwrite:
        raise InvalidInput(f"{place} is there already; --overwrite replaces it")
    place.parent.mkdir(parents=True, exist_ok=True)
    with staging(place) as stage:
        yield stage
        readable(stage)
        put_in_place(stage, place, overwrite)


def readable(directory: Path) -> None:
    """Gives files the mode that the umask allows: safetensors writes 0600, which another user's gateway cannot read."""
    umask = os.umask(0)
    os.umask(umask)
    for folder, _, names in os.walk(directory):
        for name in names:
            path = Path(folder, name)
            if not path.is_symlink():
                path.chmod(0o666 & ~umask)
