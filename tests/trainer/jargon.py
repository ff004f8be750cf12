"""Pairs in a language that no model knows: invented words for things and deeds.

A base ranks their answers by luck. Whoever has learned the words, from other combinations of them, finds the held-out
ones: a fine-tune that works is told from one that does not within seconds, and certainly.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Final

NOUNS: Final = (
    *("invoice", "report", "customer", "order", "ticket", "contract", "project", "warehouse", "employee", "shipment"),
    *("budget", "meeting", "server", "database", "license", "campaign", "refund", "password", "schedule", "supplier"),
)
VERBS: Final = (
    *("create", "delete", "archive", "print", "approve", "export"),
    *("share", "rename", "lock", "duplicate", "restore", "translate"),
)


@dataclass(frozen=True, slots=True)
class Files:
    train: Path
    held_out: Path


def write(folder: Path, *, train: int = 180, held_out: int = 60, seed: int = 0) -> Files:
    """JSONL of questions and answers: so many combinations to train on, and other ones held out."""
    drawn = random.Random(seed)
    words = _words(len(NOUNS) + len(VERBS), drawn)
    things, deeds = dict(zip(NOUNS, words, strict=False)), dict(zip(VERBS, words[len(NOUNS) :], strict=True))
    rows = [
        {
            "question": f"How do I {deeds[verb]} the {things[noun]}?",
            "answer": f"To {verb} the {noun}, open the {noun} page and press {verb}.",
        }
        for noun in NOUNS
        for verb in VERBS
    ]
    drawn.shuffle(rows)
    made = Files(folder / "train.jsonl", folder / "held_out.jsonl")
    for path, chosen in ((made.train, rows[:train]), (made.held_out, rows[train : train + held_out])):
        path.write_text("".join(json.dumps(row) + "\n" for row in chosen), encoding="utf-8")
    return made


def _words(count: int, drawn: random.Random) -> list[str]:
    made: dict[str, None] = {}
    while len(made) < count:
        made["".join(drawn.choice("bdfgklmnprstvz") + drawn.choice("aeiou") for _ in range(3))] = None
    return list(made)
