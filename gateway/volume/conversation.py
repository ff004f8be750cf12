"""How a language model is spoken to: its chat template, and what ends an answer or colours it when nobody says how."""

from __future__ import annotations

import os
from typing import Final

from gateway.volume.documents import Document
from gateway.volume.files import Folder, read_capped
from gateway.volume.reasons import unfit

TEMPLATE: Final = "chat_template.jinja"
DEFAULTS: Final = "generation_config.json"
TEMPLATE_CAP: Final = 1024**2  # bytes; the largest real ones have some 30 kB


def read_conversation(folder: Folder, path: str) -> tuple[str, ...]:
    """The files in the sub-folder `path` that are there. Raises Unfit (json_invalid, config_invalid)."""
    prefix = path + "/" if path else ""
    found = []
    if folder.has(prefix + DEFAULTS):
        _check_endings(Document.read(folder, prefix + DEFAULTS, "config_invalid"))
        found.append(prefix + DEFAULTS)
    if folder.has(prefix + TEMPLATE):
        _check_text(folder, prefix + TEMPLATE)
        found.append(prefix + TEMPLATE)
    return tuple(found)


def _check_endings(document: Document) -> None:
    value = document.fields.get("eos_token_id")
    tokens = value if isinstance(value, list) else [] if value is None else [value]
    if any(isinstance(token, bool) or not isinstance(token, int) or token < 0 for token in tokens):
        raise document.fault("eos_token_id is neither a token's number nor a list of them")


def _check_text(folder: Folder, name: str) -> None:
    content = read_capped(folder.path(name), folder.root, TEMPLATE_CAP, os.fspath(name))
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise unfit("config_invalid", f"{name} is no text in UTF-8", name) from error
