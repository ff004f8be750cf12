"""The rows of a file, whatever its format: JSON lines, one JSON array, CSV and TSV with or without a header.

A row is a JSON object, or cells under names. Without a header the columns are a query, a positive and, where there is a
third, a score if the first row has a number there, and a negative if not.
"""

from __future__ import annotations

import csv
import json
from collections import deque
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, Final

from trainer.data.fault import Broken
from trainer.data.lines import LONGEST, Line
from trainer.data.shapes import KEYS, is_header

JSON_LINES: Final = "JSON lines"
ARRAY: Final = "JSON array"
CSV: Final = "CSV"
TSV: Final = "TSV"
SUFFIXES: Final = {
    ".jsonl": JSON_LINES,
    ".ndjson": JSON_LINES,
    ".json": JSON_LINES,
    ".csv": CSV,
    ".tsv": TSV,
    ".txt": TSV,
}
FEWEST, MOST = 2, 3  # columns without a header
MOST_LINES: Final = 1000  # of one quoted cell; more is a quote that was never closed

Row = tuple[int, "dict[str, Any] | Broken"]
csv.field_size_limit(LONGEST)


def rows(path: Path, lines: Iterator[Line]) -> tuple[str, Iterator[Row]]:
    """The format, and every row with the line that it begins on.

    Raises Broken where nothing is there, or nothing that is known; so do the rows where the rest cannot be read.
    """
    skipped: list[Line] = []
    for line in lines:
        skipped.append(line)
        if isinstance(line[1], Broken) or line[1].strip():
            break
    else:
        raise Broken("no_rows", "it has only blank lines")
    first = skipped[-1][1]
    kind = _format(path, "" if isinstance(first, Broken) else first)
    return kind, READERS[kind](chain(skipped[-1:], lines))


def _format(path: Path, first: str) -> str:
    name = path.name.removesuffix(".gz")
    known = SUFFIXES.get(Path(name).suffix.lower())
    start = first.lstrip()[:1]
    if known in {JSON_LINES, None} and start in {"[", "{"}:
        return ARRAY if start == "[" and not _is_whole_list(first) else JSON_LINES
    if known:
        return known
    if "\t" in first:
        return TSV
    if "," in first:
        return CSV
    raise Broken("unknown_format", "neither JSON nor CSV nor TSV; name it .jsonl, .csv or .tsv")


def _is_whole_list(first: str) -> bool:
    """Whether a line that begins as a list is one of many such lines, and not the array around all rows."""
    try:
        found = json.loads(first)
    except ValueError:
        return False
    return isinstance(found, list) and not any(isinstance(each, dict) for each in found)


# JSON


def _objects(lines: Iterator[Line]) -> Iterator[Row]:
    for number, text, unended in lines:
        if isinstance(text, Broken):
            yield number, text
        elif text.strip():
            yield number, _object(text, number, unended)


def _object(text: str, number: int, unended: bool) -> dict[str, Any] | Broken:
    try:
        return _checked(_decoder.decode(text), number)
    except Broken as broken:
        broken.line = number
        return broken
    except json.JSONDecodeError as error:
        if (unended and error.pos >= len(text.rstrip())) or (unended and error.msg.startswith("Unterminated")):
            return Broken("cut_line", "the file ends in the middle of this row", number)
        return Broken("not_json", f"column {error.colno}: {error.msg}", number)
    except (RecursionError, ValueError) as error:  # too deep; a number of too many digits
        return Broken("not_json", str(error).partition(";")[0], number)


def _checked(found: Any, number: int) -> dict[str, Any] | Broken:
    if isinstance(found, dict):
        return found
    return Broken("not_an_object", f"expected an object such as {{...}}, got {type(found).__name__}", number)


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise Broken("duplicate_key", f"the key {twice!r} is there twice")
    return found


_decoder: Final = json.JSONDecoder(object_pairs_hook=_pairs)


def _array(lines: Iterator[Line]) -> Iterator[Row]:
    """One value after another, so that each has its line; the text itself is in memory as a whole."""
    kept = list(lines)
    for number, text, _ in kept:
        if isinstance(text, Broken):
            raise Broken("broken_array", f"{text.code}: {text.reason}", number)
    text, first = "\n".join(str(text) for _, text, _ in kept), kept[0][0]
    at, line, counted, end = _space(text, text.index("[") + 1), first, 0, len(text)
    while at < end and text[at] != "]":
        line, counted = line + text.count("\n", counted, at), at
        try:
            found, at = _decoder.raw_decode(text, at)
            at = _space(text, at)
        except Broken as broken:
            raise Broken("broken_array", f"{broken.code}: {broken.reason}", line) from broken
        except (ValueError, RecursionError) as error:
            raise Broken("broken_array", f"not_json: {str(error).partition(':')[0]}", line) from error
        yield line, _checked(found, line)
        if text[at : at + 1] not in {",", "]"}:
            raise Broken("broken_array", "not_json: expected a comma or the array's end", line)
        at = _space(text, at + 1) if text[at] == "," else at
    if at >= end or text[at + 1 :].strip():
        raise Broken("broken_array", "not_json: the array does not end where the file does", kept[-1][0])


def _space(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


# columns


def _tsv(lines: Iterator[Line]) -> Iterator[Row]:
    """Quotes are text: a tab cannot be in a cell."""
    return _named((number, text if isinstance(text, Broken) else text.split("\t")) for number, text, _ in lines)


def _csv(lines: Iterator[Line]) -> Iterator[Row]:
    return _named(_cells(lines))


def _cells(lines: Iterator[Line]) -> Iterator[tuple[int, list[str] | Broken]]:
    """A quoted cell may go on over lines. A quote that is never closed spoils its own line alone."""
    waiting: deque[Line] = deque()
    while line := waiting.popleft() if waiting else next(lines, None):
        number, text, _ = line
        if isinstance(text, Broken):
            yield number, text
            continue
        taken = [text]
        while (cells := _parsed(taken, number)) is None:
            more = _next(lines, waiting, len(taken) - 1)
            if more is None or isinstance(more[1], Broken) or len(taken) == MOST_LINES:
                cells = Broken("unbalanced_quote", "a quote is opened here and never closed", number)
                taken = taken[:1]
                break
            taken.append(more[1])
        for _ in taken[1:]:
            waiting.popleft()
        yield number, cells


def _next(lines: Iterator[Line], waiting: deque[Line], index: int) -> Line | None:
    """The line at `index` behind this one. Those read ahead wait, for the case that they are rows of their own."""
    if index == len(waiting):
        more = next(lines, None)
        if more is not None:
            waiting.append(more)
    return waiting[index] if index < len(waiting) else None


def _parsed(taken: list[str], number: int) -> list[str] | Broken | None:
    """The cells; None where a quote is still open."""
    if len(taken) > 1 and '"' not in taken[-1]:
        return None
    try:
        return next(csv.reader([f"{line}\n" for line in taken], strict=True), [])
    except csv.Error as error:
        if "unexpected end of data" in str(error):
            return None
        return Broken("stray_quote", str(error), number)


def _named(found: Iterator[tuple[int, list[str] | Broken]]) -> Iterator[Row]:
    names: list[str] | None = None
    header = is_any = False
    for number, cells in found:
        if isinstance(cells, Broken):
            is_any = True
            yield number, cells
        elif any(cell.strip() for cell in cells):
            if names is None:
                header, names = _columns(cells, number)
                if header:
                    continue
            is_any = True
            yield number, _row(names, cells, number, header)
    if not is_any:
        raise Broken("no_rows", "it has a header and nothing below" if header else "it has only blank lines")


def _columns(cells: list[str], number: int) -> tuple[bool, list[str]]:
    """Whether this first row is a header, and the names of the columns."""
    names = [cell.strip().casefold() for cell in cells]
    if is_header(names):
        twice = [name for name in names if name and names.count(name) > 1]
        if twice:
            raise Broken("unknown_header", f"the column {twice[0]!r} is there twice", number)
        return True, names
    if known := [name for name in names if name in KEYS]:
        reason = f"a header with {', '.join(known)}: expected a query and a positive, such as question,answer"
        raise Broken("unknown_header", reason, number)
    third = ["score" if len(cells) == MOST and _is_number(cells[2]) else "negative"]
    return False, ["query", "positive", *third]


def _row(names: list[str], cells: list[str], number: int, header: bool) -> dict[str, Any] | Broken:
    fewest = len(names) if header else FEWEST
    if len(cells) < fewest:
        return Broken("too_few_columns", f"{len(cells)} column{'s' * (len(cells) != 1)}, expected {fewest}", number)
    if len(cells) > len(names):
        return Broken("too_many_columns", f"{len(cells)} columns, expected {len(names)} at most", number)
    return {name: cell for name, cell in zip(names, cells, strict=False) if name}


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


READERS: Final[dict[str, Callable[[Iterator[Line]], Iterator[Row]]]] = {
    JSON_LINES: _objects,
    ARRAY: _array,
    CSV: _csv,
    TSV: _tsv,
}
