"""Each loss gets the rows that it can learn from, and no label is made up."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests import making
from trainer import losses
from trainer.data.example import Example
from trainer.errors import InvalidInput
from trainer.modelling import load

LABELLED = ("CosineSimilarityLoss", "ContrastiveLoss", "OnlineContrastiveLoss")


def example(query: str, *positives: str, negatives: tuple[str, ...] = (), score: float | None = None) -> Example:
    return Example(query=query, positives=positives, negatives=negatives, score=score, file="f", line=1)


def test_an_unknown_loss_is_an_error_that_names_those_there_are() -> None:
    with pytest.raises(InvalidInput, match="MultipleNegativesRankingLoss") as told:
        losses.kind("Nonsense")
    assert all(name in str(told.value) for name in losses.KINDS)


def test_a_query_with_several_answers_is_a_row_for_each() -> None:
    rows = losses.rows([example("q", "a", "b"), example("r", "c")], "MultipleNegativesRankingLoss")
    assert rows == {"anchor": ["q", "q", "r"], "positive": ["a", "b", "c"]}


def test_plain_pairs_need_no_negatives_where_the_batch_brings_them() -> None:
    assert losses.without_negatives([example("q", "a")], "MultipleNegativesRankingLoss") == []


def test_where_some_examples_have_negatives_the_others_need_them_too() -> None:
    some = [example("q", "a", negatives=("x",)), example("r", "b")]
    assert losses.without_negatives(some, "CachedMultipleNegativesRankingLoss") == [1]


def test_rows_with_fewer_negatives_repeat_theirs() -> None:
    some = [example("q", "a", negatives=("x", "y")), example("r", "b", negatives=("z",))]
    rows = losses.rows(some, "MultipleNegativesRankingLoss")
    assert (rows["negative_1"], rows["negative_2"]) == (["x", "z"], ["y", "z"])


def test_a_triplet_is_made_of_each_answer_and_each_negative() -> None:
    rows = losses.rows([example("q", "a", "b", negatives=("x", "y"))], "TripletLoss")
    assert list(zip(*rows.values(), strict=True)) == [("q", p, n) for p in "ab" for n in "xy"]


@pytest.mark.parametrize("loss", LABELLED)
def test_a_labelled_loss_never_takes_plain_pairs_for_labelled_ones(loss: str) -> None:
    pairs = [example("q", "a"), example("r", "b")]
    assert losses.without_negatives(pairs, loss) == [0, 1]
    with pytest.raises(InvalidInput, match="same label"):
        losses.rows(pairs, loss)


@pytest.mark.parametrize("loss", LABELLED)
def test_scores_that_tell_good_from_bad_are_the_labels_and_nothing_is_mined(loss: str) -> None:
    rated = [example("q", "a", score=0.9), example("q", "b", score=0.1)]
    assert losses.without_negatives(rated, loss) == []
    labels = losses.rows(rated, loss)["label"]
    assert labels == ([0.9, 0.1] if loss == "CosineSimilarityLoss" else [1, 0])


def test_negatives_are_rows_with_the_label_0() -> None:
    rows = losses.rows([example("q", "a", negatives=("x",))], "ContrastiveLoss")
    assert rows == {"anchor": ["q", "q"], "document": ["a", "x"], "label": [1, 0]}


def test_what_a_score_calls_bad_is_a_negative_of_its_query_and_no_answer() -> None:
    rated = [example("q", "a", score=1.0), example("q", "b", score=0.2), example("r", "c")]
    first, second = losses.answered(rated)
    assert (first.positives, first.negatives) == (("a",), ("b",))
    assert second.positives == ("c",)


@pytest.mark.parametrize("loss", [*losses.KINDS])
@pytest.mark.parametrize("matryoshka", [(), (16, 8)])
def test_every_loss_moves_the_weights_also_at_shorter_dimensions(
    tmp_path: Path, loss: str, matryoshka: tuple[int, ...]
) -> None:
    model = load(making.encoder(tmp_path / "m"))
    some = [example("light and sound", "a", negatives=("x",)), example("water", "steam", negatives=("ice",))]
    rows = losses.rows(some, loss)
    made = losses.make(model, loss, mini_batch_size=2, matryoshka=matryoshka)
    features = [model.preprocess(values) for column, values in rows.items() if column != "label"]
    labels = torch.tensor(rows["label"]) if "label" in rows else None
    value = made(features, labels)
    value.backward()
    assert torch.isfinite(value)
    assert any(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in model.parameters())


def test_a_dimension_longer_than_the_vectors_is_an_error(tmp_path: Path) -> None:
    model = load(making.encoder(tmp_path / "m", dim=32))
    assert losses.dimensions(model, (8, 16)) == [32, 16, 8]
    with pytest.raises(InvalidInput, match="32 dimensions"):
        losses.dimensions(model, (64,))
