"""A file to the text that it holds: plain text, Markdown, HTML and PDF. Blocking, and with libraries that a bad file
may crash: it has a process to itself (`gateway.ask.parse`).

HTML becomes Markdown, without what stands on every page of a site. A PDF becomes its pages, one after the other.
"""

from __future__ import annotations

import re
from contextlib import closing
from typing import Any, Final

from gateway.ask.text import decode, is_binary, normalise
from gateway.errors import DocumentTooLarge, DocumentUnreadable

HTML: Final = (".html", ".htm", ".xhtml")
PDF_SUFFIX: Final = ".pdf"
PDF_MARK: Final = b"%PDF-"
PDF_MARK_WITHIN: Final = 1024  # bytes; readers allow as much before it
BETWEEN_PAGES: Final = "\n\n"
LOOKS_LIKE_HTML: Final = re.compile(rb"\s*(?:<!--.*?-->\s*)?<(?:!doctype html|html)\b", re.IGNORECASE | re.DOTALL)
CHARSET: Final = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([\w-]{1,40})", re.IGNORECASE)
CHARSET_WITHIN: Final = 2048

PageSpan = tuple[int, int, int]  # a page's number, and where it lies in the text


def read(name: str, content: bytes, media: str, *, most_characters: int) -> tuple[str, list[PageSpan]]:
    """Normalised text, and where its pages lie; only a PDF has pages. Raises DocumentUnreadable or DocumentTooLarge."""
    pages: list[PageSpan] = []
    match _format(name, content, media):
        case "pdf":
            text, pages = _pdf(content, most_characters)
        case "html":
            text = normalise(_html(content))
        case _:
            text = normalise(_plain(content))
    if len(text) > most_characters:
        raise too_long(most_characters)
    if not text.strip():
        raise DocumentUnreadable("there is no text in it" + ("; pages that are pictures are not read" if pages else ""))
    return text, pages


def too_long(most: int) -> DocumentTooLarge:
    return DocumentTooLarge(f"its text is longer than {most:,} characters", limit=most)


def _format(name: str, content: bytes, media: str) -> str:
    """What the content says it is, then the name, then the sender."""
    lower = name.lower()
    if PDF_MARK in content[:PDF_MARK_WITHIN]:
        return "pdf"
    if lower.endswith(PDF_SUFFIX) or media == "application/pdf":
        raise DocumentUnreadable("it is no PDF: it does not begin as one")
    if lower.endswith(HTML) or media in {"text/html", "application/xhtml+xml"} or LOOKS_LIKE_HTML.match(content):
        return "html"
    return "text"


def _plain(content: bytes) -> str:
    if is_binary(content):
        raise DocumentUnreadable("it is not text, Markdown, HTML or PDF")
    return decode(content)


def _html(content: bytes) -> str:
    """The main part as Markdown; all that can be read where no part is the main one."""
    if is_binary(content):
        raise DocumentUnreadable("it is not HTML: there are bytes in it that no text has")
    from trafilatura import extract, html2txt  # noqa: PLC0415  # an extra's, and half a second

    source = _decoded_html(content)
    text = extract(
        source, output_format="markdown", include_tables=True, include_comments=False, favor_recall=True, fast=True
    )
    return text or html2txt(source) or ""


def _decoded_html(content: bytes) -> str:
    declared = CHARSET.search(content[:CHARSET_WITHIN])
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        if declared is not None:
            try:
                return content.decode(declared[1].decode("ascii"), errors="replace")
            except (LookupError, UnicodeError):
                return decode(content)
    return decode(content)


def _pdf(content: bytes, most_characters: int) -> tuple[str, list[PageSpan]]:
    from pypdfium2 import PdfDocument, PdfiumError  # noqa: PLC0415  # an extra's

    try:
        document = PdfDocument(content)
    except PdfiumError as error:
        if "password" in str(error).lower():
            raise DocumentUnreadable("it is encrypted: its text takes a password") from error
        raise DocumentUnreadable(f"it is no PDF that can be read: {error}") from error
    try:
        return _pages(document, most_characters)
    finally:
        document.close()


def _pages(document: Any, most_characters: int) -> tuple[str, list[PageSpan]]:
    """A page that cannot be read is an empty one: the others are still worth having."""
    texts: list[str] = []
    pages: list[PageSpan] = []
    at = 0
    for number in range(1, len(document) + 1):
        text = _page(document, number) + BETWEEN_PAGES
        texts.append(text)
        pages.append((number, at, at + len(text)))
        at += len(text)
        if at > most_characters + len(text):
            raise too_long(most_characters)
    return "".join(texts), pages


def _page(document: Any, number: int) -> str:
    from pypdfium2 import PdfiumError  # noqa: PLC0415  # an extra's

    try:
        with closing(document[number - 1]) as page, closing(page.get_textpage()) as text:
            return normalise(text.get_text_range()).strip()
    except PdfiumError:
        return ""
