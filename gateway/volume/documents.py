"""JSON objects that somebody else wrote, read field by field.

No field is trusted to have the type that it should: each accessor answers a value of exactly its type, or raises
Unfit with the code of the document, naming the file and the key.

Of large documents only what is needed is built, since that holds the interpreter's lock.
"""

from __future__ import annotations

import codecs
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import msgspec

from gateway.volume.files import CONFIG_CAP, Folder, check_values, parsing
from gateway.volume.reasons import Unfit, unfit

LARGEST: Final = 2**40  # beyond any real size, and small enough for arithmetic to stay cheap
NAMES: Final = {dict: "an object", list: "a list"}
BLOCK: Final = 1024**2  # bytes

T = TypeVar("T")


def shown(value: object) -> str:
    """A foreign value in a message: short, ASCII, on one line."""
    if isinstance(value, dict | list):
        return NAMES[type(value)]
    text = ascii(value[:80] if isinstance(value, str) else value)
    return text if len(text) <= 80 else text[:77] + "..."


def encodable(text: str) -> bool:
    """Whether the text can be written as UTF-8; JSON can spell half of a character."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def read_fields(folder: Folder, name: str, code: str, kind: type[T], cap: int) -> T:
    """The fields of a msgspec.Struct, of the object in a file. Raises Unfit. Whatever else is in the file is seen to be
    JSON, and not built; so `kind` has nothing that may be long, but as msgspec.Raw for `build`."""
    content = folder.read(name, cap)
    with parsing(name, len(content)):
        text = codecs.getincrementaldecoder("utf-8")()  # msgspec does not look at the bytes of what it leaves out
        for begin in range(0, len(content), BLOCK):
            text.decode(content[begin : begin + BLOCK])
        text.decode(b"", final=True)
        found: T = _decoded(content, name, code, kind)
    return found


def build(part: msgspec.Raw, name: str, code: str, kind: Any, most: int) -> Any:
    """What `read_fields` left as it is, if it has at most so many values. Raises Unfit."""
    content = bytes(part)
    check_values(content, most, name)
    with parsing(name, len(content)):
        return _decoded(content, name, code, kind)


def _decoded(content: bytes, name: str, code: str, kind: Any) -> Any:
    try:
        return msgspec.json.decode(content, type=kind)
    except msgspec.ValidationError as error:
        raise unfit(code, f"{name}: {error}", name) from error


@dataclass(frozen=True, slots=True)
class Document:
    """One JSON object. `code` is the reason that its faults are told under."""

    name: str
    code: str
    fields: dict[str, Any]

    @classmethod
    def read(cls, folder: Folder, name: str, code: str, cap: int = CONFIG_CAP) -> Document:
        """The object in the file. Raises Unfit."""
        return cls.of(folder.json(name, cap), name, code)

    @classmethod
    def of(cls, value: Any, name: str, code: str) -> Document:
        if not isinstance(value, dict):
            raise unfit(code, f"{name} is {shown(value)}, expected an object", name)
        return cls(name, code, value)

    def fault(self, message: str) -> Unfit:
        """To be raised: something is wrong with this document."""
        return unfit(self.code, f"{self.name}: {message}", self.name)

    def _wrong(self, key: str, expected: str) -> Unfit:
        found = shown(self.fields[key]) if key in self.fields else "missing"
        return self.fault(f"{key} is {found}, expected {expected}")

    def given(self, key: str) -> bool:
        """Whether the key is there with a value that is not null."""
        return self.fields.get(key) is not None

    def count(self, key: str, default: int | None = None) -> int:
        """A positive whole number; `default` stands in for an absent one or null."""
        value = self.fields.get(key)
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= LARGEST:
            raise self._wrong(key, "a positive whole number")
        return value

    def flag(self, key: str, default: bool) -> bool:
        value = self.fields.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self._wrong(key, "true or false")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        value = self.fields.get(key)
        if value is None and default is not None:
            return default
        if not isinstance(value, str) or not encodable(value):
            raise self._wrong(key, "a text")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of texts; absent and null are the empty one."""
        value = self.fields.get(key)
        if value is None:
            return ()
        if not isinstance(value, list) or not all(isinstance(item, str) and encodable(item) for item in value):
            raise self._wrong(key, "a list of texts")
        return tuple(value)

    def inner(self, key: str) -> Document:
        """The object under the key; absent and null are the empty one."""
        value = self.fields.get(key)
        if value is not None and not isinstance(value, dict):
            raise self._wrong(key, "an object")
        return Document(self.name, self.code, value or {})
