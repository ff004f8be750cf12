"""`kubectl create` sends protobuf, of which the objects that the pages create are read here: namespaces and secrets."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any, Final

MAGIC: Final = b"k8s\0"


def read(message: bytes) -> dict[str, Any]:
    """The object, as JSON would have it."""
    assert message.startswith(MAGIC)
    unknown = dict(_fields(message[len(MAGIC) :]))
    version, kind = (dict(_fields(unknown[1]))[number].decode() for number in (1, 2))
    fields = list(_fields(unknown[2]))
    metadata = {1: "name", 3: "namespace"}
    found: dict[str, Any] = {"apiVersion": version, "kind": kind}
    found["metadata"] = {
        metadata[number]: value.decode()
        for number, value in _fields(dict(fields)[1])
        if number in metadata and value
    }  # fmt: skip
    if kind == "Secret":
        entries = [dict(_fields(value)) for number, value in fields if number == 2]
        found["data"] = {each[1].decode(): base64.b64encode(each.get(2, b"")).decode() for each in entries}
        found["type"] = dict(fields)[3].decode()
    return found


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Number and content of each field that has a length; numbers are left out."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        value, at = _varint(message, at)
        if tag & 7 == 2:
            yield tag >> 3, message[at : at + value]
            at += value
        else:
            assert tag & 7 == 0, "no object that kubectl creates here has fields of a fixed width"


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
