"""A file of settings, in JSON, TOML or YAML: flat, or in sections that are named as the groups of settings are.

What begins with an underscore is for people: the earlier trainer's files have `_comments`.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from trainer.errors import InvalidInput

SUFFIXES = {".json": "json", ".toml": "toml", ".yaml": "yaml", ".yml": "yaml"}


def read_settings(file: Path, groups: Collection[str]) -> Iterator[tuple[str, Any]]:
    """Each key, `section.key` where it stands in a section, with its value. Raises InvalidInput."""
    for key, value in _document(file).items():
        if key.startswith("_"):
            continue
        if not isinstance(value, dict):
            yield key, value
        elif key not in groups:
            raise InvalidInput(f"{file}: unknown section {key}; the sections are {', '.join(groups)}")
        else:
            yield from ((f"{key}.{inner}", each) for inner, each in value.items() if not str(inner).startswith("_"))


def _document(file: Path) -> dict[str, Any]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise InvalidInput(f"{file}: there is no such file of settings") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{file}: cannot be read: {error}") from error
    found = _parsed(file, text)
    if found is None:
        return {}
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise InvalidInput(f"{file}: expected keys with values, got {type(found).__name__}")
    return found


def _parsed(file: Path, text: str) -> Any:
    form = SUFFIXES.get(file.suffix.lower())
    if form is None:
        raise InvalidInput(f"{file}: expected a name that ends in {', '.join(SUFFIXES)}")
    try:
        if form == "json":
            return json.loads(text)
        return tomllib.loads(text) if form == "toml" else _yaml(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{file}: not valid {form.upper()}: {error}") from error


def _yaml(text: str) -> Any:
    import yaml  # noqa: PLC0415  only where a file is YAML

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
