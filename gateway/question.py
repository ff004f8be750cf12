"""`gateway ask "..." --kb NAME`: a client of a running gateway that shows an answer as it is made, and its citations
below."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from typing import Any, Final

from gateway.remote import attempt, base_url, opened

QUOTED: Final = 160  # characters of a citation


def run(body: dict[str, Any], *, url: str | None, as_json: bool) -> int:
    """Exit status: 0 answered, 1 refused, broken off or nobody there."""
    base, data = base_url(url), json.dumps({**body, "partial_answer": False}).encode()

    def ask() -> int:
        with opened("POST", f"{base}/ask/stream", data, "application/json") as response:
            return show(events(response), as_json=as_json)

    return attempt(base, ask)


def events(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """Raises ValueError for what is no event of ours."""
    for line in lines:
        if line.startswith(b"data: "):
            event = json.loads(line[6:])
            if not isinstance(event, dict):
                raise ValueError("another program answers there")
            yield event


def show(told: Iterable[dict[str, Any]], *, as_json: bool = False) -> int:
    """What is for people that wait goes to standard error, so that a pipe gets the answer alone."""
    for event in told:
        match event.get("type"):
            case "status" if sys.stderr.isatty() and not as_json:
                print(event["message"], file=sys.stderr)
            case "token" if not as_json:
                print(_plain(event["content"]), end="", flush=True)
            case "clear_response" if not as_json:
                print(f"\n\n[{_plain(event['message'])}]\n", flush=True)
            case "complete":
                print(json.dumps(event, indent=2) if as_json else "\n".join(["", *_below(event)]))
                return 0
            case "error":
                print(f"\ngateway: {_plain(event['message'])} ({event.get('code')})", file=sys.stderr)
                return 1
    print("\ngateway: the answer broke off", file=sys.stderr)
    return 1


def _below(done: dict[str, Any]) -> Iterator[str]:
    """What the answer rests on, each passage once."""
    for number, cited in sorted({each["number"]: each for each in done["citations"]}.items()):
        page = f", page {cited['page_number']}" if cited["page_number"] is not None else ""
        quote = " ".join(cited["quote"].split())
        more = "…" if len(quote) > QUOTED else ""
        yield _plain(f"[{number}] {cited['source']}{page}: {quote[:QUOTED]}{more}")
    if not done["supported"] and not done["refused"]:
        yield "(no passage supports this answer)"
    for part in done["left_out"]:
        yield _plain(f"(left out: {part})")


def _plain(text: str) -> str:
    """Without what a terminal would obey: documents and models may say anything."""
    return "".join(letter if letter.isprintable() or letter in "\n\t" else "�" for letter in text)
