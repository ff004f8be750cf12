"""Where a model comes from: the digests of its base and data, the versions, the seed, the command.

The identity of a run is the part of it that the final weights depend on: a run is resumed only with the same.
"""

from __future__ import annotations

import gzip
import hashlib
import platform
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Final

LIBRARIES: Final = ("torch", "transformers", "sentence-transformers", "peft", "accelerate", "datasets", "numpy")
CHUNK: Final = 4 * 1024**2


def file_digest(path: Path) -> str:
    """sha256 of what a file holds; of what is inside, when it is compressed."""
    digest = hashlib.sha256()
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def data_files(files: Sequence[Path]) -> list[dict[str, Any]]:
    """Name, size and digest of each: a path of this machine would say nothing elsewhere, and may say too much."""
    return [{"file": path.name, "bytes": path.stat().st_size, "sha256": file_digest(path)} for path in files]


def versions() -> dict[str, str]:
    from trainer import __version__  # noqa: PLC0415  the package's own, which imports nothing of this

    found = {"dropgate": __version__, "python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def command() -> list[str]:
    """As it was typed, with the program's path left away."""
    return [Path(sys.argv[0]).name, *sys.argv[1:]]


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What keeps a run from being resumed: `key: 16 then, 32 now`."""
    keys = [*before, *(key for key in now if key not in before)]
    return [
        f"{key}: {_shown(before.get(key))} then, {_shown(now.get(key))} now"
        for key in keys
        if before.get(key) != now.get(key)
    ]


def _shown(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
