"""How long texts are: in tokens of the base's tokenizer, or in words where no base is given."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from trainer.errors import InvalidInput

BATCH: Final = 1000
MOST: Final = 1_000_000  # a tokenizer that knows no longest text says 1e30

Measure = Callable[[Sequence[str]], list[int]]


@dataclass(frozen=True, slots=True)
class Ruler:
    """What texts are measured with. `longest` is what the base reads, where it is known."""

    unit: str
    measure: Measure
    longest: int | None = None


@dataclass(frozen=True, slots=True)
class Lengths:
    """Percentiles of some texts; `over` are those longer than the base reads."""

    texts: int
    p50: int
    p95: int
    p99: int
    max: int
    over: int


def words() -> Ruler:
    return Ruler("words", lambda texts: [len(text.split()) for text in texts])


def tokens(base: str) -> Ruler:
    """By the tokenizer of a model's directory, or of a hub model that is in the cache; nothing is downloaded.

    Raises InvalidInput where there is none.
    """
    folder = _folder(Path(base))
    if (folder / "tokenizer.json").is_file():
        return _plain(base, folder)
    from transformers import AutoTokenizer  # noqa: PLC0415  takes seconds; older directories have only a vocabulary

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(
            str(folder) if folder.is_dir() else base, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{base}: no tokenizer is there: {str(error).splitlines()[0]}") from error
    return Ruler(
        "tokens",
        lambda texts: [len(ids) for ids in tokenizer(list(texts), verbose=False)["input_ids"]],
        _known(tokenizer.model_max_length),
    )


def _folder(base: Path) -> Path:
    """Where the tokenizer lies: older models keep it with the transformer, in a folder of its own."""
    inner = base / "0_Transformer"
    return inner if inner.is_dir() and not (base / "tokenizer_config.json").exists() else base


def _plain(base: str, folder: Path) -> Ruler:
    from tokenizers import Tokenizer  # noqa: PLC0415  keeps `--help` instant

    try:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # the library raises no type of its own
        raise InvalidInput(f"{base}: its tokenizer.json cannot be read: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    told = (_setting(folder, "tokenizer_config.json", "model_max_length"), _longest_of_encoder(folder))
    longest = min((length for length in told if length), default=None)
    return Ruler("tokens", lambda texts: [len(found.ids) for found in tokenizer.encode_batch(list(texts))], longest)


def _longest_of_encoder(folder: Path) -> int | None:
    return _setting(folder, "sentence_bert_config.json", "max_seq_length")


def _setting(folder: Path, file: str, key: str) -> int | None:
    try:
        return _known(json.loads((folder / file).read_text(encoding="utf-8")).get(key))
    except (OSError, ValueError, AttributeError):
        return None


def _known(length: Any) -> int | None:
    return int(length) if isinstance(length, (int, float)) and 0 < length < MOST else None


def lengths(texts: Iterable[str], ruler: Ruler) -> Lengths:
    """Percentiles by nearest rank; all zero where there is no text."""
    counted: list[int] = []
    waiting: list[str] = []
    for text in texts:
        waiting.append(text)
        if len(waiting) == BATCH:
            counted += ruler.measure(waiting)
            waiting.clear()
    counted = sorted(counted + (ruler.measure(waiting) if waiting else []))
    over = sum(length > ruler.longest for length in counted) if ruler.longest else 0
    p50, p95, p99, most = (_rank(counted, share) for share in (0.5, 0.95, 0.99, 1.0))
    return Lengths(len(counted), p50, p95, p99, most, over)


def _rank(ordered: Sequence[int], share: float) -> int:
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)] if ordered else 0
