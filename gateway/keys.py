"""`gateway keys`: makes, shows, rotates and revokes API keys, in the file that a gateway reads; one need not run."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from gateway.settings import SettingsError
from gateway.tenants.keys import Before, Key, KeyFault, KeyFile, digest, new_id, new_secret

COLUMNS: Final = ("ID", "NAME", "TENANT", "ROLE", "NAMESPACES", "LIMITS", "CREATED")
UNITS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
ONCE: Final = "it is shown this once, and only its hash is kept"


class Keys:
    """The verbs, on one file. Each returns an exit status: 0 done, 1 not. Raises SettingsError for wrong usage."""

    def __init__(self, path: str, *, as_json: bool, clock: Callable[[], float] = time.time) -> None:
        self._file = KeyFile(path)
        self._json = as_json
        self._clock = clock

    def run(self, action: str, options: Mapping[str, Any]) -> int:
        try:
            match action:
                case "create":
                    self._create(options)
                case "list":
                    self._list()
                case "show":
                    self._show(_named(self._read(), options["key"]))
                case "rotate":
                    self._rotate(options["key"], seconds(options["grace"]))
                case "revoke":
                    self._revoke(options["key"])
        except KeyFault as fault:
            print(f"gateway: {fault}", file=sys.stderr)
            return 1
        return 0

    def _create(self, options: Mapping[str, Any]) -> None:
        id = new_id()
        secret = new_secret(id)
        key = _valid(
            {
                "id": id,
                "name": options["name"],
                "tenant": options["tenant"] or options["name"],
                "role": options["role"],
                "namespaces": [each.strip() for each in options["namespaces"].split(",") if each.strip()],
                "requests_per_minute": options["requests_per_minute"],
                "tokens_per_minute": options["tokens_per_minute"],
                "concurrency": options["concurrency"],
                "sha256": digest(secret),
                "created": self._clock(),
            }
        )
        self._file.change(lambda keys: (*keys, key))
        self._tell_secret(key, secret, f"key {key.name} of tenant {key.tenant}, role {key.role}")

    def _rotate(self, wanted: str, grace: float) -> None:
        made: list[tuple[Key, str]] = []

        def change(keys: tuple[Key, ...]) -> tuple[Key, ...]:
            old, now = _named(keys, wanted), self._clock()
            secret = new_secret(old.id)
            before = Before(sha256=old.sha256, until=now + grace) if grace else None
            new = msgspec.structs.replace(old, sha256=digest(secret), rotated=now, before=before)
            made.append((new, secret))
            return tuple(new if key is old else key for key in keys)

        self._file.change(change)
        until = f"until {_moment(made[0][0].before.until)}" if made[0][0].before else "no longer"
        self._tell_secret(*made[0], f"new secret of {made[0][0].name}; the one before is good {until}")

    def _revoke(self, wanted: str) -> None:
        gone: list[Key] = []

        def change(keys: tuple[Key, ...]) -> tuple[Key, ...]:
            gone.append(_named(keys, wanted))
            return tuple(key for key in keys if key is not gone[0])

        self._file.change(change)
        self._print(_shown(gone[0]), f"{gone[0].name} ({gone[0].id}) is revoked")

    def _list(self) -> None:
        keys = self._read()
        rows = [COLUMNS, *(_row(key) for key in keys)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
        lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
        self._print({"keys": [_shown(key) for key in keys]}, "\n".join(lines) if keys else "there is no key")

    def _show(self, key: Key) -> None:
        shown = _shown(key)
        self._print(shown, "\n".join(f"{name}: {value}" for name, value in shown.items()))

    def _read(self) -> tuple[Key, ...]:
        try:
            return self._file.read()
        except FileNotFoundError:
            return ()

    def _tell_secret(self, key: Key, secret: str, what: str) -> None:
        """The key alone on standard output, so that a script can take it."""
        self._print(_shown(key) | {"key": secret}, secret)
        print(f"{what}; {ONCE}", file=sys.stderr)

    def _print(self, document: Mapping[str, Any], text: str) -> None:
        print(msgspec.json.format(msgspec.json.encode(document)).decode() if self._json else text)


def seconds(text: str) -> float:
    """`90`, `15m`, `24h` or `7d`. Raises SettingsError."""
    found = re.fullmatch(r"([0-9]{1,9})([smhd]?)", text.strip())
    if not found:
        raise SettingsError(f"--grace={text!r}: expected seconds, or a time such as 15m, 24h or 7d; 0 is none")
    return int(found[1]) * float(UNITS[found[2]])


def _named(keys: Sequence[Key], wanted: str) -> Key:
    """By name or by id. Raises KeyFault."""
    found = next((key for key in keys if wanted in {key.name, key.id}), None)
    if found is None:
        raise KeyFault(f"no key has the name or the id {wanted!r}; `gateway keys list` shows those there are")
    return found


def _valid(fields: Mapping[str, Any]) -> Key:
    try:
        return msgspec.convert(fields, Key)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at `$.")
        raise SettingsError(f"{where.rstrip('`')}: {what}") from error


def _shown(key: Key) -> dict[str, Any]:
    """All but its hashes."""
    shown = {name: value for name, value in msgspec.to_builtins(key).items() if name not in {"sha256", "before"}}
    return shown | {"before_until": key.before.until if key.before else None}


def _row(key: Key) -> tuple[str, ...]:
    limits = {
        "requests/min": key.requests_per_minute,
        "tokens/min": key.tokens_per_minute,
        "at once": key.concurrency,
    }
    told = ", ".join(f"{limit} {what}" for what, limit in limits.items() if limit)
    return key.id, key.name, key.tenant, key.role, ",".join(key.namespaces) or "-", told or "-", _moment(key.created)


def _moment(when: float) -> str:
    return datetime.fromtimestamp(when, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
