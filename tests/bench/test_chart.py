"""The pictures: every value has its place, and the axis holds all of them."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from bench import chart

SVG = "{http://www.w3.org/2000/svg}"


def circles(svg: str) -> list[ElementTree.Element]:
    return list(ElementTree.fromstring(svg).iter(f"{SVG}circle"))


def panel(**series: list[float | None]) -> chart.Panel:
    return chart.Panel("Throughput", "texts/s", "connections", ["1", "8"], series)


def test_a_picture_has_a_dot_for_each_value_and_one_for_each_name() -> None:
    drawn = chart.picture("A & B", [panel(ours=[1.0, 2.0], theirs=[1.5, None])])
    assert len(circles(drawn)) == 3 + 2
    assert "A &amp; B" in drawn


def test_a_greater_value_stands_higher() -> None:
    low, high = circles(chart.picture("", [panel(ours=[1.0, 9.0])]))[:2]
    assert float(high.attrib["cy"]) < float(low.attrib["cy"])


def test_two_series_never_share_a_color_while_there_are_colors() -> None:
    names = [f"series {number}" for number in range(len(chart.COLORS))]
    drawn = chart.picture("", [panel(**{name: [1.0, 2.0] for name in names})])
    lines = list(ElementTree.fromstring(drawn).iter(f"{SVG}polyline"))
    assert len({line.attrib["stroke"] for line in lines}) == len(names)


@pytest.mark.parametrize("values", [[23.0, 3095.0], [10.0, 10.0], [0.03, 0.04], [999.0, 1001.0], [1.0], [7e-5, 7e5]])
@pytest.mark.parametrize("logarithmic", [False, True])
def test_the_ticks_hold_every_value_between_them(values: list[float], logarithmic: bool) -> None:
    marks = chart.ticks(values, logarithmic=logarithmic)
    assert marks == sorted(set(marks))
    assert len(marks) >= 2
    assert marks[0] <= min(values)
    assert max(values) <= marks[-1]


def test_a_panel_without_values_is_left_out() -> None:
    assert circles(chart.picture("", [panel(ours=[None, None])])) == []
