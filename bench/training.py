"""The trainer's loop beside plain `SentenceTransformerTrainer` with the same settings, and how long a run takes as the
data grows.

    python -m bench --parts training

Both train all weights of MiniLM on the same pairs, evaluate and save as often, and each keeps its best weights in its
own way. Steps per second are of the whole loop, evaluations and checkpoints within it.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

from bench import texts
from bench.rounds import Figures, interleaved, ratios, told
from bench.setting import Setting
from tests import making

OURS: Final = "trainer finetune"
PLAIN: Final = "SentenceTransformerTrainer"
CELL: Final = "MiniLM, all weights, batch 16, 24 tokens"
PAIRS: Final = {True: 64, False: 480}
SIZES: Final = {True: (32, 64), False: (500, 1000, 2000)}
HELD_OUT: Final = 16
TOKENS: Final = 24
BATCH: Final = 16
SPEED: Final = "steps_per_second"


def run(setting: Setting) -> dict[str, Any]:
    """Steps per second of both, round by round; seconds of runs over data that doubles."""
    from trainer import quiet

    quiet.libraries()
    folder = setting.own("training")
    files = _files(folder, PAIRS[setting.quick])
    sides = {OURS: lambda: _ours(folder, files), PLAIN: lambda: _plain(folder, files)}
    cells = interleaved({CELL: sides}, setting.rounds, warm_up=not setting.quick)
    return {
        "cells": cells,
        "ratios": ratios(cells[CELL], OURS, PLAIN, SPEED),
        "sizes": [_sized(folder, count) for count in SIZES[setting.quick]],
        "threads": _threads(),
    }


def _threads() -> int:
    return int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0)))


def _files(folder: Path, pairs: int) -> tuple[Path, Path]:
    made = folder / f"train-{pairs}.jsonl", folder / "held-out.jsonl"
    for path, count, seed in zip(made, (pairs, HELD_OUT), (1, 3), strict=True):
        asked, answers = texts.of_tokens(TOKENS, count, seed), texts.of_tokens(TOKENS, count, seed + 1)
        rows = [{"question": q, "answer": a} for q, a in zip(asked, answers, strict=True)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return made


def _settings(folder: Path, files: tuple[Path, Path], **more: Any) -> Any:
    from trainer.config import Config

    shutil.rmtree(folder / "run", ignore_errors=True)
    return Config(
        data=(files[0],),
        validation=(files[1],),
        base_model=making.minilm(),
        output=folder / "run",
        epochs=1,
        batch_size=BATCH,
        max_seq_length=TOKENS,
        device="cpu",
        threads=_threads(),
        dedupe="none",
        **more,
    )


def _ours(folder: Path, files: tuple[Path, Path]) -> Figures:
    from trainer import train
    from trainer.loop import Loop

    seconds: list[float] = []

    class Timed(Loop):
        def train(self, **options: Any) -> Any:
            began = time.perf_counter()
            done = super().train(**options)
            seconds.append(time.perf_counter() - began)
            return done

    with patch.object(train, "Loop", Timed):
        outcome = train.finetune(_settings(folder, files, eval_every=_every(files), save_every=_every(files)), {})
    return _figures(outcome.steps, seconds[0])


def _figures(steps: int, seconds: float) -> Figures:
    return {SPEED: steps / seconds, "texts_per_second": 2 * BATCH * steps / seconds}


def _every(files: tuple[Path, Path]) -> int:
    """Two evaluations and checkpoints in a run."""
    return max(1, len(files[0].read_text(encoding="utf-8").splitlines()) // BATCH // 2)


def _plain(folder: Path, files: tuple[Path, Path]) -> Figures:
    """As the library's documentation does it."""
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    shutil.rmtree(folder / "plain", ignore_errors=True)
    rows = [json.loads(line) for line in files[0].read_text(encoding="utf-8").splitlines()]
    held = [json.loads(line) for line in files[1].read_text(encoding="utf-8").splitlines()]
    corpus = {str(number): row["answer"] for number, row in enumerate([*held, *rows])}
    evaluator = InformationRetrievalEvaluator(
        {str(number): row["question"] for number, row in enumerate(held)},
        corpus,
        {str(number): {str(number)} for number in range(len(held))},
    )
    model = SentenceTransformer(making.minilm(), device="cpu")
    model.max_seq_length = TOKENS
    every = _every(files)
    options = SentenceTransformerTrainingArguments(
        output_dir=str(folder / "plain"),
        num_train_epochs=1,
        per_device_train_batch_size=BATCH,
        learning_rate=5e-5,
        warmup_steps=0.1,
        seed=42,
        batch_sampler="no_duplicates",
        use_cpu=True,
        eval_strategy="steps",
        eval_steps=every,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=3,
        load_best_model_at_end=True,
        metric_for_best_model="eval_cosine_mrr@10",
        logging_steps=1,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    trainer = SentenceTransformerTrainer(
        model=model,
        args=options,
        train_dataset=Dataset.from_dict(
            {"anchor": [row["question"] for row in rows], "positive": [row["answer"] for row in rows]}
        ),
        loss=MultipleNegativesRankingLoss(model),
        evaluator=evaluator,
    )
    began = time.perf_counter()
    trainer.train()
    return _figures(trainer.state.global_step, time.perf_counter() - began)


def _sized(folder: Path, pairs: int) -> dict[str, float]:
    """The whole command's work, from data to final model."""
    from trainer import train

    began = time.perf_counter()
    every = max(1, pairs // BATCH // 2)
    outcome = train.finetune(_settings(folder, _files(folder, pairs), eval_every=every, save_every=every), {})
    seconds = time.perf_counter() - began
    told(f"{pairs} pairs in {seconds:.0f} s")
    return {"pairs": pairs, "steps": outcome.steps, "seconds": seconds}
