"""Properties: numbers of an axis are round and inside, a drawing is well-formed whatever its name says."""

from __future__ import annotations

import itertools
import math
import re
from xml.etree import ElementTree

import pytest

from mldec.report.charts import MOST_POINTS, ChartLine, ChartMark, chart, log_ticks, short, ticks


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3, 17), (99.2, 99.4), (0, 1e-5), (1234, 98765)])
def test_ticks_are_round_and_inside(low, high):
    found = ticks(low, high)
    assert 2 <= len(found) <= 7
    assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in found)
    steps = {round(b - a, 12) for a, b in itertools.pairwise(found)}
    assert len(steps) == 1
    assert float(f"{steps.pop():.1e}") > 0


@pytest.mark.parametrize(("low", "high"), [(14.4, 441), (1e-8, 3), (0.5, 6)])
def test_logarithmic_ticks_are_inside(low, high):
    found = log_ticks(low, high)
    assert 2 <= len(found) <= 12
    assert all(low * 0.99 <= tick <= high * 1.01 for tick in found)


def test_a_drawing_stays_inside_its_frame_and_says_what_it_shows():
    lines = [ChartLine("a", [(i, math.sin(i)) for i in range(1000)]), ChartLine("b", [(1, math.nan), (2, 0.5)], "s1")]
    drawn = chart(
        lines, label='<b> & "quotes".', x="epoch", y="loss", marks=[ChartMark(3, 0.2), ChartMark(math.nan, 1)]
    )
    root = ElementTree.fromstring(str(drawn))
    assert root.get("role") == "img"
    assert root.get("aria-label") == '<b> & "quotes". loss over epoch.'
    path = next(element.get("d", "") for element in root if element.get("class") == "line s0")
    points = [tuple(map(float, pair)) for pair in re.findall(r"([\d.-]+) ([\d.-]+)", path)]
    assert len(points) == MOST_POINTS
    assert all(0 <= x <= 340 and 0 <= y <= 224 for x, y in points)
    assert sum(element.tag == "circle" for element in root) == 2  # a line of one point, and the mark that is somewhere


def test_of_nothing_there_is_no_drawing():
    assert chart([ChartLine("a", [(0, math.nan)])], label="", x="", y="") == ""
    assert chart([ChartLine("a", [(0, -1.0)])], label="", x="", y="", log=True) == ""
    assert "circle" in chart([ChartLine("a", [(4, 7.0)])], label="", x="", y="")  # one epoch


def test_numbers_of_an_axis_are_short():
    assert [short(value) for value in (0, 0.25, 1000, 3e-5, 200000)] == ["0", "0.25", "1000", "3e-5", "2e5"]
