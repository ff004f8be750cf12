"""Fails an image's build that has a package which packages.lock does not name, or in another version.

    python installed.py packages.lock [PREFIX]

PREFIX has the packages that are laid over this interpreter's own. torch, and what it brings for CUDA, is each flavour's
own; pip and the project itself are not locked.
"""

from __future__ import annotations

import re
import sys
import sysconfig
from collections import Counter
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Final

OWN: Final = re.compile(r"torch|triton|nvidia-.*|cuda-.*|pip|setuptools|dropgate")


def main() -> int:
    locked = read(Path(sys.argv[1]).read_text(encoding="utf-8"))
    there = [
        (normal(package.name), package.version) for package in metadata.distributions(path=[*sys.path, *laid_over()])
    ]
    wrong = [*twice(name for name, _ in there), *differences(locked, found := dict(there))]
    print("\n".join(wrong) or f"{len(found)} packages, as locked", file=sys.stderr)
    return 1 if wrong else 0


def laid_over() -> Iterable[str]:
    for prefix in sys.argv[2:]:
        yield sysconfig.get_path("purelib", vars={"base": prefix, "platbase": prefix})


def twice(names: Iterable[str]) -> Iterable[str]:
    """Of two layers that both have a package, one would lie over parts of the other."""
    for name, count in Counter(names).items():
        if count > 1:
            yield f"{name} is installed {count} times"


def read(lock: str) -> dict[str, str]:
    pairs = (line.split("==", 1) for line in lock.splitlines() if "==" in line)
    return {normal(name): version.strip() for name, version in pairs}


def differences(locked: dict[str, str], found: dict[str, str]) -> Iterable[str]:
    for name, version in sorted(found.items()):
        if OWN.fullmatch(name):
            continue
        if name not in locked:
            yield f"{name}=={version} is installed, and packages.lock does not name it: `make lock`"
        elif locked[name] != version:
            yield f"{name}=={version} is installed, and packages.lock says {locked[name]}"


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    sys.exit(main())
