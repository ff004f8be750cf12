"""What `Where` asks for and what a chunk has, in one spelling: it matches where its labels and the wanted ones meet.

A label is ASCII, and the same for equal values however they were written.
"""

from __future__ import annotations

import json

from gateway.ask.passage import Document, Value, Where


def of_document(document: Document) -> list[str]:
    own = [_label("document", document.id), _label("name", document.name), _label("source", document.source)]
    return own + [_metadata(key, value) for key, value in document.metadata.items()]


def wanted(where: Where | None) -> list[list[str]]:
    """Groups of labels: of each group, what matches has at least one."""
    if where is None:
        return []
    kinds = {"document": where.documents, "name": where.names, "source": where.sources}
    groups = [[_label(kind, value) for value in values] for kind, values in kinds.items() if values]
    for key, values in where.metadata.items():
        groups.append([_metadata(key, value) for value in (values if isinstance(values, tuple) else (values,))])
    return groups


def _metadata(key: str, value: Value) -> str:
    same = int(value) if isinstance(value, float) and value.is_integer() else value
    return _label("metadata", key, same)


def _label(*parts: Value) -> str:
    return json.dumps(parts, separators=(",", ":"))
