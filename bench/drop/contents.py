"""Two whole models of one shape, and what each is called by its content.

Every mixture of the two is whole by its structure and answers garbage: only what one whole copy brought is right.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from gateway.model import Rejected
from gateway.volume.manifest import judge

SUMS = "SHA256SUMS"


class NotWhole(ValueError):
    """What was to be copied is itself no model that is served."""


@dataclass(frozen=True, slots=True)
class Content:
    """`path` lies outside every watched volume; `files` are those that are loaded, each with its SHA-256."""

    path: Path
    files: dict[str, str]

    @property
    def name(self) -> str:
        """What the gateway calls a generation of this content: SHA-256 over sorted "path NUL sha256 newline"."""
        return name_of(self.files)


def name_of(files: dict[str, str]) -> str:
    lines = "".join(f"{path}\0{digest}\n" for path, digest in sorted(files.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def hashes(path: Path, names: list[str] | None = None) -> dict[str, str]:
    """Relative path -> SHA-256, of the files named or of all."""
    wanted = names if names is not None else every_file(path)
    return {name: hashlib.sha256((path / name).read_bytes()).hexdigest() for name in wanted}


def every_file(path: Path) -> list[str]:
    """Relative paths in lexical order, which is the order of `kubectl cp`."""
    return sorted(str(file.relative_to(path)) for file in path.rglob("*") if file.is_file())


def content(path: Path) -> Content:
    """What is loaded of the whole model at `path`. Raises NotWhole."""
    verdict = judge(str(path))
    if isinstance(verdict, Rejected):
        raise NotWhole(f"{path} is no whole model: {verdict.reasons[0].message}")
    return Content(path, hashes(path, list(verdict.manifest.files)))


def with_sums(whole: Content, path: Path) -> Content:
    """A copy of it that carries a SHA256SUMS, as `sha256sum` writes it."""
    shutil.copytree(whole.path, path, copy_function=shutil.copy2)
    lines = "".join(f"{digest}  {name}\n" for name, digest in hashes(path).items())
    (path / SUMS).write_text(lines)
    return Content(path, whole.files)


def two_models(base: Path) -> tuple[Content, Content]:
    """Made on the spot, of some 800 kB; they differ in every file that can differ.

    The tokenizer is larger than what tar reads at once, as real ones are: a stall can part it from the weights.
    """
    from tests import families, making

    words = (*families.WORDS, *(f"word{number}" for number in range(1000)))
    shape = {"dim": 64, "layers": 3, "words": words}
    making.encoder(base / "v1", seed=1, **shape)  # type: ignore[arg-type]  # a mapping has one type of value
    other = {**shape, "words": words[::-1], "max_tokens": 32, "prompts": {"query": "query: "}}
    making.encoder(base / "v2", seed=2, **other)  # type: ignore[arg-type]  # as above
    for when, version in ((1_000_000_000, "v1"), (1_100_000_000, "v2")):
        for name in every_file(base / version):  # rsync passes over files of equal size and time; mtimes lie anyway
            os.utime(base / version / name, (when, when))
    return content(base / "v1"), content(base / "v2")


def mixture(found: dict[str, str], old: Content, new: Content) -> dict[str, str]:
    """For a report: what each loaded file is, "old", "new", "same" in both, "neither", or "missing"."""
    names = sorted(found.keys() | old.files.keys() | new.files.keys())
    return {name: _origin(found.get(name), old.files.get(name), new.files.get(name)) for name in names}


def _origin(found: str | None, old: str | None, new: str | None) -> str:
    if found is None:
        return "missing"
    if found == old == new:
        return "same"
    return "old" if found == old else "new" if found == new else "neither"
