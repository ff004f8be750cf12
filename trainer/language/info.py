"""`training_info.json` of an adapter, and the pages for people that are made of it: TRAINING_INFO.md and README.md.
Counts and digests, and no row of the data."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from trainer.language.measure import Measured
from trainer.language.outcome import Outcome
from trainer.language.task import Task
from trainer.run import now, write_json
from trainer.standing import read_json

FILE: Final = "training_info.json"
PAGE: Final = "TRAINING_INFO.md"


def known(task: Task, outcome: Outcome) -> dict[str, Any]:
    """All that is known of a run that has come to its end, but the files of its model."""
    config, chosen, origin = task.config, task.plan, read_json(task.run.lineage)
    trainable, every = task.speaker.model.get_nb_trainable_parameters()
    before, after = outcome.before, outcome.after
    assert before is not None  # the first process has both
    assert after is not None
    samples = task.rows.train
    return {
        "job_id": task.job.id,
        "model": f"trained/{config.org}" if config.org else config.publish or "trained/NAME",
        "organization": config.org,
        "status": "completed",
        "training_date": now(),
        "method": f"{'QLoRA (nf4, double quantization)' if config.qlora else 'LoRA'} of rank {config.lora_r}",
        "base": origin["base"],
        "data": {
            "files": [{"sha256": file["sha256"], "bytes": file["bytes"]} for file in origin["data"]],
            "rows": {"train": outcome.train_examples, "held_out": outcome.eval_examples},
            "shapes": task.material.shapes,
            "tokens": {"all": sum(len(s.ids) for s in samples), "learnt": sum(s.learnt for s in samples)},
        },
        "lora": {
            "r": config.lora_r,
            "alpha": config.lora_alpha,
            "dropout": config.lora_dropout,
            "target_modules": list(task.targets),
        },
        "settings": {
            "epochs": config.epochs,
            "batch_size": chosen.batch_size,
            "gradient_accumulation": config.gradient_accumulation,
            "learning_rate": chosen.learning_rate,
            "warmup_steps": chosen.warmup_steps,
            "weight_decay": config.weight_decay,
            "max_seq_length": chosen.max_seq_length,
            "precision": task.hardware.precision,
            "device": task.hardware.device,
            "seed": config.seed,
        },
        "results": {
            "steps": outcome.steps,
            "duration_minutes": task.job.minutes,
            "trainable_parameters": trainable,
            "parameters": every,
            "trainable_percent": round(100 * trainable / every, 4),
            "held_out": _sides(before.held_out, after.held_out),
            "training_rows": _sides(before.recalled, after.recalled),
        },
        "validation": "Its answers to prompts of nobody's are recorded in model_metadata.json (golden_answers). It is "
        "published only when another process that loads it anew gets the same.",
        "versions": origin["versions"],
    }


def _sides(before: Measured | None, after: Measured | None) -> dict[str, Any] | None:
    return {"before": before.summary(), "after": after.summary()} if before and after else None


def write(folder: Path, told: Mapping[str, Any]) -> None:
    """All three, and the files with their sizes."""
    sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.is_file()}
    document = {**told, "files": sizes}
    write_json(folder / FILE, document)
    (folder / PAGE).write_text(page(document), encoding="utf-8")
    (folder / "README.md").write_text(readme(document), encoding="utf-8")


def description(told: Mapping[str, Any]) -> str:
    owner = f" of {told['organization']}" if told["organization"] else ""
    return f"{told['method']} over {told['base']['name']}{owner}, trained on {told['data']['rows']['train']} rows"


def readme(told: Mapping[str, Any]) -> str:
    """What it is and how to ask it; the rest is in the other page."""
    base = told["base"]["name"]
    lines = [
        *("---", "library_name: peft", "pipeline_tag: text-generation", f"base_model: {base}", "---", ""),
        f"# {description(told)}",
        "",
        f"An adapter: it needs its base, {base}, of just the weights with the sha256 `{told['base']['digest']}`. "
        f"`trainer merge` makes a model of both. [{PAGE}]({PAGE}) has what it was trained with and how it did.",
    ]
    return "\n".join(lines) + "\n"


def page(told: Mapping[str, Any]) -> str:
    data, results = told["data"], told["results"]
    lines = [f"# Training of {told['job_id']}", ""]
    summary = {
        "organization": told["organization"] or "none named",
        "date": told["training_date"],
        "base": told["base"]["name"],
        "weights of the base": f"sha256 {told['base']['digest']}",
        "method": told["method"],
        "status": told["status"],
    }
    lines += _section("Summary", summary)
    counts = {f"rows of {shape}": count for shape, count in data["shapes"].items()}
    rows = {"rows to train on": data["rows"]["train"], "rows held out": data["rows"]["held_out"]}
    tokens = {"tokens": data["tokens"]["all"], "tokens of answers, which are learnt": data["tokens"]["learnt"]}
    files = {f"file {n}": f"{f['bytes']} bytes, sha256 {f['sha256']}" for n, f in enumerate(data["files"], 1)}
    lines += _section("Training data", rows | counts | tokens | files)
    lines += _section("LoRA", {key: _shown(value) for key, value in told["lora"].items()})
    lines += _section("Settings", {key: _shown(value) for key, value in told["settings"].items()})
    lines += _section("Results", dict(_results(results)))
    lines += _section("Files", {name: f"{size} bytes" for name, size in told["files"].items()})
    lines += [*_section("Versions", told["versions"]), "## Usage", "", "```json"]
    said = [{"role": "user", "content": "..."}]
    lines += [json.dumps({"model": f"huggingface:{told['model']}", "messages": said}), "```", ""]
    lines += ["to `POST /v1/chat/completions` of a gateway that has both this directory and its base.", ""]
    lines += ["## Validation", "", told["validation"], ""]
    return "\n".join(lines)


def _results(results: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    yield "steps", results["steps"]
    yield "minutes", results["duration_minutes"]
    yield "trainable parameters", f"{results['trainable_parameters']} of {results['parameters']}"
    yield "trainable", f"{results['trainable_percent']} %"
    for name, sides in (("held out", results["held_out"]), ("of rows trained on", results["training_rows"])):
        for key in ("loss", "perplexity", "exact_match") if sides else ():
            yield f"{key}, {name}", f"{sides['before'][key]:.4f} before, {sides['after'][key]:.4f} after"


def _section(title: str, rows: Mapping[str, Any]) -> Sequence[str]:
    return [f"## {title}", "", "| | |", "|---|---|", *_rows(rows.items()), ""]


def _rows(rows: Iterable[tuple[str, Any]]) -> Iterator[str]:
    for name, value in rows:
        yield f"| {name} | {value} |"


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
