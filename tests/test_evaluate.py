"""Scores of a search: what is counted, how sure one may be of it, and how questions are read."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest

from gateway import evaluate
from gateway.evaluate import Question, measure, picture, read, score

ONE = frozenset({"right"})


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (["right", "b"], (1, 1, 1, 1.0, 1.0)),
        (["a", "right"], (0, 1, 1, 1 / 2, 1 / math.log2(3))),
        ([*"abcde", "right"], (0, 0, 1, 1 / 6, 1 / math.log2(7))),
        ([*"abcdefghij", "right"], (0, 0, 0, 0.0, 0.0)),
        ([], (0, 0, 0, 0.0, 0.0)),
    ],
)
def test_a_score_is_of_the_first_right_document_among_ten(found: list[str], expected: tuple[float, ...]) -> None:
    assert tuple(score(found, ONE).values()) == pytest.approx(expected)


def test_of_several_right_documents_the_gain_counts_each() -> None:
    both = score(["x", "y"], frozenset({"x", "y"}))
    assert both["nDCG@10"] == 1.0
    apart = score(["x", "a", "y"], frozenset({"x", "y"}))
    assert apart["MRR@10"] == 1.0
    assert apart["nDCG@10"] == pytest.approx((1 + 1 / 2) / (1 + 1 / math.log2(3)))


def test_an_interval_holds_the_mean_and_is_narrower_with_more_questions() -> None:
    few, many = measure([0.0, 1.0] * 10), measure([0.0, 1.0] * 1000)
    assert few.low < few.mean == 0.5 < few.high
    assert many.high - many.low < (few.high - few.low) / 5
    assert measure([1.0] * 5) == evaluate.Measure(1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("", "has no questions"),
        ('{"question": "q"}', "line 1: expected a question"),
        ('{"question": " ", "document": "d"}', "line 1: expected a question"),
        ('{"question": "q", "document": "d"}\nno json', "line 2"),
        ('{"question": 1, "document": "d"}', "line 1"),
    ],
)
def test_a_file_of_questions_that_is_wrong_is_told_by_its_line(tmp_path: Path, text: str, wrong: str) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text(text)
    with pytest.raises(ValueError, match=wrong):
        read(path)


class Gateway:
    """Finds the right document first by both, second by vectors, and not at all by words."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []

    def search(self, body: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(body)
        names: Sequence[str] = ("right", "right", "a")
        if body.get("words"):
            names = ()
        elif body.get("hybrid") is False:
            names = ("a", "a", "right")
        return {"generation": "abc", "hits": [{"name": name} for name in names]}


def test_every_way_of_searching_is_asked_and_told_in_a_table_json_and_a_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, drawn, gateway = tmp_path / "q.jsonl", tmp_path / "p.svg", Gateway()
    path.write_text('{"question": "one?", "document": "right"}\n\n{"question": "two?", "documents": ["right"]}\n')
    options = SimpleNamespace(rerank="r", picture=str(drawn), json=True, name="papers <&>")
    steps: list[tuple[int, int]] = []
    assert evaluate.run(path, gateway.search, options, lambda done, total: steps.append((done, total))) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["questions"], said["generation"]) == (2, "abc")
    ranks = {way: found["MRR@10"]["mean"] for way, found in said["ways"].items()}
    assert ranks == {"vector": 0.5, "BM25": 0.0, "hybrid": 1.0, "hybrid, reranked": 1.0}
    assert list(said["gains"]) == [
        "hybrid - vector",
        "hybrid - BM25",
        "hybrid, reranked - vector",
        "hybrid, reranked - BM25",
        "hybrid, reranked - hybrid",
    ]
    assert said["gains"]["hybrid - vector"]["MRR@10"] == {"mean": 0.5, "low": 0.5, "high": 0.5}
    assert steps[-1] == (8, 8)
    assert {"query": "one?", "limit": 50, "rerank": "r"} in gateway.asked
    assert ElementTree.fromstring(drawn.read_text()).tag.endswith("svg")
    options.json = False
    assert evaluate.run(path, gateway.search, options, lambda done, total: None) == 0
    table = capsys.readouterr().out
    assert "0.500 (0.500-0.500)" in table
    assert "+0.500 (+0.500 to +0.500)" in table


def test_a_gain_is_counted_question_by_question() -> None:
    vector = [dict.fromkeys(evaluate.MEASURES, value) for value in (0.0, 0.2, 0.9, 0.4) * 20]
    hybrid = [{name: value + 0.1 for name, value in each.items()} for each in vector]
    scores = {"vector": vector, "hybrid": hybrid}
    means, gain = evaluate.means(scores), evaluate.gains(scores)["hybrid - vector"]["hit@1"]
    assert means["vector"]["hit@1"].high > means["hybrid"]["hit@1"].low, "these overlap"
    assert (gain.mean, gain.low, gain.high) == pytest.approx((0.1, 0.1, 0.1)), "and the gain is certain all the same"


def test_questions_that_cannot_be_read_are_no_stack_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = SimpleNamespace(rerank=None, picture=None, json=False, name="papers")
    assert evaluate.run(tmp_path / "none", Gateway().search, options, lambda done, total: None) == 1
    assert "gateway: " in capsys.readouterr().err


def test_a_picture_has_a_bar_for_each_way_and_measure() -> None:
    report = {way: {name: measure([0.0, 1.0]) for name in evaluate.MEASURES} for way in ("vector", "BM25")}
    assert picture(report, "t").count("<path") == 8


def test_a_question_is_right_with_either_spelling() -> None:
    assert Question("q", "a").right == Question("q", "", ("a",)).right == {"a"}
