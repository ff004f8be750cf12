"""What `dropgate[ask]` brings, imported on the first use: a gateway that nobody asks stays small."""

from __future__ import annotations

from typing import Final

from gateway.ask.store import Store
from gateway.errors import AskUnavailable

HOW: Final = "knowledge bases are an extra: pip install 'dropgate[ask]'"


def store(uri: str, cache_dir: str | None = None, options: dict[str, str] | None = None, memory: int = 0) -> Store:
    """The store at `uri`, a directory or `s3://bucket/path`, to be opened. A bucket's indexes are read from copies
    below `cache_dir`; `options` are LanceDB's storage options, None for what the environment says; `memory` is
    how many bytes of indexes are held in this process.

    Raises AskUnavailable without the extra.
    """
    try:
        from gateway.ask.lance import LanceStore  # noqa: PLC0415  400 MB of packages, half a second
    except ImportError as error:
        raise AskUnavailable(f"{HOW} ({error.name or error} is missing)") from error
    return LanceStore(uri, options, cache_dir, memory=memory)
