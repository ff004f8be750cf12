"""`gateway models wait MODEL`: until what the directory holds now is served, or is known not to be, and why."""

from __future__ import annotations

import http.client
import sys
import time
import urllib.error
import urllib.parse
from collections.abc import Callable
from typing import Any, Final

from gateway import remote

SERVED: Final = frozenset({"ready", "loading", "loaded", "draining"})
UNSEEN: Final = "not seen yet"
INTERVAL: Final = 0.5  # seconds between looks
LATER: Final = frozenset({404, 429, 500, 502, 503, 504})  # not seen yet, too busy, or being restarted


def run(model: str, *, url: str | None, inode: int | None, timeout: float, interval: float = INTERVAL) -> int:
    """Says on standard error what it waits for. `inode` is of the directory that was put there: until the gateway has
    seen that one, what it tells is about another. Exit status: 0 served, 1 not, with the reasons."""
    base = remote.base_url(url)
    path = f"{base}/models/{urllib.parse.quote(model, safe='/:@')}"
    return remote.attempt(base, lambda: _wait(model, _looks(path), inode, time.monotonic() + timeout, interval))


def _wait(
    model: str, look: Callable[[], dict[str, Any] | None], inode: int | None, deadline: float, interval: float
) -> int:
    told = ""
    while True:
        shown = look()
        state = standing(shown, inode)
        if state == "served" and shown:
            print(f"{shown['id']}: {shown['state']}, generation {shown['generation']}")
            return 0
        if state == "refused" and shown:
            print(_explained(shown), file=sys.stderr)
            return 1
        if state != told:
            print(f"{model}: {state}", file=sys.stderr, flush=True)
            told = state
        if time.monotonic() >= deadline:
            print(f"gateway: {model} was not served in time; it is {state}", file=sys.stderr)
            return 1
        time.sleep(interval)


def standing(shown: dict[str, Any] | None, inode: int | None) -> str:
    """`served`, `refused`, or in words what is still to come."""
    if shown is None or (inode is not None and shown["inode"] != inode):
        return UNSEEN
    pending = shown["pending"]
    if pending and pending["state"] != "rejected":
        return f"{pending['state']}: {pending['why']}"
    if shown["reasons"]:
        return "refused"
    return "served" if shown["state"] in SERVED else str(shown["state"])


def _looks(path: str) -> Callable[[], dict[str, Any] | None]:
    """Asks for the model. None: the gateway knows nothing of it now. What answers nothing at the first look is no
    gateway; later it may be one that is being restarted."""
    before = False

    def look() -> dict[str, Any] | None:
        nonlocal before
        try:
            shown = remote.call("GET", path)
        except urllib.error.HTTPError as error:
            if error.code not in LATER:
                raise
            error.close()
            shown = None
        except (OSError, http.client.HTTPException):
            if not before:
                raise
            shown = None
        if shown is not None and "id" not in shown:
            raise ValueError("another program answers there")
        before = True
        return shown

    return look


def _explained(shown: dict[str, Any]) -> str:
    kept = f"; {shown['generation']} goes on serving" if shown["generation"] else ""
    lines = [f"{shown['id']}: what was put there is not served{kept}"]
    for reason in shown["reasons"]:
        where = f" [{reason['file']}]" if reason["file"] and reason["file"] not in reason["message"] else ""
        lines.append(f"  {reason['code']} ({reason['kind']}){where}: {reason['message']}")
        lines.append(f"    remedy: {reason['remedy']}")
    return "\n".join(lines)
