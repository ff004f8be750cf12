"""The file that `trainer config init` writes: every setting with its default and what it is.

A setting that is chosen from the data and the machine has no default to write: its line is a comment.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from trainer.config import SETTINGS
from trainer.settings import Table

FORMS: Final = ("toml", "yaml", "json")


def template(form: str, table: Table[Any] = SETTINGS) -> str:
    """A file in this form that resolves to the defaults."""
    if form == "json":
        return _json(table)
    return _sections(table, "[{}]", "", " =") if form == "toml" else _sections(table, "{}:", "  ", ":")


def _sections(table: Table[Any], head: str, indent: str, between: str) -> str:
    """JSON's texts, numbers, booleans and lists are those of TOML and YAML."""
    lines: list[str] = []
    for name in table.groups:
        lines.append(head.format(name))
        for key, value, help in _settings(table, name):
            written = f"{key}{between} {json.dumps(value)}" if value is not None else f"# {key}{between}"
            lines += [f"{indent}# {help}", f"{indent}{written}"]
        lines.append("")
    return "\n".join(lines)


def _json(table: Table[Any]) -> str:
    """Flat, as the earlier trainer's files are."""
    found = [setting for name in table.groups for setting in _settings(table, name)]
    comments = {key: help for key, _, help in found}
    return json.dumps({"_comments": comments} | {key: value for key, value, _ in found}, indent=2) + "\n"


def _settings(table: Table[Any], name: str) -> Iterator[tuple[str, Any, str]]:
    """Key, default and help of a group's settings."""
    for key, field in table.kind.model_fields.items():
        if table.group(key) == name:
            yield key, _simple(field.default), str(field.description)


def _simple(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, Path) else value
