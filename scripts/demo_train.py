"""From nothing to a better model that answers, in minutes on a CPU: what `make demo-train` runs.

    python scripts/demo_train.py [--models-dir models] [--url http://127.0.0.1:8001] [--work .cache/demo-train] [--full]

Pairs are made of the standard library's docstrings; all-MiniLM-L6-v2 is published, fine-tuned with LoRA (with --full in
all of its weights), scored on modules that it has not seen, and replaced on the volume only if it is better. The
gateway at --url serves it; where none is, one is started for as long as this takes. Every command is printed as one
could type it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shlex
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from demo_model import packaged_model

MODEL: Final = "finetuned/docstrings"
QUESTION: Final = "What does copytree do in shutil?"
DEADLINE: Final = 180.0  # seconds for a gateway to start, and for a model to be served


def main() -> int:
    options = arguments()
    options.work.mkdir(parents=True, exist_ok=True)
    options.models_dir.mkdir(parents=True, exist_ok=True)
    data, run = options.work / "data", options.work / "run"
    pairs = ["--train", str(options.train), "--held-out", str(options.held_out)]
    command("scripts/docstring_pairs.py", data, *pairs)
    publish(packaged_model(), options.models_dir, "--display-name", "Docstrings, before")
    with gateway(options) as url:
        before = embed(url, served(url, None))
        train(data, run, options)
        held_out = ["--gate", "--data", str(data / "held_out.jsonl")]
        status = publish(run, options.models_dir, "--display-name", "Docstrings", *held_out)
        if status == 0:
            after = embed(url, served(url, before["generation"]))
            told(url, before, after, run)
        return status


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models-dir", type=Path, default=Path("models"))
    parser.add_argument("--url", default="http://127.0.0.1:8001")
    parser.add_argument("--work", type=Path, default=Path(".cache/demo-train"))
    parser.add_argument("--train", type=int, default=500, help="pairs to train on (%(default)s)")
    parser.add_argument("--held-out", type=int, default=200, help="pairs to score on (%(default)s)")
    parser.add_argument("--epochs", default="3")
    parser.add_argument("--full", action="store_true", help="train all weights, in place of an adapter")
    return parser.parse_args()


def command(*words: object, allowed: tuple[int, ...] = (0,)) -> int:
    """Runs a script or a module of this checkout, as one could type it. A failure ends the demonstration."""
    typed = [str(word) for word in words]
    print(f"\n$ python {shlex.join(typed)}", flush=True)
    status = subprocess.run([sys.executable, *typed], check=False).returncode
    if status not in allowed:
        sys.exit(status)
    return status


def publish(source: Path, models_dir: Path, *options: str) -> int:
    """0, or 3 where the gate stays closed."""
    words = ["-m", "trainer", "publish", source, MODEL, "--models-dir", models_dir, *options]
    return command(*words, allowed=(0, 3))


def train(data: Path, run: Path, options: argparse.Namespace) -> None:
    words: list[object] = ["-m", "trainer", "finetune", "--data", data / "train.jsonl"]
    words += ["--validation", data / "held_out.jsonl", "--base-model", packaged_model(), "--output", run]
    words += [] if options.full else ["--lora"]
    words += ["--epochs", options.epochs, "--batch-size", "32", "--max-seq-length", "48"]
    command(*words, "--eval-every", "16", "--overwrite")  # about once in an epoch: evaluating costs more than training


@contextlib.contextmanager
def gateway(options: argparse.Namespace) -> Iterator[str]:
    """The one that runs, if it watches the volume; else one of our own, on a port of its own."""
    if ready(options.url) and watches(options.url):
        print(f"the gateway at {options.url} watches {options.models_dir}")
        yield options.url
        return
    words = ["-m", "gateway", "serve", "--port=0", "--log-format=json"]
    words += [f"--models-dir={options.models_dir}", f"--state-dir={options.work / 'state'}"]
    print(f"\n$ python {shlex.join(words)} &", flush=True)
    log = options.work / "gateway.log"
    with log.open("w") as stream:
        process = subprocess.Popen([sys.executable, *words], stderr=stream)
    try:
        yield listening(log, process)
    finally:
        process.terminate()
        process.wait()


def watches(url: str) -> bool:
    """Whether the model that was just published comes to this gateway."""
    with contextlib.suppress(TimeoutError):
        return bool(served(url, None, seconds=15))
    return False


def listening(log: Path, process: subprocess.Popen[bytes]) -> str:
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end and process.poll() is None:
        for line in log.read_text().splitlines():
            record = json.loads(line) if line.startswith("{") else {}
            if record.get("event") == "listening":
                return str(record["url"])
        time.sleep(0.1)
    sys.exit(f"the gateway did not start; see {log}")


def ready(url: str) -> bool:
    try:
        return bool(get(f"{url}/healthz"))
    except (OSError, ValueError):
        return False


def served(url: str, other_than: str | None, seconds: float = DEADLINE) -> str:
    """The live generation of the model, once there is one `other_than` that."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        models = {model["id"]: model for model in get(f"{url}/models")["models"]}
        generation = models.get(f"huggingface:{MODEL}", {}).get("generation")
        if generation and generation != other_than:
            return str(generation)
        time.sleep(0.2)
    raise TimeoutError(f"{url} does not serve {MODEL}")


def embed(url: str, generation: str) -> dict[str, Any]:
    body = json.dumps({"model": f"huggingface:{MODEL}@{generation}", "inputs": [QUESTION]}).encode()
    return get(urllib.request.Request(f"{url}/embed", body, {"Content-Type": "application/json"}))


def get(request: str | urllib.request.Request) -> dict[str, Any]:
    with urllib.request.urlopen(request, timeout=DEADLINE) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


def told(url: str, before: dict[str, Any], after: dict[str, Any], run: Path) -> None:
    scores = json.loads((run / "scores.json").read_text())
    gain, metric = scores["difference"], scores["metric"]
    values = [scores[side]["metrics"][metric] for side in ("before", "after")]
    first = ", ".join(f"{value:.4f}" for value in after["embeddings"][0][:4])
    print(f"\n{metric} on modules that it has not seen: {values[0]:.4f} -> {values[1]:.4f},")
    print(f"  a gain of {gain['mean']:+.4f}, 95% interval {gain['low']:+.4f} to {gain['high']:+.4f}")
    print(f"generation {before['generation']} was replaced by {after['generation']} at {url}, which answers now:")
    print(f"  POST /embed {QUESTION!r} -> [{first}, ...] ({after['dim']} numbers)")
    print(f"the run, with its report: {run / 'report.html'}")


if __name__ == "__main__":
    sys.exit(main())
