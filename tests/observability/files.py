"""What lies in deploy/observability, read: expressions, and the series and labels that they ask for."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml
from prometheus_client.parser import text_string_to_metric_families

FOLDER: Final = Path(__file__).parents[2] / "deploy" / "observability"
STRING: Final = re.compile(r'"(?:[^"\\]|\\.)*"')
MATCHERS: Final = re.compile(r"(?:\b([a-z_]+))\{([^}]*)\}")
NAMED: Final = re.compile(r"\b(dropgate_\w+|up)\b")
GROUPED: Final = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
TARGET: Final = frozenset({"instance", "job"})  # Prometheus adds them to every series


class Expression(NamedTuple):
    """`where` it stands, and what it says."""

    where: str
    text: str

    def series(self) -> set[str]:
        return set(NAMED.findall(STRING.sub('""', self.text)))

    def labels(self) -> set[tuple[str, str]]:
        """(series, label) for every label that is matched or grouped by. What is grouped by belongs to some series of
        the expression, which is asked with an empty name."""
        bare = STRING.sub('""', self.text)
        matched = {
            (name, re.split("[=!]", part)[0].strip())
            for name, inside in MATCHERS.findall(bare)
            for part in inside.split(",")
            if part.strip()
        }
        grouped = {("", label.strip()) for inside in GROUPED.findall(bare) for label in inside.split(",")}
        return matched | grouped


def rules() -> list[dict[str, Any]]:
    content = yaml.safe_load((FOLDER / "alerts.yml").read_text(encoding="utf-8"))
    return [rule for group in content["groups"] for rule in group["rules"]]


def dashboard() -> dict[str, Any]:
    board: dict[str, Any] = json.loads((FOLDER / "dashboard.json").read_text(encoding="utf-8"))
    return board


def alerts() -> list[Expression]:
    return [Expression(rule["alert"], rule["expr"]) for rule in rules()]


def panels() -> Iterator[Expression]:
    """Every query of the dashboard, as Grafana leaves it for one instance and short intervals."""
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            text = target["expr"].replace("$__rate_interval", "10s").replace("$instance", ".*")
            yield Expression(f"{panel['title']} {target['refId']}", text)


def exposed(text: str) -> dict[str, set[str]]:
    """Series -> its labels, of what a gateway's /metrics says."""
    found: dict[str, set[str]] = {"up": set()}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def unknown(expression: Expression, known: dict[str, set[str]]) -> list[str]:
    """What an expression asks for, and what no gateway says."""
    wrong = [name for name in sorted(expression.series()) if name not in known]
    anywhere = set().union(*(known.get(name, set()) for name in expression.series())) | TARGET
    for name, label in sorted(expression.labels()):
        if label not in (known.get(name, set()) | TARGET if name else anywhere):
            wrong.append(f"{name}{{{label}}}")
    return wrong
