"""Where a verb puts the model that it makes: beside its place under a dot-name, and in its place when it is proven.

Whatever goes wrong, nothing half-made has the name; what stood there before stands there still.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from trainer.errors import InvalidInput
from trainer.exchange import put_in_place


@contextlib.contextmanager
def staged(place: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """An empty folder, which is `place` when the block has ended well. Raises InvalidInput where something is there
    and `overwrite` is false."""
    if os.path.lexists(place) and not overwrite:
        raise InvalidInput(f"{place} is there already; --overwrite replaces it")
    place.parent.mkdir(parents=True, exist_ok=True)
    stage = place.with_name(f".{place.name}.{secrets.token_hex(4)}")
    stage.mkdir()
    try:
        yield stage
        readable(stage)
        put_in_place(stage, place, overwrite)
    finally:
        if stage.is_symlink():
            stage.unlink()
        shutil.rmtree(stage, ignore_errors=True)


def readable(directory: Path) -> None:
    """Gives files the mode that the umask allows: safetensors writes 0600, which another user's gateway cannot read."""
    umask = os.umask(0)
    os.umask(umask)
    for folder, _, names in os.walk(directory):
        for name in names:
            path = Path(folder, name)
            if not path.is_symlink():
                path.chmod(0o666 & ~umask)
