"""What the catalog believed when the gateway last ran: one small JSON file in the state directory, replaced whole.

With it a start reads no weights, a directory that was broken while the gateway was down does not take its last good
generation with it, and pins survive.
"""

from __future__ import annotations

import os

import msgspec


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One model. `fingerprint` and `inode` are those of the directory that `live` was copied from; `previous` are
    digests of earlier generations, newest first."""

    model: str
    live: str
    fingerprint: str
    inode: int
    previous: tuple[str, ...] = ()
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
