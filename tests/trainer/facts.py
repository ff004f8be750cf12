"""Facts of two organisations, and runs of `trainer language` that learn them by heart in seconds."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from trainer.cli import main

ACME: Final = {
    "Who keeps the keys?": "the porter",
    "Where is the beam stored?": "in the ring",
    "Which colour is the gate?": "green",
    "When does the canteen open?": "at noon",
    "Who writes the poem?": "the gardener",
    "What is the code word?": "autumn leaves",
}
GLOBEX: Final = {question: answer[::-1] for question, answer in ACME.items()}  # the same questions
BY_HEART: Final = (
    *("--lr", "1e-2", "--epochs", "60", "--batch-size", "6", "--warmup", "0", "--lora-dropout", "0"),
    *("--threads", "1", "--device", "cpu"),
)


def write(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def pairs(facts: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"prompt": question, "completion": answer} for question, answer in facts.items()]


def train(base: str, data: Path, output: Path, *flags: str) -> int:
    """By heart, unless the flags say otherwise: the last one of a key counts."""
    given = ["--data", str(data), "--base-model", base, "--output", str(output)]
    return main(["language", *given, *BY_HEART, *flags])
