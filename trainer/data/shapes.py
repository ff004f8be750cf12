"""The shapes that a row may have: which key is the query, which are positives and negatives. One table.

Keys beyond these, such as `id` and `context`, are left alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from trainer.data.example import Example
from trainer.data.fault import Broken, only
from trainer.data.normal import normal

GROUPS: Final = ("group", "file_name", "source")
SCORES: Final = ("score", "label")


@dataclass(frozen=True, slots=True)
class Shape:
    """A query's key; the keys that positives and negatives may have."""

    query: str
    positives: tuple[str, ...]
    negatives: tuple[str, ...] = ("negative", "negatives", "hard_negative")

    def __str__(self) -> str:
        return f"{self.query}/{self.positives[0]}"


SHAPES: Final = (
    Shape("question", ("answer", "answers")),
    Shape("text_a", ("text_b",)),
    Shape("a", ("b",)),
    Shape("text", ("positive",)),
    Shape("query", ("positive", "positives", "pos", "doc"), ("negative", "negatives", "neg")),  # `pos`: FlagEmbedding's
    Shape("anchor", ("positive", "positives")),
)
TEXTS: Final = "texts"  # [anchor, positive] or [anchor, positive, negative]
KEYS: Final = frozenset(
    {name for shape in SHAPES for name in (shape.query, *shape.positives, *shape.negatives)} | {*SCORES, TEXTS}
)


def is_header(names: Iterable[str]) -> bool:
    """Whether these are names of columns that make a row."""
    return bool(_matching(set(names)))


def _matching(keys: set[str]) -> list[Shape]:
    return [shape for shape in SHAPES if shape.query in keys and not keys.isdisjoint(shape.positives)]


def shape_of(row: dict[str, Any]) -> str:
    """The name of a row's shape. Raises Broken where there is none, or more than one."""
    keys = set(row)
    found = [str(shape) for shape in _matching(keys)] + ([TEXTS] if TEXTS in keys else [])
    return only(found, row, "no query with a positive, such as question and answer")


def example(row: dict[str, Any], shape: str, file: str, line: int) -> Example:
    """The row as an example. Raises Broken with what is wrong with it."""
    query, positives, negatives = _three(row) if shape == TEXTS else _parts(row, shape)
    _check(query, positives, negatives)
    return Example(
        query=query,
        positives=positives,
        negatives=negatives,
        score=_score(row),
        group=group_of(row),
        file=file,
        line=line,
    )


def _three(row: dict[str, Any]) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    texts = _texts(row, TEXTS)
    if len(texts) not in {2, 3}:
        raise Broken("texts_count", f"`texts` has {len(texts)} texts, expected anchor, positive and negative")
    return texts[0], texts[1:2], texts[2:]


def _parts(row: dict[str, Any], name: str) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    shape = next(shape for shape in SHAPES if str(shape) == name)
    positives = [text for key in shape.positives if key in row for text in _texts(row, key)]
    negatives = [text for key in shape.negatives if _is_given(row, key) for text in _texts(row, key)]
    return text_of(row[shape.query], shape.query), _once(positives), _once(negatives)


def _is_given(row: dict[str, Any], key: str) -> bool:
    """A negative may be null or an empty cell: then there is none."""
    return row.get(key) not in (None, "")


def _texts(row: dict[str, Any], key: str) -> tuple[str, ...]:
    found = row[key]
    if not isinstance(found, list):
        return (text_of(found, key),)
    for each in found:
        if isinstance(each, list):
            raise Broken("nested_list", f"`{key}` has a list within its list")
    return tuple(text_of(each, key) for each in found)


def text_of(value: Any, key: str) -> str:
    """Without space at its ends. Raises Broken for what is no text."""
    if isinstance(value, list):
        raise Broken("not_text", f"`{key}` is a list, expected one text")
    if not isinstance(value, str):
        told = "null" if value is None else type(value).__name__
        raise Broken("not_text", f"`{key}` is {told}, expected a text in quotes")
    if not _is_unicode(value):
        raise Broken("lone_surrogate", f"`{key}` has half of a surrogate pair, such as \\ud800")
    return value.strip()


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _once(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(texts))


def _check(query: str, positives: tuple[str, ...], negatives: tuple[str, ...]) -> None:
    if not query:
        raise Broken("blank_query", "the query is blank")
    if not positives:
        raise Broken("no_positive", "the list of positives is empty")
    if not all(positives):
        raise Broken("blank_positive", "a positive is blank")
    if not all(negatives):
        raise Broken("blank_negative", "a negative is blank")
    wanted = {normal(text) for text in positives}
    if normal(query) in wanted:
        raise Broken("query_is_positive", "the query and its positive are the same text: nothing to learn")
    if any(normal(text) in wanted for text in negatives):
        raise Broken("negative_is_positive", "a text is both a positive and a negative")


def _score(row: dict[str, Any]) -> float | None:
    name = next((name for name in SCORES if _is_given(row, name)), None)
    if name is None:
        return None
    value = row[name]
    if isinstance(value, bool):
        return float(value)
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise Broken("score_not_a_number", f"`{name}` is {str(value)[:40]!r}, expected a number") from error
    if not math.isfinite(number):
        raise Broken("score_not_a_number", f"`{name}` is {number}, expected a finite number")
    if not 0 <= number <= 1:
        raise Broken("score_out_of_range", f"`{name}` is {number:g}, expected 0 to 1: divide by the largest")
    return number


def group_of(row: dict[str, Any]) -> str | None:
    found = next((row[name] for name in GROUPS if row.get(name) not in (None, "")), None)
    return str(found) if isinstance(found, (str, int)) else None
