"""A model is scored by exact search, and the scores are those of sentence-transformers."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import making
from trainer import evaluate as evaluating
from trainer.data.example import Example
from trainer.drift import between, drift
from trainer.errors import InvalidInput
from trainer.evaluate import Vectors, evaluate
from trainer.modelling import load
from trainer.questions import Questions, from_examples


class Planted:
    """An encoder whose vectors are given, by text."""

    def __init__(self, vectors: dict[str, Sequence[float]], *, dot: bool = False) -> None:
        self.vectors, self.dot = vectors, dot

    def documents(self, texts: Sequence[str]) -> Vectors:
        return np.array([self.vectors[text] for text in texts], dtype=np.float32)

    queries = documents


def row(query: str, *positives: str, negatives: tuple[str, ...] = (), score: float | None = None) -> Example:
    return Example(query=query, positives=positives, negatives=negatives, score=score, file="f", line=1)


def words(seed: int, count: int) -> list[str]:
    """Different texts of a few words, all of which the tiny models know."""
    draw = random.Random(seed)
    known = [word for word in making.families.WORDS if word.isalpha()]
    found: dict[str, None] = {}
    while len(found) < count:
        found[" ".join(draw.choices(known, k=draw.randint(3, 9)))] = None
    return list(found)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load(making.encoder(tmp_path_factory.mktemp("model")), "cpu")


def test_every_metric_equals_that_of_sentence_transformers(tiny: Any) -> None:
    from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

    texts, draw = words(0, 160), random.Random(1)
    queries, corpus = texts[:40], texts[40:]
    relevant = [frozenset(draw.sample(range(len(corpus)), draw.randint(1, 15))) for _ in queries]
    depths = [1, 3, 5, 10, 100]
    theirs = InformationRetrievalEvaluator(
        {f"q{n}": text for n, text in enumerate(queries)},
        {f"d{n}": text for n, text in enumerate(corpus)},
        {f"q{n}": {f"d{place}" for place in places} for n, places in enumerate(relevant)},
        mrr_at_k=depths,
        ndcg_at_k=depths,
        accuracy_at_k=depths,
        precision_recall_at_k=depths,
        map_at_k=depths,
        write_csv=False,
    )(tiny)
    ours = evaluate(tiny, Questions(tuple(queries), tuple(corpus), tuple(relevant)))
    kinds = ("mrr", "accuracy", "ndcg", "recall", "precision", "map")
    assert {f"cosine_{kind}@{k}": ours.of(f"{kind}@{k}") for kind in kinds for k in depths} == pytest.approx(
        theirs, abs=1e-9
    )
    assert 0 < ours.of("mrr@10") < 1


def test_blocks_of_any_size_give_the_same_ranks(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = words(2, 90)
    questions = Questions(tuple(texts[:30]), tuple(texts[30:]), tuple(frozenset({n}) for n in range(30)))
    whole = evaluate(tiny, questions)
    monkeypatch.setattr(evaluating, "BLOCK_BYTES", 1600)
    assert evaluate(tiny, questions) == whole


def test_what_is_equally_near_as_a_right_document_stands_before_it() -> None:
    encoder = Planted({"q": (1, 0), "right": (1, 1), "same": (2, 2), "far": (0, 1), "also right": (3, 3)})
    questions = Questions(("q",), ("right", "same", "far", "also right"), (frozenset({0, 3}),))
    (scored,) = evaluate(encoder, questions).each_query
    assert scored.ranks == (2, 3)
    assert scored.found == "same"


def test_a_model_that_gives_one_vector_for_everything_scores_worst() -> None:
    texts = [f"text {n}" for n in range(30)]
    encoder = Planted(dict.fromkeys(texts, (0.3, 0.1, 0.7)))
    questions = Questions(tuple(texts[:5]), tuple(texts[5:]), tuple(frozenset({n}) for n in range(5)))
    scores = evaluate(encoder, questions)
    assert {one.ranks for one in scores.each_query} == {(25,)}
    assert scores.of("mrr@10") == 0


def test_lengths_of_vectors_count_only_for_a_model_of_dot_products() -> None:
    vectors = {"q": (1, 0), "long": (5, 5), "straight": (1, 0)}
    questions = Questions(("q",), ("long", "straight"), (frozenset({1}),))
    assert evaluate(Planted(vectors), questions).of("hit@1") == 1
    assert evaluate(Planted(vectors, dot=True), questions).of("hit@1") == 0


def test_a_vector_that_is_not_finite_is_an_error_and_no_rank_one() -> None:
    encoder = Planted({"q": (1, 0), "right": (float("nan"), 0), "wrong": (1, 0)})
    with pytest.raises(InvalidInput, match="no finite vector for 'right'"):
        evaluate(encoder, Questions(("q",), ("right", "wrong"), (frozenset({0}),)))


def test_progress_counts_every_text_and_ends_at_all(tiny: Any) -> None:
    told: list[tuple[int, int]] = []
    texts = words(3, 20)
    evaluate(
        tiny,
        Questions(tuple(texts[:5]), tuple(texts[5:]), tuple(frozenset({n}) for n in range(5))),
        progress=lambda done, of: told.append((done, of)),
    )
    assert told == [(5, 20), (20, 20)]


def test_a_prompt_stands_before_every_query_and_no_document(tiny: Any) -> None:
    texts = words(4, 20)
    prompted = Questions(tuple(texts[:5]), tuple(texts[5:]), tuple(frozenset({n}) for n in range(5)))
    written = Questions(tuple(f"small {text}" for text in texts[:5]), prompted.corpus, prompted.relevant)
    ranks = [one.ranks for one in evaluate(tiny, prompted, query_prompt="small ").each_query]
    assert ranks == [one.ranks for one in evaluate(tiny, written).each_query]
    assert ranks != [one.ranks for one in evaluate(tiny, prompted).each_query]


def test_a_path_is_loaded(tmp_path: Path) -> None:
    path = making.encoder(tmp_path / "model")
    questions = Questions(("small",), ("small", "other"), (frozenset({0}),))
    assert evaluate(path, questions).of("hit@1") == 1


def test_rows_with_one_query_are_one_query_and_each_text_is_there_once() -> None:
    questions = from_examples(
        [row("a", "x", negatives=("y",)), row("b", "y"), row("a", "z", "x"), row("b", "w", score=0.9)], ["x", "far"]
    )
    assert questions == Questions(
        ("a", "b"), ("x", "y", "z", "w", "far"), (frozenset({0, 2}), frozenset({1, 3})), unanswered=0
    )


def test_a_pair_that_is_rated_low_is_no_answer_and_its_query_is_counted() -> None:
    questions = from_examples([row("a", "x", score=1.0), row("b", "y", score=0.2)])
    assert questions == Questions(("a",), ("x", "y"), (frozenset({0}),), unanswered=1)
    with pytest.raises(InvalidInput, match="no query has a document"):
        from_examples([row("b", "y", score=0.2)])


@pytest.mark.parametrize(
    "changed",
    [
        lambda q: Questions(q.queries[::-1], q.corpus, q.relevant),
        lambda q: Questions(q.queries, q.corpus[::-1], q.relevant),
        lambda q: Questions(q.queries, q.corpus, q.relevant[::-1]),
        lambda q: q.first(1),
    ],
)
def test_other_questions_have_another_digest(changed: Callable[[Questions], Questions]) -> None:
    questions = from_examples([row("a", "x", "v"), row("b", "y")])
    assert questions.digest() == from_examples([row("a", "x", "v"), row("b", "y")]).digest()
    assert changed(questions).digest() != questions.digest()


def test_fewer_queries_are_asked_of_the_whole_corpus() -> None:
    questions = from_examples([row("a", "x"), row("b", "y")]).first(1)
    assert (questions.queries, questions.corpus) == (("a",), ("x", "y"))


def test_a_model_does_not_drift_from_itself_and_another_does(tiny: Any, tmp_path: Path) -> None:
    texts = words(5, 40)
    same = drift(tiny, tiny, texts)
    assert same.cosine is not None
    assert same.cosine.min == pytest.approx(1)
    assert same.overlap == 1
    far = drift(tiny, making.encoder(tmp_path / "other", seed=9), texts)
    assert far.cosine is not None
    assert far.cosine.min <= far.cosine.p5 <= far.cosine.mean < 0.9
    assert far.overlap < 1


def test_models_of_different_dimensions_are_compared_by_what_they_find() -> None:
    vectors = np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32)
    wider = np.concatenate([vectors, np.zeros((50, 4), np.float32)], axis=1)
    found = between(vectors, wider)
    assert (found.cosine, found.overlap, found.k) == (None, 1.0, 10)


def test_the_overlap_is_the_share_of_common_neighbours() -> None:
    angles = np.array([0, 1, 3, 7, 20.0])
    one = np.stack([np.cos(angles / 20), np.sin(angles / 20)], axis=1).astype(np.float32)
    other = one[[4, 1, 2, 3, 0]]  # the first and the last are exchanged
    # nearest of each by hand: 1,0,1,2,3 and 3,2,1,2,1
    assert between(one, other, k=1).overlap == pytest.approx(2 / 5)


def test_drift_is_not_measured_on_one_text() -> None:
    with pytest.raises(InvalidInput):
        between(np.ones((1, 3), np.float32), np.ones((1, 3), np.float32))
