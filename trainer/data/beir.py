"""Questions as BEIR has them: a corpus and queries as JSON lines with `_id` and `text`, and a table of what answers.

    corpus.jsonl    {"_id": "d1", "title": "...", "text": "..."}    a title stands before its text
    queries.jsonl   {"_id": "q1", "text": "..."}
    qrels.tsv       query-id <tab> corpus-id <tab> score            or the four columns of TREC: query 0 document score

What scores 0 or less answers nothing. Queries that no line names are counted, and cannot be scored.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from trainer.data.fault import Broken, Fault, refusal
from trainer.data.lines import opened
from trainer.questions import Questions, gathered

Row = tuple[int, str]


def read(corpus: Path, queries: Path, qrels: Path) -> Questions:
    """Raises InvalidInput with the file, line and reason of what is wrong."""
    faults: list[Fault] = []
    documents, asked = _texts(corpus, faults), _texts(queries, faults)
    places: dict[str, int] = {}
    of_document = {name: places.setdefault(text, len(places)) for name, text in documents.items()}
    answers: dict[str, set[int]] = {text: set() for text in asked.values()}
    if not faults:  # else every line would name what is not known
        for query, document in _judged(qrels, faults, asked, of_document):
            answers[query].add(document)
    if faults:
        raise refusal(faults, len(faults))
    return gathered(answers, list(places))


def documents(corpus: Path) -> list[str]:
    """The texts of a corpus alone, which need no `_id` here. Raises InvalidInput."""
    faults: list[Fault] = []
    found = _texts(corpus, faults, named=False)
    if faults:
        raise refusal(faults, len(faults))
    return list(found.values())


def _texts(path: Path, faults: list[Fault], named: bool = True) -> dict[str, str]:
    found: dict[str, str] = {}
    for line, text in _lines(path, faults):
        try:
            name, said = _row(text, line, named, found)
            found[name] = said
        except Broken as broken:
            broken.line = line
            faults.append(broken.fault(path))
    if not found and not faults:
        faults.append(Broken("no_rows", "it has only blank lines").fault(path))
    return found


def _row(line: str, number: int, named: bool, before: Mapping[str, str]) -> tuple[str, str]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise Broken("not_json", f"no JSON: {error}") from error
    if not isinstance(row, dict):
        raise Broken("not_an_object", "JSON, and not an object")
    name, text, title = row.get("_id", row.get("id")), row.get("text"), row.get("title") or ""
    if name is None and named:
        raise Broken("missing_keys", "no `_id`")
    name = str(number if name is None or not named else name)
    if name in before:
        raise Broken("duplicate_id", f"`_id` {name!r} is there twice")
    if not isinstance(text, str) or not isinstance(title, str):
        raise Broken("not_text", "`text` has to be a text in quotes, and so has `title` where there is one")
    said = f"{title} {text}".strip()
    if not said:
        raise Broken("blank_text", "title and text are blank")
    return name, _writable(said)


def _writable(text: str) -> str:
    if any("\ud800" <= each <= "\udfff" for each in text):
        raise Broken("lone_surrogate", "half of a surrogate pair, such as \\ud800")
    return text


def _judged(
    path: Path, faults: list[Fault], queries: Mapping[str, str], documents: Mapping[str, int]
) -> Iterator[tuple[str, int]]:
    """The text of a query and the place of what answers it, line by line."""
    for line, text in _lines(path, faults):
        try:
            query, document, score = _judgement(text)
            if score is None and line == 1:
                continue  # the header
            _check(query, document, score, queries, documents)
            if score and score > 0:
                yield queries[query], documents[document]
        except Broken as broken:
            broken.line = line
            faults.append(broken.fault(path))


def _check(
    query: str, document: str, score: float | None, queries: Mapping[str, str], documents: Mapping[str, int]
) -> None:
    if score is None:
        raise Broken("score_not_a_number", "the last column is no number")
    if query not in queries:
        raise Broken("unknown_query", f"no query has the `_id` {query!r}")
    if document not in documents:
        raise Broken("unknown_document", f"no document has the `_id` {document!r}")


def _judgement(line: str) -> tuple[str, str, float | None]:
    cells: list[Any] = line.split("\t") if "\t" in line else line.split()
    if len(cells) not in (3, 4):
        raise Broken("too_few_columns" if len(cells) < 3 else "too_many_columns", f"{len(cells)} columns, expected 3")
    try:
        score = float(cells[-1])
    except ValueError:
        score = None
    return cells[0], cells[-2], None if score is None or math.isnan(score) else score


def _lines(path: Path, faults: list[Fault]) -> Iterator[Row]:
    try:
        with opened(path) as lines:
            for number, line, _ in lines:
                if isinstance(line, Broken):
                    line.line = number
                    faults.append(line.fault(path))
                elif line.strip():
                    yield number, line.strip()
    except Broken as broken:
        faults.append(broken.fault(path))
