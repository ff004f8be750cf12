"""What a project wants with these extras, one requirement a line, for an image that has it in a layer of its own.

python dependencies.py pyproject.toml ask,otel
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def main() -> int:
    project = tomllib.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["project"]
    extras = [extra for extra in re.split(r"[,\s]+", sys.argv[2]) if extra]
    if unknown := set(extras) - project["optional-dependencies"].keys():
        print(f"no such extra: {', '.join(sorted(unknown))}", file=sys.stderr)
        return 2
    print("\n".join(wanted(project, extras)))
    return 0


def wanted(project: dict[str, Any], extras: list[str]) -> Iterator[str]:
    """An extra may name others, as `project[one,other]`."""
    yield from project["dependencies"]
    for extra in extras:
        for requirement in project["optional-dependencies"][extra]:
            if own := re.fullmatch(rf"{re.escape(project['name'])}\[([^\]]*)\]", requirement):
                yield from wanted({**project, "dependencies": []}, [each.strip() for each in own[1].split(",")])
            else:
                yield requirement


if __name__ == "__main__":
    sys.exit(main())
