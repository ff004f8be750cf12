"""API keys, and the file that they are kept in: JSON, of mode 0600, replaced whole, with no secret in it.

A key is `dg_<id>_<secret>`. The secret has 256 random bits, so its plain SHA-256 gives nothing away
(docs/decisions/0015-a-fast-hash-for-keys.md). `gateway keys` changes the file, whether a gateway runs or not.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Final

import msgspec

from gateway.tenants.caller import Caller, Role, check_pattern

FILE: Final = "keys.json"
FORM: Final = re.compile(r"dg_([0-9a-f]{12})_[A-Za-z0-9_-]{43}")
NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$"
NO_DIGEST: Final = "-" * 64  # what no text hashes to
CAP: Final = 16 * 1024**2  # bytes of a file, some 30,000 keys

Name = Annotated[str, msgspec.Meta(pattern=NAME)]
Limit = Annotated[int, msgspec.Meta(ge=0, le=10**12)]


class KeyFault(Exception):
    """What a keys file, or a change of it, cannot be; for whoever wrote it."""


class Before(msgspec.Struct, frozen=True, kw_only=True):
    """The secret before the last rotation, good until `until` in Unix seconds."""

    sha256: str
    until: float


class Key(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits of 0 are none. `sha256` is of the whole key, in hexadecimal. Times in Unix seconds."""

    id: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{12}$")]
    name: Name
    tenant: Name
    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    created: float
    namespaces: tuple[str, ...] = ("*",)
    role: Role = "use"
    requests_per_minute: Limit = 0
    tokens_per_minute: Limit = 0
    concurrency: Limit = 0
    rotated: float | None = None
    before: Before | None = None

    @property
    def caller(self) -> Caller:
        return Caller(tenant=self.tenant, key=self.id, name=self.name, role=self.role, namespaces=self.namespaces)

    def opens(self, digest: str, now: float) -> bool:
        """Whether a secret of this digest is this key's. Takes as long whatever it differs in."""
        right = hmac.compare_digest(digest, self.sha256)
        before = self.before.sha256 if self.before and now < self.before.until else NO_DIGEST
        return hmac.compare_digest(digest, before) or right


class Document(msgspec.Struct, frozen=True, kw_only=True):
    version: Annotated[int, msgspec.Meta(ge=1, le=1)] = 1
    keys: tuple[Key, ...] = ()


def new_secret(id: str) -> str:
    return f"dg_{id}_{secrets.token_urlsafe(32)}"


def new_id() -> str:
    return secrets.token_hex(6)


def id_of(text: str) -> str | None:
    """The id in a key as a client sends it; None for what is no key."""
    found = FORM.fullmatch(text)
    return found[1] if found else None


def digest(text: str) -> str:
    """Of whatever a client sends."""
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


class KeyFile:
    """The file at `path`. Blocking."""

    def __init__(self, path: str) -> None:
        self.path = path

    def stamp(self) -> tuple[int, ...] | None:
        """Differs when the file is another; None when there is none. Raises OSError."""
        try:
            found = os.stat(self.path)
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns

    def read(self) -> tuple[Key, ...]:
        """Raises FileNotFoundError, and KeyFault for what cannot be read or is no file of keys."""
        try:
            with open(self.path, "rb") as stream:
                content = stream.read(CAP + 1)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise KeyFault(f"{self.path}: {error.strerror}") from error
        if len(content) > CAP:
            raise KeyFault(f"{self.path} has more than {CAP} bytes")
        try:
            keys = msgspec.json.decode(content, type=Document).keys
            check(keys)
        except (msgspec.MsgspecError, UnicodeDecodeError, ValueError) as error:
            raise KeyFault(f"{self.path}: {error}") from error
        return keys

    def change(self, change: Callable[[tuple[Key, ...]], tuple[Key, ...]]) -> None:
        """Replaces the file by what `change` makes of its keys; one change at a time, whoever makes it. Raises
        KeyFault, also where `change` does, and then the file is as it was."""
        try:
            os.makedirs(os.path.dirname(self.path), exist_ok=True)
            with self._alone():
                try:
                    before = self.read()
                except FileNotFoundError:
                    before = ()
                after = change(before)
                check(after)
                self._write(after)
        except OSError as error:
            raise KeyFault(f"{error.filename or self.path}: {error.strerror}") from error
        except ValueError as error:
            raise KeyFault(str(error)) from error

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with open(self.path + ".lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _write(self, keys: tuple[Key, ...]) -> None:
        partial = self.path + ".partial"
        content = msgspec.json.format(msgspec.json.encode(Document(keys=keys)), indent=1)
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "wb") as stream:
            os.fchmod(descriptor, 0o600)  # a file that an older try has left keeps its own mode otherwise
            if os.geteuid() == 0:  # else a key that root makes is none that the gateway's user can read
                owner = os.stat(os.path.dirname(self.path))
                os.fchown(descriptor, owner.st_uid, owner.st_gid)
            stream.write(content)
            stream.flush()
            os.fsync(descriptor)
        os.replace(partial, self.path)


def check(keys: tuple[Key, ...]) -> None:
    """Raises ValueError for keys that are each in order and not together."""
    for what in ("id", "name"):
        values = [getattr(key, what) for key in keys]
        if twice := {value for value in values if values.count(value) > 1} if len(set(values)) < len(values) else set():
            raise ValueError(f"two keys have the {what} {min(twice)}")
    for key in keys:
        for pattern in key.namespaces:
            check_pattern(pattern)
