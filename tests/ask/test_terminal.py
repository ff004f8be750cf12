"""`gateway ask` in a terminal: the answer as it comes, its citations below, and no silence about what went wrong."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from gateway import question
from tests.ask.serving import Serving, serving
from tests.ask.talking import SAID


@pytest_asyncio.fixture
async def gateway() -> AsyncIterator[Serving]:
    async with serving() as running:
        yield running


async def ask(gateway: Serving, *options: str) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of `gateway ask`."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", "ask", "when is the beam lost?", "--kb", "physics", *options),
        env={**os.environ, "DROPGATE_URL": gateway.url},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


async def test_an_answer_is_shown_with_its_citations_below(gateway: Serving) -> None:
    status, out, err = await ask(gateway)
    sentence = "The beam is lost when the quadrupole trips."
    assert (status, out, err) == (0, f"“{sentence}” [2]\n[2] d1.md, page 4: {sentence}\n", "")


async def test_a_language_model_is_named_with_llm(gateway: Serving) -> None:
    status, out, _ = await ask(gateway, "--llm", "local:answers")
    assert (status, out.splitlines()[0]) == (0, SAID)
    status, out, _ = await ask(gateway, "--llm", "local:bare")
    assert out.splitlines() == ["Everything is fine.", "(no passage supports this answer)"]


async def test_that_nobody_knows_is_one_line(gateway: Serving) -> None:
    status, out, _ = await ask(gateway, "--no-kb")
    assert (status, out) == (0, "I don't know: nothing that was found answers this.\n")


async def test_files_can_be_asked_alone(gateway: Serving, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("The beam is lost at noon.")
    status, out, _ = await ask(gateway, "--no-kb", "--file", str(tmp_path / "notes.txt"))
    assert (status, out.splitlines()[0]) == (0, "“The beam is lost at noon.” [1]")
    assert gateway.bases.asked == []
    status, _, err = await ask(gateway, "--file", str(tmp_path / "missing.txt"))
    assert (status, "missing.txt cannot be read" in err) == (1, True)


async def test_json_is_the_whole_answer(gateway: Serving) -> None:
    status, out, _ = await ask(gateway, "--json")
    assert status == 0
    assert json.loads(out)["citations"][0]["id"] == "d1:0"


async def test_a_refusal_and_an_answer_that_breaks_off_are_told_and_are_exit_status_1(gateway: Serving) -> None:
    status, out, err = await ask(gateway, "--llm", "nobody:x")
    assert (status, out) == (1, "")
    assert "(provider_not_found)" in err
    status, out, err = await ask(gateway, "--llm", "local:cut")
    assert (status, out) == (1, "The ")
    assert "cut off" in err
    assert "(provider_failed)" in err


async def test_where_nobody_answers_that_is_said(gateway: Serving) -> None:
    status, _, err = await ask(gateway, "--url", "http://127.0.0.1:9")
    assert (status, "no gateway answers" in err) == (1, True)


def test_a_stream_without_an_end_is_an_answer_that_broke_off(capsys: pytest.CaptureFixture[str]) -> None:
    assert question.show([{"type": "token", "content": "The "}]) == 1
    assert "broke off" in capsys.readouterr().err


def test_nothing_that_is_said_moves_the_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    question.show([{"type": "token", "content": "\x1b[2Jgone\x07\n\ttext é"}])
    assert capsys.readouterr().out == "�[2Jgone�\n\ttext é"
