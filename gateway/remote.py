"""`gateway models ...` and `gateway pull --url`: a client of a running gateway, and what others need of one."""

from __future__ import annotations

import http.client
import json
import os
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from typing import Any, Final

from gateway.errors import GatewayError
from gateway.pull import follow

DEFAULT_URL: Final = "http://127.0.0.1:8001"
TIMEOUT: Final = 300.0  # a load may take long
COLUMNS: Final = ("MODEL", "KIND", "STATE", "GENERATION", "DIM", "ON DISK", "ON DEVICE", "WHY")


def run(action: str, model: str | None, *, url: str | None, as_json: bool, body: dict[str, Any] | None = None) -> int:
    """Exit status: 0 done, 1 the gateway refused or cannot be reached."""
    base = base_url(url)
    path = "/models" if model is None else "/models/" + urllib.parse.quote(model, safe="/:@")
    if action not in {"list", "show"}:
        path += f"/{action}"
    try:
        document = _call(base + path, post=action not in {"list", "show"}, body=body)
    except urllib.error.HTTPError as error:
        return _refused(error)
    except (OSError, http.client.HTTPException, ValueError) as error:
        return _nobody(base, error)
    if as_json or action == "show":
        print(json.dumps(document, indent=2))
    elif action == "list":
        _table(document["models"])
        _aliases(document.get("aliases", []))
    else:
        generation = f", generation {document['generation']}" if action == "rollback" else ""
        print(f"{document['id']}: {document['state']}{', pinned' if document['pinned'] else ''}{generation}")
    return 0


def pull(model: str, *, url: str, as_json: bool) -> int:
    """Has the gateway at `url` pull a model, and shows how far it is. Exit status: 0 it is there, 1 it is not."""
    base = url.rstrip("/")

    def ask(path: str, body: dict[str, Any] | None) -> Any:
        return _call(base + path, post=body is not None, body=body)

    try:
        return follow(model, ask, as_json=as_json)
    except GatewayError as error:
        print(f"gateway: {error.message} ({error.code})", file=sys.stderr)
        return 1
    except urllib.error.HTTPError as error:
        return _refused(error)
    except (OSError, http.client.HTTPException, ValueError) as error:
        return _nobody(base, error)


def _nobody(base: str, error: Exception) -> int:
    """Nobody answers, or not a gateway, or it is not even a URL."""
    reason = getattr(error, "reason", error)
    print(f"gateway: no gateway answers at {base} ({reason}); name it with --url", file=sys.stderr)
    return 1


def _call(url: str, *, post: bool, body: dict[str, Any] | None = None) -> Any:
    data = json.dumps(body).encode() if body is not None else None
    document = call("POST" if post else "GET", url, data)
    if not document.keys() & {"models", "id"}:
        raise ValueError("another program answers there")
    return document


def call(method: str, url: str, data: bytes | None = None, media: str | None = None) -> dict[str, Any]:
    """A gateway's answer. Raises HTTPError for a refusal, and OSError, HTTPException or ValueError where no gateway
    answers."""
    with opened(method, url, data, media) as response:
        document = json.load(response)
    if isinstance(document, dict):
        return document
    raise ValueError("another program answers there")


def opened(method: str, url: str, data: bytes | None = None, media: str | None = None) -> http.client.HTTPResponse:
    """The answer, to be read, as whoever DROPGATE_API_KEY is. Raises as `call` does."""
    request = urllib.request.Request(url, data, method=method)
    if media is not None:
        request.add_header("Content-Type", media)
    if key := os.environ.get("DROPGATE_API_KEY", "").strip():  # a command line is for all to see
        request.add_header("Authorization", f"Bearer {key}")
    response: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=TIMEOUT)
    return response


def base_url(url: str | None) -> str:
    """Of the gateway that is meant."""
    return (url or os.environ.get("DROPGATE_URL") or DEFAULT_URL).rstrip("/")


def variable(name: str) -> str:
    """Another program's secret, which is none of our settings."""
    return os.environ.get(name, "").strip()


def attempt(base: str, work: Callable[[], int]) -> int:
    """What `work` answers; 1, with the reason on standard error, where the gateway refuses or does not answer."""
    try:
        return work()
    except urllib.error.HTTPError as error:
        return _refused(error)
    except (OSError, http.client.HTTPException, ValueError) as error:
        return _nobody(base, error)


def _refused(error: urllib.error.HTTPError) -> int:
    try:
        told = json.load(error)["error"]
        print(f"gateway: {told['message']} ({told['code']})", file=sys.stderr)
    except (ValueError, KeyError, TypeError):
        print(f"gateway: {error.code} {error.reason}", file=sys.stderr)
    return 1


def _table(models: list[dict[str, Any]]) -> None:
    if not models:
        print("the volume holds no model")
        return
    columns([COLUMNS, *(_row(model) for model in models)])


def columns(rows: Sequence[Sequence[str]]) -> None:
    """Prints a table; the last column is as wide as it is."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    for row in rows:
        padded = (cell.ljust(width) for cell, width in zip(row, widths, strict=False))
        print("  ".join([*padded, row[-1]]).rstrip())


def _aliases(found: list[dict[str, Any]]) -> None:
    for alias in found:
        canary = f", {alias['share']:.0%} to {alias['canary']}" if alias["canary"] else ""
        warning = f" ({alias['warning']})" if alias["warning"] else ""
        print(f"{alias['id']} -> {alias['to']}{canary}{warning}")


def _row(model: dict[str, Any]) -> tuple[str, ...]:
    pending = model["pending"] or {}
    reasons = model["reasons"]
    why = pending.get("why") or (f"{reasons[0]['code']}: {reasons[0]['message']}" if reasons else model["load_error"])
    state = model["state"] + (" +" + pending["state"] if pending and model["generation"] else "")
    return (
        model["id"] + (" (pinned)" if model["pinned"] else ""),
        (model["kind"] or "-") + (f" over {model['base']}" if model["base"] else ""),
        state,
        model["generation"] or "-",
        str(model["dim"] or "-"),
        _bytes(model["bytes_on_disk"]),
        _bytes(model["bytes_on_device"]),
        why or "",
    )


def _bytes(count: int | None) -> str:
    if not count:
        return "-"
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            break
        count /= 1000  # type: ignore[assignment]  # shown as a fraction from here on
    return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
