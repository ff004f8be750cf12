"""The verbs from a dropped directory to a host process and back, as a protocol calls them."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from sentence_transformers import CrossEncoder

from gateway import events
from gateway.app import Gateway
from gateway.errors import InvalidBody, InvalidDimensions, InvalidInput, TooManyInputs, WrongKind
from gateway.requests import DecodeRequest, Embedding, EmbedRequest, RerankRequest, TokenizeRequest, TokenVectors
from gateway.service import Service
from gateway.settings import Settings
from gateway.tenants.keyring import Keyring
from tests import making
from tests.e2e.clients import drop
from tests.running import DEADLINE

QUERY = "where is the beam stored?"
TEXTS = ["the beam is in the storage ring", "laser", "😀 光束 in the undulator", "photon electron " * 80]


class Running:
    """A gateway in this process, with a real host."""

    def __init__(self, gateway: Gateway, root: Path) -> None:
        self.service: Service = gateway.service
        self.catalog = gateway.catalog
        self.engine = gateway.engine
        self.root = root

    def put(self, source: str, name: str) -> None:
        drop(source, self.root / name)

    async def until(self, name: str, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The listing of a model as soon as this holds of it."""
        async with asyncio.timeout(DEADLINE):
            while True:
                shown = {each["id"]: each for each in self.catalog.listing()}.get(f"huggingface:{name}")
                if shown is not None and holds(shown):
                    return shown
                await asyncio.sleep(0.02)

    async def drop(self, source: str, name: str) -> dict[str, Any]:
        self.put(source, name)
        return await self.until(name, lambda shown: shown["generation"] is not None)


@asynccontextmanager
async def running(base: Path, **options: Any) -> AsyncIterator[Running]:
    root = base / "models"
    root.mkdir()
    settings = Settings(
        models_dir=str(root), state_dir=str(base / "state"), settle_seconds=0.1, scan_interval=0.1, **options
    )
    tell = events.Events()
    async with asyncio.TaskGroup() as group:
        gateway = Gateway(settings, ["cpu"], tell, group, keyring=Keyring(str(base / "keys.json"), tell))
        async with gateway.running():
            yield Running(gateway, root)


def cosines(one: Embedding, other: Embedding) -> np.ndarray:
    a, b = (np.frombuffer(each.data, "<f4").reshape(each.rows, each.dim) for each in (one, other))
    return (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def spoiled(source: str, to: Path) -> str:
    copy = shutil.copytree(source, to)
    tensors = load_file(copy / "model.safetensors")
    tensors["classifier.bias"].fill_(float("nan"))
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    return str(copy)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # watchdog's, after an exchange
async def test_a_dropped_cross_encoder_reranks_swaps_and_rolls_back_like_any_model(tmp_path: Path) -> None:
    first, second = (making.reranker(tmp_path / f"made{seed}", seed=seed, form="saved") for seed in (1, 2))
    wanted = [CrossEncoder(path, device="cpu").predict([(QUERY, text) for text in TEXTS]) for path in (first, second)]
    asked = RerankRequest(query=QUERY, texts=TEXTS, model="team/rank")
    async with running(tmp_path) as gateway:
        shown = await gateway.drop(first, "team/rank")
        assert (shown["kind"], shown["dim"], shown["library"]) == ("reranker", 1, "sentence-transformers")
        one = await gateway.service.rerank(asked)
        np.testing.assert_allclose(one.scores, wanted[0], atol=1e-5)
        assert (str(one.model), one.generation.short) == ("huggingface:team/rank", shown["generation"])
        assert one.tokens > len(TEXTS)
        raw = await gateway.service.rerank(msgspec.structs.replace(asked, raw_scores=True))
        np.testing.assert_allclose(1 / (1 + np.exp(-np.array(raw.scores))), one.scores, atol=1e-5)

        gateway.put(spoiled(first, tmp_path / "spoiled"), "team/rank")
        refused = await gateway.until("team/rank", lambda shown: bool(shown["reasons"]))
        assert refused["reasons"][0]["code"] == "load_failed"
        assert "not finite" in refused["reasons"][0]["message"]
        assert (await gateway.service.rerank(asked)).scores == one.scores

        gateway.put(second, "team/rank")
        await gateway.until("team/rank", lambda shown: shown["generation"] != one.generation.short)
        np.testing.assert_allclose((await gateway.service.rerank(asked)).scores, wanted[1], atol=1e-5)
        await gateway.service.rollback("team/rank", None)
        assert (await gateway.service.rerank(asked)).scores == one.scores
        await gateway.service.unload("team/rank")
        assert (await gateway.service.rerank(asked)).scores == one.scores


async def test_each_kind_is_asked_for_what_it_does(tmp_path: Path) -> None:
    rank, embed = making.reranker(tmp_path / "rank"), making.encoder(tmp_path / "embed")
    async with running(tmp_path) as gateway:
        service = gateway.service
        await gateway.drop(rank, "team/rank")
        await gateway.drop(embed, "team/embed")
        with pytest.raises(WrongKind, match="team/rank is a reranker") as wrong:
            await service.embed(EmbedRequest(texts=[], model="team/rank"))
        assert wrong.value.details == {"model": "huggingface:team/rank", "kind": "reranker"}
        with pytest.raises(WrongKind, match="ask it to rerank"):
            await service.embed_tokens(EmbedRequest(texts=["beam"], model="team/rank"))
        with pytest.raises(WrongKind, match="team/embed is an encoder") as wrong:
            await service.rerank(RerankRequest(query="beam", texts=["ring"], model="team/embed"))
        assert wrong.value.details["kind"] == "encoder"
        assert gateway.engine.residences() == {}  # none of them cost a load
        nothing = await service.rerank(RerankRequest(query="beam", texts=[], model="team/rank"))
        assert nothing.scores == []
        assert gateway.engine.residences() == {}
        with pytest.raises(TooManyInputs):
            await service.rerank(RerankRequest(query="beam", texts=["x"] * 5000, model="team/rank"))
        tokens = await service.tokenize(TokenizeRequest(texts=["beam"], model="team/rank"))
        assert [token.text for token in tokens.texts[0]] == ["[CLS]", "beam", "[SEP]"]


async def test_token_ids_are_the_text_that_they_stand_for(tmp_path: Path, minilm: str) -> None:
    async with running(tmp_path) as gateway:
        service = gateway.service
        await gateway.drop(minilm, "team/minilm")
        texts = await service.embed(EmbedRequest(texts=TEXTS, model="team/minilm"))
        for special in (True, False):
            spelled = await service.tokenize(
                TokenizeRequest(texts=TEXTS, model="team/minilm", add_special_tokens=special)
            )
            ids = [[token.id for token in each] for each in spelled.texts]
            by_ids = await service.embed(EmbedRequest(texts=ids, model="team/minilm"))
            assert cosines(texts, by_ids).min() >= 0.99999
            assert by_ids.tokens == texts.tokens
        emoji = spelled.texts[2]
        assert [TEXTS[2][token.start : token.stop] for token in emoji] == [token.text for token in emoji]
        decoded = await service.decode(DecodeRequest(ids=ids, model="team/minilm"))
        assert decoded.texts[:2] == TEXTS[:2]
        assert decoded.generation == texts.generation

        with pytest.raises(InvalidInput, match="input 1 has the token id 30522, and the model has ids from 0 to 30521"):
            await service.embed(EmbedRequest(texts=[[1, 2], [3, 30522, -1]], model="team/minilm"))
        with pytest.raises(InvalidInput, match="input 0 has the token id -1"):
            await service.decode(DecodeRequest(ids=[[-1]], model="team/minilm"))
        with pytest.raises(InvalidInput, match=str(2**70)):
            await service.embed_tokens(EmbedRequest(texts=[[2**70]], model="team/minilm"))
        for mixed in (["beam", [1]], [[1], "beam"]):
            with pytest.raises(InvalidInput, match="either all inputs are texts") as failure:
                await service.embed(EmbedRequest(texts=mixed, model="team/minilm"))  # type: ignore[arg-type]  # wrong
            assert failure.value.details == {"index": 1}
        with pytest.raises(InvalidBody, match="prompt"):
            await service.embed(EmbedRequest(texts=[[1]], prompt="query: ", model="team/minilm"))


async def test_every_token_has_a_vector_of_the_transformers_own(tmp_path: Path) -> None:
    source = making.encoder(tmp_path / "m", pooling=("cls", "mean"), dense=12)
    async with running(tmp_path, normalize=True) as gateway:
        service = gateway.service
        await gateway.drop(source, "team/m")
        nothing = await service.embed_tokens(EmbedRequest(texts=[], model="team/m"))
        assert (nothing.counts, nothing.dim, nothing.data) == ([], 32, b"")
        found = await service.embed_tokens(EmbedRequest(texts=TEXTS, model="team/m"))
        assert isinstance(found, TokenVectors)
        spelled = await service.tokenize(TokenizeRequest(texts=TEXTS, model="team/m"))
        assert found.counts == [min(64, len(tokens)) for tokens in spelled.texts]
        assert found.tokens == sum(found.counts)
        vectors = np.frombuffer(found.data, "<f4").reshape(sum(found.counts), found.dim)
        assert found.dim == 32
        assert np.abs(np.linalg.norm(vectors, axis=1) - 1).min() > 0.1  # the gateway's setting is for whole texts
        cut = await service.embed_tokens(EmbedRequest(texts=TEXTS, model="team/m", dimensions=32, normalize=True))
        assert cut.counts == found.counts
        with pytest.raises(InvalidDimensions, match="between 1 and 32"):
            await service.embed_tokens(EmbedRequest(texts=TEXTS, model="team/m", dimensions=33))
        with pytest.raises(InvalidDimensions, match="between 1 and 12"):
            await service.embed(EmbedRequest(texts=TEXTS, model="team/m", dimensions=32))


async def test_the_side_that_is_cut_is_the_clients_choice_for_texts_and_ids(tmp_path: Path) -> None:
    async with running(tmp_path) as gateway:
        service = gateway.service
        await gateway.drop(making.encoder(tmp_path / "m", max_tokens=16), "team/m")
        long, end = "laser " * 30 + "the beam " * 7, "the beam " * 7
        tokens = await service.tokenize(TokenizeRequest(texts=[long, end], model="team/m", add_special_tokens=False))
        ids = [[token.id for token in each] for each in tokens.texts]
        for inputs in ([long, end], ids):
            left = await service.embed(EmbedRequest(texts=inputs, model="team/m", truncation_side="left"))
            right = await service.embed(EmbedRequest(texts=inputs, model="team/m", truncation_side="right"))
            rows = [np.frombuffer(each.data, "<f4").reshape(2, -1) for each in (left, right)]
            assert rows[0][0] @ rows[0][1] >= 0.99999
            assert rows[1][0] @ rows[1][1] < 0.99
