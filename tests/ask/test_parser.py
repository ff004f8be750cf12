"""Reading documents: whatever a file is, its text or a reason comes back, and nothing else is harmed."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final

import pytest
import pytest_asyncio

from gateway.ask.chunks import Chunking
from gateway.ask.parser import Parser
from gateway.errors import DocumentTooLarge, DocumentUnreadable
from tests.ask.papers import bomb, pdf
from tests.running import DEADLINE, GLANCE, is_running

pytest.importorskip("pypdfium2", reason="the extra `ask` is not installed")

PAGE: Final = """<!doctype html><html><head><title>T</title><script>var hidden = 1</script></head><body>
<nav><a href="/">Home</a> <a href="/x">Elsewhere</a></nav>
<article><h1>Beams</h1><p>A beam of electrons is bent by magnets, and radiates while it is bent.</p>
<h2>Losses</h2><p>What is lost in a turn grows with the fourth power of the energy of the beam.</p></article>
<footer>Imprint</footer></body></html>"""


@pytest_asyncio.fixture
async def parser() -> AsyncIterator[Parser]:
    parser = Parser(most_bytes=8_000_000)
    yield parser
    await parser.close()


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("Größe".encode(), "Größe"),
        ("Größe".encode("utf-8-sig"), "Größe"),
        ("Größe".encode("utf-16"), "Größe"),
        ("Größe und Maß".encode("utf-16-le"), "Größe und Maß"),
        ("Größe und Maß".encode("utf-16-be"), "Größe und Maß"),
        ("Größe".encode("utf-32"), "Größe"),
        ("Größe €".encode("cp1252"), "Größe €"),
        (b"Gr\xf6\xdfe \x81", "Größe \x81"),
        (b"one\r\ntwo\rthree", "one\ntwo\nthree"),
        ("Donau\u00addampf\u00adschiff".encode(), "Donaudampfschiff"),
    ],
)
async def test_text_is_read_whatever_its_encoding(parser: Parser, raw: bytes, text: str) -> None:
    assert (await parser.read("a.txt", raw)).text == text


async def test_of_html_the_main_part_is_read_as_markdown(parser: Parser) -> None:
    text = (await parser.read("page.html", PAGE.encode())).text
    assert "# Beams" in text
    assert "## Losses" in text
    assert "fourth power" in text
    assert "hidden" not in text
    assert "Elsewhere" not in text


async def test_html_that_declares_its_encoding_is_read_in_it(parser: Parser) -> None:
    page = PAGE.replace("<head>", '<head><meta charset="iso-8859-2">').replace("magnets", "magnets (Łódź)")
    assert "(Łódź)" in (await parser.read("page.html", page.encode("iso-8859-2"))).text


async def test_html_without_a_main_part_is_read_all_the_same(parser: Parser) -> None:
    assert "short" in (await parser.read("page", b"<html><body>short</body></html>")).text


async def test_a_pdf_is_read_page_by_page(parser: Parser) -> None:
    read = await parser.read("paper.pdf", pdf(["The first page", "", "The third page"]))
    assert [number for number, _, _ in read.pages] == [1, 2, 3]
    assert [read.text[start:end].strip() for _, start, end in read.pages] == ["The first page", "", "The third page"]
    assert read.pages[-1][2] == len(read.text)


async def test_a_pdf_is_known_by_its_content(parser: Parser) -> None:
    assert (await parser.read("paper", pdf(["Without a suffix"]))).text.strip() == "Without a suffix"


@pytest.mark.parametrize(
    ("name", "raw", "why"),
    [
        ("a.pdf", b"this is no PDF", "no PDF"),
        ("a.pdf", b"%PDF-1.7\nand nothing that follows from it", "no PDF"),
        ("a.pdf", pdf(["x"])[:200], "no PDF|no text"),
        ("a.pdf", pdf(["secret"], encrypted=True), "encrypted"),
        ("a.pdf", pdf(["", ""]), "pictures"),
        ("a.docx", b"PK\x03\x04\x14\0\x06\0\x08\0\0\0!\0" + bytes(range(256)), "not text"),
        ("a.html", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0", "not HTML"),
        ("a.txt", b"", "no text"),
        ("a.md", b" \n\t \n", "no text"),
    ],
)
async def test_what_cannot_be_read_is_refused_with_the_reason(parser: Parser, name: str, raw: bytes, why: str) -> None:
    with pytest.raises(DocumentUnreadable, match=why):
        await parser.read(name, raw)
    assert (await parser.read("next.txt", b"unharmed")).text == "unharmed"


async def test_a_document_over_the_limit_of_bytes_is_refused() -> None:
    parser = Parser(most_bytes=99)
    with pytest.raises(DocumentTooLarge, match="99 bytes"):
        await parser.read("a.txt", b"x" * 100)


async def test_a_document_with_more_text_than_the_limit_is_refused() -> None:
    parser = Parser(most_bytes=10**6, most_characters=20)
    with pytest.raises(DocumentTooLarge, match="20 characters"):
        await parser.read("a.txt", b"x" * 21)
    with pytest.raises(DocumentTooLarge, match="20 characters"):
        await parser.read("a.pdf", pdf(["a page of text"] * 9))
    await parser.close()


async def test_a_bomb_is_refused_and_harms_nothing(parser: Parser) -> None:
    packed = bomb(3)
    assert len(packed) < 100_000
    with pytest.raises(DocumentUnreadable):
        await parser.read("bomb.pdf", packed)
    assert (await parser.read("next.txt", b"unharmed")).text == "unharmed"


HANGS: Final = """import os, sys
sys.stdin.buffer.read(4)
print(os.getpid(), file=open(sys.argv[1], "w"), flush=True)
sys.stdin.read()"""
CRASHES: Final = "import os, sys; sys.stdin.buffer.read(4); os.abort()"
BABBLES: Final = """import sys
sys.stdin.buffer.read(4)
sys.stdout.buffer.write(bytes([0, 0, 0, 1, 0xC1]))
sys.stdout.flush()
sys.stdin.read()"""


async def test_a_reader_that_takes_too_long_is_killed(tmp_path: Path, time_passes: Callable[[float], None]) -> None:
    where = tmp_path / "pid"
    parser = Parser(most_bytes=99, seconds=2 * DEADLINE, command=(sys.executable, "-c", HANGS, str(where)))
    reading = asyncio.create_task(parser.read("a.txt", b"x"))
    async with asyncio.timeout(DEADLINE):
        while not (where.exists() and where.read_text().endswith("\n")):  # it has begun
            await asyncio.sleep(GLANCE)
    time_passes(2 * DEADLINE)
    with pytest.raises(DocumentUnreadable, match="600 s"):
        await reading
    assert not is_running(int(where.read_text()))


@pytest.mark.parametrize("program", [CRASHES, BABBLES])
async def test_a_reader_that_breaks_is_a_reason_for_its_document(program: str) -> None:
    parser = Parser(most_bytes=99, command=(sys.executable, "-c", program))
    with pytest.raises(DocumentUnreadable, match="crashed"):
        await parser.read("a.txt", b"x")


async def test_a_reader_that_died_while_it_rested_is_no_fault_of_the_next_document(parser: Parser) -> None:
    assert (await parser.read("a.txt", b"one")).text == "one"
    [rested] = parser._idle
    rested.kill()  # and nobody has noticed yet
    assert rested.returncode is None
    assert (await parser.read("b.txt", b"two")).text == "two"


async def test_many_documents_are_read_at_once(parser: Parser) -> None:
    read = await asyncio.gather(*(parser.read(f"{n}.txt", f"number {n}".encode()) for n in range(40)))
    assert [each.text for each in read] == [f"number {n}" for n in range(40)]


async def test_a_text_is_cut_in_the_same_process(parser: Parser) -> None:
    text = "# One\n\nA sentence. Another.\n\n# Two\n\nA third sentence.\n"
    pieces = await parser.cut("a.md", text, Chunking(tokens=6, overlap=0))
    assert "".join(text[start:end] for start, end in pieces.spans) == text
    assert pieces.headings[0] == "One"
    assert pieces.headings[-1] == "Two"
