"""A fine-tune works: on words that no model knows, from luck to nearly certain, in seconds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.trainer import jargon
from trainer.cli import main

FLAGS = (
    *("--lr", "1e-3", "--batch-size", "16", "--epochs", "3", "--max-seq-length", "24"),
    *("--threads", "1", "--device", "cpu", "--eval-every", "18"),
)


def test_an_adapter_learns_a_jargon_that_its_base_does_not_know(
    minilm: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = jargon.write(tmp_path)
    data = ("--data", str(files.train), "--validation", str(files.held_out), "--base-model", minilm)
    assert main(["finetune", *data, "--output", str(tmp_path / "run"), "--use-lora", "--json", *FLAGS]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["before"] <= 0.15
    assert told["after"] >= 0.6
    assert told["difference"]["low"] > 0
