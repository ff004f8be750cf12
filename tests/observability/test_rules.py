"""Alerts and dashboard as data: each alert fires and clears, is explained, and asks for what there is."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.observability.files import FOLDER, Expression, alerts, dashboard, exposed, panels, rules, unknown
from tests.observability.prometheus import needs_promtool
from tests.test_docs import block, page
from tests.test_docs import rows as table

NAMES = [rule["alert"] for rule in rules()]


def promtool(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["promtool", *words], capture_output=True, text=True, check=False)


@needs_promtool
def test_promtool_takes_the_configuration_and_the_rules() -> None:
    for kind, name in (("config", "prometheus.yml"), ("rules", "alerts.yml")):
        ran = promtool("check", kind, str(FOLDER / name))
        assert ran.returncode == 0, ran.stdout + ran.stderr


@needs_promtool
def test_each_alert_is_quiet_fires_and_clears() -> None:
    ran = promtool("test", "rules", str(FOLDER / "alerts.test.yml"))
    assert ran.returncode == 0, ran.stdout + ran.stderr


@needs_promtool
@pytest.mark.parametrize("never", [True, False], ids=["never fires", "never clears"])
def test_an_alert_that_does_not_do_so_would_be_found(never: bool, tmp_path: Path) -> None:
    ruined = yaml.safe_load((FOLDER / "alerts.yml").read_text(encoding="utf-8"))
    for rule in ruined["groups"][0]["rules"]:
        rule["expr"] = "vector(1) > 2" if never else "vector(1)"
    (tmp_path / "alerts.yml").write_text(yaml.safe_dump(ruined), encoding="utf-8")
    shutil.copy(FOLDER / "alerts.test.yml", tmp_path)
    ran = promtool("test", "rules", str(tmp_path / "alerts.test.yml"))
    assert ran.returncode != 0
    assert [name for name in NAMES if f"alertname: {name}" not in ran.stdout + ran.stderr] == []


def test_the_operator_of_a_cluster_is_given_the_same_alerts() -> None:
    cluster = yaml.safe_load((FOLDER.parent / "components" / "monitoring" / "rules.yaml").read_text(encoding="utf-8"))
    assert cluster["spec"] == yaml.safe_load((FOLDER / "alerts.yml").read_text(encoding="utf-8"))


def test_every_alert_is_driven_to_fire_and_to_clear() -> None:
    tests = yaml.safe_load((FOLDER / "alerts.test.yml").read_text(encoding="utf-8"))["tests"]
    driven = {test["name"]: [bool(step["exp_alerts"]) for step in test["alert_rule_test"]] for test in tests}
    assert driven == {name: [False, True, False] for name in NAMES}


def test_every_alert_is_explained_with_its_severity() -> None:
    documented = {name: severity for name, severity, *_ in table(block("docs/operations.md", "alerts"))}
    assert documented == {rule["alert"]: rule["labels"]["severity"] for rule in rules()}


def test_every_alert_says_what_to_do() -> None:
    headings = re.findall(r"^#### (\w+)$", page("docs/operations.md"), re.MULTILINE)
    assert headings == NAMES


def test_panels_have_ids_of_their_own_and_lie_side_by_side() -> None:
    board = dashboard()
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids))
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells


def test_no_panel_is_bound_to_a_data_source_of_ours() -> None:
    def sources(tree: Any) -> list[Any]:
        if isinstance(tree, dict):
            own = [tree["datasource"]] if "datasource" in tree else []
            return own + [found for value in tree.values() for found in sources(value)]
        return [found for value in tree for found in sources(value)] if isinstance(tree, list) else []

    found = sources(dashboard())
    assert found
    assert all(source["uid"] == "${datasource}" for source in found)


def test_a_wrong_name_or_label_in_an_expression_would_be_found() -> None:
    known = exposed('# TYPE dropgate_errors counter\ndropgate_errors_total{code="x"} 1\n')
    right = Expression("", 'sum by (instance, code) (rate(dropgate_errors_total{code="dropgate_not_a_name"}[5m]))')
    assert unknown(right, known) == []
    assert unknown(Expression("", "rate(dropgate_error_total[5m])"), known) == ["dropgate_error_total"]
    assert unknown(Expression("", 'dropgate_errors_total{kode="x"}'), known) == ["dropgate_errors_total{kode}"]
    assert unknown(Expression("", "sum by (kode) (dropgate_errors_total)"), known) == ["{kode}"]


def test_every_expression_asks_for_something_of_ours() -> None:
    assert [each.where for each in [*alerts(), *panels()] if not each.series()] == []
