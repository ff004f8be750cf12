"""What is to be pulled, and what a pulling process reports: its standard input and its standard output, as JSON lines.

A pull runs in a process of its own, which can be killed at any moment: the library that does it blocks, and a
gateway that stops must not wait for a network.
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from gateway.errors import GatewayError, Internal, InvalidModelId, VolumeUnwritable, leaves
from gateway.model import HUB_CACHE, NAME, PREFIX, SUBMODULE, ModelId
from gateway.parsing import BUCKET
from gateway.volume.directory import IN_PROGRESS, is_apart

REVISION: Final = re.compile(r"(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9._/-]{0,127}")
MAIN: Final = "main"  # the branch that the hub means when nobody names one


class Order(msgspec.Struct, frozen=True):
    """Pull `model` from the hub `endpoint` to the volume. `parent` is the process to die with."""

    model: str
    revision: str
    models_dir: str
    endpoint: str
    token: str
    allow_pickle: bool
    parent: int = 0


class Looked(msgspec.Struct, frozen=True, tag="looked"):
    """The hub has it: this commit, so many bytes in so many files that are wanted."""

    commit: str
    total: int
    files: int


class Progress(msgspec.Struct, frozen=True, tag="progress"):
    """So many of these bytes are on the volume, those of an earlier try among them."""

    bytes: int


class Pulled(msgspec.Struct, frozen=True, tag="pulled"):
    """It is published. `fresh` is false where the same commit was there already."""

    model: str
    path: str
    commit: str
    bytes: int
    files: int
    fresh: bool


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    code: str
    message: str
    details: dict[str, Any] = {}

    @classmethod
    def of(cls, error: GatewayError) -> Failed:
        return cls(error.code, error.message, error.details)

    def error(self) -> GatewayError:
        return leaves().get(self.code, Internal)(self.message, **self.details)


Report = Looked | Progress | Pulled | Failed


def demand_directory(models_dir: str) -> None:
    """Raises VolumeUnwritable for a volume that nothing is pulled to."""
    if models_dir.startswith(BUCKET):
        raise VolumeUnwritable(
            f"nothing is pulled into the bucket {models_dir}: pull to a directory (gateway pull --models-dir "
            "DIRECTORY), and put that into the bucket, SHA256SUMS last",
            path=models_dir,
        )


def parse_repository(text: str) -> tuple[ModelId, str | None]:
    """`org/name` or `name`, perhaps with a prefix and an `@revision` -> the id it gets on the volume, the revision.

    Raises InvalidModelId for what a volume would not list under this name.
    """
    spelling, at, revision = text.strip().removeprefix(PREFIX).partition("@")
    if at and not REVISION.fullmatch(revision):
        raise InvalidModelId("after @ comes a revision: a branch, a tag or a commit", model=ascii(text))
    parts = spelling.split("/")
    if len(parts) > 2 or not all(_is_listed(part) for part in parts):
        raise InvalidModelId("a model of the hub is ORG/NAME, or ORG/NAME@REVISION", model=ascii(text))
    return ModelId(parts[0] if len(parts) == 2 else None, parts[-1]), revision or None


def _is_listed(part: str) -> bool:
    apart = is_apart(part) or part.startswith(HUB_CACHE) or SUBMODULE.fullmatch(part) or IN_PROGRESS.fullmatch(part)
    return bool(NAME.fullmatch(part)) and not apart
