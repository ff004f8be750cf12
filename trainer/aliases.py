"""aliases.toml on the volume: which model answers for a name, and who is on its canary. Edited line by line, so that
comments stay, and replaced by a rename, so that the gateway never reads half of it.

A model moves through an alias in three steps, and back in one:

    canary     a share of the clients gets the new model
    promote    everybody does; the one before stays named, at a share of 0, and so stays ready
    rollback   before the promotion: the canary is taken away; after it: the two change places
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from trainer.errors import InvalidInput, TrainerError

FILE: Final = "aliases.toml"
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*){0,2}(@[0-9a-f]{6,64})?")
HEADER: Final = re.compile(r"\s*\[\s*aliases\s*\]\s*(#.*)?")
ANY_HEADER: Final = re.compile(r"\s*\[")
PREFIX: Final = "huggingface:"


@dataclass(frozen=True, slots=True)
class Alias:
    """`share` of the clients, between 0 and 1, get `canary` in place of `to`."""

    to: str
    canary: str | None = None
    share: float = 0.0

    def __str__(self) -> str:
        if self.canary is None:
            return self.to
        if self.share == 0:
            return f"{self.to} (before: {self.canary})"
        return f"{self.to}, and {self.share:.4g} of the clients get {self.canary}"

    def toml(self) -> str:
        if self.canary is None:
            return f'"{self.to}"'
        return f'{{ to = "{self.to}", canary = "{self.canary}", share = {self.share:.6g} }}'

    def value(self) -> Any:
        """What a reader of TOML makes of it."""
        return tomllib.loads(f"it = {self.toml()}")["it"]


def pointed(alias: Alias | None, model: str) -> Alias:
    """To another model at once. The one before stays named; naming the same model again forgets it."""
    if alias is None or alias.to == model:
        return Alias(model)
    return Alias(model, alias.to, 0.0)


def with_canary(alias: Alias, model: str | None, share: float) -> Alias:
    """Raises InvalidInput without a canary, and where it is the model that everybody else gets."""
    canary = model or alias.canary
    if canary is None:
        raise InvalidInput("there is no canary yet: name the model")
    if canary == alias.to:
        raise InvalidInput(f"{canary} is what the alias leads to already")
    return replace(alias, canary=canary, share=share)


def promoted(alias: Alias) -> Alias:
    if alias.canary is None or alias.share == 0:
        raise InvalidInput("there is no canary to promote")
    return Alias(alias.canary, alias.to, 0.0)


def rolled_back(alias: Alias) -> Alias:
    if alias.canary is None:
        raise InvalidInput("there is nothing to go back to")
    return Alias(alias.to) if alias.share else Alias(alias.canary, alias.to, 0.0)


def parse_share(text: str) -> float:
    """`10%` or `0.1`. Raises ValueError."""
    share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    if not 0 < share <= 1:
        raise ValueError(f"{text!r}: a share is more than 0 and at most 100%")
    return share


def read(models_dir: Path) -> dict[str, Alias]:
    """Every alias, by name. Raises InvalidInput when the file is not what the gateway takes."""
    return {name.removeprefix(PREFIX): _alias(name, value) for name, value in _aliases(_text(models_dir)).items()}


def change(models_dir: Path, name: str, how: Callable[[Alias | None], Alias]) -> Alias:
    """Replaces one alias by what `how` makes of it, None where it is new. Raises InvalidInput for a target that is not
    on the volume, and what `how` raises; the file is then as it was."""
    name = checked_name(name)
    with _alone(models_dir):
        text, found = _text(models_dir), read(models_dir)
        alias = how(found.get(name))
        for target in filter(None, (alias.to, alias.canary)):
            _check_target(models_dir, target, found)
        _write(models_dir, edited(text, name, alias))
    return alias


def checked_name(name: str) -> str:
    """Without the prefix. Raises InvalidInput for what is neither a model's name nor an alias's."""
    name = name.removeprefix(PREFIX)
    if not NAME.fullmatch(name):
        raise InvalidInput(f"{name!r}: expected NAMESPACE/NAME, and a version behind it for a version")
    return name


def edited(text: str, name: str, alias: Alias) -> str:
    """The file with one line changed, or one more. Raises TrainerError where the line cannot be found."""
    expected = tomllib.loads(text)
    key = next((key for key in expected.get("aliases", {}) if key.removeprefix(PREFIX) == name), name)
    expected.setdefault("aliases", {})[key] = alias.value()
    made = _with_line(text.splitlines(), key, alias.toml())
    with contextlib.suppress(tomllib.TOMLDecodeError):
        if tomllib.loads(made) == expected:
            return made
    raise TrainerError(
        f"{FILE}: {key!r} is written in a way that is not edited here; change it by hand: {alias.toml()}"
    )


def _with_line(lines: list[str], key: str, value: str) -> str:
    start = next((number for number, line in enumerate(lines) if HEADER.fullmatch(line)), None)
    if start is None:
        lines = [*lines, *([""] if lines else []), "[aliases]"]
        start = len(lines) - 1
    end = next((n for n in range(start + 1, len(lines)) if ANY_HEADER.match(lines[n])), len(lines))
    spelled = re.compile(rf"""\s*(?:"{re.escape(key)}"|'{re.escape(key)}'|{re.escape(key)})\s*=\s*""")
    for number in range(start + 1, end):
        if matched := spelled.match(lines[number]):
            lines[number] = matched[0] + value + _comment(lines[number])
            break
    else:
        last = max((n for n in range(start, end) if lines[n].strip()), default=start)
        lines.insert(last + 1, f'"{key}" = {value}')
    return "\n".join(lines) + "\n"


def _comment(line: str) -> str:
    """What stands behind a value: from the first # on, before which the line is whole."""
    for at in (matched.start() for matched in re.finditer(r"\s*#", line)):
        with contextlib.suppress(tomllib.TOMLDecodeError):
            tomllib.loads(line[:at])
            return line[at:]
    return ""


def _text(models_dir: Path) -> str:
    try:
        return (models_dir / FILE).read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{models_dir / FILE}: {error}") from error


def _aliases(text: str) -> dict[str, Any]:
    try:
        found = tomllib.loads(text).get("aliases", {})
    except tomllib.TOMLDecodeError as error:
        raise InvalidInput(f"{FILE}: {error}") from error
    if not isinstance(found, dict):
        raise InvalidInput(f"{FILE}: [aliases] is a table")
    return found


def _alias(name: str, value: Any) -> Alias:
    fields = {"to": value} if isinstance(value, str) else value
    if not isinstance(fields, dict) or fields.keys() - {"to", "canary", "share"} or "to" not in fields:
        raise InvalidInput(f"{FILE}: {name!r} is a model, or {{ to = ..., canary = ..., share = ... }}")
    to, canary, share = fields["to"], fields.get("canary"), fields.get("share", 0.0)
    if not isinstance(to, str) or not isinstance(canary, str | None) or not isinstance(share, int | float):
        raise InvalidInput(f"{FILE}: {name!r} is a model, or {{ to = ..., canary = ..., share = ... }}")
    return Alias(to.removeprefix(PREFIX), canary and canary.removeprefix(PREFIX), float(share))


def _check_target(models_dir: Path, target: str, known: dict[str, Alias]) -> None:
    path = checked_name(target).partition("@")[0]
    if path not in known and not (models_dir / path).is_dir():
        raise InvalidInput(f"{target}: neither on the volume nor an alias; the gateway would not take the table")


@contextlib.contextmanager
def _alone(models_dir: Path) -> Iterator[None]:
    """Two who edit at once edit one after the other."""
    if not models_dir.is_dir():
        raise InvalidInput(f"{models_dir}: no such models directory; is the volume mounted?")
    folder = os.open(models_dir, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks: then nobody else should edit
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _write(models_dir: Path, text: str) -> None:
    draft = models_dir / f".{FILE}.{secrets.token_hex(4)}"
    try:
        with draft.open("x", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(models_dir / FILE)
    except OSError as error:
        raise TrainerError(f"{error.filename or models_dir}: {error.strerror or error}") from error
    finally:
        draft.unlink(missing_ok=True)
