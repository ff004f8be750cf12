"""What the catalog believed when the gateway last ran: one small JSON file in the state directory, replaced whole.

With it a start reads no weights, a directory that was broken while the gateway was down does not take its last good
generation with it, and pins and rollbacks survive.
"""

from __future__ import annotations

import os

import msgspec


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
        self._path = os.path.join(state_dir, "catalog.json")

    def read(self) -> list[Record]:
        """Nothing, when there is no file; raises ValueError when there is one that this version cannot read."""
        try:
            with open(self._path, "rb") as stream:
                return msgspec.json.decode(stream.read(), type=list[Record])
        except FileNotFoundError:
            return []
        except msgspec.MsgspecError as error:
            raise ValueError(f"{self._path}: {error}") from error

    def write(self, records: list[Record]) -> None:
        """Raises OSError; the old file stays when it does."""
        partial = self._path + ".partial"
        with open(partial, "wb") as stream:
            stream.write(msgspec.json.format(msgspec.json.encode(records), indent=1))
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, self._path)
