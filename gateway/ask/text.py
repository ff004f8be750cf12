"""Bytes to text, once and the same way everywhere: offsets are counted in what comes out of here.

UTF-8 unless the bytes say otherwise; what is no UTF-8 is read as Windows-1252, and no byte sequence fails.
"""

from __future__ import annotations

import codecs
import re
from typing import Final

BOMS: Final = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark is the beginning of this one
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
SAMPLE: Final = 4096
# Without a mark: European text in UTF-16 has a zero in nearly every second byte, and nothing else has.
MOSTLY: Final = 0.4
# Soft hyphens, and the mark that PDFium puts in place of a hyphen at the end of a line with the break behind it.
HYPHENS: Final = re.compile("\u00ad|[\ufffe\x02](?:\r\n?|\n)?")
BREAKS: Final = re.compile("\r\n?|[\x0b\x0c\x85\u2028\u2029]")
NEVER: Final = re.compile("[\x00-\x08\x0e-\x1f\x7f\ufeff]")  # is no part of a text
SURROGATES: Final = re.compile("[\ud800-\udfff]")  # JSON can spell half of a character


def decode(raw: bytes) -> str:
    for mark, encoding in BOMS:
        if raw.startswith(mark):
            return raw[len(mark) :].decode(encoding, errors="replace")
    if wide := _wide(raw[:SAMPLE]):
        return raw.decode(wide, errors="replace")
    for encoding in ("utf-8", "cp1252"):
        try:
            return raw.decode(encoding)
        except UnicodeDecodeError:
            continue
    return raw.decode("latin-1")  # every byte is one of its characters


def normalise(text: str) -> str:
    """One kind of line break, no soft hyphens, no control characters, no halves of characters."""
    text = BREAKS.sub("\n", HYPHENS.sub("", text))
    return SURROGATES.sub("\ufffd", NEVER.sub("", text))


def is_binary(raw: bytes) -> bool:
    """Whether this is no text in any encoding that we read: a picture, an archive, an office file."""
    if any(raw.startswith(mark) for mark, _ in BOMS) or _wide(raw[:SAMPLE]):
        return False
    return b"\0" in raw[:SAMPLE] or len(NEVER.findall(raw[:SAMPLE].decode("latin-1"))) * 20 > len(raw[:SAMPLE])


def _wide(sample: bytes) -> str | None:
    """UTF-16 without a mark."""
    half = len(sample) // 2
    if half and sample[1::2].count(0) > half * MOSTLY and not sample[0::2].count(0):
        return "utf-16-le"
    if half and sample[0::2].count(0) > half * MOSTLY and not sample[1::2].count(0):
        return "utf-16-be"
    return None
