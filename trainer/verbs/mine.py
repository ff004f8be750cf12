"""`trainer mine`: hard negatives for examples that have none, written as examples that every loss can learn from."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from trainer.console import progress, say

HELP = "add hard negatives: documents that a model takes for answers"


def add(parser: argparse.ArgumentParser) -> None:
    files = parser.add_argument_group("files")
    files.add_argument("--data", type=Path, nargs="+", required=True, metavar="FILE", help="examples to mine for")
    files.add_argument(
        "--corpus", type=Path, nargs="+", default=(), metavar="FILE", help="more documents: lines of text, or examples"
    )
    files.add_argument("--out", type=Path, required=True, metavar="FILE", help="the new file of JSON lines")
    files.add_argument("--skip-broken", action="store_true", help="leave broken rows out and say so")
    model = parser.add_argument_group("model")
    model.add_argument(
        "--base-model", "--model", required=True, metavar="DIR", help="a directory, or a name of the hub"
    )
    model.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N")
    model.add_argument("--threads", type=int, help="threads that compute on a CPU")
    model.add_argument("--batch-size", type=int, default=32, help="texts of a batch (%(default)s)")
    model.add_argument("--query-prompt", default="", help="put before every query")
    model.add_argument("--document-prompt", default="", help="put before every document")
    rules = parser.add_argument_group("which documents are negatives")
    rules.add_argument("--count", type=int, default=1, help="for each example (%(default)s)")
    rules.add_argument("--range-min", type=int, default=0, help="leave out so many of the nearest (%(default)s)")
    rules.add_argument("--range-max", type=int, default=100, help="look at so many of the nearest (%(default)s)")
    rules.add_argument(
        "--relative-margin",
        type=float,
        default=0.05,
        help="at least this share less similar than the answer (%(default)s)",
    )
    rules.add_argument("--max-score", type=float, help="at most so similar to the query")
    rules.add_argument(
        "--sampling", choices=("top", "random"), default="top", help="the nearest, or drawn (%(default)s)"
    )
    rules.add_argument("--seed", type=int, default=42, help="of what is drawn (%(default)s)")
    parser.add_argument("--json", action="store_true", help="the counts as JSON")


def run(options: argparse.Namespace) -> int:
    from trainer import mining, modelling  # noqa: PLC0415  keeps `--help` instant
    from trainer.data.duplicates import without_duplicates  # noqa: PLC0415
    from trainer.data.read import read  # noqa: PLC0415
    from trainer.data.write import write  # noqa: PLC0415
    from trainer.hardware import find  # noqa: PLC0415
    from trainer.losses import answered  # noqa: PLC0415

    rules = mining.Rules(
        count=options.count,
        range_min=options.range_min,
        range_max=options.range_max,
        relative_margin=options.relative_margin,
        max_score=options.max_score,
        sampling=options.sampling,
        seed=options.seed,
    )
    with progress("reading", "bytes") as advance:
        reading = read(options.data, skip_broken=options.skip_broken, progress=advance)
    examples, _ = without_duplicates(answered(reading.examples), "exact")
    corpus = [text for path in options.corpus for text in _documents(path)]
    hardware = find(options.device, threads=options.threads)
    model = modelling.load(modelling.find(options.base_model), hardware.device)
    with progress("mining", "examples") as advance:
        mined = mining.mine(
            model,
            examples,
            corpus,
            rules,
            batch_size=options.batch_size,
            query_prompt=options.query_prompt,
            document_prompt=options.document_prompt,
            progress=advance,
        )
    write(options.out, mined.examples)
    negatives = sum(len(example.negatives) for example in mined.examples)
    told = {"examples": len(examples), "negatives": negatives, "short": mined.short, "none": mined.none}
    print(json.dumps({"out": str(options.out), **told}) if options.json else _line(options.out, told))
    if mined.none:
        say(f"nothing fitted {mined.none} examples: a smaller --relative-margin or a larger --range-max finds more")
    return 0


def _line(path: Path, told: dict[str, int]) -> str:
    return (
        f"{path}: {told['examples']} examples with {told['negatives']} negatives; {told['short']} have fewer than asked"
    )


def _documents(path: Path) -> list[str]:
    """Of a text file its lines; of examples their answers and negatives."""
    from trainer.data.read import read  # noqa: PLC0415
    from trainer.errors import InvalidInput  # noqa: PLC0415

    if path.suffix != ".txt":
        examples = read([path]).examples
        return [text for example in examples for text in (*example.positives, *example.negatives)]
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path}: {error}") from error
