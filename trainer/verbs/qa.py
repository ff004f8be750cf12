"""`trainer qa`: question and answer pairs from a folder of documents, by a language model."""

from __future__ import annotations

import argparse
import json
import os
import signal
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.console import Advance, progress, say
from trainer.errors import Interrupted, InvalidInput, TrainerError

if TYPE_CHECKING:
    from trainer.qa import Outcome

HELP = "make question and answer pairs from a folder of documents, with a language model"
SHOWN = 5


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("documents", type=Path, nargs="?", metavar="DOCUMENTS_DIR", help="text files: .txt, .md, .rst")
    parser.add_argument("--input_dir", type=Path, dest="older_input", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, metavar="F.jsonl", help="the pairs; what is there already is gone on with")
    parser.add_argument("--output_dir", type=Path, dest="older_output", help=argparse.SUPPRESS)
    parser.add_argument("--endpoint", required=True, metavar="URL", help="such as http://127.0.0.1:8001/v1")
    parser.add_argument("--model", required=True, metavar="M", help="the model's name at the endpoint")
    parser.add_argument("--key-env", default="OPENAI_API_KEY", metavar="NAME", help="the key's variable (%(default)s)")
    parser.add_argument("--pairs", type=_from_one, default=3, metavar="N", help="to ask for, of a chunk (%(default)s)")
    parser.add_argument("--chunk-size", type=_from_one, default=1500, metavar="N", help="characters (%(default)s)")
    parser.add_argument("--max-chunks", type=_from_one, metavar="N", help="ask about so many in this run at most")
    parser.add_argument("--concurrency", type=_from_one, default=4, metavar="N", help="requests at once (%(default)s)")
    parser.add_argument("--timeout", type=_from_one, default=120, metavar="S", help="seconds of a try (%(default)s)")
    parser.add_argument("--tries", type=_from_one, default=5, metavar="N", help="of a chunk (%(default)s)")
    parser.add_argument("--json", action="store_true", help="the outcome as JSON")


def _from_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, got {text!r}")
    return int(text)


def run(options: argparse.Namespace) -> int:
    """Exit status 1 where chunks had no answer: the same command asks about them again."""
    import asyncio  # noqa: PLC0415  keeps `--help` instant

    folder = options.documents or options.older_input
    out = options.out or (options.older_output and options.older_output / "questions_answers.jsonl")
    if folder is None or out is None:
        raise InvalidInput("name a folder of documents, and a file with --out")
    try:
        with progress("asking", "chunks") as advance:
            outcome = asyncio.run(_generate(options, folder, out, advance))
    except asyncio.CancelledError:
        raise Interrupted(f"interrupted; the same command goes on with {out}") from None
    _tell(outcome, out, options.json)
    return TrainerError.exit_status if outcome.failed else 0


async def _generate(options: argparse.Namespace, folder: Path, out: Path, advance: Advance) -> Outcome:
    import aiohttp  # noqa: PLC0415

    from trainer.endpoint import Endpoint  # noqa: PLC0415
    from trainer.qa import generate  # noqa: PLC0415

    _cancel_on_sigterm()
    key = os.environ.get(options.key_env, "")
    async with aiohttp.ClientSession(trust_env=True) as session:
        endpoint = Endpoint(
            session, options.endpoint, options.model, key=key, seconds=options.timeout, tries=options.tries
        )
        return await generate(
            folder,
            out,
            endpoint,
            pairs=options.pairs,
            size=options.chunk_size,
            at_once=options.concurrency,
            most=options.max_chunks,
            progress=advance,
        )


def _cancel_on_sigterm() -> None:
    """As `asyncio.run` does on SIGINT: an exception out of a handler would hit whatever task runs just then."""
    import asyncio  # noqa: PLC0415

    task = asyncio.current_task()
    assert task is not None  # this is called by one
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)


def _tell(outcome: Outcome, out: Path, as_json: bool) -> None:
    for name in outcome.passed_over[:SHOWN]:
        say(f"passed over: {name}")
    if len(outcome.passed_over) > SHOWN:
        say(f"passed over: {len(outcome.passed_over) - SHOWN} more")
    if outcome.failed:
        say(f"{outcome.failed} chunks had no answer; the last: {outcome.last_failure}; run it again to ask about them")
    if as_json:
        print(json.dumps(asdict(outcome)))
        return
    print(f"{out}: {outcome.pairs} new pairs from {outcome.asked} chunks; {outcome.known} were asked about before")
    if outcome.refused:
        print("refused: " + ", ".join(f"{count} {reason}" for reason, count in outcome.refused.most_common()))
