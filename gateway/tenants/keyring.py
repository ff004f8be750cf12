"""The keys in force: read when the gateway starts, and again whenever the file changes. No restart.

Whatever is wrong with the file later, the last good keys go on: a gateway that had keys never opens because of a
slip. Finding a key is a dict lookup and a SHA-256; the file is looked at on a timer, on a thread of its own.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from typing import Final

from gateway import events
from gateway.lane import Lane
from gateway.settings import Settings, SettingsError
from gateway.tenants.caller import OPEN, Caller
from gateway.tenants.keys import FILE, NO_DIGEST, Key, KeyFault, KeyFile, digest, id_of
from gateway.tenants.limits import Account, Accounts

INTERVAL: Final = 1.0  # seconds between looks at the file, and so until a revoked key is refused


class Keyring:
    """`clock` gives Unix seconds. Before `read` there is no key, and none is needed."""

    def __init__(self, path: str, tell: events.Events, *, clock: Callable[[], float] = time.time) -> None:
        self._file = KeyFile(path)
        self._events = tell
        self._clock = clock
        self._lane = Lane("keys")
        self.accounts = Accounts()
        self._keys: dict[str, Key] | None = None  # None: nobody has made any, and everybody may come in
        self._callers: dict[str, Caller] = {}
        self._tenants = frozenset({OPEN.tenant})
        self._stamp: tuple[int, ...] | None = None
        self._told = ""

    @property
    def closed(self) -> bool:
        """Whether a key is needed. So it stays when the last key has been revoked."""
        return self._keys is not None

    @property
    def empty(self) -> bool:
        return not self._keys

    @property
    def tenants(self) -> frozenset[str]:
        """Those that have a key; without keys the one of no name, which everybody is."""
        return self._tenants

    @property
    def path(self) -> str:
        return self._file.path

    def account(self, caller: Caller) -> Account | None:
        """Of a caller that has a key."""
        key = (self._keys or {}).get(caller.key)
        return self.accounts.of(key) if key else None

    def find(self, text: str) -> Caller | None:
        """Whose key a client has sent. An unknown id costs as much time as a wrong secret."""
        key = (self._keys or {}).get(id_of(text) or "")
        found = digest(text)
        if key is None:
            _NOBODYS.opens(found, 0.0)
            return None
        return self._callers[key.id] if key.opens(found, self._clock()) else None

    def holds(self, caller: Caller) -> bool:
        """Whether this is still so: the key is there, and may what it might when it was found."""
        if self._keys is None:
            return caller is OPEN
        return self._callers.get(caller.key) == caller

    def read(self, *, required: bool = False) -> None:
        """At the start. Blocking. Raises SettingsError: there is no last good table yet, and nobody is let in by a
        mistake. `required`: the operator named the file."""
        try:
            self._stamp = self._file.stamp()
            self._take(self._file.read())
        except FileNotFoundError as error:
            if required:
                message = f"--keys-file {self._file.path}: no such file; `gateway keys create NAME --keys-file ...`"
                raise SettingsError(f"{message} makes it") from error
        except (OSError, KeyFault) as error:
            raise SettingsError(f"the API keys cannot be read: {error}") from error

    async def follow(self) -> None:
        """For ever."""
        while True:
            await asyncio.sleep(INTERVAL)
            await self.look()

    async def look(self) -> None:
        """Takes the file's keys if it has changed."""
        try:
            found = await self._lane.run(self._changed)
        except (OSError, KeyFault) as error:
            self._reject(str(error))
            return
        if found is not None:
            self._told = ""
            self._take(found)
            self._events.emit(events.KeysChanged(keys=len(found)))

    def _changed(self) -> tuple[Key, ...] | None:
        stamp = self._file.stamp()
        if stamp == self._stamp:
            return None
        if stamp is None:
            self._stamp = None
            raise KeyFault(f"{self._file.path} has gone")
        keys = self._file.read()
        self._stamp = stamp
        return keys

    def _take(self, keys: tuple[Key, ...]) -> None:
        self._keys = {key.id: key for key in keys}
        self._tenants = frozenset(key.tenant for key in keys)
        self.accounts.follow(keys)
        self._callers = {key.id: key.caller for key in keys}

    def _reject(self, message: str) -> None:
        """Told once for each thing that is wrong."""
        if message != self._told:
            self._told = message
            self._events.emit(events.KeysRejected(message=message))


_NOBODYS: Final = Key(id="0" * 12, name="nobody", tenant="nobody", sha256=NO_DIGEST, created=0.0)


def path(settings: Settings) -> str:
    """Of the keys file."""
    return settings.keys_file or os.path.join(settings.state_dir, FILE)


def opened(settings: Settings, tell: events.Events) -> Keyring:
    """The keys as they are now. Raises SettingsError."""
    keyring = Keyring(path(settings), tell)
    keyring.read(required=bool(settings.keys_file))
    return keyring
