"""Files of examples: every format, and every way to be broken, with its line."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trainer.data import lines as lines_module
from trainer.data.fault import FILE_FAULTS, ROW_FAULTS, Fault
from trainer.data.read import Faults, read, stream
from trainer.data.write import write
from trainer.errors import InvalidInput

PAIR = '{"question": "how?", "answer": "so"}\n'


def faults_of(path: Path) -> tuple[list[Fault], int]:
    """What is wrong with a file, and how many examples it gives all the same."""
    found = Faults()
    examples = list(stream([path], found, {}))
    return found.kept, len(examples)


# name, content, and for each fault its line and code; how many examples are read all the same
BROKEN: list[tuple[str, bytes, list[tuple[int, str]], int]] = [
    ("empty.jsonl", b"", [(0, "empty_file")], 0),
    ("blank.jsonl", b"\n\r\n  \n", [(0, "no_rows")], 0),
    ("header.csv", b"question,answer\n", [(0, "no_rows")], 0),
    ("header-below.csv", b"\n\nquestion,answer\n , \n", [(0, "no_rows")], 0),
    ("commas.csv", b"\n,\n", [(0, "no_rows")], 0),
    ("bom.jsonl", b"\xef\xbb\xbf", [(0, "no_rows")], 0),
    ("sheet.xlsx", b"PK\x03\x04 and so on", [(0, "unknown_format")], 0),
    ("odd.bin", b"one line of words\n", [(0, "unknown_format")], 0),
    ("not.jsonl.gz", PAIR.encode(), [(0, "broken_gzip")], 0),
    ("cut.jsonl.gz", gzip.compress(PAIR.encode() * 99)[:-9], [(99, "cut_gzip")], 98),
    ("cut-early.jsonl.gz", gzip.compress(PAIR.encode())[:12], [(1, "cut_gzip")], 0),
    ("crc.jsonl.gz", gzip.compress(PAIR.encode())[:-8] + b"\0" * 8, [(2, "broken_gzip")], 1),
    ("wide.jsonl", PAIR.encode("utf-16"), [(0, "utf16")], 0),
    (
        "latin.jsonl",
        PAIR.encode() + b'{"question": "caf\xe9?", "answer": "so"}\n' + PAIR.encode(),
        [(2, "not_utf8")],
        2,
    ),
    ("boms.jsonl", (PAIR + "\ufeff" + PAIR).encode(), [(2, "stray_bom")], 1),
    ("nul.jsonl", (PAIR + PAIR.replace("how", "h\0w")).encode(), [(2, "nul")], 1),
    ("nuls.tsv", b"how?\tso\n\0\0\0\0\n", [(2, "nul")], 1),
    ("cut.jsonl", (PAIR + '{"question": "ho').encode(), [(2, "cut_line")], 1),
    ("cut-between.jsonl", (PAIR + '{"question": "how?",').encode(), [(2, "cut_line")], 1),
    ("comma.jsonl", ('{"question": "how?" "answer": 1}\n' + PAIR).encode(), [(1, "not_json")], 1),
    ("words.jsonl", b"how is it done?\n" + PAIR.encode(), [(1, "not_json")], 1),
    ("deep.jsonl", PAIR.encode() + b"[" * 100_000 + b"\n", [(2, "not_json")], 1),
    ("number.jsonl", (PAIR + "17\n").encode(), [(2, "not_an_object")], 1),
    ("list.jsonl", (PAIR + '["how?", "so"]\n').encode(), [(2, "not_an_object")], 1),
    ("twice.jsonl", b'{"question": "how?", "question": "why?", "answer": "so"}\n', [(1, "duplicate_key")], 0),
    ("keys.jsonl", b'{"question": "how?", "reply": "so"}\n', [(1, "missing_keys")], 0),
    ("nokeys.jsonl", b"{}\n", [(1, "missing_keys")], 0),
    ("both.jsonl", b'{"question": "how?", "answer": "so", "a": "x", "b": "y"}\n', [(1, "ambiguous_keys")], 0),
    ("mixed.jsonl", (PAIR + '{"a": "x", "b": "y"}\n' + PAIR).encode(), [(2, "mixed_formats")], 2),
    ("int.jsonl", b'{"question": 7, "answer": "so"}\n', [(1, "not_text")], 0),
    ("null.jsonl", b'{"question": "how?", "answer": null}\n', [(1, "not_text")], 0),
    ("object.jsonl", b'{"question": "how?", "answer": {"text": "so"}}\n', [(1, "not_text")], 0),
    ("listed.jsonl", b'{"question": ["how?"], "answer": "so"}\n', [(1, "not_text")], 0),
    ("nested.jsonl", b'{"query": "how?", "positives": [["so"]]}\n', [(1, "nested_list")], 0),
    ("blank-q.jsonl", b'{"question": " \\t", "answer": "so"}\n', [(1, "blank_query")], 0),
    ("blank-a.tsv", b"how?\tso\nwhy?\t \n", [(2, "blank_positive")], 1),
    ("blank-n.jsonl", b'{"query": "how?", "pos": ["so"], "neg": [" "]}\n', [(1, "blank_negative")], 0),
    ("no-positive.jsonl", b'{"query": "how?", "pos": [], "neg": ["x"]}\n', [(1, "no_positive")], 0),
    (
        "texts.jsonl",
        b'{"texts": ["a"]}\n{"texts": ["a", "b", "c", "d"]}\n',
        [(1, "texts_count"), (2, "texts_count")],
        0,
    ),
    ("same.jsonl", b'{"question": "Why  so?", "answer": "why so?"}\n', [(1, "query_is_positive")], 0),
    ("negative.jsonl", b'{"texts": ["how?", "So.", "so."]}\n', [(1, "negative_is_positive")], 0),
    ("nan.jsonl", b'{"a": "x", "b": "y", "score": NaN}\n', [(1, "score_not_a_number")], 0),
    ("words.csv", b"a,b,score\nx,y,high\n", [(2, "score_not_a_number")], 0),
    ("range.csv", b"a,b,score\nx,y,4.5\nx,z,-0.1\n", [(2, "score_out_of_range"), (3, "score_out_of_range")], 0),
    ("third.tsv", b"x\ty\t0.5\nz\tw\tnone\n", [(2, "score_not_a_number")], 1),
    ("half.jsonl", b'{"question": "\\ud800", "answer": "so"}\n', [(1, "lone_surrogate")], 0),
    ("one.tsv", b"how?\tso\nalone\n", [(2, "too_few_columns")], 1),
    ("one.csv", b"question,answer\nalone\n", [(2, "too_few_columns")], 0),
    ("many.csv", b"question,answer\nhow?,so, they say\n", [(2, "too_many_columns")], 0),
    ("four.tsv", b"w\tx\ty\tz\n", [(1, "too_many_columns")], 0),
    ("open.csv", b'how?,so\n"why,so\nwhere?,here\n', [(2, "unbalanced_quote")], 2),
    ("stray.csv", b'how?,so\n"why" not?,so\n', [(2, "stray_quote")], 1),
    ("header-half.csv", b"question,reply\nhow?,so\n", [(1, "unknown_header")], 0),
    ("header-twice.csv", b"question,answer,answer\nhow?,so,so\n", [(1, "unknown_header")], 0),
    ("array.json", b'[{"a": "x", "b": "y"},\n{"a": "x"\n', [(2, "broken_array")], 1),
    ("array-end.json", b'[{"a": "x", "b": "y"}', [(1, "broken_array")], 1),
    ("array-more.json", b'[{"a": "x", "b": "y"}]\n{"a": 1}', [(2, "broken_array")], 1),
    (
        "array-row.json",
        b'[{"a": "x", "b": "y"},\n7,\n{"a": "", "b": "y"}]',
        [(2, "not_an_object"), (3, "blank_query")],
        1,
    ),
]


@pytest.mark.parametrize(("name", "content", "expected", "read_all_the_same"), BROKEN, ids=[row[0] for row in BROKEN])
def test_what_is_broken_is_named_with_its_line_and_all_else_is_read(
    name: str, content: bytes, expected: list[tuple[int, str]], read_all_the_same: int, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    found, examples = faults_of(path)
    assert [(fault.line, fault.code) for fault in found] == expected
    assert all(fault.file == str(path) and fault.reason for fault in found)
    assert examples == read_all_the_same
    with pytest.raises(InvalidInput, match=expected[0][1]) as raised:
        read([path])
    assert str(path) in str(raised.value)


def make_directory(path: Path) -> Path:
    path.mkdir()
    return path


def make_pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (make_directory, "not_a_file"),
        (make_pipe, "not_a_file"),
        (lambda path: path, "missing_file"),
        (lambda path: path / "below" / "nothing", "missing_file"),
        (lambda path: Path("/proc/self/mem"), "unreadable_file"),  # regular by its looks, and its first byte unreadable
    ],
)
def test_what_is_no_readable_file_is_a_fault_and_not_a_stack_trace(
    make: Callable[[Path], Path], code: str, tmp_path: Path
) -> None:
    found, examples = faults_of(make(tmp_path / "data.jsonl"))
    assert [(fault.line, fault.code) for fault in found] == [(0, code)]
    assert examples == 0


def test_a_line_of_more_than_the_limit_is_passed_over_without_being_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines_module, "LONGEST", 1000)
    path = tmp_path / "long.jsonl"
    path.write_text(PAIR + '{"question": "' + "x" * 5000 + '", "answer": "so"}\n' + PAIR)
    found, examples = faults_of(path)
    assert [(fault.line, fault.code) for fault in found] == [(2, "line_too_long")]
    assert examples == 2


def test_every_kind_of_fault_has_a_row_that_shows_it() -> None:
    elsewhere = {"no_answer", "unknown_role", "other_organisation"}  # of dialogues: tests/trainer/test_dialogue.py
    elsewhere |= {"missing_file", "not_a_file", "unreadable_file", "line_too_long"}
    # of questions as BEIR has them: test_evaluate_verb.py
    elsewhere |= {"unknown_query", "unknown_document", "blank_text", "duplicate_id"}
    shown = {code for _, _, expected, _ in BROKEN for _, code in expected} | elsewhere
    assert shown == FILE_FAULTS.keys() | ROW_FAULTS.keys()
    assert len(shown) >= 30


def as_read(path: Path) -> list[tuple[Any, ...]]:
    return [(each.query, each.positives, each.negatives, each.score) for each in read([path]).examples]


WHOLE: list[tuple[str, str, tuple[Any, ...]]] = [
    (
        "qa.jsonl",
        '{"id": "1", "question": "q", "answer": "p", "context": "c", "file_name": "f"}',
        ("q", ("p",), (), None),
    ),
    ("texts.jsonl", '{"text_a": "q", "text_b": "p"}', ("q", ("p",), (), None)),
    ("ab.jsonl", '{"a": "q", "b": "p"}', ("q", ("p",), (), None)),
    ("ab.json", '{"a": "q", "b": "p"}', ("q", ("p",), (), None)),
    ("text.jsonl", '{"text": "q", "positive": "p"}', ("q", ("p",), (), None)),
    ("doc.jsonl", '{"query": "q", "doc": "p"}', ("q", ("p",), (), None)),
    ("one.jsonl", '{"query": "q", "positive": "p", "negative": "n"}', ("q", ("p",), ("n",), None)),
    ("more.jsonl", '{"query": "q", "positives": ["p", "r"], "negatives": ["n"]}', ("q", ("p", "r"), ("n",), None)),
    ("flag.jsonl", '{"query": "q", "pos": ["p"], "neg": ["n", "m"], "prompt": "x"}', ("q", ("p",), ("n", "m"), None)),
    ("anchor.jsonl", '{"anchor": "q", "positive": "p", "negative": "n"}', ("q", ("p",), ("n",), None)),
    ("three.jsonl", '{"texts": ["q", "p", "n"], "id": 3}', ("q", ("p",), ("n",), None)),
    ("no-neg.jsonl", '{"anchor": "q", "positive": "p", "negative": null}', ("q", ("p",), (), None)),
    ("score.jsonl", '{"text_a": "q", "text_b": "p", "score": 0.25}', ("q", ("p",), (), 0.25)),
    ("label.jsonl", '{"a": "q", "b": "p", "label": 1}', ("q", ("p",), (), 1.0)),
    ("array.json", '[{"a": "q", "b": "p"}]', ("q", ("p",), (), None)),
    ("array.jsonl", '\n\n[\n{"a": "q",\n"b": "p"}\n]\n', ("q", ("p",), (), None)),
    ("pairs.tsv", "q\tp", ("q", ("p",), (), None)),
    ("pairs.txt", 'q\t"p"', ("q", ('"p"',), (), None)),
    ("third.tsv", "q\tp\tn", ("q", ("p",), ("n",), None)),
    ("scores.tsv", "q\tp\t0.5", ("q", ("p",), (), 0.5)),
    ("head.tsv", "text_a\ttext_b\nq\tp", ("q", ("p",), (), None)),
    ("bare.csv", "q,p", ("q", ("p",), (), None)),
    ("ab.csv", "a,b\nq,p", ("q", ("p",), (), None)),
    ("qa.csv", 'Id,Question,Answer\n1,q,"p, ""r""\nand more"', ("q", ('p, "r"\nand more',), (), None)),
    ("unnamed", "q\tp", ("q", ("p",), (), None)),
    ("unnamed.dat", '{"a": "q", "b": "p"}', ("q", ("p",), (), None)),
]


@pytest.mark.parametrize(("name", "content", "expected"), WHOLE, ids=[row[0] for row in WHOLE])
@pytest.mark.parametrize("dress", ["plain", "bom", "crlf", "gzip"])
def test_every_format_is_read_in_every_dress(
    dress: str, name: str, content: str, expected: tuple[Any, ...], tmp_path: Path
) -> None:
    raw = content.encode()
    if dress == "bom":
        raw = b"\xef\xbb\xbf" + raw
    if dress == "crlf":
        raw = raw.replace(b"\n", b"\r\n") + b"\r\n"
    path = tmp_path / (name + (".gz" if dress == "gzip" and "." in name else ""))
    path.write_bytes(gzip.compress(raw) if dress == "gzip" else raw)
    assert as_read(path) == [expected]


def test_a_row_knows_the_line_that_it_begins_on_also_below_a_cell_of_several_lines(tmp_path: Path) -> None:
    path = tmp_path / "lines.csv"
    path.write_text('question,answer\n"one\n\ntwo",x\n\nthree,y\n')
    assert [(each.query, each.line) for each in read([path]).examples] == [("one\n\ntwo", 2), ("three", 6)]


def test_the_group_is_the_file_that_a_row_was_made_from(tmp_path: Path) -> None:
    path = tmp_path / "qa.jsonl"
    path.write_text('{"question": "q", "answer": "p", "file_name": "paper.txt"}\n{"question": "r", "answer": "p"}\n')
    assert [each.group for each in read([path]).examples] == ["paper.txt", None]


def test_only_the_first_faults_are_told_and_all_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text("{}\n" * 50)
    with pytest.raises(InvalidInput) as raised:
        read([path])
    told = str(raised.value).splitlines()
    assert told[0] == "the data has 50 faults"
    assert told[20].startswith(f"{path}:20: missing_keys")
    assert told[21:] == ["and 30 more", "--skip-broken leaves broken rows out"]


def test_broken_rows_are_left_out_where_that_is_asked_for_and_broken_files_never(tmp_path: Path) -> None:
    rows, cut = tmp_path / "rows.jsonl", tmp_path / "cut.jsonl.gz"
    rows.write_text(PAIR + "{}\n")
    cut.write_bytes(gzip.compress(PAIR.encode() * 99)[:-9])
    reading = read([rows], skip_broken=True)
    assert (len(reading.examples), reading.broken) == (1, 1)
    with pytest.raises(InvalidInput, match="cut_gzip"):
        read([rows, cut], skip_broken=True)


def test_where_every_row_is_broken_nothing_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_text("{}\n")
    with pytest.raises(InvalidInput, match="missing_keys"):
        read([tmp_path / "data.jsonl"], skip_broken=True)


def test_progress_ends_at_the_bytes_of_all_files(tmp_path: Path) -> None:
    paths = [tmp_path / "one.jsonl", tmp_path / "two.jsonl"]
    for path in paths:
        path.write_text(PAIR * 3000)
    told: list[tuple[int, int]] = []
    read(paths, progress=lambda done, total: told.append((done, total)))
    assert told == sorted(told)
    assert len(told) > 2
    assert told[-1] == (2 * 3000 * len(PAIR),) * 2


def test_what_is_written_is_read_as_it_was(tmp_path: Path) -> None:
    source, copy = tmp_path / "source.jsonl", tmp_path / "copy.jsonl"
    rows = [
        {"query": "q\u2028\n", "positives": ["p", "é"], "negatives": ["n"], "group": "g"},
        {"query": "r", "positive": "p", "score": 0.5},
    ]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    write(copy, read([source]).examples)
    assert as_read(copy) == as_read(source)
    assert [each.group for each in read([copy]).examples] == ["g", None]
    with pytest.raises(InvalidInput, match="is there already"):
        write(copy, [])


def test_a_stream_of_rows_needs_no_more_memory_for_more_rows(tmp_path: Path) -> None:
    program = (
        "import sys, pathlib\n"
        "from trainer.data.read import Faults, stream\n"
        "count = sum(1 for _ in stream([pathlib.Path(sys.argv[1])], Faults(), {}))\n"
        "status = pathlib.Path('/proc/self/status').read_text()\n"
        "print(count, next(line.split()[1] for line in status.splitlines() if line.startswith('VmHWM')))\n"
    )
    row = json.dumps({"question": "how?", "answer": "so " * 300}) + "\n"
    used = []
    for rows in (500, 15_000):
        path = tmp_path / f"{rows}.jsonl"
        with path.open("w") as stream_:
            stream_.writelines(row for _ in range(rows))
        done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
        count, peak = map(int, done.stdout.split())
        assert count == rows
        used.append(peak)
    assert used[1] - used[0] < 5 * 1024  # kilobytes; the larger file has 14,000


SEEDS = [content for _, content, _, _ in BROKEN if len(content) < 500] + [content.encode() for _, content, _ in WHOLE]


@settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],  # all of them: no profile adds
)
@given(
    start=st.sampled_from(SEEDS),
    at=st.integers(0, 500),
    noise=st.binary(max_size=12) | st.sampled_from([b'"', b"\n", b",", b"[", b"\t", b"\x1f\x8b"]),
    suffix=st.sampled_from([".jsonl", ".json", ".csv", ".tsv", ".gz", ""]),
)
def test_whatever_is_in_a_file_it_gives_examples_or_faults_and_never_an_exception(
    start: bytes, at: int, noise: bytes, suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / f"data{suffix}"
    path.write_bytes(start[:at] + noise + start[at:])
    found, examples = faults_of(path)
    assert found or examples
    assert all(fault.code in FILE_FAULTS | ROW_FAULTS for fault in found)
