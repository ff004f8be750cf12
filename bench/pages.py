"""A report in `docs/performance.md`: its tables between `<!-- NAME -->` and `<!-- end -->`, and its pictures.

The report itself is kept beside the page, so that a test can hold the one to the other.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from bench.pictures import PICTURES, pictures
from bench.tables import NOTHING, blocks

DOCS: Final = Path(__file__).parents[1] / "docs"
PAGE: Final = "performance.md"
FIGURES: Final = "performance.json"
BLOCK: Final = re.compile(r"(<!-- ([a-z ]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(page: str, report: Mapping[str, Any]) -> str:
    """The page with every block made anew. Raises KeyError for one that no report has."""
    made = blocks(report) | {"pictures": _links(report)}
    return BLOCK.sub(lambda found: found[1] + made[found[2]] + found[3], page)


def _links(report: Mapping[str, Any]) -> str:
    return "\n".join(f"![{PICTURES[name]}](pictures/{name})\n" for name in pictures(report)) or NOTHING


def write(report: Mapping[str, Any], docs: Path = DOCS) -> None:
    """Figures, page and pictures."""
    (docs / FIGURES).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    page = docs / PAGE
    page.write_text(filled(page.read_text(encoding="utf-8"), report), encoding="utf-8")
    draw(report, docs / "pictures")


def draw(report: Mapping[str, Any], folder: Path) -> list[Path]:
    """The pictures of a report; where they are."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for name, text in pictures(report).items():
        (folder / name).write_text(text, encoding="utf-8")
        drawn.append(folder / name)
    return drawn
