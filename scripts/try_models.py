"""Embeds a sentence with models of a running gateway, and says what came of it.

    python scripts/try_models.py [MODEL ...]      without one: every encoder that it serves

The gateway is at DROPGATE_URL, else http://127.0.0.1:8001. Status 0: all answered as they must.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import urllib.error
from collections.abc import Sequence
from typing import Any, Final

from gateway.remote import attempt, base_url, call

SERVED: Final = {"ready", "loading", "loaded"}
SENTENCE: Final = "Does this model answer?"


class WrongAnswer(Exception):
    """The status is 200, and the vector cannot be right."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL")
    options = parser.parse_args(arguments)
    base = base_url(None)
    return attempt(base, lambda: try_all(base, options.models or served(base)))


def served(base: str) -> list[str]:
    models = call("GET", base + "/models").get("models", [])
    return [model["id"] for model in models if model["kind"] == "encoder" and model["state"] in SERVED]


def try_all(base: str, models: Sequence[str]) -> int:
    if not models:
        print(f"the gateway at {base} serves no encoder yet")
        return 1
    return max([try_one(base, model) for model in models])


def try_one(base: str, model: str) -> int:
    try:
        print(f"ok      {model}: {embed(base, model)} numbers")
    except urllib.error.HTTPError as error:
        print(f"FAILED  {model}: {error.code} {why(error)}")
        return 1
    except WrongAnswer as error:
        print(f"FAILED  {model}: {error}")
        return 1
    return 0


def embed(base: str, model: str) -> int:
    body = json.dumps({"model": model, "input": SENTENCE}).encode()
    answer = call("POST", base + "/v1/embeddings", body, "application/json")
    vector = answer["data"][0]["embedding"]
    if not vector or not all(math.isfinite(number) for number in vector) or not any(vector):
        raise WrongAnswer(f"a vector of {len(vector)} numbers that says nothing")
    return len(vector)


def why(error: urllib.error.HTTPError) -> str:
    try:
        told: dict[str, Any] = json.load(error)["error"]
        return f"{told['code']}: {told['message']}"
    except (ValueError, KeyError, TypeError):
        return str(error.reason)


if __name__ == "__main__":
    sys.exit(main())
