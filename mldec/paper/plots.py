"""Plots of the paper's figures: published points hollow and dashed, obtained ones solid with the spread of seeds."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from mldec.paper.tables import COUNTED, PaperTable, Plot, TableRow
from mldec.paper.values import RowResult, result_values

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # distinguishable for colour-blind readers
MARKERS = "osD^vP"


class PlotPoint(NamedTuple):
    """A row in the plot; `spread` is one standard deviation, None where there is none."""

    x: float
    y: float
    spread: float | None
    name: str


def draw(table: PaperTable, results: Sequence[RowResult], path: Path) -> bool:
    """Write a PNG of 1200 × 750 pixels, legible at a width of 800 (1800 × 750 with three panels); returns whether
    there was anything to draw.

    At paper scale published and obtained points share the axes; at the other scales, with other data and networks, each
    has its own. A published value whose x is counted but not published gets the x that was counted here for the same
    network.
    """
    plot = table.plot
    if plot is None:
        return False
    given, gained = _points(table, plot, results)
    if not given and not gained:
        return False
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    views = [_View(plot.x, given, gained)]
    if table.scale != "paper" and given and gained:
        views = [_View(plot.x, given, {}, "in the paper")]
        views += [_View(plot.x, {}, gained, f"at {table.scale} scale (other data and networks)")]
    if plot.also_x and (also := _points(table, replace(plot, x=plot.also_x), results)[1]):
        views.append(_View(plot.also_x, {}, also))
    figure = Figure(figsize=(8 if len(views) < 3 else 12, 5), dpi=150, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    figure.suptitle(_plain(table.caption), fontsize=12)
    panels = figure.subplots(1, len(views), squeeze=False)[0]
    series = list(dict.fromkeys(str(result.row.cells.get(plot.series, "")) for result in results))
    for panel, view in zip(panels, views, strict=True):
        _draw_view(panel, table, plot, view, series)
        panel.margins(x=0.36 if len(views) > 1 else 0.14, y=0.12)  # space for the names
    if plot.frontier:  # with many points in little space
        figure.canvas.draw()
        for panel, view in zip(panels, views, strict=True):
            _spread_names(panel, [point for found in (view.published or view.obtained).values() for point in found])
    entries = {label: line for panel in panels for line, label in zip(*panel.get_legend_handles_labels(), strict=True)}
    figure.legend(entries.values(), entries, fontsize=9, loc="outside lower center", ncols=3, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings(action="ignore"):  # about characters that the font lacks, which become boxes
        figure.savefig(path, metadata={"Software": None})  # the version would change the file
    return True


def front(points: Sequence[PlotPoint]) -> list[PlotPoint]:
    """The points that no other one betters (the Pareto front), by ascending x: none has less x and as much y."""
    best: list[PlotPoint] = []
    for point in sorted(points, key=lambda point: (point.x, -point.y)):
        if not best or point.y > best[-1].y:
            best.append(point)
    return best


Series = dict[str, list[PlotPoint]]


class _View(NamedTuple):
    """One panel: published and obtained points against a figure."""

    x: str
    published: Series
    obtained: Series
    title: str = ""


def _draw_view(panel: Any, table: PaperTable, plot: Plot, view: _View, series: Sequence[str]) -> None:
    from matplotlib.ticker import LogLocator, NullLocator, ScalarFormatter

    style = {name: (COLOURS[n % len(COLOURS)], MARKERS[n % len(MARKERS)]) for n, name in enumerate(series)}
    for points, solid in ((view.published, False), (view.obtained, True)):
        for name, found in points.items():
            _draw_series(panel, found, name, style[name], solid, joined=not plot.frontier)
        if plot.frontier:
            best = front([point for found in points.values() for point in found])
            panel.step([p.x for p in best], [p.y for p in best], where="post", color="#bbbbbb", linewidth=1.2, zorder=0)
    _draw_names(panel, view.obtained, series[0])
    twice = {name: {point.name for point in found} for name, found in view.obtained.items()}
    once = {name: [p for p in found if p.name not in twice.get(name, ())] for name, found in view.published.items()}
    _draw_names(panel, once, series[0])
    panel.set_title(view.title, fontsize=10)
    panel.set_xlabel(_plain(table.figures[view.x]), fontsize=11)
    panel.set_ylabel(_plain(table.figures[plot.y]), fontsize=11)
    panel.grid(color="#dddddd", linewidth=0.8)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
    if view.x == plot.also_x:
        panel.set_xscale("log")
        panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.xaxis.set_minor_locator(NullLocator())
        panel.xaxis.set_major_formatter(ScalarFormatter())


def _points(table: PaperTable, plot: Plot, results: Sequence[RowResult]) -> tuple[Series, Series]:
    """Published and obtained points by series, each from small x to large."""
    given: Series = {}
    gained: Series = {}
    shown = [result for result in results if not plot.rows or result.row.key in plot.rows]
    for result in shown:
        values = result_values(table, result)
        x, y, series = values[plot.x], values[plot.y], str(result.row.cells.get(plot.series, ""))
        published_x = x.mean if x.published is None and plot.x in COUNTED and table.scale == "paper" else x.published
        for points, row, across, up, spread in (
            (given, result.published or result.row, published_x, y.published, None),
            (gained, result.row, x.mean, y.mean, y.std),
        ):
            if across is not None and up is not None:
                points.setdefault(series, []).append(PlotPoint(across, up, spread, _name(row, plot)))
    for found in (*given.values(), *gained.values()):
        found.sort(key=lambda point: point[:2])
    return given, gained


def _name(row: TableRow, plot: Plot) -> str:
    if plot.label is not None:
        return str(row.cells.get(plot.label) or "")
    return ", ".join(str(value) for cell, value in row.cells.items() if cell != plot.series and value is not None)


def _draw_series(
    panel: Any, points: Sequence[PlotPoint], name: str, style: tuple[str, str], solid: bool, *, joined: bool
) -> None:
    colour, marker = style
    panel.errorbar(
        [point.x for point in points],
        [point.y for point in points],
        yerr=[point.spread or 0 for point in points] if any(point.spread for point in points) else None,
        label=_plain(f"{name}, {'obtained' if solid else 'published'}"),
        color=colour,
        marker=marker,
        markersize=7,
        markerfacecolor=colour if solid else "white",
        linestyle="none" if not joined else "-" if solid else "--",
        linewidth=1.6,
        capsize=4,
    )


def _draw_names(panel: Any, points: Series, first: str) -> None:
    """The names of the first series to the lower right of its points, those of others to the upper left."""
    from matplotlib.patheffects import withStroke

    for series, found in points.items():
        offset, side = ((7, -13), "left") if series == first else ((-7, 7), "right")
        for point in found:
            text = panel.annotate(_plain(point.name), point[:2], xytext=offset, textcoords="offset points", ha=side)
            text.set(fontsize=9, color="#444444", path_effects=[withStroke(linewidth=3, foreground="white")])


#: Where a name may stand beside its point, in points of 1/72 inch, and which of its sides is there; best first.
PLACES = tuple(
    ((dx, dy), side) for dy in (-13, 7, -3, -24, 18, -35, 29, -46, 40) for dx, side in ((9, "left"), (-9, "right"))
)


def _spread_names(panel: Any, points: Sequence[PlotPoint]) -> None:
    """Move each name to the first of `PLACES` where it covers no point and no other name; else to the best of them."""
    from matplotlib.transforms import Bbox

    taken = []
    for point in points:
        x, y = panel.transData.transform((point.x, point.y))
        taken.append(Bbox.from_extents(x - 9, y - 9, x + 9, y + 9))
    for text in panel.texts:
        tried = []
        for number, (offset, side) in enumerate(PLACES):
            text.xyann = offset
            text.set_horizontalalignment(side)
            box = text.get_window_extent()
            covered = sum(
                overlap.width * overlap.height for other in taken if (overlap := Bbox.intersection(box, other))
            )
            outside = not panel.bbox.x0 - 5 <= box.x0 <= box.x1 <= panel.figure.bbox.x1
            tried.append((outside, covered, number, box))
        *_, number, box = min(tried, key=lambda one: one[:3])
        text.xyann = PLACES[number][0]
        text.set_horizontalalignment(PLACES[number][1])
        taken.append(box)


def _plain(text: str) -> str:
    """Text that matplotlib does not take for a formula."""
    return text.replace("$", r"\$")
