"""Hard negatives are near, and never answers."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import families, making
from trainer.cli import main
from trainer.data.example import Example
from trainer.data.read import read
from trainer.errors import InvalidInput
from trainer.mining import Rules, mine

# the query points along the first axis; each document at its own angle to it
SIMILAR = {"query": 1.0, "answer": 0.9, "nearly": 0.88, "hard": 0.8, "middling": 0.5, "far": 0.1}


class Fan:
    """A model whose documents have a planted similarity to every query, and are otherwise unlike one another."""

    def __init__(self, similar: dict[str, float]) -> None:
        self.similar = similar

    def encode(self, texts: list[str], *, prompt: str | None, **_: Any) -> torch.Tensor:
        made = torch.zeros(len(texts), 1 + len(self.similar))
        for row, text in enumerate(texts):
            near = self.similar[(prompt or "") + text]
            made[row, 0] = near
            made[row, 1 + list(self.similar).index((prompt or "") + text)] = (1 - near * near) ** 0.5
        return made


def asked(*positives: str, query: str = "query", negatives: tuple[str, ...] = ()) -> Example:
    return Example(query=query, positives=positives, negatives=negatives, file="f", line=1)


def negatives(examples: list[Example], rules: Rules, similar: dict[str, float] = SIMILAR) -> list[tuple[str, ...]]:
    corpus = [text for text in similar if text != "query"]
    return [example.negatives for example in mine(Fan(similar), examples, corpus, rules).examples]


def test_the_nearest_document_below_the_margin_is_taken() -> None:
    assert negatives([asked("answer")], Rules(count=1)) == [("hard",)]


def test_without_a_margin_what_scores_nearly_as_high_is_taken_too() -> None:
    assert negatives([asked("answer")], Rules(count=2, relative_margin=0)) == [("nearly", "hard")]


def test_the_range_leaves_out_the_nearest_and_the_farthest() -> None:
    rules = Rules(count=9, range_min=1, range_max=3)  # of nearly, hard, middling, far: the second and the third
    assert negatives([asked("answer")], rules) == [("hard", "middling")]


def test_a_greatest_score_bounds_the_similarity() -> None:
    assert negatives([asked("answer")], Rules(count=1, max_score=0.6)) == [("middling",)]


def test_what_answers_the_query_in_any_row_is_no_negative() -> None:
    rows = [asked("answer"), asked("hard", query="query"), asked("far")]
    assert all("hard" not in found and "far" not in found for found in negatives(rows, Rules(count=3))[:1])


def test_a_document_that_reads_like_an_answer_is_no_negative() -> None:
    similar = {"query": 1.0, "Answer": 0.9, "  ANSWER ": 0.7, "hard": 0.6}
    assert negatives([asked("Answer")], Rules(count=3), similar) == [("hard",)]


def test_a_twin_of_an_answer_is_no_negative() -> None:
    class Twins(Fan):
        def encode(self, texts: list[str], *, prompt: str | None, **_: Any) -> torch.Tensor:
            made = super().encode(texts, prompt=prompt)
            for row, text in enumerate(texts):
                if text == "hard":  # turned towards the answer, and as near to the query as before
                    made[row] = torch.zeros(made.shape[1])
                    made[row, 0], made[row, 1 + list(self.similar).index("answer")] = 0.8, 0.6
            return made

    corpus = [text for text in SIMILAR if text != "query"]
    found = mine(Twins(SIMILAR), [asked("answer")], corpus, Rules(count=1)).examples[0].negatives
    assert found == ("middling",)


def test_negatives_that_an_example_has_stay_and_come_first() -> None:
    assert negatives([asked("answer", negatives=("far",))], Rules(count=1)) == [("far", "hard")]


def test_examples_that_nothing_fits_are_counted() -> None:
    mined = mine(Fan(SIMILAR), [asked("far")], ["answer", "hard"], Rules(count=1))
    assert (mined.none, mined.short) == (1, 1)


def test_what_is_drawn_is_drawn_again_from_the_same_seed() -> None:
    rules = [Rules(count=1, sampling="random", seed=seed) for seed in range(8)]
    drawn = [negatives([asked("answer")], rule) for rule in rules]
    assert drawn == [negatives([asked("answer")], rule) for rule in rules]
    assert len({str(found) for found in drawn}) > 1


def test_prompts_stand_before_queries_and_documents() -> None:
    similar = {"Q: query": 1.0, "D: answer": 0.9, "D: hard": 0.5}
    mined = mine(Fan(similar), [asked("answer")], ["hard"], Rules(count=1), query_prompt="Q: ", document_prompt="D: ")
    assert mined.examples[0].negatives == ("hard",)


@pytest.mark.parametrize(
    "wrong", [{"count": 0}, {"range_min": 5, "range_max": 5}, {"relative_margin": 1.0}, {"sampling": "best"}]
)
def test_rules_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="mining"):
        Rules(**wrong)


def test_mined_examples_are_written_in_a_form_that_reading_gives_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"question": f"{one} {other}", "answer": f"{other} {one} {other}"}
        for one, other in itertools.pairwise(families.WORDS[10:22])
    ]
    data, out, more = tmp_path / "pairs.jsonl", tmp_path / "mined.jsonl", tmp_path / "more.txt"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    more.write_text("light\n\nwater\n")
    base = making.encoder(tmp_path / "m")
    command = ["mine", "--data", str(data), "--corpus", str(more), "--base-model", base, "--out", str(out)]
    assert main([*command, "--threads", "1", "--device", "cpu", "--count", "2", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    examples = read([out]).examples
    assert told["examples"] == len(examples) == len(rows)
    assert told["negatives"] == sum(len(example.negatives) for example in examples) > 0
    known = {row["answer"] for row in rows} | {"light", "water"}
    assert all(set(example.negatives) <= known - set(example.positives) for example in examples)
    assert main([*command, "--threads", "1", "--device", "cpu"]) == 2
    assert "is there already" in capsys.readouterr().err
