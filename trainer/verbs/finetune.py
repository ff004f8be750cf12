"""`trainer finetune`: from examples to a model that answers better, with the scores that say so."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any, Final

from trainer.console import say

if TYPE_CHECKING:
    from trainer.config import Config
    from trainer.train import Outcome

HELP = "fine-tune an embedding model on examples"
SENTENCES: Final = (
    "What is the boiling point of water?",
    "Water boils at 100 degrees Celsius at sea level.",
    "The invoice was paid on the third of March.",
)


def add(parser: argparse.ArgumentParser) -> None:
    from trainer.config import add_flags  # noqa: PLC0415  pydantic, which other verbs do not need

    parser.add_argument(
        "--test-only",
        "--test_only",
        action="store_true",
        help="train nothing: encode three sentences with the base, or the finished model, and tell shape and lengths",
    )
    parser.add_argument("--json", action="store_true", help="the result as JSON")
    add_flags(parser)


def run(options: argparse.Namespace) -> int:
    from trainer.config import resolve_options  # noqa: PLC0415  keeps `--help` instant
    from trainer.verbs.publishing import check, publish_if_asked  # noqa: PLC0415

    resolved = resolve_options(options)
    if options.test_only:
        return _test(resolved.config)
    check(resolved.config)
    from trainer import quiet  # noqa: PLC0415

    quiet.libraries()
    from trainer.train import finetune  # noqa: PLC0415  torch and all

    outcome = finetune(resolved.config, resolved.sources)
    if outcome.first:
        print(json.dumps(_summary(outcome)) if options.json else _told(outcome))
        publish_if_asked(resolved.config, outcome.run.final_model)
    return 0


def _summary(outcome: Outcome) -> dict[str, Any]:
    return {
        "final_model": str(outcome.run.final_model),
        "steps": outcome.steps,
        "train_examples": outcome.train_examples,
        "eval_examples": outcome.eval_examples,
        **outcome.told(),
    }


def _told(outcome: Outcome) -> str:
    lines = [f"model: {outcome.run.final_model}"]
    if outcome.before and outcome.after and outcome.difference:
        before, after = outcome.before.of(outcome.metric), outcome.after.of(outcome.metric)
        change = outcome.difference
        lines.append(
            f"{outcome.metric}: {before:.4f} before, {after:.4f} after, {change.mean:+.4f} "
            f"({change.low:+.4f} to {change.high:+.4f})"
        )
    return "\n".join(lines)


def _test(config: Config) -> int:
    import numpy as np  # noqa: PLC0415

    from trainer import modelling  # noqa: PLC0415
    from trainer.hardware import find  # noqa: PLC0415

    made = config.output / "final_model" if config.output else None
    directory = made if made and made.is_dir() else modelling.find(config.base_model)
    model = modelling.load(directory, find(config.device, threads=config.threads).device)
    vectors = model.encode(list(SENTENCES), show_progress_bar=False)
    say(f"{directory}: {len(SENTENCES)} sentences become an array of {vectors.shape}")
    print(json.dumps({"shape": list(vectors.shape), "norms": [float(n) for n in np.linalg.norm(vectors, axis=1)]}))
    return 0
