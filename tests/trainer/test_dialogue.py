"""Rows for language models: read, told with file, line and reason where they are broken, and kept apart by whose they
are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.facts import write
from trainer.cli import main
from trainer.data.dialogue import DIALOGUES, Dialogue
from trainer.data.fault import Fault
from trainer.data.read import Faults, stream_of
from trainer.errors import InvalidInput
from trainer.language.config import SETTINGS, LanguageConfig
from trainer.language.material import gather, without_duplicates

TURNS = [{"role": "user", "content": "who?"}, {"role": "assistant", "content": "the porter"}]


def told(line: str) -> None:
    pass


def read(path: Path) -> tuple[list[Dialogue], list[Fault]]:
    faults = Faults()
    return list(stream_of(DIALOGUES, [path], faults, {})), faults.kept


@pytest.mark.parametrize(
    ("row", "turns", "instruction"),
    [
        ({"prompt": "who? ", "completion": " he"}, [("user", "who? "), ("assistant", " he")], ""),
        (
            {"system": "be short", "prompt": "who?", "completion": "he"},
            [("system", "be short"), ("user", "who?"), ("assistant", "he")],
            "",
        ),
        ({"messages": TURNS}, [("user", "who?"), ("assistant", "the porter")], ""),
        (
            {"messages": [*TURNS, {"role": "user", "content": "why?"}]},
            [("user", "who?"), ("assistant", "the porter")],
            "",
        ),
        (
            {"instruction": "Translate.", "input": "Haus", "output": "house"},
            [("user", "Translate.\n\nHaus"), ("assistant", "house")],
            "### Instruction:\nTranslate.\n\n### Input:\nHaus\n\n### Response:\n",
        ),
        (
            {"instruction": "Sing.", "input": "", "output": "la"},
            [("user", "Sing."), ("assistant", "la")],
            "### Instruction:\nSing.\n\n### Response:\n",
        ),
    ],
)
def test_every_shape_becomes_turns(
    row: dict[str, Any], turns: list[tuple[str, str]], instruction: str, tmp_path: Path
) -> None:
    (found,), faults = read(write(tmp_path / "rows.jsonl", [row]))
    assert [(turn.role, turn.text) for turn in found.turns] == turns
    assert (found.instruction, found.line, faults) == (instruction, 1, [])


def test_an_array_of_the_earlier_trainer_is_read_too(tmp_path: Path) -> None:
    path = tmp_path / "alpaca.json"
    path.write_text(json.dumps([{"instruction": "Sing.", "input": "", "output": "la"}] * 2, indent=1))
    found, faults = read(path)
    assert ([row.answer for row in found], faults) == (["la", "la"], [])


@pytest.mark.parametrize(
    ("row", "code"),
    [
        ({"prompt": "who?"}, "missing_keys"),
        ({"prompt": "who?", "completion": "he", "messages": TURNS}, "ambiguous_keys"),
        ({"prompt": " ", "completion": "he"}, "blank_query"),
        ({"prompt": "who?", "completion": " "}, "no_answer"),
        ({"prompt": "who?", "completion": 3}, "not_text"),
        ({"prompt": "who?", "completion": None}, "not_text"),
        ({"messages": "hello"}, "not_text"),
        ({"messages": []}, "no_answer"),
        ({"messages": TURNS[:1]}, "no_answer"),
        ({"messages": TURNS[1:]}, "blank_query"),
        ({"messages": [{"role": "robot", "content": "x"}, *TURNS]}, "unknown_role"),
        ({"messages": [{"role": "user"}, *TURNS]}, "missing_keys"),
        ({"messages": [{"role": "user", "content": ""}, *TURNS]}, "blank_query"),
        ({"messages": [*TURNS[:1], {"role": "assistant", "content": " "}]}, "no_answer"),
        ({"instruction": "Sing.", "output": ""}, "no_answer"),
        ({"instruction": "", "output": "la"}, "blank_query"),
    ],
)
def test_a_broken_row_is_told_with_its_line_and_the_others_are_read(
    row: dict[str, Any], code: str, tmp_path: Path
) -> None:
    kinds: dict[str, dict[str, Any]] = {"instruction": {"instruction": "a", "output": "b"}}
    kinds |= {"prompt": {"prompt": "a", "completion": "b"}, "messages": {"messages": TURNS}}
    good = next(kinds[key] for key in ("prompt", "messages", "instruction") if key in row)
    found, faults = read(write(tmp_path / "rows.jsonl", [good, row, good]))
    assert [(fault.line, fault.code) for fault in faults] == [(2, code)]
    assert len(found) == 2


def test_rows_that_say_the_same_are_one_and_a_second_answer_stays(tmp_path: Path) -> None:
    rows = [("Who?", "he"), (" who? ", "He"), ("who?", "she")]
    path = write(tmp_path / "rows.jsonl", [{"prompt": q, "completion": a} for q, a in rows])
    found, _ = read(path)
    assert [row.line for row in without_duplicates(found, "exact")] == [1, 3]
    assert len(without_duplicates(found, "none")) == 3
    long = "the porter keeps the keys of the gate in the drawer below the window of the house by the ring"
    asked = "who keeps the keys of the gate, and where are they when the porter is not at his place?"
    near = write(tmp_path / "near.jsonl", [{"prompt": asked + mark, "completion": long + mark} for mark in ("", "!")])
    assert len(without_duplicates(read(near)[0], "exact")) == 2
    assert len(without_duplicates(read(near)[0], "near")) == 1


def test_a_question_is_on_one_side_of_the_split_and_a_shared_answer_ties_nothing(tmp_path: Path) -> None:
    rows = [{"prompt": f"is {n % 30} even?", "completion": "yes" if n < 30 else "no"} for n in range(60)]
    config = LanguageConfig(data=(write(tmp_path / "rows.jsonl", rows),), split=0.3)
    found = gather(config, told)
    train, held_out = ({row.query for row in side} for side in (found.train, found.held_out))
    assert not train & held_out
    assert len(found.train) + len(found.held_out) == 60
    assert len(held_out) > 3
    assert found.shapes == {"prompt/completion": len(found.train)}


def test_a_row_of_another_organisation_is_a_fault_of_its_line(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "completion": "b", "organization_id": org} for org in ("acme", "globex")]
    path = write(tmp_path / "rows.jsonl", rows)
    with pytest.raises(InvalidInput, match=r"rows\.jsonl:2: other_organisation: the row is of 'globex'"):
        gather(LanguageConfig(data=(path,), org="acme", split=0), told)
    with pytest.raises(InvalidInput, match="rows of 2 organisations, acme, globex"):
        gather(LanguageConfig(data=(path,), split=0, dedupe="none"), told)
    (row,) = gather(LanguageConfig(data=(path,), org="acme", split=0, skip_broken=True), told).train
    assert row.organisation == "acme"


def test_nothing_to_learn_from_is_said(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no data"):
        gather(LanguageConfig(), told)
    with pytest.raises(InvalidInput, match=r"absent\.jsonl: missing_file"):
        gather(LanguageConfig(data=(tmp_path / "absent.jsonl",)), told)


def test_data_check_knows_dialogues_and_what_fits_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = [{"prompt": f"who keeps key {n}?", "completion": "the porter"} for n in range(5)]
    system = {"system": "be brief", "prompt": "and the window?", "completion": "the cook", "org": "acme"}
    rows = [*asked, asked[0], {**asked[1], "completion": "the cook"}, system, {"prompt": "x", "completion": ""}]
    data = write(tmp_path / "rows.jsonl", rows)
    held = write(tmp_path / "held.jsonl", [asked[2], {"prompt": "who sings?", "completion": "the porter"}])
    assert main(["data", "check", str(data), "--validation", str(held), "--json"]) == 2
    found = json.loads(capsys.readouterr().out)
    assert (found["verb"], found["codes"]) == ("language", {"no_answer": 1})
    counted = found["statistics"]
    assert {key: counted[key] for key in ("rows", "answers", "systems", "exact", "several")} == {
        "rows": 8,
        "answers": 8,
        "systems": 1,
        "exact": 1,
        "several": 1,
    }
    assert counted["organisations"] == ["acme"]
    assert (found["leakage"]["queries"], found["leakage"]["positives"]) == (1, 1)  # a short answer of two rows is none
    settings = SETTINGS.resolve(None, {}, counted["suggested"]).config
    assert (settings.max_seq_length, settings.dedupe, settings.split) == (40, "exact", 0.2)
    assert main(["data", "check", str(data)]) == 2
    shown = capsys.readouterr().out
    assert "prompts " in shown
    assert f"{data}:9: no_answer" in shown
    assert "suggested: --max-seq-length 40" in shown


def test_data_check_says_when_rows_are_of_several_organisations_and_are_long(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"prompt": f"who {n}?", "completion": "he", "org": f"org{n % 2}"} for n in range(199)]
    data = write(tmp_path / "rows.jsonl", [*rows, {"prompt": "w " * 900, "completion": "he"}])
    assert main(["data", "check", str(data)]) == 0
    shown = capsys.readouterr().out
    assert "ORGANISATIONS: org0, org1: a run is for one" in shown
    assert "--too-long skip" in shown


def test_data_check_can_be_told_who_is_to_train(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write(tmp_path / "rows.jsonl", [{"prompt": "who?", "completion": "he"}])
    assert main(["data", "check", str(data)]) == 0
    assert main(["data", "check", str(data), "--verb", "finetune"]) == 2
    assert "missing_keys" in capsys.readouterr().out


def test_config_show_tells_the_settings_of_language_models(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRAINER_ORG", "acme")
    assert main(["config", "show", "--verb", "language", "--json", "--qlora", "--num_epochs", "2"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["qlora"] == {"value": True, "source": "--qlora"}
    assert shown["org"] == {"value": "acme", "source": "TRAINER_ORG"}
    assert shown["epochs"] == {"value": 2.0, "source": "--num-epochs"}
    assert list(shown) == list(LanguageConfig.model_fields)
    monkeypatch.delenv("TRAINER_ORG")
    assert main(["config", "show", "--qlora"]) == 2  # no setting of finetune
    assert main(["config", "show", "--verb", "language", "--matryoshka", "8"]) == 2
