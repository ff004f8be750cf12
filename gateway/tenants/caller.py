"""Who asks. Whatever somebody may not see does not exist for them: they get what they would get if it were not there.

A gateway without keys has one caller who sees and may do everything: no case of its own anywhere.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Final, Literal

import msgspec

from gateway.errors import Forbidden
from gateway.model import ModelId

Role = Literal["use", "operate", "admin"]
ROLES: Final[tuple[Role, ...]] = ("use", "operate", "admin")  # each may do what those before it may
EVERYTHING: Final = "*"
ROOT: Final = "."  # the namespace of models that lie directly under the models root


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """`namespaces` are names of namespaces or patterns of them (`team-*`), and with a slash patterns of models
    (`org/*`); `.` is the models root, and `*` is all there is. `tenant` and `key` are empty without keys."""

    tenant: str = ""
    key: str = ""
    name: str = ""
    role: Role = "admin"
    namespaces: tuple[str, ...] = (EVERYTHING,)

    @property
    def unrestricted(self) -> bool:
        """Whether there is nothing that is hidden from it."""
        return EVERYTHING in self.namespaces

    def sees(self, model: ModelId) -> bool:
        """Whether a model of this name may be there for this caller. Says nothing about whether it is."""
        return any(_covers(pattern, model) for pattern in self.namespaces)

    def sees_path(self, path: str) -> bool:
        """The same, of a model's `path`, as events and labels have it."""
        return self.unrestricted or self.sees(ModelId.of(path))

    def may(self, role: Role) -> bool:
        return ROLES.index(self.role) >= ROLES.index(role)

    def must(self, role: Role, what: str) -> None:
        """`what` is what is asked for, such as "loading a model". Raises Forbidden."""
        if not self.may(role):
            raise Forbidden(f"{what} takes a key of the role {role}; this one has {self.role}", role=self.role)

    def must_see_everything(self, role: Role, what: str) -> None:
        """For what is about the gateway as a whole. Raises Forbidden."""
        self.must(role, what)
        if not self.unrestricted:
            raise Forbidden(f"{what} takes a key of all namespaces", role=self.role)


OPEN: Final = Caller()  # anybody, where there are no keys; and the gateway itself
NOBODY: Final = Caller(role="use", namespaces=())  # asks for what needs no key, and sees nothing


def _covers(pattern: str, model: ModelId) -> bool:
    if pattern == EVERYTHING:
        return True
    if model.namespace is None:
        return pattern == ROOT
    if "/" in pattern:
        return fnmatchcase(model.family.path, pattern)
    return fnmatchcase(model.namespace, pattern)


def check_pattern(pattern: str) -> None:
    """Raises ValueError for what could never match, which is a slip of whoever wrote it."""
    plain = pattern.replace("*", "").replace("?", "").replace("[", "").replace("]", "").replace("!", "")
    named = all(part for part in pattern.split("/")) and pattern.count("/") <= 1
    allowed = all(each.isascii() and (each.isalnum() or each in "._-/") for each in plain)
    if not named or not allowed:
        raise ValueError(f"{pattern!r} is no namespace: expected a name, team-*, org/*, . or *")
