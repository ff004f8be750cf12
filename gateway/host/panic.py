"""Panics of libraries that are written in Rust: they come as a BaseException that no list of exceptions has, and would
end whoever answers, and leave those who wait for that waiting for ever."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator


class Panic(Exception):
    """What the library said."""


@contextlib.contextmanager
def caught() -> Iterator[None]:
    """Raises Panic for a panic. Whatever else comes stays what it is."""
    try:
        yield
    except (Exception, asyncio.CancelledError, GeneratorExit, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # each library has a class of its own, and exports none
        raise Panic(str(error)) from error
