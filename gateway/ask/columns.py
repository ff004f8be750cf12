"""The tables of a knowledge store, column by column, and the nouns as their rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa

from gateway.ask import labels
from gateway.ask.passage import Chunk, Document, Head, Hit, Index, Page
from gateway.ask.store import Vectors
from gateway.errors import InvalidInput

PAGES: Final = msgspec.msgpack.Decoder(tuple[Page, ...])
# LanceDB makes rows of equal keys conflict, also when two processes insert them at once, where the schema says so
UNIQUE: Final = {"lance-schema:unenforced-primary-key": "true"}

REGISTRY: Final = pa.schema(
    [
        pa.field("kb", pa.string(), nullable=False, metadata=UNIQUE),
        pa.field("owner", pa.string()),
        pa.field("version", pa.int64()),
        pa.field("place", pa.string()),
        pa.field("row", pa.binary()),
    ]
)
CLAIMS: Final = pa.schema(
    [
        pa.field("place", pa.string(), nullable=False, metadata=UNIQUE),
        pa.field("holder", pa.string()),
        pa.field("beat", pa.int64()),
    ]
)
INDEXES: Final = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False, metadata=UNIQUE),
        pa.field("place", pa.string()),
        pa.field("about", pa.binary()),
        pa.field("ready", pa.bool_()),
    ]
)
DOCUMENTS: Final = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False, metadata=UNIQUE),
        pa.field("name", pa.string()),
        pa.field("source", pa.string()),
        pa.field("text", pa.large_string()),
        pa.field("page_table", pa.binary()),
        pa.field("metadata", pa.string()),
        pa.field("digest", pa.string()),
        pa.field("added", pa.float64()),
        pa.field("characters", pa.int64()),
        pa.field("pages", pa.int64()),
    ]
)
HEAD: Final = ["id", "name", "source", "metadata", "digest", "added", "characters", "pages"]
CHUNK: Final = ["id", "document", "index", "start", "end", "text", "page", "heading"]
SHOWN: Final = [*CHUNK, "name", "source", "metadata"]
FOUND: Final = [*SHOWN, "digest", "vector"]
HELD: Final = [*SHOWN, "labels", "vector"]


def of_index(index: Index) -> pa.Schema:
    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False, metadata=UNIQUE),
            pa.field("document", pa.string()),
            pa.field("index", pa.int64()),
            pa.field("start", pa.int64()),
            pa.field("end", pa.int64()),
            pa.field("text", pa.string()),
            pa.field("page", pa.int64()),
            pa.field("heading", pa.string()),
            pa.field("name", pa.string()),
            pa.field("source", pa.string()),
            pa.field("metadata", pa.string()),
            pa.field("digest", pa.string()),
            pa.field("labels", pa.list_(pa.string())),
            pa.field("vector", pa.list_(pa.float32(), index.dim)),
        ]
    )


def table(rows: Sequence[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """Raises InvalidInput for half characters, which no file can hold."""
    try:
        return pa.Table.from_pylist(list(rows), schema=schema)
    except UnicodeEncodeError as error:
        raise InvalidInput("a text or a name is not Unicode") from error


def of_documents(documents: Sequence[Document]) -> pa.Table:
    """The last of one id wins, as if they had come one after the other."""
    last = {document.id: document for document in documents}
    return table([_document(document) for document in last.values()], DOCUMENTS)


def _document(document: Document) -> dict[str, Any]:
    head = msgspec.structs.asdict(Head.of(document))
    pages = msgspec.msgpack.encode(document.pages)
    return head | {"metadata": _packed(document.metadata), "text": document.text, "page_table": pages}


def document_of(row: dict[str, Any]) -> Document:
    return Document(
        id=row["id"],
        name=row["name"],
        source=row["source"],
        text=row["text"],
        pages=PAGES.decode(row["page_table"]),
        metadata=msgspec.json.decode(row["metadata"]),
        digest=row["digest"],
        added=row["added"],
    )


def head_of(row: dict[str, Any]) -> Head:
    return Head(**row | {"metadata": msgspec.json.decode(row["metadata"])})


def of_chunks(index: Index, documents: Sequence[Document], chunks: Sequence[Chunk], vectors: Vectors) -> pa.Table:
    """The rows of chunks; `documents` has the document of each."""
    if vectors.shape != (len(chunks), index.dim):
        raise ValueError(f"{len(chunks)} chunks of an index of {index.dim} numbers, and vectors {vectors.shape}")
    schema = of_index(index)
    shared = {document.id: _shared(document) for document in documents}
    rows = [msgspec.structs.asdict(chunk) | shared[chunk.document] for chunk in chunks]
    made = table(rows, pa.schema([field for field in schema if field.name != "vector"]))
    flat = pa.array(np.ascontiguousarray(vectors, dtype=np.float32).reshape(-1))
    return made.append_column(schema.field("vector"), pa.FixedSizeListArray.from_arrays(flat, index.dim)).cast(schema)


def _shared(document: Document) -> dict[str, Any]:
    """What all chunks of a document have in common."""
    return {
        "name": document.name,
        "source": document.source,
        "metadata": _packed(document.metadata),
        "digest": document.digest,
        "labels": labels.of_document(document),
    }


def chunk_of(row: dict[str, Any]) -> Chunk:
    return Chunk(**{name: row[name] for name in CHUNK})


def hit_of(row: dict[str, Any], cosine: float | None, bm25: float | None, fused: float) -> Hit:
    return Hit(
        chunk=chunk_of(row),
        name=row["name"],
        source=row["source"],
        metadata=msgspec.json.decode(row["metadata"]),
        cosine=cosine,
        bm25=bm25,
        fused=fused,
    )


def vectors_of(found: pa.Table, dim: int) -> Vectors:
    flat = found.column("vector").combine_chunks().flatten().to_numpy(zero_copy_only=False)
    rows: Vectors = flat.reshape(-1, dim)
    return rows


def _packed(metadata: dict[str, Any]) -> str:
    return msgspec.json.encode(metadata).decode()
