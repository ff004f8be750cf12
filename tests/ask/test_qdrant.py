"""A collection of Qdrant comes over as documents; read through qdrant-client from a collection on disk."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from gateway.ask import qdrant
from gateway.errors import AskUnavailable, KnowledgeImportFailed

STORY = "The first sentence of a story. The second sentence, which is longer. And the third one ends it."


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """Three collections, as LangChain, as somebody else, and as nobody would fill them."""
    from qdrant_client import QdrantClient
    from qdrant_client.models import Distance, PointStruct, VectorParams

    client = QdrantClient(path=str(tmp_path / "qdrant"))

    def fill(name: str, payloads: list[dict[str, Any]]) -> None:
        client.create_collection(name, VectorParams(size=2, distance=Distance.COSINE))
        points = [PointStruct(id=n, vector=[1.0, n], payload=payload) for n, payload in enumerate(payloads, 1)]
        client.upsert(name, points)

    def langchain(text: str, page: int, **metadata: Any) -> dict[str, Any]:
        return {"page_content": text, "metadata": {"source": "story.pdf", "page": page, **metadata}}

    fill(
        "langchain",
        [
            langchain(STORY[31:], 1, author="Ada", year=1843, part="b"),
            langchain(STORY[:68], 0, author="Ada", year=1843, part="a"),
            langchain("Another page.", 2, author="Ada", year=1843, part="c"),
            {"page_content": "Without a source."},
        ],
    )
    fill("own", [{"inhalt": f"Text {n}", "akte": f"A{n % 2}"} for n in range(600)])
    fill("empty", [{"nothing": 1}])
    client.close()
    return str(tmp_path / "qdrant")


def test_the_points_of_a_source_become_one_document_in_order_and_without_overlaps(folder: str) -> None:
    client = qdrant.connect(path=folder)
    found = {document.name: document for document in qdrant.documents(client, "langchain")}
    assert set(found) == {"story.pdf", "langchain/4"}
    story = found["story.pdf"]
    assert story.text == f"{STORY}\n\nAnother page."
    assert story.metadata == {"author": "Ada", "year": 1843}  # `part` differs from point to point
    assert (story.source, story.points) == ("story.pdf", 3)
    assert found["langchain/4"].text == "Without a source."
    client.close()


def test_fields_can_be_named_and_every_point_comes(folder: str) -> None:
    client = qdrant.connect(path=folder)
    found = list(qdrant.documents(client, "own", text="inhalt", source="akte"))
    assert [(document.name, document.points) for document in found] == [("A0", 300), ("A1", 300)]
    assert all(f"Text {n}" in found[n % 2].text.split("\n\n") for n in range(600))
    client.close()


@pytest.mark.parametrize(
    ("collection", "said"),
    [("nobody", "there are: empty, langchain, own"), ("own", "name the field"), ("empty", "name the field")],
)
def test_what_cannot_be_imported_says_why(folder: str, collection: str, said: str) -> None:
    client = qdrant.connect(path=folder)
    with pytest.raises(KnowledgeImportFailed, match=said):
        list(qdrant.documents(client, collection))
    client.close()


def test_a_server_that_does_not_answer_is_told() -> None:
    with pytest.raises(KnowledgeImportFailed, match="Qdrant"):
        list(qdrant.documents(qdrant.connect(url="http://127.0.0.1:9"), "papers"))


def test_without_the_extra_the_answer_is_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "qdrant_client", None)
    with pytest.raises(AskUnavailable, match=r"pip install 'dropgate\[qdrant\]'"):
        qdrant.connect(url="http://127.0.0.1:9")
