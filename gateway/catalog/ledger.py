"""What the catalog believed when the gateway last ran: one small JSON file in the state directory, replaced whole.

With it a start reads no weights, a directory that was broken while the gateway was down does not take its last good
generation with it, and pins and rollbacks survive.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Final

import msgspec

from gateway import atomic

FILE: Final = "catalog.json"


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """A generation in the store, and where it came from; as in `entry.Kept`."""

    digest: str
    version: int | None = None
    number: int = 0
    since: float = 0.0
    bytes: int = 0


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """A directory. `fingerprint` and `inode` are those that `content` was copied from."""

    version: int | None = None
    content: Kept | None = None
    fingerprint: str = ""
    inode: int = 0


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One model; `earlier` are generations that it may go back to, newest first, and `held` digests that it was
    rolled back from."""

    model: str
    live: Kept
    directories: tuple[Seen, ...] = ()
    earlier: tuple[Kept, ...] = ()
    held: tuple[str, ...] = ()
    breaking: bool = False
    pinned: bool = False


class Ledger:
    """The file. Blocking; for a lane of one thread, so that an older state never replaces a newer one."""

    def __init__(self, state_dir: str) -> None:
        self._path = os.path.join(state_dir, FILE)

    def read(self) -> list[Record]:
        """Nothing, when there is no file. Raises ValueError for one that this version cannot read, and puts it aside;
        OSError where the disk does not give it."""
        try:
            with open(self._path, "rb") as stream:
                return msgspec.json.decode(stream.read(), type=list[Record])
        except FileNotFoundError:
            return []
        except (ValueError, RecursionError) as error:
            with suppress(OSError):
                os.replace(self._path, self._path + ".broken")
            raise ValueError(f"{self._path}: {error}; it is kept as {FILE}.broken") from error

    def write(self, records: list[Record]) -> None:
        """Raises OSError; the old file stays when it does."""
        atomic.write(self._path, msgspec.json.format(msgspec.json.encode(records), indent=1))
