"""A collection of Qdrant as documents, for `gateway kb import`: texts and metadata. Its vectors stay behind, since
nobody knows which weights made them; they are made anew by the model that will be asked.

Whoever filled the collection cut documents into points. Those of one source are put together again in their order, and
where neighbours overlap the overlap is kept once. Points without a source are documents of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

import msgspec

from gateway.ask.passage import Value
from gateway.errors import AskUnavailable, KnowledgeImportFailed

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

HOW: Final = "reading Qdrant is an extra: pip install 'dropgate[qdrant]'"
TEXTS: Final = ("page_content", "text", "content", "document", "chunk", "body")  # LangChain's name first
SOURCES: Final = ("source", "file_name", "filename", "file", "document_name", "name", "url", "title")
ORDERS: Final = ("page_number", "page", "chunk_index", "index", "position", "start_index", "start")
NESTED: Final = "metadata"  # where LangChain puts everything but the text
PAGE: Final = 256  # points at once
SHORTEST, LONGEST = 16, 2000  # characters of an overlap: less is chance, and more is no overlap


class Imported(msgspec.Struct, frozen=True):
    """A document as it can be put into a knowledge base. `metadata` is what all its points say alike."""

    name: str
    source: str
    text: str
    metadata: dict[str, Value]
    points: int


def connect(url: str | None = None, path: str | None = None, key: str | None = None) -> QdrantClient:
    """A client of the server at `url`, or of a directory of qdrant-client's own local mode.

    Raises AskUnavailable without the extra, and KnowledgeImportFailed.
    """
    try:
        from qdrant_client import QdrantClient  # noqa: PLC0415  an extra
    except ImportError as error:
        raise AskUnavailable(HOW) from error
    try:
        if path is not None:
            return QdrantClient(path=path)
        return QdrantClient(url=url, api_key=key, check_compatibility=False)  # it warns where nobody answers; we tell
    except Exception as error:  # of whatever transport it uses
        raise KnowledgeImportFailed(f"Qdrant cannot be opened: {_one_line(error)}") from error


def documents(client: QdrantClient, collection: str, text: str = "", source: str = "") -> Iterator[Imported]:
    """Every document of a collection, by name. `text` and `source` name the fields of a point's payload that hold them;
    without, the usual ones are tried, in `metadata` too.

    Raises KnowledgeImportFailed: no such collection, no texts, or Qdrant failed.
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    texts = (text,) if text else TEXTS
    skipped = 0
    for number, payload in _points(client, collection):
        fields = _flat(payload)
        content = _first(fields, texts)
        if not content:
            skipped += 1
            continue
        name = _first(fields, (source,) if source else SOURCES) or f"{collection}/{number}"
        groups.setdefault(name, []).append(fields | {"": content})
    if skipped and not groups:
        raise KnowledgeImportFailed(f"no point of {collection} has a text in {', '.join(texts)}; name the field")
    for name in sorted(groups):
        yield _document(name, groups[name], {*texts, *((source,) if source else SOURCES), *ORDERS})


def _points(client: QdrantClient, collection: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    offset: Any = None
    try:
        _must_exist(client, collection)
        while True:
            found, offset = client.scroll(collection, limit=PAGE, offset=offset, with_payload=True, with_vectors=False)
            yield from ((str(point.id), point.payload or {}) for point in found)
            if offset is None:
                return
    except KnowledgeImportFailed:
        raise
    except Exception as error:  # of whatever transport the client uses
        raise KnowledgeImportFailed(f"Qdrant failed: {_one_line(error)}") from error


def _must_exist(client: QdrantClient, collection: str) -> None:
    if not client.collection_exists(collection):
        names = ", ".join(sorted(found.name for found in client.get_collections().collections)) or "none"
        raise KnowledgeImportFailed(f"Qdrant has no collection {collection}; there are: {names}")


def _flat(payload: Mapping[str, Any]) -> dict[str, Any]:
    nested = payload.get(NESTED)
    return {**payload, **nested} if isinstance(nested, dict) else dict(payload)


def _first(fields: Mapping[str, Any], names: tuple[str, ...]) -> str:
    return next((fields[name] for name in names if isinstance(fields.get(name), str) and fields[name].strip()), "")


def _document(name: str, points: list[dict[str, Any]], known: set[str]) -> Imported:
    ordered = sorted(points, key=_order)
    shared = {key: value for key, value in ordered[0].items() if key and isinstance(value, Value) and key not in known}
    same = {key: value for key, value in shared.items() if all(point.get(key) == value for point in ordered)}
    joined = ""
    for point in ordered:
        joined = _joined(joined, point[""])
    return Imported(name=name, source=name, text=joined, metadata=same, points=len(points))


def _order(point: Mapping[str, Any]) -> tuple[float, ...]:
    """Pages first, then positions on them; what has neither stays as it came."""
    values = (point.get(name) for name in ORDERS)
    return tuple(float(value) if isinstance(value, int | float) else 0.0 for value in values)


def _joined(text: str, following: str) -> str:
    """`following` after `text`, their overlap once; a blank line between what does not overlap."""
    if not text:
        return following
    for size in range(min(len(text), len(following), LONGEST), SHORTEST - 1, -1):
        if text.endswith(following[:size]):
            return text + following[size:]
    return f"{text}\n\n{following}"


def _one_line(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:300]
