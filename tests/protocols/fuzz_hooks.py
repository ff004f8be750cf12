"""What schemathesis is told of this gateway: names of models that are there, so that not every request ends at an
unknown one. Half of the names stay as they were made."""

from __future__ import annotations

import zlib
from typing import Any, Final

import schemathesis

MODELS: Final = ("finetuned/physics", "finetuned/prompted", "finetuned/long", "finetuned/judge", "finetuned/half")


def known(given: Any) -> Any:
    """By chance that the seed decides."""
    number = zlib.crc32(repr(given).encode(errors="backslashreplace"))
    return MODELS[number // 2 % len(MODELS)] if number % 2 else given


@schemathesis.hook
def map_path_parameters(context: Any, path_parameters: Any) -> Any:
    if isinstance(path_parameters, dict) and "model" in path_parameters:
        return {**path_parameters, "model": known(path_parameters["model"])}
    return path_parameters


@schemathesis.hook
def map_body(context: Any, body: Any) -> Any:
    if isinstance(body, dict) and isinstance(body.get("model"), str):
        return {**body, "model": known(body["model"])}
    return body
