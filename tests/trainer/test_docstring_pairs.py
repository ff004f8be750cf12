"""The pairs that are made of docstrings: what they ask, and that nothing is on both sides."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from trainer.data import beir
from trainer.data.read import read

SCRIPT = Path(__file__).parents[2] / "scripts" / "docstring_pairs.py"


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_names_ask_for_docstrings_and_no_module_is_on_both_sides(tmp_path: Path) -> None:
    for number in range(30):
        folder = tmp_path / "lib" / f"part{number}"
        folder.mkdir(parents=True)
        for inner in ("first", "second"):
            text = f'def openFile():\n    """Opens what part {number} keeps as {inner}."""\n'
            text += f'def _hidden():\n    """Is of part {number} {inner}, and never asked for."""\n'
            (folder / f"{inner}.py").write_text(text)
    out = tmp_path / "out"
    subprocess.run([sys.executable, SCRIPT, out, "--root", tmp_path / "lib", "--train", "30"], check=True)
    train, held_out, corpus = (rows(out / f"{name}.jsonl") for name in ("train", "held_out", "corpus"))
    assert len(train) == 30
    assert not {row["file_name"] for row in train} & {row["file_name"] for row in held_out}
    asked = {row["question"]: row["answer"] for row in train + held_out}
    number, inner = train[0]["file_name"].removeprefix("part"), train[0]["answer"].split()[-1].rstrip(".")
    assert asked[f"What does open file do in part {number} {inner}?"] == train[0]["answer"]
    assert [each["text"] for each in corpus] == [each["answer"] for each in train + held_out]
    assert len(read([out / "train.jsonl"]).examples) == 30
    assert len(beir.documents(out / "corpus.jsonl")) == len(corpus)
