"""Metrics from ranks, and how sure one may be of them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from trainer.bootstrap import interval, paired
from trainer.errors import InvalidInput
from trainer.scores import Scored, Scores, named


def scores(*ranks: Sequence[int], documents: int = 100, questions: str = "same") -> Scores:
    each = tuple(Scored(f"query {n}", tuple(of), "right", "found") for n, of in enumerate(ranks))
    return Scores(questions, documents, each)


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("mrr@10", (1 / 2 + 0) / 2),
        ("MRR@20", (1 / 2 + 1 / 11) / 2),
        ("mrr", (1 / 2 + 1 / 11) / 2),
        ("hit@1", 0.0),
        ("accuracy@2", 0.5),
        ("recall@4", (2 / 3 + 0) / 2),
        ("precision@4", (2 / 4 + 0) / 2),
        ("ndcg@4", (1 / math.log2(3) + 1 / math.log2(5)) / (1 + 1 / math.log2(3) + 1 / 2) / 2),
        ("map@4", (1 / 2 + 2 / 4) / 3 / 2),
        ("map", ((1 / 2 + 2 / 4 + 3 / 50) / 3 + 1 / 11) / 2),
        ("map@2", (1 / 2) / 2 / 2),
    ],
)
def test_every_metric_follows_from_the_ranks(metric: str, expected: float) -> None:
    assert scores((2, 4, 50), (11,)).of(metric) == pytest.approx(expected)


@pytest.mark.parametrize("metric", ["", "mrr@", "mrr@0", "mrr@-1", "mrr@1.5", "f1@10", "mrr@10@5", "mrr@9999999999"])
def test_an_unknown_metric_is_refused_with_those_that_there_are(metric: str) -> None:
    with pytest.raises(InvalidInput, match="ndcg@K"):
        named(metric)


def test_scores_are_the_same_after_a_round_through_json() -> None:
    before = scores((2, 4, 50), (11,))
    assert Scores.from_json(json.loads(json.dumps(before.to_json()))) == before


@pytest.mark.parametrize(
    "document",
    [
        None,
        [],
        {},
        {"questions": "q", "documents": 3, "unanswered": 0, "each_query": []},
        {"questions": "q", "documents": "x", "unanswered": 0, "each_query": [{}]},
        scores((1,)).to_json() | {"each_query": [{"query": "q", "ranks": [], "answer": "", "found": ""}]},
        scores((1,)).to_json() | {"each_query": [{"query": "q", "ranks": [0], "answer": "", "found": ""}]},
        scores((1,)).to_json() | {"each_query": [{"query": "q", "ranks": [3, 2], "answer": "", "found": ""}]},
    ],
)
def test_what_is_no_scores_is_refused(document: Any) -> None:
    with pytest.raises(InvalidInput):
        Scores.from_json(document)


def test_a_clear_gain_has_an_interval_above_zero_and_a_small_p() -> None:
    before = scores(*[(rank,) for rank in [4, 5, 9, 3, 2] * 20])
    after = scores(*[(rank,) for rank in [1, 2, 8, 1, 2] * 20])
    gain = paired(before, after, "mrr@10")
    assert gain.mean == pytest.approx(after.of("mrr@10") - before.of("mrr@10"))
    assert 0 < gain.low < gain.mean < gain.high
    assert gain.p < 0.001
    loss = paired(after, before, "mrr@10")
    assert loss.high < 0
    assert loss.mean == -gain.mean


def test_no_difference_is_never_called_one() -> None:
    same = scores(*[(rank,) for rank in range(1, 40)])
    none = paired(same, same, "mrr@10")
    assert (none.mean, none.low, none.high, none.p) == (0.0, 0.0, 0.0, 1.0)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(1)
    covered = 0
    for _ in range(200):
        drawn = scores(*[(1,) if hit else (50,) for hit in generator.random(120) < 0.6])
        low, high = interval(drawn, "hit@1")
        covered += low <= 0.6 <= high
    assert 0.9 * 200 <= covered <= 0.99 * 200


def test_the_interval_is_that_of_drawing_queries_one_by_one() -> None:
    values = np.array([1 / rank for rank in [1, 1, 2, 3, 5, 8, 10, 4, 1, 2] * 6])
    drawn = scores(*[(round(1 / value),) for value in values])
    picks = np.random.default_rng(7).integers(0, len(values), (20_000, len(values)))
    expected = np.percentile(values[picks].mean(axis=1), (2.5, 97.5))
    assert interval(drawn, "mrr@10") == pytest.approx(tuple(expected), abs=0.005)


def test_the_same_scores_give_the_same_interval() -> None:
    before, after = scores((3,), (1,), (2,)), scores((1,), (2,), (2,))
    assert paired(before, after, "ndcg@10") == paired(before, after, "ndcg@10")
    assert paired(before, after, "ndcg@10", seed=1).mean == paired(before, after, "ndcg@10").mean


def test_scores_of_different_questions_are_not_compared() -> None:
    with pytest.raises(InvalidInput, match="different questions"):
        paired(scores((1,)), scores((1,), questions="other"), "mrr@10")
