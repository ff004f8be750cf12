"""Makes a corpus for `gateway kb evaluate` of what every Python brings: the docstrings of its standard library.

    python scripts/docstring_corpus.py OUT
    gateway kb add docstrings OUT/documents
    gateway kb evaluate docstrings --questions OUT/questions.jsonl

`--root` takes another folder of Python instead, such as an installed package's.

Modules are parsed and never imported. Each function, method and class with a docstring of some length becomes a
document, which holds the docstring alone; its question is made of its name and the module's, as somebody might ask who
does not remember them exactly. So the question is not in the document, but for words that both happen to have.
"""

from __future__ import annotations

import argparse
import ast
import json
import random
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Final

LEAST: Final = 120  # characters of a docstring
SKIPPED: Final = {"test", "tests", "idlelib", "lib2to3", "site-packages", "turtledemo", "__pycache__"}
WORD: Final = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--documents", type=int, default=2000, help="at most so many")
    parser.add_argument("--questions", type=int, default=300, help="about so many of the documents")
    parser.add_argument("--root", type=Path, default=Path(sysconfig.get_path("stdlib")), help="of the modules")
    parser.add_argument("--leave-out", type=Path, metavar="QUESTIONS", help="a file of questions not to be asked again")
    options = parser.parse_args()
    found = different(docstrings(options.root))
    draw = random.Random(0)
    chosen = sorted(draw.sample(sorted(found), min(options.documents, len(found))))
    fresh = sorted({*chosen} - _asked(options.leave_out))
    asked = sorted(draw.sample(fresh, min(options.questions, len(fresh))))
    folder = options.out / "documents"
    folder.mkdir(parents=True, exist_ok=True)
    for name in chosen:
        (folder / f"{name}.txt").write_text(found[name] + "\n", encoding="utf-8")
    lines = [json.dumps({"question": question(name), "document": f"{name}.txt"}) for name in asked]
    (options.out / "questions.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{len(chosen)} documents and {len(asked)} questions in {options.out}")


def _asked(questions: Path | None) -> set[str]:
    """Names of the documents that these are about."""
    lines = questions.read_text(encoding="utf-8").splitlines() if questions else []
    return {json.loads(line)["document"].removesuffix(".txt") for line in lines}


def docstrings(root: Path, least: int = LEAST) -> Iterator[tuple[str, str]]:
    """Qualified names and docstrings of so many characters at least, in order of the files' names."""
    for path in sorted(root.rglob("*.py")):
        inside = path.relative_to(root)
        if SKIPPED & set(inside.parts) or path.name.startswith("_"):
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):  # samples of what no Python reads
            continue
        yield from _within(tree, ".".join(inside.with_suffix("").parts), least)


def _within(node: ast.AST, prefix: str, least: int) -> Iterator[tuple[str, str]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not child.name.startswith("_"):
            name = f"{prefix}.{child.name}"
            text = ast.get_docstring(child) or ""
            if len(text) >= least:
                yield name, text
            yield from _within(child, name, least)


def different(found: Iterator[tuple[str, str]]) -> dict[str, str]:
    """By name; of equal docstrings the first, for a question about one of them would have two answers."""
    first: dict[str, str] = {}
    for name, text in found:
        first.setdefault(text, name)
    return {name: text for text, name in first.items()}


def question(name: str) -> str:
    """`shutil.copytree` -> "How does copytree work in shutil?"; of a method, its class is named too."""
    *around, last = name.split(".")
    return f"How does {words(last)} work in {' '.join(words(each) for each in around)}?"


def words(name: str) -> str:
    return " ".join(WORD.findall(name)).lower()


if __name__ == "__main__":
    main()
