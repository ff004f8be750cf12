"""LanceDB, imported without its hook for forks: whoever needs it takes it from here.

The hook starts a thread in every forked child, between fork and exec, where another thread may have held any lock. Our
children are other programs at once and have no use for it. What LanceDB has below Python for that moment stores six
numbers, which is safe there.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Hook = Callable[[], Any]


@contextmanager
def without_hooks(package: str) -> Iterator[None]:
    """While this lasts, no function of `package` becomes a hook for forks. Anybody else's does, also from another
    thread. Not to be nested."""
    register = os.register_at_fork

    def registered(**hooks: Hook) -> None:
        kept = {moment: hook for moment, hook in hooks.items() if not _is_of(package, hook)}
        if kept:
            register(**kept)

    os.register_at_fork = registered  # type: ignore[assignment]  # takes what it is given by name, as that does
    try:
        yield
    finally:
        os.register_at_fork = register


def _is_of(package: str, hook: Hook) -> bool:
    return str(getattr(hook, "__module__", None)).partition(".")[0] == package  # a built-in one has no module


with without_hooks("lancedb"):
    import lancedb
    from lancedb import AsyncConnection, AsyncTable
    from lancedb.index import FTS, BTree, IvfSq, LabelList

__all__ = ["FTS", "AsyncConnection", "AsyncTable", "BTree", "IvfSq", "LabelList", "lancedb", "without_hooks"]
