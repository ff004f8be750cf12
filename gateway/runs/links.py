"""Which models came of which run: by what both say that they were made from, and when."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from gateway.runs.foreign import fields, moment, number, text

MOST: Final = 64  # files of data


def trace(document: Mapping[str, Any]) -> tuple[str, str, tuple[str, ...]] | None:
    """Of a lineage, or of a model's metadata: the base's digest, the seed, and the digests of the data."""
    base, data = text(fields(document.get("base")).get("digest"), 100), document.get("data")
    if base is None or not isinstance(data, list):
        return None
    return base, str(number(document.get("seed"))), tuple(str(fields(file).get("sha256"))[:100] for file in data[:MOST])


def came_of(run: Mapping[str, Any], made_from: Any, metadata: Mapping[str, Any]) -> bool:
    """Whether a model with this metadata was made by a run, from what `trace` says of it: the same things, while it
    went, with the same score."""
    when, began, ended = moment(metadata.get("training_date")), run["started_at"], run["completed_at"]
    if when is None or began is None or ended is None or not began <= when <= ended:
        return False
    after = number(fields(metadata.get("scores")).get("after"))
    same_score = after is None or run["after"] is None or after == run["after"]
    return made_from is not None and made_from == trace(metadata) and same_score
