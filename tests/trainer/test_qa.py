"""`trainer qa`: whatever a language model says, only good pairs are written, each once."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from email.utils import formatdate
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from tests.ports import reserved
from tests.trainer.scripted import Reply, Scripted, honest, pairs, says
from trainer import book
from trainer.data.read import read
from trainer.documents import chunks, find, pieces
from trainer.endpoint import Endpoint, Unanswered, wait
from trainer.errors import InvalidInput
from trainer.pairs import REFUSALS, judge
from trainer.qa import IN_A_ROW, Outcome, generate

TEXT = "The storage ring keeps a beam of electrons at three giga electron volts for many hours."


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three documents of one chunk each."""
    made = tmp_path / "documents"
    made.mkdir()
    for name in ("ring", "linac", "booster"):
        (made / f"{name}.txt").write_text(f"The {name} keeps a beam of electrons going.")
    return made


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as made:
        yield made


class Pauses(list[float]):
    """Sleeps that take no time."""

    async def __call__(self, seconds: float) -> None:
        self.append(seconds)


def endpoint(session: aiohttp.ClientSession, server: Scripted, pauses: Pauses, **more: Any) -> Endpoint:
    return Endpoint(session, server.url, "m", sleep=pauses, chance=lambda: 1.0, **more)


async def made_of(session: aiohttp.ClientSession, reply: Reply, folder: Path, out: Path, **more: Any) -> Outcome:
    async with Scripted(reply) as server:
        return await generate(folder, out, endpoint(session, server, Pauses()), **more)


def rows(out: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in out.read_text().splitlines()]


async def test_every_chunk_becomes_pairs_in_the_documented_format_which_the_trainer_reads(
    folder: Path, tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    out = tmp_path / "new" / "qa.jsonl"
    outcome = await made_of(session, honest, folder, out)
    assert (outcome.chunks, outcome.asked, outcome.pairs, outcome.failed) == (3, 3, 3, 0)
    assert all(list(row) == ["id", "question", "answer", "context", "file_name"] for row in rows(out))
    assert {row["file_name"] for row in rows(out)} == {"ring.txt", "linac.txt", "booster.txt"}
    assert {each.group for each in read([out]).examples} == {"ring.txt", "linac.txt", "booster.txt"}


async def test_a_chunk_that_was_answered_is_never_asked_about_again(
    folder: Path, tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    out = tmp_path / "qa.jsonl"
    async with Scripted() as server:
        at = endpoint(session, server, Pauses())
        first = await generate(folder, out, at, most=2)
        (folder / "new.md").write_text("The new ring is not built yet, and will be soon.")
        second = await generate(folder, out, at)
        third = await generate(folder, out, at)
        assert len(server.asked) == len(set(server.asked)) == 4
    assert (first.asked, second.known, second.asked, third.known, third.asked) == (2, 2, 2, 4, 0)
    assert len(rows(out)) == 4


async def test_a_chunk_of_which_no_pair_was_good_is_not_asked_about_again_either(
    folder: Path, tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    out = tmp_path / "qa.jsonl"
    outcome = await made_of(session, lambda chunk: says("I cannot do that."), folder, out)
    assert (outcome.pairs, dict(outcome.refused)) == (0, {"not_json": 3})
    assert (await made_of(session, honest, folder, out)).asked == 0


async def test_a_line_that_a_crash_has_cut_is_removed_and_its_chunk_asked_about_again(
    folder: Path, tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    out = tmp_path / "qa.jsonl"
    await made_of(session, honest, folder, out)
    whole = rows(out)
    for path in (out, tmp_path / "qa.jsonl.asked"):  # as if the power had gone within the last chunk
        path.write_bytes(path.read_bytes()[:-5])
    outcome = await made_of(session, honest, folder, out)
    assert (outcome.known, outcome.asked) == (2, 1)
    assert rows(out) == whole


async def test_a_pair_that_was_written_before_its_chunk_was_noted_is_not_written_twice(
    folder: Path, tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    out = tmp_path / "qa.jsonl"
    await made_of(session, honest, folder, out)
    whole = rows(out)
    (tmp_path / "qa.jsonl.asked").unlink()
    outcome = await made_of(session, honest, folder, out)
    assert (outcome.asked, outcome.pairs, dict(outcome.refused)) == (3, 0, {"duplicate": 3})
    assert rows(out) == whole


async def test_one_question_is_written_once_whatever_documents_it_is_made_of(
    folder: Path, tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    out = tmp_path / "qa.jsonl"
    outcome = await made_of(session, lambda chunk: says(pairs(("What keeps  a BEAM?", chunk))), folder, out)
    assert (outcome.pairs, dict(outcome.refused)) == (1, {"duplicate": 2})


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("here are your pairs:", "not_json"),
        (pairs(("How is a beam kept?", TEXT))[:-4], "not_json"),
        ("[" * 100_000, "not_json"),
        ("[]", "wrong_shape"),
        ('{"questions": []}', "wrong_shape"),
        ('{"pairs": ["How is a beam kept?"]}', "wrong_shape"),
        ('{"pairs": [{"question": "How is a beam kept?", "answer": 3}]}', "wrong_shape"),
        (pairs(("How?", TEXT)), "question_length"),
        (pairs(("How is a beam kept? " * 30, TEXT)), "question_length"),
        (pairs(("How is a beam kept?", " ")), "answer_length"),
        (pairs(("How is a beam kept?", TEXT * 30)), "answer_length"),
        (pairs(("a beam of  electrons", "A beam of electrons")), "echo"),
        (pairs(("How is a beam kept?", "By powerful magnets which were invented in Russia")), "not_grounded"),
        (pairs(("How is a beam kept?", "!!!! ????")), "not_grounded"),
        ('{"pairs": [{"question": "How is a \\ud800 kept?", "answer": "a beam of electrons"}]}', "unreadable"),
    ],
)
def test_what_is_no_good_pair_is_refused_with_its_reason(said: str, reason: str) -> None:
    kept, refused = judge(said, TEXT, 3)
    assert kept == []
    assert dict(refused) == {reason: 1}
    assert reason in REFUSALS


GOOD = pairs(("How is a beam kept?", "The storage ring keeps a beam for many hours."))


@pytest.mark.parametrize(
    "said", [GOOD, f"\n{GOOD}\n", f"```json\n{GOOD}\n```", f"<think>\nhm { {} }\n</think>\n\n{GOOD}"]
)
def test_a_good_pair_is_kept_also_in_a_fence_and_behind_thoughts(said: str) -> None:
    kept, refused = judge(said, TEXT, 3)
    assert [each.question for each in kept] == ["How is a beam kept?"]
    assert not refused


def test_of_more_pairs_than_were_asked_for_the_first_are_kept() -> None:
    many = pairs(*((f"How is beam {number} kept?", TEXT) for number in range(9)))
    assert len(judge(many, TEXT, 3)[0]) == 3


def failing(times: int, status: int, headers: dict[str, str] | None = None) -> Reply:
    left = iter(range(times))

    def reply(chunk: str) -> web.Response:
        if next(left, None) is not None:
            return web.Response(status=status, headers=headers, text="busy now")
        return honest(chunk)

    return reply


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503])
async def test_what_passes_is_tried_again_with_pauses_that_grow(status: int, session: aiohttp.ClientSession) -> None:
    pauses = Pauses()
    async with Scripted(failing(3, status)) as server:
        said = await endpoint(session, server, pauses).ask("", "<text>\na b c\n</text>")
    assert "a b c" in said
    assert pauses == [0.5, 1.0, 2.0]


async def test_the_pause_that_the_server_asks_for_is_kept(session: aiohttp.ClientSession) -> None:
    pauses = Pauses()
    async with Scripted(failing(1, 429, {"Retry-After": "7"})) as server:
        await endpoint(session, server, pauses).ask("", "<text>\na\n</text>")
    assert pauses == [7]
    assert wait({"Retry-After": formatdate(1_000_030, usegmt=True)}, lambda: 1_000_000) == 30
    assert wait({"Retry-After": "soon"}) is None
    assert wait({}) is None


async def test_after_the_last_try_the_chunk_has_failed_and_the_others_go_on(
    folder: Path, tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    def reply(chunk: str) -> web.Response:
        return web.Response(status=500, text="out of memory") if "linac" in chunk else honest(chunk)

    out = tmp_path / "qa.jsonl"
    outcome = await made_of(session, reply, folder, out, at_once=1)
    assert (outcome.asked, outcome.failed) == (2, 1)
    assert "500: out of memory, after 5 tries" in outcome.last_failure
    assert (await made_of(session, honest, folder, out)).asked == 1


async def test_an_endpoint_that_hangs_meets_its_deadline(session: aiohttp.ClientSession) -> None:
    async def hang(chunk: str) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    async with Scripted(hang) as server:
        with pytest.raises(Unanswered, match=r"no answer within 0\.05 s, after 2 tries"):
            await endpoint(session, server, Pauses(), seconds=0.05, tries=2).ask("", "<text>\na\n</text>")


async def test_where_nobody_listens_it_is_told_after_all_tries(session: aiohttp.ClientSession) -> None:
    async with Scripted() as server:
        gone = endpoint(session, server, Pauses(), tries=2)
    with reserved(server.port), pytest.raises(Unanswered, match=r"ClientConnectorError.*after 2 tries"):
        await gone.ask("", "<text>\na\n</text>")


@pytest.mark.parametrize("body", [b"", b"{}", b'{"choices": []}', b'{"choices": [{"message": {"content": null}}]}'])
async def test_a_body_that_is_no_completion_is_no_answer(body: bytes, session: aiohttp.ClientSession) -> None:
    async with Scripted(lambda chunk: web.Response(body=body)) as server:
        with pytest.raises(Unanswered, match="chat completion"):
            await endpoint(session, server, Pauses()).ask("", "<text>\na\n</text>")


@pytest.mark.parametrize("status", [400, 401, 403, 404, 302])
async def test_what_no_try_can_help_ends_the_run_and_keeps_what_was_answered(
    status: int, folder: Path, tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    replies = iter([honest])

    def reply(chunk: str) -> web.Response:
        answer: Callable[[str], web.Response] | None = next(replies, None)
        return answer(chunk) if answer else web.Response(status=status, text="no such key")

    out = tmp_path / "qa.jsonl"
    with pytest.raises(InvalidInput, match=rf"refused with {status}: no such key"):
        await made_of(session, reply, folder, out, at_once=1)
    assert len(rows(out)) == 1


async def test_an_endpoint_that_is_gone_is_not_asked_about_every_chunk(
    tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    for number in range(50):
        (tmp_path / f"{number}.txt").write_text(f"document number {number}")
    async with Scripted(failing(10**6, 503)) as server:
        outcome = await generate(
            tmp_path, tmp_path / "qa.jsonl", endpoint(session, server, Pauses(), tries=1), at_once=1
        )
        assert len(server.asked) == IN_A_ROW
    assert outcome.failed == IN_A_ROW


async def test_no_more_requests_than_allowed_are_made_at_once(tmp_path: Path, session: aiohttp.ClientSession) -> None:
    for number in range(20):
        (tmp_path / f"{number}.txt").write_text(f"document number {number}")
    both = asyncio.Barrier(3)  # each answers only when three wait

    async def reply(chunk: str) -> web.StreamResponse:
        if len(server.asked) <= 18:
            await both.wait()
        return honest(chunk)

    async with Scripted(reply) as server:
        outcome = await generate(tmp_path, tmp_path / "qa.jsonl", endpoint(session, server, Pauses()), at_once=3)
        assert server.most_at_once == 3
    assert outcome.asked == 20


async def test_the_key_is_sent_as_a_bearer_and_without_one_nothing_is(session: aiohttp.ClientSession) -> None:
    async with Scripted() as server:
        await endpoint(session, server, Pauses(), key="secret").ask("", "<text>\na\n</text>")
        await endpoint(session, server, Pauses()).ask("", "<text>\na\n</text>")
        assert server.keys == ["Bearer secret", None]


async def test_an_endpoint_may_be_named_with_its_route_or_without(session: aiohttp.ClientSession) -> None:
    async with Scripted() as server:
        for url in (server.url, f"{server.url}/", f"{server.url}/chat/completions"):
            await Endpoint(session, url, "m").ask("", "<text>\na\n</text>")
        assert len(server.asked) == 3
    with pytest.raises(InvalidInput, match="expected an address"):
        Endpoint(session, "localhost:8001", "m")


@pytest.mark.parametrize("size", [20, 50, 400])
def test_chunks_laid_behind_each_other_are_the_document(size: int) -> None:
    text = ("A first sentence. Another one, which is longer!\n\nA paragraph " + "x" * 90 + " end\n") * 5
    parts = list(pieces(text, size))
    assert "".join(parts) == text
    assert all(0 < len(part) <= size for part in parts)


def test_a_chunk_ends_with_a_paragraph_or_a_sentence_where_one_fits() -> None:
    assert list(pieces("One two three.\n\nFour five. Six seven", 24)) == ["One two three.\n\n", "Four five. Six seven"]
    assert list(pieces("One two three. Four five six seven", 24)) == ["One two three. ", "Four five six seven"]


def test_documents_are_text_files_at_any_depth_and_the_rest_is_told(tmp_path: Path) -> None:
    (tmp_path / "a" / ".git" / "empty").mkdir(parents=True)
    for name in ("a/one.md", "two.TXT", "three.pdf", ".hidden.txt", "a/.git/four.txt"):
        (tmp_path / name).write_text("text")
    found, others = find(tmp_path)
    assert [str(path.relative_to(tmp_path)) for path in found] == ["a/one.md", "two.TXT"]
    assert [path.name for path in others] == ["three.pdf"]
    assert [chunk.file_name for chunk in chunks(tmp_path, found[0], 100)] == ["a/one.md"]
    with pytest.raises(InvalidInput, match="no such directory"):
        find(tmp_path / "absent")
    with pytest.raises(InvalidInput, match="no documents there"):
        find(tmp_path / "a" / ".git" / "empty")


async def test_a_document_that_is_no_text_is_passed_over_and_told(
    folder: Path, tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    (folder / "latin.txt").write_bytes(b"caf\xe9")
    outcome = await made_of(session, honest, folder, tmp_path / "qa.jsonl")
    assert outcome.asked == 3
    assert len(outcome.passed_over) == 1
    assert "latin.txt: cannot be read as UTF-8" in outcome.passed_over[0]


def test_one_process_at_a_time_writes_a_file(tmp_path: Path) -> None:
    out = tmp_path / "qa.jsonl"
    with book.opened(out), pytest.raises(InvalidInput, match="another process"), book.opened(out):
        pass


async def run_verb(*arguments: str, **environ: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "trainer", "qa", *arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **environ},
    )
    out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


async def test_the_verb_tells_what_it_did_and_understands_the_older_flags(folder: Path, tmp_path: Path) -> None:
    async with Scripted() as server:
        common = ["--endpoint", server.url, "--model", "llama"]
        older = ["--input_dir", str(folder), "--output_dir", str(tmp_path / "out")]
        status, out, err = await run_verb(*common, *older, OPENAI_API_KEY="k")
        assert (status, err) == (0, "")
        assert f"{tmp_path / 'out' / 'questions_answers.jsonl'}: 3 new pairs from 3 chunks; 0 were" in out
        assert server.keys == ["Bearer k"] * 3
        assert {body["model"] for body in server.bodies} == {"llama"}
        server.reply = failing(10**6, 503)
        fresh = [str(folder), "--out", str(tmp_path / "x.jsonl"), "--tries", "1", "--json"]
        status, out, err = await run_verb(*common, *fresh)
        assert (status, json.loads(out)["failed"]) == (1, 3)
        assert "run it again to ask about them" in err
        server.reply = failing(10**6, 401)
        assert (await run_verb(*common, *fresh))[0] == 2


# whoever runs the tests in the background ignores SIGINT, and so would the process
INTERRUPTIBLE = (
    "import signal, sys, trainer.cli\n"
    "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    "sys.exit(trainer.cli.main(sys.argv[1:]))\n"
)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_an_interrupted_run_exits_4_and_goes_on_where_it_was(
    number: signal.Signals, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "qa.jsonl"
    stuck = asyncio.Event()

    async def reply(chunk: str) -> web.StreamResponse:
        if len(server.asked) == 2:
            stuck.set()
            await asyncio.Event().wait()
        return honest(chunk)

    async with Scripted(reply) as server:
        arguments = [str(folder), "--out", str(out), "--endpoint", server.url, "--model", "m", "--concurrency", "1"]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", INTERRUPTIBLE, "qa", *arguments, stderr=subprocess.PIPE
        )
        await stuck.wait()
        process.send_signal(number)
        _, err = await process.communicate()
        assert process.returncode == 4
        assert err.startswith(b"trainer: interrupted")
        assert len(err.splitlines()) == 1
        assert len(rows(out)) == 1
        assert (await run_verb(*arguments))[0] == 0
    assert len(rows(out)) == 3


async def test_pairs_are_made_through_the_gateways_own_route_too(folder: Path, tmp_path: Path) -> None:
    from tests.running import RunningGateway

    (tmp_path / "models").mkdir()
    out = tmp_path / "qa.jsonl"
    async with Scripted() as server:
        options = ["--openai-api-key=sk-test", f"--openai-base-url={server.url}"]
        async with RunningGateway(tmp_path / "models", tmp_path / "state", *options) as gateway:
            arguments = [str(folder), "--out", str(out), "--endpoint", f"{gateway.url}/v1", "--model", "openai:small"]
            status, _told, err = await run_verb(*arguments)
            assert status == 0, err
        assert {body["model"] for body in server.bodies} == {"small"}
    assert len(rows(out)) == 3
