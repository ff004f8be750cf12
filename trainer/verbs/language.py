"""`trainer language`: from prompts and their answers to an adapter of a language model."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from trainer.language.config import LanguageConfig
    from trainer.language.outcome import Outcome

HELP = "train an adapter of a language model on prompts and their answers"
NAMESPACE: Final = "trained"


def add(parser: argparse.ArgumentParser) -> None:
    from trainer.language.config import SETTINGS  # noqa: PLC0415  pydantic, which other verbs do not need

    parser.add_argument("--json", action="store_true", help="the result as JSON")
    SETTINGS.add_flags(parser)


def run(options: argparse.Namespace) -> int:
    from trainer.language.config import SETTINGS  # noqa: PLC0415  keeps `--help` instant
    from trainer.verbs import publishing  # noqa: PLC0415

    resolved = SETTINGS.resolve_options(options)
    config = named(resolved.config)
    publishing.check(config)
    from trainer import quiet  # noqa: PLC0415

    quiet.libraries()
    from trainer.language.job import moved  # noqa: PLC0415
    from trainer.language.train import tune  # noqa: PLC0415  torch and all

    outcome = tune(config, resolved.sources)
    if outcome.first:
        print(json.dumps(_summary(outcome)) if options.json else _told(outcome))
        done = publishing.publish_if_asked(config, outcome.run.final_model, base=outcome.base)
        if done:
            moved(outcome.run, done.path)
    return 0


def named(config: LanguageConfig) -> LanguageConfig:
    """What an organisation's model is published as. Raises InvalidInput for the name of another."""
    from trainer.errors import InvalidInput  # noqa: PLC0415
    from trainer.language.material import check_organisation  # noqa: PLC0415

    if not config.org:
        return config
    check_organisation(config.org)
    wanted = f"{NAMESPACE}/{config.org}"
    if config.publish not in ("", wanted):
        raise InvalidInput(f"--publish {config.publish}: the model of {config.org} is published as {wanted}")
    return config.model_copy(update={"publish": wanted}) if config.models_dir else config


def _summary(outcome: Outcome) -> dict[str, Any]:
    return {
        "job_id": outcome.job,
        "final_model": str(outcome.run.final_model),
        "steps": outcome.steps,
        "train_examples": outcome.train_examples,
        "eval_examples": outcome.eval_examples,
        **outcome.told(),
    }


def _told(outcome: Outcome) -> str:
    lines = [f"{outcome.job}: {outcome.run.final_model}"]
    if outcome.before and outcome.after:
        before, after = outcome.before.judged, outcome.after.judged
        lines += [
            f"loss {outcome.judged}: {before.loss:.4f} before, {after.loss:.4f} after",
            f"perplexity: {before.perplexity:.2f} before, {after.perplexity:.2f} after",
            f"right word for word: {before.exact_match:.0%} before, {after.exact_match:.0%} after",
        ]
    return "\n".join(lines)
