"""The dashboard is of the form that Grafana publishes (`@grafana/schema` 13.2): only the fields that we use, closed.

Grafana itself is not among the tests. What its panels ask for is asked of a real Prometheus in `test_watched`.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

import jsonschema_rs
import pytest

from tests.observability.files import dashboard

Tree = dict[str, Any]
TEXT: Final = {"type": "string", "minLength": 1}
COUNT: Final = {"type": "integer", "minimum": 0}
UNITS: Final = ("none", "s", "reqps", "ops", "bytes", "percentunit")  # ids of Grafana's; any other is shown as text


def closed(required: Mapping[str, Any], **optional: Any) -> Tree:
    properties = {**required, **optional}
    return {"type": "object", "required": sorted(required), "properties": properties, "additionalProperties": False}


def several(items: Any, least: int = 1) -> Tree:
    return {"type": "array", "items": items, "minItems": least}


SOURCE: Final = closed({"type": {"const": "prometheus"}, "uid": {"const": "${datasource}"}})
PLACE: Final = closed({"h": COUNT, "w": {"type": "integer", "minimum": 1, "maximum": 24}, "x": COUNT, "y": COUNT})
TARGET: Final = closed(
    {
        "refId": {"type": "string", "pattern": "^[A-Z]$"},
        "datasource": SOURCE,
        "expr": TEXT,
        "legendFormat": {"type": "string"},
    }
)
LEGEND: Final = closed(
    {
        "displayMode": {"enum": ["list", "table", "hidden"]},
        "placement": {"enum": ["bottom", "right"]},
        "showLegend": {"type": "boolean"},
        "calcs": several(TEXT, 0),
    }
)
TOOLTIP: Final = closed({"mode": {"enum": ["single", "multi", "none"]}, "sort": {"enum": ["asc", "desc", "none"]}})
CUSTOM: Final = closed(
    {},
    drawStyle={"enum": ["line", "bars", "points"]},
    fillOpacity={"type": "integer", "minimum": 0, "maximum": 100},
    lineWidth=COUNT,
    showPoints={"enum": ["auto", "never", "always"]},
    spanNulls={"type": "boolean"},
    stacking=closed({"mode": {"enum": ["none", "normal", "percent"]}, "group": TEXT}),
)
SHARED: Final = {"id": COUNT, "title": TEXT, "gridPos": PLACE}
SHOWN: Final = {**SHARED, "description": TEXT, "datasource": SOURCE, "targets": several(TARGET)}


def fields(**custom: Any) -> Tree:
    number = {"type": "number"}
    return closed(
        {"defaults": closed({"unit": {"enum": UNITS}}, min=number, max=number, **custom), "overrides": several({}, 0)}
    )


PANELS: Final = {
    "row": closed({**SHARED, "type": {"const": "row"}, "collapsed": {"type": "boolean"}, "panels": several({}, 0)}),
    "stat": closed(
        {
            **SHOWN,
            "type": {"const": "stat"},
            "fieldConfig": fields(),
            "options": closed(
                {
                    "reduceOptions": closed({"calcs": several({"enum": ["lastNotNull", "max", "mean"]})}),
                    "colorMode": {"enum": ["value", "background", "none"]},
                    "graphMode": {"enum": ["area", "none", "line"]},
                }
            ),
        }
    ),
    "timeseries": closed(
        {
            **SHOWN,
            "type": {"const": "timeseries"},
            "fieldConfig": fields(custom=CUSTOM),
            "options": closed({"legend": LEGEND, "tooltip": TOOLTIP}),
        }
    ),
}
VARIABLE: Final = {"name": TEXT, "label": TEXT, "hide": {"enum": [0, 1, 2]}}
CHOSEN: Final = closed({**VARIABLE, "type": {"const": "datasource"}, "query": {"const": "prometheus"}})
ASKED: Final = closed(
    {
        **VARIABLE,
        "type": {"const": "query"},
        "datasource": SOURCE,
        "query": closed({"query": TEXT, "refId": TEXT}),
        "refresh": {"enum": [0, 1, 2]},
    },
    includeAll={"type": "boolean"},
    multi={"type": "boolean"},
    allValue=TEXT,
    current=closed({"text": TEXT, "value": TEXT}),
)
BOARD: Final = closed(
    {
        "uid": {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,40}$"},
        "title": TEXT,
        "tags": several(TEXT),
        "schemaVersion": {"type": "integer", "minimum": 36},
        "version": COUNT,
        "editable": {"type": "boolean"},
        "refresh": TEXT,
        "time": closed({"from": TEXT, "to": TEXT}),
        "timezone": {"enum": ["browser", "utc"]},
        "annotations": closed({"list": several({}, 0)}),
        "templating": closed({"list": several({"oneOf": [CHOSEN, ASKED]})}),
        "panels": several({"oneOf": list(PANELS.values())}),
    }
)


def faults(board: Tree) -> list[str]:
    """By panel, so that a message is of one panel and not of every kind that it is not."""
    found = []
    for panel in board["panels"]:
        schema = PANELS.get(panel["type"])
        errors = jsonschema_rs.validator_for(schema).iter_errors(panel) if schema else ()
        found += [f"{panel['title']}: {each.message}" for each in errors] if schema else [f"a panel {panel['type']}"]
    rest = jsonschema_rs.validator_for(BOARD).iter_errors({**board, "panels": board["panels"][:1]})
    return found + [each.message for each in rest]


def test_the_dashboard_has_the_form_that_grafana_publishes() -> None:
    assert faults(dashboard()) == []


def first(board: Tree, kind: str) -> Tree:
    return next(panel for panel in board["panels"] if panel["type"] == kind)


def legend(board: Tree) -> Tree:
    found: Tree = first(board, "timeseries")["options"]["legend"]
    return found


PLANTED: Final[dict[str, Callable[[Tree], Any]]] = {
    "a misspelt field of a query": lambda board: first(board, "stat")["targets"][0].update(legend="x"),
    "a unit that there is not": lambda board: first(board, "stat")["fieldConfig"]["defaults"].update(unit="byte"),
    "a panel without a source": lambda board: first(board, "timeseries").pop("datasource"),
    "a panel of a kind that we know nothing of": lambda board: first(board, "stat").update(type="graph"),
    "an option of another panel": lambda board: first(board, "timeseries")["options"].update(colorMode="value"),
    "a legend that says nothing of being shown": lambda board: legend(board).pop("showLegend"),
    "a variable of the wrong type": lambda board: board["templating"]["list"][0].update(type="datasources"),
    "a number as text": lambda board: board.update(schemaVersion="39"),
}  # fmt: skip


@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault_would_be_found(fault: str) -> None:
    board = copy.deepcopy(dashboard())
    PLANTED[fault](board)
    assert faults(board)


def test_every_variable_that_is_used_is_one_that_there_is_or_grafanas_own() -> None:
    board = dashboard()
    declared = {each["name"] for each in board["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)\}?", json.dumps(board["panels"])))
    assert used == declared | {"__rate_interval"}


def test_every_query_is_of_the_gateways_that_are_chosen() -> None:
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            assert target["expr"].count("{") == target["expr"].count('instance=~"$instance"'), panel["title"]


def test_letters_of_queries_are_not_given_twice_in_a_panel() -> None:
    for panel in dashboard()["panels"]:
        letters = [target["refId"] for target in panel.get("targets", ())]
        assert len(letters) == len(set(letters)), panel["title"]
