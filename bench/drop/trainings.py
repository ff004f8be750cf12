"""`kill -9` of a training run, again and again, and after each the same command: the weights must be those of a run
that nothing disturbed, bit for bit.

    python -m bench.drop.trainings --kills 20 --out reports/trainings.json
    python -m bench.drop.trainings --kills 20 --signal TERM

The moment of a kill is counted, not timed: a run opens, makes and renames files below its directory in the same order
each time, and is killed at one of these that is drawn: every other time one in the middle of saving a checkpoint. A
tiny model with dropout, in full and with LoRA, and an adapter of a tiny language model. What a killed run left says of
itself must be true. Exit status 1 when a digest differs, or something was not true.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests import families, making, speaking

KINDS: Final = ("full", "lora", "language")
ROWS: Final = 48
FLAGS: Final = (
    *("--epochs", "3", "--batch-size", "8", "--lr", "1e-3", "--eval-every", "4", "--save-every", "3"),
    *("--threads", "1", "--device", "cpu"),
)
WORKING: Final = ("", "queued", "training", "running")  # what a killed run may say: it did not come to its end
WRITING: Final = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir")


@dataclass(frozen=True, slots=True)
class Life:
    """One process: its exit status, or minus the signal that killed it; and the file of each event that it came to."""

    status: int
    events: tuple[str, ...] = ()


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        how = signal.Signals[f"SIG{options.signal}"]
        report = tortured(Path(folder), options.kills, options.seed, how, options.kinds)
    text = json.dumps(report, indent=1) + "\n"
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text, encoding="utf-8")
    print(text, end="")
    return int(bool(report["differing"] or report["untrue"]))


def _parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python -m bench.drop.trainings", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    top.add_argument("--kills", type=int, default=20)
    top.add_argument("--signal", choices=("KILL", "TERM", "INT"), default="KILL")
    top.add_argument("--seed", type=int, default=0)
    top.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    top.add_argument("--out", type=Path)
    return top


def tortured(
    folder: Path,
    kills: int,
    seed: int,
    how: signal.Signals = signal.SIGKILL,
    kinds: Sequence[str] = KINDS,
) -> dict[str, Any]:
    """Kills runs of these kinds in turn."""
    _import_once()
    commands = _commands(folder)
    chance = random.Random(seed)
    whole = {kind: _undisturbed(folder / f"{kind}-whole", commands[kind]) for kind in kinds}
    trials = []
    for number in range(kills):
        kind = kinds[number % len(kinds)]
        digest, events = whole[kind]
        saving = [place for place, file in enumerate(events) if "/checkpoint-" in file]
        anywhere = number // len(kinds) % 2 == (how != signal.SIGKILL)
        # what asks a run to end finds it with steps to go, every other time at least
        early = saving if how == signal.SIGKILL else saving[: len(saving) // 2]
        event = chance.randrange(len(events)) if anywhere else chance.choice(early)
        trial = _trial(folder / f"{kind}-{number}", commands[kind], event=event, how=how, wanted=digest)
        trials.append({"kind": kind, **trial, "saving": event in saving})
        print(f"  {number + 1} of {kills}: {trials[-1]}", file=sys.stderr, flush=True)
    return {
        "kills": kills,
        "signal": how.name,
        "statuses": sorted({trial["status"] for trial in trials}),
        "while_saving": sum(trial["saving"] for trial in trials),
        "broken_checkpoints": sum(trial["broken"] for trial in trials),
        "resumed": sum(trial["resumed"] for trial in trials),
        "differing": [trial for trial in trials if not trial["equal"]],
        "untrue": [trial for trial in trials if trial["untrue"]],
        "digests": {kind: digest for kind, (digest, _) in whole.items()},
    }


def _import_once() -> None:
    """Each life is a fork of this process: what it imports is there already."""
    from trainer import quiet

    quiet.libraries()
    import trainer.language.train  # what a life needs
    import trainer.train  # noqa: F401


def _commands(folder: Path) -> dict[str, list[str]]:
    """Of each kind, but where it writes to."""
    chance = random.Random(1)
    words = list(families.WORDS)
    path = folder / "pairs.jsonl"
    rows = [
        {"question": " ".join(chance.sample(words, 4)), "answer": " ".join(chance.sample(words, 6))}
        for _ in range(ROWS)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    dropout = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
    base = making.encoder(folder / "base" / "tiny", config=dropout)
    finetune = ["finetune", "--data", str(path), "--base-model", base, "--max-seq-length", "16", *FLAGS]
    said = folder / "said.jsonl"
    rows = [{"prompt": row["question"], "completion": row["answer"]} for row in rows]
    said.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    speaker = speaking.language_model(folder / "base" / "speaker")
    language = ["language", "--data", str(said), "--base-model", speaker, "--org", "acme", *FLAGS]
    return {"full": finetune, "lora": [*finetune, "--lora"], "language": language}


def _undisturbed(output: Path, command: list[str]) -> tuple[str, tuple[str, ...]]:
    life = _live(output, command)
    if life.status:
        raise RuntimeError(
            f"the undisturbed run ended with {life.status}: {(output / 'training_progress.json').read_text()}"
        )
    return digest_of(output / "final_model"), life.events


def _trial(output: Path, command: list[str], *, event: int, how: signal.Signals, wanted: str) -> dict[str, Any]:
    """Ended at `event`, then run to its end by the same command."""
    first = _live(output, command, event, how)
    left = _progress(output)
    untrue = _untrue(output, left, how)
    status = str(left.get("status") or "")
    resumed = any((output / "checkpoints").glob("checkpoint-*"))
    # killed after its last word, a run is complete, and is not run again
    second = Life(0) if status == "completed" else _live(output, command)
    found = digest_of(output / "final_model") if not second.status else f"exit status {second.status}"
    end = _progress(output)
    untrue += [
        f"{key} was {left[key]}" for key in ("job_id", "created_at") if key in left and left[key] != end.get(key)
    ]
    untrue += [f"at the end: {end}"] * (end.get("status") != "completed" or not (output / "final_model").is_dir())
    broken = len(list((output / "checkpoints").glob("broken-*")))
    shutil.rmtree(output)
    told = {"event": event, "status": first.status, "progress": status, "resumed": resumed, "untrue": untrue}
    return {**told, "broken": broken, "equal": found == wanted, "digest": found}


def _progress(output: Path) -> dict[str, Any]:
    path = output / "training_progress.json"
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def _untrue(output: Path, left: dict[str, Any], how: signal.Signals) -> list[str]:
    """What a run that was ended says of itself, and is not so."""
    status, location = left.get("status", ""), left.get("model_location")
    ended = status == "completed" and (output / "final_model").is_dir()
    working = status in WORKING if how == signal.SIGKILL else status in ("interrupted", "cancelled")
    found = [] if ended or working else [f"the status is {status!r}"]
    if "job_id" in left and (location is not None) != (status == "completed"):
        found.append(f"{status}, and the model is in {location}")
    return found


def _live(output: Path, command: list[str], event: int = -1, how: signal.Signals = signal.SIGKILL) -> Life:
    """A run in a process of its own, which gets a signal when it comes to `event`."""
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(told)
        _run([*command, "--output", str(output)], event, how, tell)
    os.close(tell)
    with os.fdopen(told, "rb") as stream:
        said = stream.read()
    _, status = os.waitpid(child, 0)
    return Life(os.waitstatus_to_exitcode(status), tuple(json.loads(said)) if said else ())


def _run(command: list[str], event: int, how: signal.Signals, tell: int) -> None:
    """The child: never returns."""
    from trainer import journal
    from trainer.cli import main as trainer

    # a run writes how far it is every two seconds: at every step, or how fast it runs would decide what it writes
    journal.EVERY_SECONDS = 0.0  # type: ignore[misc]  # Final
    below = command[command.index("--output") + 1]
    seen: list[str] = []

    def watch(name: str, arguments: tuple[Any, ...]) -> None:
        if name in WRITING and str(arguments[0]).startswith(below):
            seen.append(str(arguments[0]))
            if len(seen) == event + 1:
                os.kill(os.getpid(), how)

    status = 70
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        sys.addaudithook(watch)
        status = trainer(command)
        with os.fdopen(tell, "w") as stream:
            stream.write(json.dumps(seen))
    finally:
        os._exit(status)


def digest_of(model: Path) -> str:
    """Of the weights alone: the card has the hour in it."""
    path = next(path for name in ("model", "adapter_model") if (path := model / f"{name}.safetensors").exists())
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
