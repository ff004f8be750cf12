"""`kill -9` of a training run, again and again, and after each the same command: the weights must be those of a run
that nothing disturbed, bit for bit.

    python -m bench.drop.trainings --kills 20 --out reports/trainings.json
    python -m bench.drop.trainings --kills 20 --signal TERM

The moment of a kill is counted, not timed: a run opens, makes and renames files below its directory in the same order
each time, and is killed at one of these that is drawn: every other time one in the middle of saving a checkpoint. A
tiny model with dropout, in full and with LoRA. Exit status 1 when a digest differs.
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

from tests import families, making

KINDS: Final = ("full", "lora")
ROWS: Final = 48
FLAGS: Final = (
    *("--epochs", "3", "--batch-size", "8", "--lr", "1e-3", "--eval-every", "4", "--save-every", "3"),
    *("--threads", "1", "--device", "cpu", "--max-seq-length", "16"),
)
WRITING: Final = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir")


@dataclass(frozen=True, slots=True)
class Life:
    """One process: its exit status, or minus the signal that killed it; and the file of each event that it came to."""

    status: int
    events: tuple[str, ...] = ()


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        report = tortured(Path(folder), options.kills, options.seed, signal.Signals[f"SIG{options.signal}"])
    text = json.dumps(report, indent=1) + "\n"
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text, encoding="utf-8")
    print(text, end="")
    return int(bool(report["differing"]))


def _parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python -m bench.drop.trainings", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    top.add_argument("--kills", type=int, default=20)
    top.add_argument("--signal", choices=("KILL", "TERM", "INT"), default="KILL")
    top.add_argument("--seed", type=int, default=0)
    top.add_argument("--out", type=Path)
    return top


def tortured(folder: Path, kills: int, seed: int, how: signal.Signals = signal.SIGKILL) -> dict[str, Any]:
    """Kills in turn runs of all weights and of an adapter."""
    _import_once()
    files = _files(folder)
    chance = random.Random(seed)
    whole = {kind: _undisturbed(folder, files, kind) for kind in KINDS}
    trials = []
    for number in range(kills):
        kind = KINDS[number % len(KINDS)]
        digest, events = whole[kind]
        saving = [place for place, file in enumerate(events) if "/checkpoint-" in file]
        event = chance.choice(saving) if number // len(KINDS) % 2 else chance.randrange(len(events))
        trial = _trial(folder / f"{kind}-{number}", files, kind, event=event, how=how, wanted=digest)
        trials.append({**trial, "saving": event in saving})
        print(f"  {number + 1} of {kills}: {trials[-1]}", file=sys.stderr, flush=True)
    return {
        "kills": kills,
        "signal": how.name,
        "statuses": sorted({trial["status"] for trial in trials}),
        "while_saving": sum(trial["saving"] for trial in trials),
        "broken_checkpoints": sum(trial["broken"] for trial in trials),
        "resumed": sum(trial["resumed"] for trial in trials),
        "differing": [trial for trial in trials if not trial["equal"]],
        "digests": {kind: digest for kind, (digest, _) in whole.items()},
    }


def _import_once() -> None:
    """Each life is a fork of this process: what it imports is there already."""
    from trainer import quiet

    quiet.libraries()
    import trainer.train  # noqa: F401  what a life needs


def _files(folder: Path) -> list[str]:
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
    return ["--data", str(path), "--base-model", base]


def _undisturbed(folder: Path, files: list[str], kind: str) -> tuple[str, tuple[str, ...]]:
    output = folder / f"{kind}-whole"
    life = _live(output, files, kind)
    if life.status:
        raise RuntimeError(
            f"the undisturbed run ended with {life.status}: {(output / 'training_progress.json').read_text()}"
        )
    return digest_of(output / "final_model"), life.events


def _trial(
    output: Path, files: list[str], kind: str, *, event: int, how: signal.Signals, wanted: str
) -> dict[str, Any]:
    """Ended at `event`, then run to its end by the same command."""
    first = _live(output, files, kind, event, how)
    status = _progress(output)
    resumed = any((output / "checkpoints").glob("checkpoint-*"))
    # killed after its last word, a run is complete, and is not run again
    second = Life(0) if status == "completed" else _live(output, files, kind)
    found = digest_of(output / "final_model") if not second.status else f"exit status {second.status}"
    broken = len(list((output / "checkpoints").glob("broken-*")))
    shutil.rmtree(output)
    told = {"kind": kind, "event": event, "status": first.status, "progress": status, "resumed": resumed}
    return {**told, "broken": broken, "equal": found == wanted, "digest": found}


def _progress(output: Path) -> str:
    path = output / "training_progress.json"
    return str(json.loads(path.read_text(encoding="utf-8"))["status"]) if path.exists() else ""


def _live(output: Path, files: list[str], kind: str, event: int = -1, how: signal.Signals = signal.SIGKILL) -> Life:
    """A run in a process of its own, which gets a signal when it comes to `event`."""
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(told)
        _run(
            ["finetune", *files, *FLAGS, "--output", str(output), *(["--lora"] if kind == "lora" else [])],
            event,
            how,
            tell,
        )
    os.close(tell)
    with os.fdopen(told, "rb") as stream:
        said = stream.read()
    _, status = os.waitpid(child, 0)
    return Life(os.waitstatus_to_exitcode(status), tuple(json.loads(said)) if said else ())


def _run(command: list[str], event: int, how: signal.Signals, tell: int) -> None:
    """The child: never returns."""
    from trainer.cli import main as trainer

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
    return hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
