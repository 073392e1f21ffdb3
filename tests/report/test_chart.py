"""Curves: where lines run, and what is said of them."""

import math
import re

import pytest

from fastgan.report.chart import chart


def path(found, number=0):
    d = re.findall(r'<path d="M([^"]*)" class="line c\d', found)[number]
    return [tuple(map(float, point.split())) for point in d.split("L")]


def test_a_line_goes_up_where_values_do_and_along_with_x():
    points = path(chart("loss", {"a": [(0, 1.0), (10, 2.0), (20, 4.0)]}, "images"))
    assert points[0][0] < points[1][0] < points[2][0]
    assert points[0][1] > points[1][1] > points[2][1]  # downwards in SVG
    assert points[1][0] - points[0][0] == pytest.approx(points[2][0] - points[1][0], abs=0.2)
    assert (points[0][1] - points[2][1]) / (points[0][1] - points[1][1]) == pytest.approx(3, rel=0.02)


def test_wide_ranges_stand_on_a_logarithmic_axis():
    found = chart("fd", {"a": [(0, 1000.0), (1, 100.0), (2, 10.0)]}, "images", may_be_log=True)
    points = path(found)
    assert points[1][1] - points[0][1] == pytest.approx(points[2][1] - points[1][1], abs=0.2)
    assert "fd (logarithmic)" in found
    assert "logarithmic" not in chart("fd", {"a": [(0, 1000.0), (1, -1.0)]}, "images", may_be_log=True)
    assert "logarithmic" not in chart("score", {"a": [(0, 1000.0), (1, 1.0)]}, "images")


def test_many_points_are_averaged_and_those_that_are_not_finite_left_out():
    found = chart("x", {"a": [(float(i), math.nan if i == 7 else float(i % 2)) for i in range(10_001)]}, "images")
    points = path(found)
    assert 100 < len(points) <= 200
    assert "nan" not in found
    assert "x over images: a from 0.48 to" in found
    assert "No finite number" in chart("x", {"a": [(0, math.inf)]}, "images")


def test_ticks_tell_values_apart():
    found = chart("x", {"a": [(0, 1.9881), (1, 1.9893)]}, "images")
    names = re.findall(r'text-anchor="end">([^<]*)<', found)
    assert len(names) >= 3
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    "line", [[(0, 0.0)], [(5, 3.0), (5, 3.0)], [(0, 0.0), (1, 0.0)], [(0, 1e-12), (1, 1e12)], [(0, -1e30), (1, 1e30)]]
)
def test_odd_lines_are_drawn(line):
    for may_be_log in (False, True):
        found = chart("x", {"a": line}, "images", may_be_log)
        assert "nan" not in found
        assert "inf" not in found
        assert 'role="img"' in found


def test_several_lines_have_a_legend_in_colours_and_dashes():
    found = chart("x", {f"run {i}": [(0, i), (1, i)] for i in range(10)}, "images")
    assert re.findall(r"</svg>(run \d)</li>", found) == [f"run {i}" for i in range(10)]
    assert found.count('class="line c0"') == found.count('class="line c0 dashed"') == 2  # the line and its key
    assert "legend" not in chart("x", {"a": [(0, 1), (1, 2)]}, "images")


def test_a_line_keeps_its_colour_where_others_are_missing():
    found = chart("x", {"a": [], "b": [(0, 1), (1, 2)]}, "images")
    assert re.findall(r'class="line (c\d)"', found) == ["c1", "c1"]
    assert re.findall(r"</svg>(\w)</li>", found) == ["b"]
