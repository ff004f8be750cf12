"""`trainer evaluate`: what it reads, what it tells, and with which status it ends."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import making
from tests.ports import number, reserved
from tests.running import RunningGateway
from tests.trainer.test_evaluate import words
from trainer.cli import main
from trainer.comparison import read_scores
from trainer.data import beir
from trainer.errors import InvalidInput, TrainerError
from trainer.questions import Questions
from trainer.remote import TRIES, Remote


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for name, seed in (("one", 0), ("other", 7)):
        making.encoder(folder / "made" / name, seed=seed)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Queries that are the beginnings of their answers."""
    path = tmp_path_factory.mktemp("data") / "pairs.jsonl"
    texts = words(6, 40)
    path.write_text("".join(json.dumps({"question": text, "answer": f"{text} small big"}) + "\n" for text in texts))
    return path


def told(capsys: pytest.CaptureFixture[str], *arguments: str | Path, status: int = 0) -> Any:
    assert main(["evaluate", *map(str, arguments), "--json"]) == status
    return json.loads(capsys.readouterr().out)


def test_a_model_is_scored_and_its_scores_are_a_baseline(
    models: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, out = models / "made" / "one", tmp_path / "scores.json"
    found = told(capsys, model, "--data", data, "--out", out)
    assert (found["queries"], found["documents"], found["unanswered"]) == (40, 40, 0)
    assert found["scores"]["mrr@10"] == read_scores(out).of("mrr@10")
    assert 0.2 < found["scores"]["mrr@10"] < 1
    same = told(capsys, model, "--data", data, "--baseline", out)
    assert same["difference"] == {"mean": 0, "low": 0, "high": 0, "p": 1}


def test_two_models_are_compared_with_an_interval_and_their_drift(
    models: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = models / "made" / "one", models / "made" / "other"
    found = told(capsys, one, "--against", other, "--data", data, "--metric", "hit@1", "--out", tmp_path / "both.json")
    assert found["difference"]["mean"] == pytest.approx(found["scores"]["hit@1"] - found["before"]["hit@1"])
    assert found["difference"]["low"] <= found["difference"]["mean"] <= found["difference"]["high"]
    assert found["drift"]["cosine"]["min"] < 0.9
    assert set(json.loads((tmp_path / "both.json").read_text())) == {"metric", "before", "after", "difference"}
    assert read_scores(tmp_path / "both.json").of("hit@1") == found["scores"]["hit@1"]


def test_a_score_below_the_floor_ends_with_3_and_is_told_all_the_same(
    models: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = models / "made" / "one"
    assert main(["evaluate", str(model), "--data", str(data), "--fail-below", "mrr@10=0.999"]) == 3
    said = capsys.readouterr()
    assert "below 0.999" in said.err
    assert "mrr@10" in said.out
    assert "worst queries" in said.out
    assert main(["evaluate", str(model), "--data", str(data), "--fail-below", "mrr@10=0.01"]) == 0


def baseline(path: Path, out: Path, ranks: int) -> Path:
    document = json.loads(path.read_text())
    for each in document["each_query"]:
        each["ranks"] = [ranks]
    out.write_text(json.dumps(document))
    return out


def test_a_drop_from_the_baseline_ends_with_3_unless_it_is_ruled_out(
    models: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, scores = models / "made" / "one", tmp_path / "scores.json"
    told(capsys, model, "--data", data, "--out", scores)
    better, worse = baseline(scores, tmp_path / "better.json", 1), baseline(scores, tmp_path / "worse.json", 30)
    told(capsys, model, "--data", data, "--baseline", better, status=3)
    told(capsys, model, "--data", data, "--baseline", better, "--max-drop", "1")
    told(capsys, model, "--data", data, "--baseline", worse)
    found = told(capsys, model, "--data", data, "--against", models / "made" / "other", "--max-drop", "1")
    assert found["difference"]["low"] > -1


def test_a_baseline_of_other_questions_is_refused(
    models: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = models / "made" / "one"
    told(capsys, model, "--data", data, "--max-queries", "30", "--out", tmp_path / "scores.json")
    assert main(["evaluate", str(model), "--data", str(data), "--baseline", str(tmp_path / "scores.json")]) == 2
    assert "different questions" in capsys.readouterr().err


def test_what_a_run_would_hold_out_is_asked_of_all_answers(
    models: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = told(capsys, models / "made" / "one", "--data", data, "--split", "0.3")
    assert 0 < found["queries"] < 40
    assert found["documents"] == 40


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--data", "missing.jsonl"],
        ["--data", "DATA", "--queries", "DATA", "--qrels", "DATA"],
        ["--queries", "DATA", "--qrels", "DATA"],
        ["--data", "DATA", "--fail-below", "mrr@10"],
        ["--data", "DATA", "--fail-below", "mrr@10=2"],
        ["--data", "DATA", "--fail-below", "mrr@10=nan"],
        ["--data", "DATA", "--fail-below", "best@10=0.5"],
        ["--data", "DATA", "--metric", "f1"],
        ["--data", "DATA", "--k", "1,x"],
        ["--data", "DATA", "--k", "0"],
        ["--data", "DATA", "--max-drop", "0.1"],
        ["--data", "DATA", "--baseline", "missing.json"],
        ["--data", "DATA", "--baseline", "DATA"],
        ["--data", "DATA", "--split", "1.5"],
        ["--data", "DATA", "--url", "no url"],
    ],
)
def test_what_cannot_be_done_ends_with_2_and_a_reason(
    arguments: list[str], models: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [str(data) if each == "DATA" else each for each in arguments]
    assert main(["evaluate", str(models / "made" / "one"), *given]) == 2
    assert capsys.readouterr().err.startswith("trainer: ")


def test_an_adapter_a_broken_model_and_no_model_end_with_2_and_a_reason(
    models: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    making.adapter(tmp_path / "adapter", base=str(models / "made" / "one"))
    making.encoder(tmp_path / "broken")
    (tmp_path / "broken" / "model.safetensors").write_bytes(b"x" * 100)
    (tmp_path / "empty").mkdir()
    for name, reason in (("adapter", "trainer merge"), ("broken", "cannot be loaded"), ("empty", "not a model")):
        assert main(["evaluate", str(tmp_path / name), "--data", str(data)]) == 2
        assert reason in capsys.readouterr().err


def test_a_text_that_controls_terminals_is_printed_harmless(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"question": "small \x1b[31m[bold]red", "answer": "big \x1b]0;title\x07"}, {"question": "a", "answer": "b"}]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["evaluate", str(models / "made" / "one"), "--data", str(path)]) == 0
    said = capsys.readouterr().out
    assert "[bold]red" in said
    assert "\x1b" not in said
    assert "\x07" not in said


def written(folder: Path, **files: str) -> list[Path]:
    paths = []
    for name, content in files.items():
        paths.append(folder / name)
        paths[-1].write_text(content)
    return paths


CORPUS = '{"_id": "d1", "title": "small", "text": "one"}\n{"_id": "d2", "text": "two"}\n{"_id": "d3", "text": "two"}\n'
QUERIES = '{"_id": "q1", "text": "first"}\n{"_id": "q2", "text": "second"}\n{"_id": 3, "text": "third"}\n'
QRELS = "query-id\tcorpus-id\tscore\nq1\td1\t1\nq1\td3\t2\nq2\td2\t0\n3\td2\t1\n"


def test_beir_files_are_questions(tmp_path: Path) -> None:
    expected = Questions(("first", "third"), ("small one", "two"), (frozenset({0, 1}), frozenset({1})), unanswered=1)
    assert beir.read(*written(tmp_path, corpus=CORPUS, queries=QUERIES, qrels=QRELS)) == expected
    trec = "q1 0 d1 1\nq1 0 d3 2\nq2 0 d2 0\n3 0 d2 1\n"
    assert beir.read(*written(tmp_path, corpus=CORPUS, queries=QUERIES, qrels=trec)) == expected


def test_beir_files_are_evaluated(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus, queries, qrels = written(tmp_path, corpus=CORPUS, queries=QUERIES, qrels=QRELS)
    found = told(capsys, models / "made" / "one", "--corpus", corpus, "--queries", queries, "--qrels", qrels)
    assert (found["queries"], found["documents"], found["unanswered"]) == (2, 2, 1)


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({"corpus": "{"}, "corpus:1: not_json"),
        ({"corpus": CORPUS + '{"_id": "d1", "text": "x"}'}, "corpus:4: duplicate_id"),
        ({"corpus": '{"text": "x"}'}, "corpus:1: missing_keys"),
        ({"corpus": '{"_id": "d1", "text": 5}'}, "corpus:1: not_text"),
        ({"corpus": '{"_id": "d1", "text": " "}'}, "corpus:1: blank_text"),
        ({"corpus": "[]"}, "corpus:1: not_an_object"),
        ({"corpus": "\n"}, "corpus: no_rows"),
        ({"queries": QUERIES + '{"_id": "q9", "text": "\\ud800"}'}, "queries:4: lone_surrogate"),
        ({"qrels": QRELS + "q1\td9\t1\n"}, "qrels:6: unknown_document: no document has the `_id` 'd9'"),
        ({"qrels": QRELS + "q9\td1\t1\n"}, "qrels:6: unknown_query: no query has the `_id` 'q9'"),
        ({"qrels": QRELS + "q1\td1\n"}, "qrels:6: too_few_columns"),
        ({"qrels": QRELS + "q1\td1\tgood\n"}, "qrels:6: score_not_a_number"),
        ({"qrels": "query-id\tcorpus-id\tscore\n"}, "no query has a document that answers it"),
    ],
)
def test_what_is_wrong_with_beir_files_is_told_with_its_line(
    changed: dict[str, str], fault: str, tmp_path: Path
) -> None:
    files = {"corpus": CORPUS, "queries": QUERIES, "qrels": QRELS} | changed
    with pytest.raises(InvalidInput) as refused:
        beir.read(*written(tmp_path, **files))
    assert fault in str(refused.value)


class Busy(BaseHTTPRequestHandler):
    """Answers as a gateway does, after as many refusals as it is told."""

    refusals: list[tuple[int, dict[str, str], bytes]] = []

    def do_POST(self) -> None:
        inputs = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["inputs"]
        vectors = np.array([[len(text), 1] for text in inputs], dtype="<f4")
        status, headers, body = 200, {"X-Embedding-Shape": f"{len(inputs)},2"}, vectors.tobytes()
        if self.refusals:
            status, headers, body = self.refusals.pop(0)
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *told: Any) -> None:
        pass


@pytest.fixture
def busy() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Busy)
    serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    serving.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        serving.join()
        server.server_close()
        Busy.refusals = []


def test_a_busy_gateway_is_asked_again_when_it_says(busy: str) -> None:
    waited: list[float] = []
    Busy.refusals = [(503, {"Retry-After": "2"}, b""), (429, {"Retry-After": "9999"}, b""), (503, {}, b"")]
    found = Remote(busy, "m", batch_size=2, pause=waited.append).documents(["a", "bb", "ccc"])
    assert found.tolist() == [[1, 1], [2, 1], [3, 1]]
    assert waited == [2, 30, 1]


def test_a_gateway_that_stays_busy_is_given_up(busy: str) -> None:
    Busy.refusals = [(503, {}, b"")] * TRIES
    with pytest.raises(TrainerError, match="503"):
        Remote(busy, "m", pause=lambda seconds: None).queries(["a"])


def test_a_refusal_is_told_in_the_gateways_words(busy: str) -> None:
    Busy.refusals = [(404, {}, b'{"error": {"code": "model_not_found", "message": "no model m"}}')]
    with pytest.raises(InvalidInput, match="model_not_found: no model m"):
        Remote(busy, "m").queries(["a"])


@pytest.mark.parametrize("shape", ["", "1,3", "2,2", "x"])
def test_an_answer_that_is_no_vectors_is_refused(shape: str, busy: str) -> None:
    Busy.refusals = [(200, {"X-Embedding-Shape": shape}, b"\0" * 8)]
    with pytest.raises(TrainerError, match="no gateway"):
        Remote(busy, "m").queries(["a"])


def test_nobody_at_the_url_ends_with_1(models: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with reserved() as silent:
        url = f"http://127.0.0.1:{number(silent)}"
        assert main(["evaluate", "m", "--url", url, "--data", str(data)]) == 1
    assert "no answer" in capsys.readouterr().err


async def test_a_model_behind_a_gateway_scores_as_it_does_from_its_directory(
    models: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import asyncio

    here = told(capsys, models / "made" / "one", "--data", data)
    async with RunningGateway(models, tmp_path / "state") as gateway:
        asked = ["evaluate", "huggingface:made/one", "--url", gateway.url, "--data", str(data), "--json"]
        assert await asyncio.to_thread(main_in_a_thread, asked) == 0
    assert json.loads(capsys.readouterr().out) == here


def main_in_a_thread(arguments: list[str]) -> int:
    """Signals belong to the main thread."""
    from trainer.cli import parser

    options = parser().parse_args(arguments)
    return int(options.run(options))
