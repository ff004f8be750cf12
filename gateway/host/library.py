"""The transformers library: imported when the first load needs it, offline, quiet, and once.

Nothing here fetches: every load names a local directory, and the library is told that there is no network.
"""

from __future__ import annotations

from typing import Any, Final

# What every `from_pretrained` gets: a directory's own code is never run.
LOCAL: Final[dict[str, Any]] = {"local_files_only": True, "trust_remote_code": False}


def transformers() -> Any:
    """The module. Any thread may ask."""
    from gateway.host import offline  # noqa: PLC0415 - seconds, which a host spends in the background

    return offline.transformers
