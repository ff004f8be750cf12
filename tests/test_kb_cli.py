"""`gateway kb ...` as a user types it, against a real gateway: what it prints, and its exit status."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from gateway.kb import line
from tests import families, making
from tests.ask.papers import pdf
from tests.making import minilm
from tests.running import RunningGateway

pytest.importorskip("lancedb", reason="the extra `ask` is not installed")
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningGateway]:
    base = tmp_path_factory.mktemp("kb")
    (base / "models/base").mkdir(parents=True)
    shutil.copytree(minilm(), base / "models/base/minilm")
    making.reranker(base / "models/finetuned/judge", seed=4)
    options = ("--default-model=base/minilm", "--settle-seconds=0.1")
    async with RunningGateway(base / "models", base / "state", *options) as running:
        await running.wait_for("huggingface:base/minilm", "ready", "loaded")
        await running.wait_for("huggingface:finetuned/judge", "ready", "loaded")
        yield running


@pytest.fixture
def papers(tmp_path: Path) -> Path:
    folder = tmp_path / "papers"
    (folder / "deep").mkdir(parents=True)
    (folder / "ring.md").write_text("# Ring\n\nThe beam is stored in a ring of magnets.\n", encoding="utf-8")
    (folder / "deep/gun.txt").write_text("The electron gun has a cathode.", encoding="utf-8")
    (folder / "paper.pdf").write_bytes(pdf(["The undulator has a period of eighteen millimetres."]))
    (folder / "picture.png").write_bytes(b"\x89PNG")
    (folder / ".hidden.txt").write_text("hidden", encoding="utf-8")
    return folder


async def kb(gateway: RunningGateway, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gateway", "kb", "--url", gateway.url, *arguments]
    return await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False, timeout=300)


async def test_a_directory_goes_in_and_is_searched(gateway: RunningGateway, papers: Path) -> None:
    added = await kb(gateway, "add", "ring", str(papers), "--metadata", '{"year": 2024}')
    assert (added.returncode, added.stdout, added.stderr) == (0, "ring: 3 added\n", "")
    found = await kb(gateway, "search", "ring", "where is the beam stored?", "--limit", "1")
    assert found.stdout.startswith("[1] ring.md  0.")
    assert "ring of magnets" in found.stdout
    told = json.loads((await kb(gateway, "--json", "search", "ring", "undulator")).stdout)
    assert (told["hits"][0]["name"], told["hits"][0]["page"]) == ("paper.pdf", 1)
    assert told["hits"][0]["metadata"] == {"year": 2024}
    again = await kb(gateway, "add", "ring", str(papers), "--metadata", '{"year": 2024}')
    assert again.stdout == "ring: 3 unchanged\n"


async def test_files_that_cannot_be_read_are_named_and_the_exit_status_is_1(
    gateway: RunningGateway, papers: Path
) -> None:
    (papers / "bad.pdf").write_text("no PDF", encoding="utf-8")
    added = await kb(gateway, "add", "partly", str(papers))
    assert added.returncode == 1
    assert added.stdout == "partly: 3 added, 1 failed\n"
    assert added.stderr.startswith("gateway: bad.pdf: ")
    assert "(document_unreadable)" in added.stderr
    alone = await kb(gateway, "--json", "add", "none", str(papers / "bad.pdf"))
    assert alone.returncode == 1
    assert json.loads(alone.stdout)["failed"][0]["error"]["code"] == "document_unreadable"


async def test_bases_are_listed_shown_and_deleted(gateway: RunningGateway, papers: Path) -> None:
    await kb(gateway, "add", "listed", str(papers / "ring.md"), str(papers / "deep/gun.txt"))
    listing = (await kb(gateway, "list")).stdout.splitlines()
    assert listing[0].split() == ["NAME", "STATE", "DOCUMENTS", "CHUNKS", "GENERATION", "MODEL"]
    [row] = [each.split() for each in listing if each.startswith("listed ")]
    assert row[1:4] == ["ready", "2", "2"]
    assert json.loads((await kb(gateway, "show", "listed")).stdout)["documents"] == 2
    gone = await kb(gateway, "delete", "listed", "--document", "gun.txt")
    assert (gone.returncode, gone.stdout) == (0, "deleted: gun.txt\n")
    assert json.loads((await kb(gateway, "show", "listed")).stdout)["documents"] == 1
    assert (await kb(gateway, "delete", "listed")).stdout == "deleted: listed\n"
    missing = await kb(gateway, "show", "listed")
    assert (missing.returncode, missing.stdout) == (1, "")
    assert "(knowledge_base_not_found)" in missing.stderr


async def test_a_file_that_is_not_there_is_told(gateway: RunningGateway, tmp_path: Path) -> None:
    for arguments in (["add", "x", str(tmp_path / "none.txt")], ["add", "x", str(tmp_path)]):
        ran = await kb(gateway, *arguments)
        assert ran.returncode == 1
        assert ran.stderr.startswith("gateway: ")
        assert "Traceback" not in ran.stderr
        assert "no gateway answers" not in ran.stderr


async def test_a_refusal_is_told_in_the_words_of_the_gateway(gateway: RunningGateway, papers: Path) -> None:
    for arguments in (["bad name"], ["x", "--embedding-model", "no/such"]):
        ran = await kb(gateway, "add", arguments[0], str(papers / "ring.md"), *arguments[1:])
        assert ran.returncode == 1
        assert ran.stderr.rstrip().endswith(("(invalid_body)", "(model_not_found)"))


async def test_a_name_that_is_a_route_is_refused_by_every_verb(gateway: RunningGateway, papers: Path) -> None:
    verbs = (
        ("add", "list", str(papers / "ring.md")),
        ("show", "list"),
        ("delete", "count"),
        ("search", "docs", "beam"),
    )
    for arguments in verbs:
        ran = await kb(gateway, *arguments)
        assert (ran.returncode, ran.stdout) == (1, "")
        assert ran.stderr.startswith(f"gateway: `{arguments[1]}` is a route")


async def test_a_reranker_has_a_row_of_its_own_by_the_order_that_it_gives(
    gateway: RunningGateway, tmp_path: Path
) -> None:
    chance = random.Random(1)
    texts = {f"d{number}.txt": " ".join(chance.sample(families.WORDS, 8)) for number in range(8)}
    (tmp_path / "judged").mkdir()
    for name, text in texts.items():
        (tmp_path / "judged" / name).write_text(text, encoding="utf-8")
    asked = {" ".join(text.split()[:3]): name for name, text in texts.items()}
    lines = [json.dumps({"question": question, "document": name}) for question, name in asked.items()]
    (tmp_path / "q.jsonl").write_text("\n".join(lines), encoding="utf-8")
    assert (await kb(gateway, "add", "judged", str(tmp_path / "judged"))).returncode == 0
    arguments = ("judged", "--questions", str(tmp_path / "q.jsonl"), "--rerank", "finetuned/judge")
    ran = await kb(gateway, "--json", "evaluate", *arguments)
    assert ran.returncode == 0, ran.stderr
    ways = json.loads(ran.stdout)["ways"]
    ranks = [await _rank(gateway, question, texts, name) for question, name in asked.items()]
    assert ways["hybrid, reranked"]["MRR@10"]["mean"] == pytest.approx(sum(1 / rank for rank in ranks) / len(ranks))
    assert ways["hybrid, reranked"]["MRR@10"] != ways["hybrid"]["MRR@10"], "its weights are anybody's"
    table = (await kb(gateway, "evaluate", *arguments)).stdout
    assert [line.split("  ")[0] for line in table.splitlines() if "hybrid, reranked" in line] == [
        "hybrid, reranked",
        "hybrid, reranked - vector",
        "hybrid, reranked - BM25",
        "hybrid, reranked - hybrid",
    ]
    unknown = await kb(gateway, "evaluate", *arguments[:-1], "base/minilm")
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert "(wrong_kind)" in unknown.stderr


async def _rank(gateway: RunningGateway, question: str, texts: dict[str, str], right: str) -> int:
    """Of the right document, by the reranker's scores alone."""
    body = {"query": question, "documents": list(texts.values()), "model": "finetuned/judge"}
    async with gateway.session.post("/v1/rerank", json=body) as answer:
        scores = {each["index"]: each["relevance_score"] for each in (await answer.json())["results"]}
    own = scores[list(texts).index(right)]
    return 1 + sum(score > own for score in scores.values())


async def test_a_collection_of_qdrant_comes_over_as_documents(gateway: RunningGateway, tmp_path: Path) -> None:
    models = pytest.importorskip("qdrant_client.models", reason="the extra `qdrant` is not installed")
    from qdrant_client import QdrantClient

    client = QdrantClient(path=str(tmp_path / "qdrant"))
    client.create_collection("old", models.VectorParams(size=2, distance=models.Distance.COSINE))
    payloads = [
        {"text": "Cows graze on the meadow.", "source": "cows.txt"},
        {"text": "A ship sails.", "source": "s.txt"},
    ]
    points = [models.PointStruct(id=n, vector=[1.0, 0.0], payload=each) for n, each in enumerate(payloads)]
    client.upsert("old", points)
    client.close()
    come = await kb(gateway, "import", "came", "--qdrant-path", str(tmp_path / "qdrant"), "--collection", "old")
    assert (come.returncode, come.stdout) == (0, "came: 2 added\n"), come.stderr
    found = json.loads((await kb(gateway, "--json", "search", "came", "cattle", "--limit", "1")).stdout)
    assert found["hits"][0]["source"] == "cows.txt"
    none = await kb(gateway, "import", "came", "--qdrant-path", str(tmp_path / "qdrant"), "--collection", "none")
    assert none.returncode == 1
    assert "(knowledge_import_failed)" in none.stderr


async def test_where_no_gateway_is_the_exit_status_is_1() -> None:
    ran = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "gateway", "kb", "--url", "http://127.0.0.1:9", "list"],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert ran.returncode == 1
    assert "no gateway answers at http://127.0.0.1:9" in ran.stderr


async def test_a_bar_says_how_many_documents_are_done() -> None:
    assert line("papers", 10, 40, "indexed") == "papers [#######.......................] 10 of 40 documents indexed"
    assert line("papers", 40, 40, "sent") == f"papers [{'#' * 30}] 40 of 40 documents sent"
