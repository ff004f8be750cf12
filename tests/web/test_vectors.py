"""Vectors as they leave: the same document whole and in pieces, and the same bytes that the host sent."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable

import numpy as np
import numpy.typing as npt
import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient

from gateway import events
from gateway.model import Generation, Manifest, ModelId, Pooling
from gateway.requests import Embedding
from gateway.web import errors, vectors

Client = TestClient[web.Request, web.Application]
MANIFEST = Manifest(
    kind="encoder", library="transformers", model_type="bert", architecture="BertModel", dim=8, max_tokens=16,
    vocab_size=10, transformer_path="", tokenizer_path="", stages=(Pooling(("mean",)),), weights=("w",),
    files=("config.json", "w"), parameters=1, stored_bytes=4, stored_dtype="F32", prompts={},
)  # fmt: skip
SHAPES = [(0, 384), (1, 1), (1, 384), (170, 384), (171, 384), (300, 384), (3, vectors.WHOLE), (70_000, 1)]


def embedding(rows: int, dim: int, alias: ModelId | None = None) -> Embedding:
    numbers = np.random.default_rng(rows).standard_normal((rows, dim), dtype="float32")
    return Embedding(
        model=ModelId("finetuned", "m"),
        generation=Generation("d" * 64, "/nowhere", MANIFEST),
        alias=alias,
        data=numbers.tobytes(),
        rows=rows,
        dim=dim,
        normalized=True,
        tokens=7,
    )


def matrix(made: Embedding) -> npt.NDArray[np.float32]:
    return np.frombuffer(made.data, "<f4").reshape(made.rows, made.dim)


def expected(made: Embedding, rows: object) -> bytes:
    """The document, made in one go."""
    document = {
        "embeddings": rows,
        "model": "huggingface:finetuned/m",
        "dim": made.dim,
        "count": made.rows,
        "generation": "d" * 12,
        "normalized": True,
        "usage": {"tokens": 7},
    }
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)


@pytest.mark.parametrize(("rows", "dim"), SHAPES)
def test_the_document_of_many_pieces_is_the_document_of_one(rows: int, dim: int) -> None:
    made = embedding(rows, dim)
    assert b"".join(vectors.document(made, "float")) == expected(made, matrix(made) if rows else [])
    encoded = [base64.b64encode(row.tobytes()).decode() for row in matrix(made)]
    assert b"".join(vectors.document(made, "base64")) == expected(made, encoded)
    assert vectors.whole(made, "float") == expected(made, matrix(made))
    assert vectors.whole(made, "base64") == expected(made, encoded)


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_no_piece_has_more_numbers_than_the_loop_can_spare_the_time_for(encoding: str) -> None:
    pieces = list(vectors.document(embedding(3000, 384), encoding))
    most = vectors.PIECE * 16  # bytes; a float32 takes 16 characters at most, comma included
    assert max(map(len, pieces)) < most
    assert len(pieces) > 3000 * 384 / vectors.PIECE


def test_the_alias_that_was_asked_for_is_in_the_document() -> None:
    document = b"".join(vectors.document(embedding(1, 4, ModelId("prod", "m")), "float"))
    assert orjson.loads(document)["alias"] == "huggingface:prod/m"


class Edge:
    """A server that answers with the embedding it is given."""

    def __init__(self) -> None:
        self.embedding = embedding(1, 4)
        self.app = web.Application(middlewares=[errors.middleware(events.Events())])
        self.app.router.add_get("/{encoding}", self.answer)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if request.match_info["encoding"] == "octets":
            return vectors.octets(self.embedding)
        return vectors.json(self.embedding, request.match_info["encoding"])


@pytest.fixture
async def edge() -> Edge:
    return Edge()


@pytest.fixture
async def client(edge: Edge, aiohttp_client: Callable[[web.Application], Awaitable[Client]]) -> Client:
    return await aiohttp_client(edge.app)


@pytest.mark.parametrize(("rows", "dim"), SHAPES)
@pytest.mark.parametrize("encoding", ["float", "base64"])
async def test_a_large_answer_is_streamed_and_a_small_one_has_a_length(
    edge: Edge, client: Client, rows: int, dim: int, encoding: str
) -> None:
    made = edge.embedding = embedding(rows, dim)
    async with client.get(f"/{encoding}") as answer:
        assert answer.status == 200
        assert answer.content_type == "application/json"
        assert await answer.read() == b"".join(vectors.document(made, encoding))
        assert ("Content-Length" in answer.headers) == (rows * dim <= vectors.WHOLE)
        assert len(answer.headers["X-Request-Id"]) == 32


async def test_octets_are_the_hosts_own_bytes(edge: Edge, client: Client) -> None:
    for data in (bytes(range(48)), bytearray(range(48))):
        edge.embedding = Embedding(
            model=ModelId("finetuned", "m"), generation=Generation("d" * 64, "/nowhere", MANIFEST), data=data, rows=3,
            dim=4, normalized=False,
        )  # fmt: skip
        async with client.get("/octets") as answer:
            assert await answer.read() == bytes(data)
            assert (answer.headers["X-Embedding-Shape"], answer.content_type) == ("3,4", vectors.OCTETS)


async def test_others_are_answered_while_a_large_answer_is_written(edge: Edge, client: Client) -> None:
    edge.embedding = embedding(2000, 1024)
    async with client.get("/float") as large:  # whose 20 MB nobody reads yet
        edge.embedding = embedding(1, 4)
        async with client.get("/float") as small:
            assert (await small.json())["count"] == 1
        assert orjson.loads(await large.read())["count"] == 2000


async def test_a_client_that_leaves_in_the_middle_ends_its_answer(edge: Edge, client: Client) -> None:
    edge.embedding = embedding(2000, 1024)
    large = await client.get("/float")
    await large.content.readany()
    large.close()
    await asyncio.sleep(0)
    edge.embedding = embedding(1, 4)
    async with client.get("/float") as small:
        assert (await small.json())["count"] == 1
