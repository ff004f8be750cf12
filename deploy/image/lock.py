"""The lines of requirements.lock that an image may need: what the project and its extras want, what that wants in turn,
and nothing that only development wants. So a change of a linter's version builds no layer of an image anew.

    python deploy/image/lock.py [--write]

in the environment that requirements.lock was made in. Without --write it says what is wrong with packages.lock.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement

ROOT: Final = Path(__file__).parents[2]
OURS: Final = Path(__file__).with_name("packages.lock")
# dev is no image's; ray has a version that images of its own bring
NOT_FOR_IMAGES: Final = frozenset({"dev", "ray"})
# what the installed torch brings of its own is each flavour's; the rest of what it wants is locked
UNKNOWN: Final = re.compile(r"triton|nvidia-.*|cuda-.*|setuptools|dropgate")
FREE: Final = re.compile(rf"torch|pip|{UNKNOWN.pattern}")
PYTHON: Final = {"python_version": "3.11", "python_full_version": "3.11.2"}  # the images'


def main() -> int:
    wanted = made()
    if "--write" in sys.argv[1:]:
        OURS.write_text(wanted, encoding="utf-8")
    elif not OURS.exists() or OURS.read_text(encoding="utf-8") != wanted:
        print("packages.lock does not agree with requirements.lock: make lock", file=sys.stderr)
        return 1
    return 0


def made() -> str:
    """What packages.lock should be. Raises LookupError for a package that is wanted and not locked."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    roots = [*project["dependencies"], *(each for name in extras.keys() - NOT_FOR_IMAGES for each in extras[name])]
    names = closure(roots)
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if normal(line.partition("==")[0]) in names]
    if missing := names - {normal(line.partition("==")[0]) for line in kept}:
        raise LookupError(f"requirements.lock lacks {', '.join(sorted(missing))}")
    return "".join(kept)


def closure(roots: Iterable[str]) -> set[str]:
    """Names of all packages that these requirements lead to, as they are installed here."""
    seen: set[tuple[str, str]] = set()
    waiting = [(Requirement(each), "") for each in roots]
    while waiting:
        requirement, extra = waiting.pop()
        name = normal(requirement.name)
        if not _counts(requirement, extra) or UNKNOWN.fullmatch(name):
            continue
        for inner in ("", *requirement.extras):
            if (name, inner) not in seen:
                seen.add((name, inner))
                waiting += [(Requirement(each), inner) for each in metadata.requires(name) or []]
    return {name for name, _ in seen if not FREE.fullmatch(name)}


def _counts(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({**PYTHON, "extra": extra})


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


if __name__ == "__main__":
    sys.exit(main())
