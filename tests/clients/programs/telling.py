"""What the programs of this folder share: told on standard input what to do, they tell on standard output what came of
it.

A program has ways of asking, each a function of a target and what to ask it. This runs in the clients' environments,
which have nothing of ours, so it needs the standard library alone.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable
from typing import Any, NamedTuple


class Target(NamedTuple):
    url: str
    model: str
    key: str

    @property
    def tei(self) -> str:
        """The base URL of the model for clients of text-embeddings-inference, which name no model."""
        return f"{self.url}/tei/{self.model}"


Way = Callable[[Target, Any], Any]


def tell(*ways: Way) -> None:
    """Each step is `{"way", "target", "given"}`. What a library prints goes to standard error."""
    by_name = {way.__name__: way for way in ways}
    with contextlib.redirect_stdout(sys.stderr):
        outcomes = [
            _try(by_name[step["way"]], Target(**step["target"]), step["given"]) for step in json.load(sys.stdin)
        ]
    json.dump(outcomes, sys.stdout, default=lambda array: array.tolist())


def _try(way: Way, target: Target, given: Any) -> dict[str, Any]:
    try:
        return {"returned": way(target, given)}
    except Exception as error:
        return {"raised": [_name(kind) for kind in type(error).__mro__], "status": _status(error), "says": str(error)}


def _name(kind: type) -> str:
    """As a user imports it: `ollama.ResponseError`, wherever in the library it lives."""
    return f"{kind.__module__.partition('.')[0]}.{kind.__qualname__}"


def _status(error: Exception) -> int | None:
    """The HTTP status, wherever the library keeps it."""
    for holder in (error, getattr(error, "response", None)):
        for name in ("status_code", "status"):
            found = getattr(holder, name, None)
            if found := found() if callable(found) else found:
                return int(found)
    return None
