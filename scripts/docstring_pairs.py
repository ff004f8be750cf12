"""Makes data to fine-tune on of what every Python brings: questions about names, answered by docstrings.

    python scripts/docstring_pairs.py OUT
    trainer finetune --data OUT/train.jsonl --validation OUT/held_out.jsonl --base-model BASE --output RUN
    trainer evaluate BASE --data OUT/held_out.jsonl --corpus OUT/corpus.jsonl

A question is made of the name of a function, method or class and its module's, and its answer is the docstring. So
question and answer share few words, and a model has something to learn. What is held out comes from other top-level
modules than what is trained on; which, a hash says. `corpus.jsonl` has the answers of both.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import sysconfig
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from docstring_corpus import different, docstrings, words

LEAST: Final = 20  # characters of a docstring
HELD_OUT: Final = 0.3  # of the top-level modules


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--train", type=int, default=500, help="pairs to train on, at most (%(default)s)")
    parser.add_argument("--held-out", type=int, default=200, help="pairs to evaluate on, at most (%(default)s)")
    parser.add_argument("--root", type=Path, default=Path(sysconfig.get_path("stdlib")), help="of the modules")
    options = parser.parse_args()
    found = different(docstrings(options.root, LEAST))
    held_out = sorted(name for name in found if is_held_out(name))
    train = sorted(found.keys() - set(held_out))
    draw = random.Random(0)
    chosen = [
        draw.sample(names, min(size, len(names)))
        for names, size in ((train, options.train), (held_out, options.held_out))
    ]
    options.out.mkdir(parents=True, exist_ok=True)
    for file, names in zip(("train", "held_out"), chosen, strict=True):
        write(options.out / f"{file}.jsonl", (pair(name, found[name]) for name in names))
    write(options.out / "corpus.jsonl", ({"_id": name, "text": found[name]} for names in chosen for name in names))
    print(f"{len(chosen[0])} pairs to train on and {len(chosen[1])} held out, of {len(found)}, in {options.out}")


def pair(name: str, docstring: str) -> dict[str, str]:
    return {"question": question(name), "answer": docstring, "file_name": name.partition(".")[0]}


def question(name: str) -> str:
    """`shutil.copytree` -> "What does copytree do in shutil?"; of a method, its class is named too."""
    *around, last = name.split(".")
    return f"What does {words(last)} do in {' '.join(words(each) for each in around)}?"


def is_held_out(name: str) -> bool:
    """By the top-level module, so that no module is on both sides."""
    digest = hashlib.sha256(name.partition(".")[0].encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64 < HELD_OUT


def write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main()
