"""Shows and changes a model's `model_metadata.json`; where SHA256SUMS lists it, its line there follows.

python scripts/model_metadata.py DIRECTORY [KEY=VALUE ...]      KEY= removes a key
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

NAME: Final = "model_metadata.json"
SUMS: Final = "SHA256SUMS"


class Unusable(Exception):
    """What is there, or was asked for, cannot be used; the message says why."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("changes", nargs="*", metavar="KEY=VALUE")
    options = parser.parse_args(arguments)
    try:
        metadata = read(options.directory)
        if options.changes:
            metadata = changed(metadata, options.changes)
            write(options.directory, metadata)
    except (Unusable, OSError) as error:
        print(f"model_metadata: {error}", file=sys.stderr)
        return 1
    print(json.dumps(metadata, indent=2, ensure_ascii=False))
    return 0


def read(directory: Path) -> dict[str, Any]:
    if not directory.is_dir():
        raise Unusable(f"{directory} is not a directory")
    try:
        metadata = json.loads((directory / NAME).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise Unusable(f"{directory / NAME} is no JSON ({error}): repair or remove it") from None
    if not isinstance(metadata, dict):
        raise Unusable(f"{directory / NAME} is no JSON object: repair or remove it")
    return metadata


def changed(metadata: dict[str, Any], changes: Sequence[str]) -> dict[str, Any]:
    metadata = dict(metadata)
    for change in changes:
        key, equals, value = change.partition("=")
        if not key or not equals:
            raise Unusable(f"{change!r}: expected KEY=VALUE")
        if value:
            metadata[key] = value
        else:
            metadata.pop(key, None)
    return metadata


def write(directory: Path, metadata: dict[str, Any]) -> None:
    text = json.dumps(metadata, indent=2, ensure_ascii=False) + "\n"
    replace(directory / NAME, text)
    if (directory / SUMS).is_file():
        digest = hashlib.sha256(text.encode()).hexdigest()
        replace(directory / SUMS, listed((directory / SUMS).read_text(encoding="utf-8"), digest))


def listed(sums: str, digest: str) -> str:
    """The same lists with another digest of the metadata; unchanged if they have none."""
    lines = sums.splitlines()
    return "".join((f"{digest}  {NAME}" if name(line) == NAME else line) + "\n" for line in lines)


def name(line: str) -> str:
    """Of the file that a line of SHA256SUMS is about; `*` before it says that it was read as bytes."""
    return line.partition(" ")[2].strip().removeprefix("*").removeprefix("./")


def replace(path: Path, text: str) -> None:
    """In one step: whoever reads sees the old text or the new one."""
    partial = path.with_name(f".{path.name}.tmp")  # a name of a copy in progress, which a gateway waits for
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


if __name__ == "__main__":
    sys.exit(main())
