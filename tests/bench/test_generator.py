"""The load generator against a real server whose answers are known."""

from __future__ import annotations

import asyncio
import itertools
import json
from pathlib import Path

import pytest

from bench import generator, texts
from bench.bare import request_end
from bench.client import Answer, Client, Connection, read, summary, whole
from bench.directories import minilm

REFUSAL = (
    b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 2\r\nContent-Length: 45\r\n\r\n"
    b'{"error": {"code": "o", "retry_after": 1.25}}'
)


def test_texts_have_the_number_of_tokens_that_is_asked_of_them() -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(minilm() / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    for tokens in (16, 64, 256):
        batch = texts.of_tokens(tokens, 40)
        assert {len(encoding.ids) for encoding in tokenizer.encode_batch(batch)} == {tokens}
        assert len(set(batch)) == 40


def test_a_generator_counts_what_a_server_answers_and_says_what_it_cost(tmp_path: Path) -> None:
    figures = generator.against_nothing(tmp_path, '{"inputs": ["a"]}', 500, 4, 1)
    assert figures["requests_per_second"] > 0
    assert figures["refused"] == figures["broken"] == 0
    assert 0 < figures["p50"] <= figures["p99"]
    assert figures["generator_cores"] > 0
    assert figures["server_cores"] > 0


@pytest.mark.skipif(not generator.has_wrk(), reason="wrk is not installed")
def test_wrk_sends_every_body_in_turn_and_its_script_says_what_came_of_it(tmp_path: Path) -> None:
    async def served() -> tuple[list[bytes], dict[str, float]]:
        seen: list[bytes] = []

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            buffer = b""
            while data := await reader.read(65536):
                buffer += data
                while (end := request_end(buffer)) and len(buffer) >= end:
                    seen.append(buffer[:end].partition(b"\r\n\r\n")[2])
                    buffer = buffer[end:]
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        aim = generator.target(url, [["one"], ["two"]])
        figures = await asyncio.to_thread(lambda: generator.drive(aim, 1, 1, wrk=True))
        server.close()
        return seen, figures

    seen, figures = asyncio.run(served())
    sent = [json.loads(body)["inputs"][0] for body in seen[:8]]
    assert sorted(sent) == ["one"] * 4 + ["two"] * 4
    assert all(a != b for a, b in itertools.pairwise(sent))
    assert figures["texts_per_second"] > 0
    assert figures["broken"] == 0


async def test_an_open_loop_does_not_wait_for_a_slow_server() -> None:
    release = asyncio.Event()

    class Slow(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            began.append(data)
            if len(began) == 5:  # all of them came although none was answered
                release.set()
            asyncio.get_running_loop().create_task(self.answer())

        async def answer(self) -> None:
            await release.wait()
            assert isinstance(self.transport, asyncio.Transport)
            self.transport.write(REFUSAL)

    began: list[bytes] = []
    server = await asyncio.get_running_loop().create_server(Slow, "127.0.0.1", 0)
    client = Client(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/embed", [b"{}"])
    await client.open(rate=1000.0, seconds=0.005)
    client.close()
    server.close()
    assert len(client.answers) == 5
    assert {(answer.status, answer.retry_after, answer.header) for answer in client.answers} == {(429, 1.25, 2.0)}
    assert summary(client.answers)["refused"] == 5


async def test_a_closed_loop_sends_one_request_at_least_however_late_it_is() -> None:
    """A machine may stand still for longer than a measurement is to take."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"{}")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    client = Client(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/embed", [b"{}"])
    await client.closed(connections=2, seconds=0.0)
    client.close()
    server.close()
    assert [answer.status for answer in client.answers] == [200, 200]


def test_a_server_that_hangs_up_is_a_broken_request_and_no_answer() -> None:
    answer = Answer(0.0)
    assert summary([answer])["broken"] == 1
    assert summary([answer])["requests"] == 0


def test_an_answer_is_whole_with_its_last_byte_and_not_before() -> None:
    counted = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    for raw in (counted, chunked):
        assert [whole(bytearray(raw[:end])) for end in range(len(raw))] == [False] * len(raw)
        assert whole(bytearray(raw))


def test_a_refusal_is_read_with_its_header_and_its_body() -> None:
    answer = Answer(0.0)
    read(answer, REFUSAL)
    assert (answer.status, answer.header, answer.retry_after) == (429, 2.0, 1.25)
    assert Connection().closed is False
