"""What a handler takes and gives, as types: the description at `/openapi.json` is made of it, and nothing is decided by
it. A handler that says nothing takes no body and gives a JSON object."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import msgspec

JSON: Final = "application/json"
TEXT: Final = "text/plain"
OCTETS: Final = "application/octet-stream"
F = TypeVar("F", bound=Callable[..., Any])


class Contract(msgspec.Struct, frozen=True, kw_only=True):
    """`body` and `answer` are types; an `answer` of None is an empty one. `example` is a body; `optional` bodies may be
    left out. `media` are the forms of the answer, `query` what may stand behind the path; `also` are other statuses
    with the same answer."""

    body: Any = None
    example: Any = None
    optional: bool = False
    answer: Any = dict[str, Any]
    status: int = 200
    also: tuple[int, ...] = ()
    media: tuple[str, ...] = (JSON,)
    query: Mapping[str, str] = {}


_contracts: Final[dict[Callable[..., Any], Contract]] = {}


def says(**facts: Any) -> Callable[[F], F]:
    """`facts` are those of Contract."""

    def note(handler: F) -> F:
        _contracts[handler] = Contract(**facts)
        return handler

    return note


def of(handler: Callable[..., Any]) -> Contract:
    return _contracts.get(handler, Contract())
