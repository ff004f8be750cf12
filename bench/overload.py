"""More requests than the machine can serve: throughput, waiting, refusals, and whether Retry-After turns out right.

The load is open: requests begin at their time, answered or not. The queue is set to hold QUEUE seconds of the measured
capacity. A refusal says when to come back; that is right when by then all is done that waited when it was refused.
"""

from __future__ import annotations

import bisect
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from bench import directories, texts
from bench.client import percentile
from bench.generator import Target, drive, target
from bench.rounds import Figures, told
from bench.servers import MODEL, gateway
from bench.setting import Setting

TIMES: Final = (1.0, 2.0, 4.0)
TEXTS: Final = 8  # in a request
TOKENS: Final = 16  # in a text
QUEUE: Final = 2.0  # seconds of work that may wait
TOLERANCE: Final = 0.3  # of Retry-After, either way

Row = tuple[float, float, int, float | None, float | None]  # bench.client.Answer: began, ended, status, body, header


def run(setting: Setting) -> dict[str, Any]:
    """The capacity in a closed loop, and what became of one, two and four times that."""
    folder = setting.own("overload")
    directories.publish(folder / "models", MODEL)
    batches = [texts.of_tokens(TOKENS, TEXTS, seed) for seed in range(16)]
    seconds = 2 * setting.seconds
    with gateway(folder / "free", folder / "models", *setting.gateway_options) as served:
        # the best: the first warms up, and four times what a machine could do that stood still is no overload
        tries = [drive(target(served.url, batches), 16, seconds, served) for _ in range(3)]
        capacity = max(tries, key=lambda each: each["requests_per_second"])
    rate = capacity["requests_per_second"]
    queue = max(TEXTS * TOKENS * 4, int(rate * TEXTS * TOKENS * QUEUE))
    options = [f"--max-queue-tokens={queue}", *setting.gateway_options]
    with gateway(folder / "bounded", folder / "models", *options) as served:
        aim = target(served.url, batches)
        drive(aim, 16, setting.seconds, served)  # so that the rate is known that refusals go by
        loads = {}
        for times in TIMES:
            loads[f"{times:g}x"] = judged(_open(aim, times * rate, 4 + seconds, folder), rate)
            told(f"{times:g} times the capacity of {rate:.0f} requests/s")
    return {
        "capacity": capacity,
        "queue_tokens": queue,
        "queue_seconds": queue / (rate * TEXTS * TOKENS),
        "loads": loads,
    }


def _open(aim: Target, rate: float, seconds: float, folder: Path) -> list[Row]:
    bodies, answers = folder / "bodies.jsonl", folder / "answers.jsonl"
    bodies.write_text("\n".join(aim.bodies), encoding="utf-8")
    command = [sys.executable, "-m", "bench.client", "--url", aim.url, "--bodies", str(bodies)]
    command += ["--rate", str(rate), "--seconds", str(seconds), "--answers", str(answers)]
    subprocess.run(command, capture_output=True, check=True)
    return [tuple(json.loads(line)) for line in answers.read_text(encoding="utf-8").splitlines()]


def judged(rows: list[Row], capacity: float) -> Figures:
    """`capacity` in requests a second, times in seconds. The first QUEUE seconds, in which the queue fills, are left
    out of the throughput, and so is what is answered after the last request began."""
    accepted = [row for row in rows if row[2] == 200]
    refused = [row for row in rows if row[2] in {429, 503}]
    last = max(row[0] for row in rows)
    done = sum(QUEUE < row[1] <= last for row in accepted)
    late = sorted(row[1] - row[0] for row in accepted)
    told_off = sorted(row[1] - row[0] for row in refused)
    errors = _retry_errors(accepted, refused)
    return {
        "requests": len(rows),
        "accepted": len(accepted),
        "refused": len(refused),
        "other": len(rows) - len(accepted) - len(refused),
        "throughput": done / (last - QUEUE) / capacity,
        "p50": percentile(late, 0.5),
        "p99": percentile(late, 0.99),
        "refusal_p50": percentile(told_off, 0.5),
        "refusal_p99": percentile(told_off, 0.99),
        "retry_after": statistics.median(errors) if errors else 0.0,
        "retry_after_right": sum(abs(error - 1) <= TOLERANCE for error in errors) / len(errors) if errors else 0.0,
        "without_retry_after": sum(row[3] is None and row[4] is None for row in refused),
    }


def _retry_errors(accepted: list[Row], refused: list[Row]) -> list[float]:
    """For each refusal, what it said over how long what waited then has really taken."""
    ordered = sorted(accepted)
    begins = [row[0] for row in ordered]
    done: list[float] = []  # when all that began up to this one was answered
    for row in ordered:
        done.append(max(row[1], done[-1] if done else 0.0))
    errors = []
    for _, ended, _, body, header in refused:
        said = body if body is not None else header
        before = bisect.bisect_right(begins, ended)
        if said is not None and before and (truth := done[before - 1] - ended) > 0:
            errors.append(said / truth)
    return errors
