"""`trainer evaluate`: how well a model finds what answers, alone or against another."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from trainer.console import progress, say
from trainer.errors import InvalidInput, QualityGate

if TYPE_CHECKING:
    from trainer.comparison import Comparison
    from trainer.drift import Drift
    from trainer.evaluate import Encoder
    from trainer.questions import Questions
    from trainer.scores import Scores

HELP = "how well a model finds what answers, alone or against another"
MAX_DROP: Final = 0.01
DRIFT_TEXTS: Final = 1000
SHOWN: Final = 5


def add(parser: argparse.ArgumentParser) -> None:
    model = parser.add_argument_group("the model")
    model.add_argument(
        "model", metavar="MODEL", help="a directory or a hub's name; with --url, as the gateway names it"
    )
    model.add_argument("--url", help="ask a running gateway for the vectors; DROPGATE_API_KEY is its key")
    model.add_argument("--query-prompt", default="", help="put before every query")
    model.add_argument("--document-prompt", default="", help="put before every document")
    model.add_argument("--batch-size", type=_count, default=32, metavar="N", help="texts at once (%(default)s)")
    model.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N (%(default)s)")
    data = parser.add_argument_group("the questions")
    data.add_argument("--data", type=Path, nargs="+", default=[], metavar="FILE", help="files of examples")
    data.add_argument("--split", type=float, metavar="SHARE", help="ask only what a run would hold out of --data")
    data.add_argument("--corpus", type=Path, metavar="FILE", help="documents to be found too, or all of BEIR's")
    data.add_argument("--queries", type=Path, metavar="FILE", help="BEIR's queries, in place of --data")
    data.add_argument("--qrels", type=Path, metavar="FILE", help="BEIR's table of which document answers which query")
    data.add_argument("--max-queries", type=_count, metavar="N", help="ask so many at most; all documents stay")
    data.add_argument("--skip-broken", action="store_true", help="leave broken rows out and say so")
    other = parser.add_argument_group("compared with")
    which = other.add_mutually_exclusive_group()
    which.add_argument("--against", metavar="MODEL", help="another model, which is what was before")
    which.add_argument("--baseline", type=Path, metavar="FILE", help="scores that were written with --out, or a run's")
    gate = parser.add_argument_group("gates: exit 3 when one is closed")
    gate.add_argument(
        "--fail-below", action="append", default=[], metavar="METRIC=SCORE", help="such as mrr@10=0.6; repeatable"
    )
    gate.add_argument(
        "--max-drop",
        type=float,
        metavar="D",
        help=f"a larger drop must be ruled out by the 95%% interval ({MAX_DROP} with --baseline, none with --against)",
    )
    told = parser.add_argument_group("what is told")
    told.add_argument("--metric", default="mrr@10", help="what is compared (%(default)s)")
    told.add_argument("--k", default="1,3,5,10", metavar="K,...", help="depths of the table (%(default)s)")
    told.add_argument("--json", action="store_true", help="as JSON on stdout, in place of tables")
    told.add_argument("--out", type=Path, metavar="FILE", help="write the scores, as a later --baseline reads them")


def run(options: argparse.Namespace) -> int:
    from trainer.comparison import compare, read_scores  # noqa: PLC0415  these import numpy
    from trainer.limits import faults, floor  # noqa: PLC0415
    from trainer.scores import named  # noqa: PLC0415

    metric, metrics = named(options.metric), _metrics(options.k)
    floors, max_drop = [floor(text) for text in options.fail_below], _max_drop(options)
    baseline = read_scores(options.baseline) if options.baseline else None  # before what takes long
    questions = _questions(options)
    model = _encoder(options, options.model)
    other = _encoder(options, options.against) if options.against else None
    before = baseline or (_scored(other, questions, "evaluating what was before") if other else None)
    after = _scored(model, questions, "evaluating")
    comparison = compare(before, after, metric) if before else None
    drifted = _drift(other, model, questions) if other else None
    if options.out:
        _write(options.out, comparison.to_json() if comparison else after.to_json())
    if options.json:
        print(json.dumps(_document(after, comparison, drifted, metrics), ensure_ascii=False))
    else:
        _show(after, comparison, drifted, metric, metrics)
    if closed := faults(after, floors, comparison, max_drop):
        raise QualityGate("; ".join(closed))
    return 0


def _metrics(depths: str) -> list[str]:
    try:
        found = sorted({int(part) for part in depths.split(",")})
    except ValueError:
        found = [0]
    if found[0] < 1:
        raise InvalidInput(f"--k {depths!r}: expected depths such as 1,3,5,10")
    most = found[-1]
    return [f"mrr@{most}", *(f"hit@{k}" for k in found), f"ndcg@{most}", f"recall@{most}", "map@100"]


def _max_drop(options: argparse.Namespace) -> float | None:
    if options.max_drop is None:
        return MAX_DROP if options.baseline else None
    if not options.baseline and not options.against:
        raise InvalidInput("--max-drop needs --baseline FILE or --against MODEL: a drop from what?")
    if not 0 <= options.max_drop <= 1:
        raise InvalidInput(f"--max-drop {options.max_drop}: expected 0 to 1")
    return float(options.max_drop)


def _questions(options: argparse.Namespace) -> Questions:
    from trainer.data import beir, read  # noqa: PLC0415
    from trainer.data.split import split  # noqa: PLC0415
    from trainer.questions import from_examples  # noqa: PLC0415

    if bool(options.queries) != bool(options.qrels) or bool(options.data) == bool(options.queries):
        raise InvalidInput("evaluate on --data FILE..., or on --corpus FILE --queries FILE --qrels FILE")
    if options.queries:
        if not options.corpus:
            raise InvalidInput("--queries and --qrels need --corpus, the documents that they name")
        return beir.read(options.corpus, options.queries, options.qrels).first(options.max_queries)
    if options.split is not None and not 0 < options.split < 1:
        raise InvalidInput(f"--split {options.split}: expected a share of 0 to 1")
    with progress("reading", "bytes") as advance:
        reading = read.read(options.data, skip_broken=options.skip_broken, progress=advance)
    if reading.broken:
        say(f"left out {reading.broken} broken rows; the first: {reading.faults[0]}")
    train, held_out = split(reading.examples, options.split) if options.split else ([], reading.examples)
    others = [text for example in train for text in example.positives]  # found too, as a run does it
    others += beir.documents(options.corpus) if options.corpus else []
    return from_examples(held_out, others).first(options.max_queries)


def _encoder(options: argparse.Namespace, name: str) -> Encoder:
    from trainer.evaluate import Local, loaded  # noqa: PLC0415
    from trainer.remote import Remote  # noqa: PLC0415

    told = {"query_prompt": options.query_prompt, "document_prompt": options.document_prompt}
    if options.url:
        return Remote(options.url, name, batch_size=options.batch_size, **told)
    return Local(loaded(name, options.device), options.batch_size, **told)


def _scored(encoder: Encoder, questions: Questions, what: str) -> Scores:
    from trainer.evaluate import evaluate  # noqa: PLC0415

    with progress(what, "texts") as advance:
        return evaluate(encoder, questions, progress=advance)


def _drift(before: Encoder, after: Encoder, questions: Questions) -> Drift | None:
    from trainer.drift import drift  # noqa: PLC0415

    texts = questions.corpus[:: max(1, len(questions.corpus) // DRIFT_TEXTS)][:DRIFT_TEXTS]
    return drift(before, after, texts) if len(texts) > 1 else None


def _write(path: Path, document: Any) -> None:
    from trainer.run import write_json  # noqa: PLC0415

    try:
        write_json(path, document)
    except OSError as error:
        raise InvalidInput(f"--out {path}: {error.strerror or error}") from error
    say(f"wrote {os.fspath(path)}")


def _document(after: Scores, comparison: Comparison | None, drifted: Drift | None, metrics: list[str]) -> Any:
    counts = {"queries": len(after.each_query), "documents": after.documents, "unanswered": after.unanswered}
    found: dict[str, Any] = {**counts, "scores": after.summary(metrics)}
    if comparison:
        changed = {"metric": comparison.metric, "difference": comparison.difference.to_json()}
        found |= {"before": comparison.before.summary(metrics), **changed}
    return found | ({"drift": drifted.to_json()} if drifted else {})


def _show(after: Scores, comparison: Comparison | None, drifted: Drift | None, metric: str, metrics: list[str]) -> None:
    from trainer import tables  # noqa: PLC0415

    if comparison is None:
        tables.show(tables.scores(after, metrics), tables.extremes(after, metric, SHOWN))
        return
    shown = [metric] * (metric not in metrics) + metrics
    tables.show(
        tables.comparison(comparison, shown),
        tables.moves("lost most", comparison.lost(SHOWN)),
        tables.moves("gained most", comparison.gained(SHOWN)),
    )
    if drifted:
        print(tables.drift(drifted))


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 10**9:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number from 1")
    return int(text)
