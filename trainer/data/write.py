"""Examples as JSON lines, in a form that reading gives back: query, positives, negatives, score, group."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterable
from pathlib import Path

from trainer.data.example import Example
from trainer.errors import InvalidInput


def write(path: Path, examples: Iterable[Example]) -> None:
    """Makes a new file, whole or not at all. Raises InvalidInput where it is there already or cannot be made."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with draft.open("x", encoding="utf-8") as stream:
            stream.writelines(line(example) + "\n" for example in examples)
            stream.flush()
            os.fsync(stream.fileno())
        os.link(draft, path)  # unlike a rename, it replaces nothing
    except FileExistsError as error:
        raise InvalidInput(f"{path}: is there already; remove it, or name another file") from error
    except OSError as error:
        raise InvalidInput(f"{path}: {error.strerror}") from error
    finally:
        draft.unlink(missing_ok=True)


def line(example: Example) -> str:
    row: dict[str, object] = {"query": example.query, "positives": list(example.positives)}
    if example.negatives:
        row["negatives"] = list(example.negatives)
    if example.score is not None:
        row["score"] = example.score
    if example.group is not None:
        row["group"] = example.group
    return json.dumps(row, ensure_ascii=False)
