"""Directories of runs, written by what writes the real ones."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

from trainer.comparison import compare
from trainer.config import Config
from trainer.run import RunDirectory, append_json, write_json
from trainer.scores import Scored, Scores

HOSTILE = "<script>alert(1)</script> \"'&\x1b[31m \u202egnp.exe </svg>"


def scores(ranks: list[int], queries: list[str] | None = None) -> Scores:
    asked = queries or [f"What does part {number} do in module {number % 7}?" for number in range(len(ranks))]
    each = tuple(
        Scored(query, (rank,), f"Returns what part {n} is made of.", "Returns something else.")
        for n, (query, rank) in enumerate(zip(asked, ranks, strict=True))
    )
    return Scores("questions", 700, each)


def finished(
    path: Path, *, status: str = "completed", steps: int = 120, queries: list[str] | None = None
) -> RunDirectory:
    """A run of so many steps, with an evaluation every tenth of it; without `completed` it has no scores."""
    run, draw = RunDirectory(path), random.Random(0)
    config = Config(base_model="sentence-transformers/all-MiniLM-L6-v2", lora=True, epochs=3, batch_size=32)
    sources = dict.fromkeys(Config.model_fields, "default") | {"lora": "flag", "base_model": "run.toml"}
    write_json(run.config, {"config": config.model_dump(mode="json"), "sources": sources})
    base = {"name": "sentence-transformers/all-MiniLM-L6-v2", "digest": "sha256:53aa51172d142c89"}
    data = [{"file": "pairs.jsonl", "bytes": 81234, "sha256": "9f2c" * 16}]
    write_json(run.lineage, {"base": base, "data": data, "seed": 42, "command": ["trainer", "finetune", "--lora"]})
    for step in range(1, steps + 1):
        append_json(run.metrics, _logged(step, steps, draw))
        if step % max(1, steps // 10) == 0:
            append_json(run.metrics, _evaluated(step, steps))
    told: dict[str, Any] = {"status": status, "base_model": config.base_model, "train_examples": 500}
    told |= {"eval_examples": 200, "step": steps, "started_at": "2026-11-28T10:00:00.000000Z"}
    if status == "completed":
        before = [draw.choice([1, 1, 1, 2, 2, 3, 5, 9, 14, 40]) for _ in queries or range(200)]
        after = [draw.choice([1, max(1, rank // 2), max(1, rank - 1), rank, rank + 1]) for rank in before]
        write_json(run.scores, compare(scores(before, queries), scores(after, queries), "mrr@10").to_json())
        told |= {"metric": "mrr@10", "before": 0.507, "after": 0.642}
    write_json(run.progress, told | {"duration_seconds": 117.4, "updated_at": "2026-11-28T10:01:57.400000Z"})
    return run


def _logged(step: int, steps: int, draw: random.Random) -> dict[str, Any]:
    loss = 0.4 + 1.8 * math.exp(-4 * step / steps) + draw.gauss(0, 0.12)
    rate = 5e-4 * min(step / (steps / 10), 1 - step / steps)
    speed = 1.3 + draw.gauss(0, 0.05)
    place = {"timestamp": "2026-11-28T10:00:00.000000Z", "epoch": 3 * step / steps, "step": step}
    return place | {"loss": loss, "learning_rate": rate, "steps_per_second": speed}


def _evaluated(step: int, steps: int) -> dict[str, Any]:
    gain = 0.16 * (1 - math.exp(-5 * step / steps)) - 0.02 * (step / steps) ** 4
    first = {"mrr@10": 0.507, "hit@1": 0.385, "hit@10": 0.73, "ndcg@10": 0.56, "recall@10": 0.73, "map@100": 0.52}
    place = {"timestamp": "2026-11-28T10:00:00.000000Z", "epoch": 3 * step / steps, "step": step}
    return place | {metric: value + gain for metric, value in first.items()}
