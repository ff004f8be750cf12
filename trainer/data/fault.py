"""What can be wrong with data: a stable code, the file, the line and the reason. Every reader tells it so."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from trainer.errors import InvalidInput

SHOWN: Final = 20

# A fault of a file ends its reading, and is never skipped; a fault of a row is skipped with `--skip-broken`.
FILE_FAULTS: Final = {
    "missing_file": "there is no such file",
    "not_a_file": "it is a directory, a pipe or a device",
    "unreadable_file": "the operating system refuses to read it",
    "empty_file": "it has no bytes",
    "no_rows": "it has a header and nothing below, or only blank lines",
    "unknown_format": "neither its name nor its content is that of JSON, CSV or TSV",
    "broken_gzip": "its name ends in .gz and it is not gzip, or its bytes are damaged",
    "cut_gzip": "its compressed bytes end too early: a copy that did not finish",
    "utf16": "it is UTF-16 or UTF-32; only UTF-8 is read",
    "unknown_header": "its header has some known names, and not those of a query and a positive",
    "broken_array": "it is one JSON array, and broken: what follows cannot be read",
}
ROW_FAULTS: Final = {
    "not_utf8": "bytes that are no UTF-8",
    "stray_bom": "a byte order mark within the file: two files were put together",
    "nul": "a NUL character",
    "line_too_long": "a line of more than 8 MiB",
    "not_json": "the line is no JSON",
    "cut_line": "the last line ends in the middle: a copy or a writer that did not finish",
    "not_an_object": "JSON, and not an object",
    "duplicate_key": "a key or a column that is there twice",
    "missing_keys": "no pair of keys that names a query and a positive",
    "ambiguous_keys": "keys of two formats in one row",
    "mixed_formats": "another format than the rows before",
    "not_text": "a number, a null or an object where a text belongs",
    "nested_list": "a list within a list",
    "blank_query": "the query is empty, or only space",
    "blank_positive": "a positive is empty, or only space",
    "blank_negative": "a negative is empty, or only space",
    "no_positive": "the list of positives is empty",
    "texts_count": "`texts` has not two or three texts",
    "query_is_positive": "the query and its positive are the same text",
    "negative_is_positive": "one text is a positive and a negative",
    "score_not_a_number": "the score is no number, or not a finite one",
    "score_out_of_range": "the score is not within 0 to 1",
    "lone_surrogate": "half of a surrogate pair, which no tokenizer can read",
    "too_few_columns": "fewer columns than needed",
    "too_many_columns": "more columns than the header, or than three",
    "unbalanced_quote": "a quote that is opened and never closed",
    "stray_quote": "text behind a closing quote",
    "blank_text": "a query or a document of a corpus without a text",
    "duplicate_id": "an `_id` that is there twice",
    "unknown_query": "a line of the qrels names a query that is not there",
    "no_answer": "of a language model: no completion, output or assistant's turn that could be learnt",
    "unknown_role": "of a conversation: a role that is neither system, user nor assistant",
    "other_organisation": "the row says that it is of another organisation than the run",
    "unknown_document": "a line of the qrels names a document that is not there",
}


@dataclass(frozen=True, slots=True)
class Fault:
    """`line` counts from 1; it is 0 where the whole file is meant."""

    file: str
    line: int
    code: str
    reason: str

    @property
    def of_file(self) -> bool:
        return self.code in FILE_FAULTS

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        return f"{where}: {self.code}: {self.reason}"


class Broken(Exception):
    """Raised within the readers: the fault of a row or a file, wherever it stands."""

    def __init__(self, code: str, reason: str, line: int = 0) -> None:
        super().__init__(reason)
        self.code, self.reason, self.line = code, reason, line

    def fault(self, file: Path | str) -> Fault:
        return Fault(str(file), self.line, self.code, self.reason)


def only(shapes: Sequence[str], row: Mapping[str, Any], wanted: str) -> str:
    """The one shape of those that a row has. Raises Broken where there is none, or more than one."""
    if len(shapes) > 1:
        raise Broken("ambiguous_keys", f"keys of two formats in one row: {' and '.join(shapes)}")
    if not shapes:
        has = ", ".join(list(row)[:8]) or "none"
        raise Broken("missing_keys", f"{wanted}; its keys: {has}")
    return shapes[0]


def refusal(faults: Iterable[Fault], count: int) -> InvalidInput:
    """All that is wrong as one error: the first of the faults, and how many there are."""
    shown = list(faults)[:SHOWN]
    lines = [str(fault) for fault in shown]
    if count > len(shown):
        lines.append(f"and {count - len(shown)} more")
    if not any(fault.of_file for fault in shown):
        lines.append("--skip-broken leaves broken rows out")
    return InvalidInput(f"the data has {count} fault{'s' * (count != 1)}\n" + "\n".join(lines))
