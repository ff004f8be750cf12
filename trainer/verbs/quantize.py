"""`trainer quantize`: the same model in fewer bytes, measured before anybody may have it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.console import progress, say
from trainer.errors import InvalidInput
from trainer.verbs import publishing

if TYPE_CHECKING:
    from trainer.quantize import Quantized
    from trainer.questions import Questions

HELP = "make the same model in fewer bytes, measured before anybody may have it"
FORMS = ("bnb-int8", "bnb-nf4", "torchao-int8", "openvino-int8", "bf16")


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, nargs="?", metavar="MODEL", help="a float32 model, or a run's directory")
    parser.add_argument("--model-path", type=Path, metavar="DIR", help=argparse.SUPPRESS)  # of the earlier tool
    parser.add_argument(
        "--output", "--output-path", "--output-dir", type=Path, required=True, metavar="DIR", help="the quantized model"
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--form", choices=FORMS, help="what the weights become (bnb-int8)")
    which.add_argument("--dtype", choices=("int8", "int4"), help="as the earlier tool: bnb-int8 or bnb-nf4")
    data = parser.add_argument_group("what is measured")
    data.add_argument("--data", type=Path, nargs="+", default=[], metavar="FILE", help="examples to find answers for")
    data.add_argument("--max-queries", type=int, metavar="N", help="ask so many at most; all documents stay")
    data.add_argument("--min-cosine", type=float, metavar="C", help="refuse a lower mean (0.98; bf16 0.999, nf4 0.95)")
    data.add_argument("--max-loss", type=float, metavar="L", help="refuse more loss of MRR@10 (0.01; nf4 0.02)")
    parser.add_argument("--force", action="store_true", help="keep what is refused; its metadata says so")
    parser.add_argument("--overwrite", action="store_true", help="replace what is there")
    parser.add_argument("--json", action="store_true", help="the result as one JSON object")
    publishing.add(parser)


def run(options: argparse.Namespace) -> int:
    from trainer.quantize import quantize  # noqa: PLC0415  keeps `--help` instant

    model = options.model or options.model_path
    if model is None:
        raise InvalidInput("which model? trainer quantize MODEL --output DIR")
    publishing.check(options)
    done = quantize(
        model,
        options.output,
        options.form or options.dtype or "bnb-int8",
        _questions(options),
        max_loss=options.max_loss,
        force=options.force,
        min_cosine=options.min_cosine,
        overwrite=options.overwrite,
        tell=say,
    )
    _show(done, as_json=options.json)
    publishing.publish_if_asked(options, done.path)
    return 0


def _questions(options: argparse.Namespace) -> Questions | None:
    if not options.data:
        return None
    from trainer.data.read import read  # noqa: PLC0415
    from trainer.questions import from_examples  # noqa: PLC0415

    with progress("reading") as advance:
        questions = from_examples(read(options.data, progress=advance).examples)
    return questions.first(options.max_queries)


def _show(done: Quantized, *, as_json: bool) -> None:
    if as_json:
        told = {"path": str(done.path), "form": done.form.name, "requirements": list(done.form.requirements)}
        print(json.dumps(told | done.measured.to_json() | {"forced": list(done.faults)}))
        return
    for line in table(done):
        print(line)


def table(done: Quantized) -> list[str]:
    """What was measured, and one line about what the form does not do."""
    measured = done.measured
    size, cosine = measured.sizes, measured.drift.cosine
    rows = [
        ("form", done.form.name),
        ("weights", f"{size.before / 1e6:.1f} MB -> {size.after / 1e6:.1f} MB, {size.after / size.before:.0%}"),
        ("cosine", f"mean {cosine.mean:.4f}, 5% below {cosine.p5:.4f}, min {cosine.min:.4f}" if cosine else "none"),
        ("neighbours", f"{measured.drift.overlap:.1%} of the nearest {measured.drift.k} are the same"),
        ("speed", f"{measured.speed[0]:.0f} -> {measured.speed[1]:.0f} texts/s, in one process on this machine"),
    ]
    if found := measured.retrieval:
        change = found.difference
        interval = f"{change.mean:+.4f} [{change.low:+.4f}, {change.high:+.4f}]"
        rows.append(("mrr@10", f"{found.before:.4f} -> {found.after:.4f}, {interval}"))
    if done.form.requirements:
        rows.append(("to serve it", "pip install " + " ".join(f"'{each}'" for each in done.form.requirements)))
    rows.append(("written to", str(done.path)))
    lines = [f"{name:<12}{value}" for name, value in rows]
    lines += [f"kept by force: {fault}" for fault in done.faults]
    return [*lines, *_honest(done)]


def _honest(done: Quantized) -> list[str]:
    size = done.measured.sizes
    share = size.embedding / max(1, size.parameters)
    if not done.form.embeddings_stay or share < 0.05:
        return []
    return [f"{share:.0%} of this model's numbers are its word vectors, which {done.form.name} leaves in float32."]
