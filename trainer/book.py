"""The file of pairs that `trainer qa` fills, `F.jsonl`, and beside it which chunks were asked about, `F.jsonl.asked`.

Lines are appended whole, those of a chunk at once, and then the chunk is noted. Whoever is killed between the two asks
once more, and the questions that are there already are refused.
"""

from __future__ import annotations

import fcntl
import json
import os
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from trainer.data.normal import normal
from trainer.documents import Chunk
from trainer.errors import InvalidInput, TrainerError
from trainer.pairs import Pair


class Book:
    def __init__(self, pairs: IO[bytes], asked: IO[bytes]) -> None:
        self._pairs, self._asked_file = pairs, asked
        self._questions = {normal(str(row.get("question", ""))) for row in _rows(pairs)}
        self._asked = {str(row.get("chunk", "")) for row in _rows(asked)}

    def is_asked(self, chunk: Chunk) -> bool:
        return chunk.digest in self._asked

    def add(self, chunk: Chunk, pairs: Sequence[Pair], refused: Counter[str]) -> int:
        """Writes what is new; `refused` gets the rest. Returns how many pairs were written."""
        new = []
        for pair in pairs:
            question = normal(pair.question)
            if question in self._questions:
                refused["duplicate"] += 1
                continue
            self._questions.add(question)
            new.append(_row(chunk, pair))
        _append(self._pairs, new)
        _append(self._asked_file, [{"chunk": chunk.digest, "accepted": len(new), "refused": dict(refused)}])
        self._asked.add(chunk.digest)
        return len(new)


@contextmanager
def opened(path: Path) -> Iterator[Book]:
    """The book of this file, for one process at a time. Raises InvalidInput where another has it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_name(f"{path.name}.asked").open("ab+") as asked, path.open("ab+") as pairs:
            try:
                fcntl.flock(asked, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise InvalidInput(f"{path}: another process is writing it") from error
            yield Book(pairs, asked)
    except OSError as error:
        raise TrainerError(f"{path}: {error.strerror}") from error


def _rows(stream: IO[bytes]) -> Iterator[dict[str, Any]]:
    """The rows that are there. A last line that was cut is removed; another that is broken is left to `data check`."""
    stream.seek(0)
    end = 0
    for line in stream:
        if not line.endswith(b"\n"):
            break
        end += len(line)
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            yield row
    stream.truncate(end)


def _row(chunk: Chunk, pair: Pair) -> dict[str, str]:
    """The documented format; the id is the same whenever the same pair is made of the same chunk."""
    name = uuid.uuid5(uuid.NAMESPACE_URL, f"{chunk.digest}/{normal(pair.question)}")
    return {
        "id": str(name),
        "question": pair.question,
        "answer": pair.answer,
        "context": chunk.text,
        "file_name": chunk.file_name,
    }


def _append(stream: IO[bytes], rows: Sequence[Any]) -> None:
    if rows:
        stream.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())
        stream.flush()
        os.fsync(stream.fileno())
