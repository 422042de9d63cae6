"""Lines as SVG that takes its colours from the page, so that it is right in light, in dark and on paper."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from markupsafe import Markup

from mldec.report.html import fragment

WIDTH, HEIGHT = 340, 224  # of the drawing; a page shows it at about that size, on a phone and on a desk
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 10, 36
MOST_POINTS = 240  # of a line; more are averaged


class ChartLine(NamedTuple):
    """A line through points; `style` is a class of the style sheet: s0 to s5, and `dashed` with it."""

    name: str
    points: Sequence[tuple[float, float]]
    style: str = "s0"


class ChartMark(NamedTuple):
    """A place on a line; `style` is `dot` or `ring`."""

    x: float
    y: float
    style: str = "dot"


def chart(
    lines: Sequence[ChartLine],
    *,
    label: str,
    x: str,
    y: str,
    log: bool = False,
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
    marks: Sequence[ChartMark] = (),
) -> Markup:
    """Lines over common axes.

    Args:
        label: what it shows, in a sentence, for those who cannot see it.
        x, y: names of the axes.
        log: whether y is logarithmic; points that are not above 0 are left out.
        x_range, y_range: default: of the points.
    """
    kept = [line._replace(points=finite_points(line.points, log)) for line in lines]
    everything = [point for line in kept for point in line.points]
    if not everything:
        return Markup("")
    x_low, x_high = x_range or _range([point[0] for point in everything])
    y_low, y_high = y_range or _range([point[1] for point in everything], log)
    if not log and not y_range:  # from one line of the grid to another
        step = _step(y_low, y_high)
        y_low, y_high = math.floor(y_low / step + 1e-9) * step, math.ceil(y_high / step - 1e-9) * step
    low, high = (math.log10(y_low), math.log10(y_high)) if log else (y_low, y_high)

    def place(point: tuple[float, float]) -> tuple[float, float]:
        value = math.log10(point[1]) if log else point[1]
        across = (point[0] - x_low) / (x_high - x_low)
        up = (value - low) / (high - low)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    rows = [(place((x_low, tick))[1], short(tick)) for tick in (log_ticks if log else ticks)(y_low, y_high)]
    columns = [(place((tick, y_high))[0], short(tick)) for tick in ticks(x_low, x_high)]
    drawn = [(line.style, [place(point) for point in _thinned(line.points)]) for line in kept]
    placed = [(mark.style, place(mark[:2])) for mark in marks if math.isfinite(mark.x) and math.isfinite(mark.y)]
    frame = {"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": WIDTH - RIGHT, "bottom": HEIGHT - BOTTOM}
    described = f"{label} {y} over {x}."
    return fragment("chart.svg", rows=rows, columns=columns, lines=drawn, marks=placed, x=x, label=described, **frame)


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers between two, at most `most` or one more."""
    step = _step(low, high, most)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten between two numbers; with 2 and 5 times these where there are few."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1,) if math.log10(high / low) > 3 else (1, 3) if math.log10(high / low) > 1.5 else (1, 2, 5)
    found = [factor * 10.0**power for power in powers for factor in factors]
    return [tick for tick in found if low * 0.999 <= tick <= high * 1.001]


def short(value: float) -> str:
    """A number of an axis in few characters."""
    if value and (abs(value) < 1e-3 or abs(value) >= 1e5):
        mantissa, _, power = f"{value:.0e}".partition("e")
        return f"{mantissa}e{int(power)}"
    return f"{value:g}"


def _step(low: float, high: float, most: int = 5) -> float:
    rough = (high - low) / most
    power: float = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)


def finite_points(points: Iterable[tuple[float, float]], log: bool = False) -> list[tuple[float, float]]:
    """Points without those that are not finite, or not above 0 if `log`."""
    return [(a, b) for a, b in points if math.isfinite(a) and math.isfinite(b) and (b > 0 or not log)]


def _range(values: Sequence[float], log: bool = False) -> tuple[float, float]:
    low, high = min(values), max(values)
    if log:
        return (low, high) if high > low else (low / 2, high * 2)
    if high > low:
        return low, high
    margin = abs(low) / 10 or 1.0
    return low - margin, high + margin


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    if len(points) <= MOST_POINTS:
        return list(points)
    parts = np.array_split(np.asarray(points), MOST_POINTS)
    return [(float(a), float(b)) for a, b in (part.mean(axis=0) for part in parts)]
