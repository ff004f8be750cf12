"""Small files of the state directory, each replaced as a whole."""

from __future__ import annotations

import os


def write(path: str, content: bytes) -> None:
    """On the disk when it returns. Raises OSError; the old file stays when it does. For one writer at a time."""
    partial = path + ".partial"
    with open(partial, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(partial, path)
