"""The plots of figures 5 and 6: drawn where there are points, the same every time, and never in the way."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from mldec.paper import plots
from mldec.paper.plots import draw
from mldec.paper.records import Record
from mldec.paper.tables import PaperTable, Scale, TableRow, find_table
from mldec.paper.values import RowResult


@pytest.fixture
def table() -> PaperTable:
    return find_table("figure5", "paper")


def make_result(row: TableRow, *values: float | None, macs: float | None = 20.0) -> RowResult:
    records = tuple(
        Record(
            table="figure5",
            row=row.key,
            scale="paper",
            seed=seed,
            key=f"{row.key}{seed}",
            experiment=str(row.experiment),
            overrides=(),
            outcome="finished",
            protocol="paper",
            metrics={"mAP": value, "top1": value},
        )
        for seed, value in enumerate(values)
    )
    return RowResult(row=row, records=records, sizes=None if macs is None else {"macs": macs}, published=row)


def make_image(path: Path) -> np.ndarray:
    image = cv2.imread(str(path))
    assert image is not None
    return image


@pytest.mark.parametrize("scale", ["paper", "desk"])
def test_a_readable_image_on_white(table: PaperTable, scale: Scale, tmp_path: Path) -> None:
    results = [make_result(row, 88.0 + n, 88.4 + n, macs=20.0 + n) for n, row in enumerate(table.rows)]
    assert draw(replace(table, scale=scale), results, tmp_path / "a" / "figure5.png")
    image = make_image(tmp_path / "a" / "figure5.png")
    assert image.shape == (750, 1200, 3)
    assert (image[0] == 255).all()
    assert (image == 255).all(axis=2).mean() > 0.8


def test_the_same_lines_give_the_same_file(table: PaperTable, tmp_path: Path) -> None:
    results = [make_result(row, 88.0, 89.0) for row in table.rows]
    mirrored = [replace(result, records=result.records[::-1]) for result in results]
    draw(table, results, tmp_path / "a.png")
    draw(table, mirrored, tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_points_that_are_missing_are_left_out(table: PaperTable, tmp_path: Path) -> None:
    results = [RowResult(row=row, published=row) for row in table.rows]
    results[1] = make_result(table.rows[1], None)
    results[2] = make_result(table.rows[2], 89.0)
    results[3] = make_result(table.rows[3], 89.0, macs=None)
    results[4] = RowResult(row=table.rows[4])
    assert table.plot is not None
    given, gained = plots._points(table, table.plot, results)
    assert {series: len(points) for series, points in given.items()} == {"GAP": 3, "ML-Decoder": 2}
    assert gained == {"GAP": [plots.PlotPoint(20.0, 89.0, None, "TResNet-L")]}
    assert draw(table, results, tmp_path / "a.png")


def test_spread_is_one_standard_deviation(table: PaperTable) -> None:
    assert table.plot is not None
    _, gained = plots._points(table, table.plot, [make_result(table.rows[0], 87.0, 88.0, 89.0)])
    assert gained["GAP"] == [plots.PlotPoint(20.0, 88.0, 1.0, "TResNet-S")]


def test_published_points_without_macs_stand_where_they_were_counted(tmp_path: Path) -> None:
    figure6 = find_table("figure6", "paper")
    results = [make_result(row, macs=4.1) for row in figure6.rows]
    assert draw(figure6, results, tmp_path / "a.png")
    assert not draw(replace(figure6, scale="desk"), results, tmp_path / "b.png")  # another network


def test_nothing_is_drawn_without_a_point(table: PaperTable, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    assert not draw(table, [RowResult(row=row) for row in table.rows], path)
    assert not draw(table, [], path)
    assert not draw(replace(table, plot=None), [make_result(row, 88.0) for row in table.rows], path)
    assert not path.exists()


def test_names_are_no_formulas(table: PaperTable, tmp_path: Path) -> None:
    row = replace(table.rows[0], cells={"backbone": r"$\bad{", "head": "a_b $x"})
    assert draw(replace(table, title="$5_{"), [make_result(row, 88.0, 89.0)], tmp_path / "a.png")


def test_at_desk_scale_each_point_has_the_name_of_its_own_network(table: PaperTable) -> None:
    paper = table.rows[0]
    row = replace(paper, cells={"backbone": "width 16", "head": "GAP"})
    assert table.plot is not None
    desk, results = replace(table, scale="desk"), [replace(make_result(row, 88.0), published=paper)]
    given, gained = plots._points(desk, table.plot, results)
    assert [point.name for point in given["GAP"] + gained["GAP"]] == ["TResNet-S", "width 16"]


def test_a_second_figure_has_a_panel_of_its_own(table: PaperTable, tmp_path: Path) -> None:
    assert table.plot is not None
    figures = {**table.figures, "seconds": "Seconds"}
    wide = replace(table, scale="probe", figures=figures, plot=replace(table.plot, also_x="seconds"))
    results = [make_result(row, 88.0 + n, macs=20.0 + n) for n, row in enumerate(table.rows)]
    timed = [replace(r, records=tuple(replace(record, seconds=60.0) for record in r.records)) for r in results]
    for found, width in ((timed, 1800), (results, 1200)):
        assert draw(wide, found, tmp_path / "plot.png")
        assert make_image(tmp_path / "plot.png").shape == (750, width, 3)


def test_the_front_joins_the_points_that_none_betters() -> None:
    points = [plots.PlotPoint(x, y, None, "") for x, y in [(3, 5), (1, 2), (2, 1), (2, 4), (4, 5), (5, 6), (1, 1)]]
    assert [point[:2] for point in plots.front(points)] == [(1, 2), (2, 4), (3, 5), (5, 6)]


def test_names_of_a_front_cover_neither_points_nor_one_another():
    """Points in one another's way: what the default place would hide is written elsewhere."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 5), dpi=100)
    FigureCanvasAgg(figure)
    panel = figure.subplots()
    points = [plots.PlotPoint(x, y, None, f"method {x}") for x, y in ((1.0, 2.0), (1.1, 1.97), (1.2, 1.94), (2.0, 1.0))]
    panel.plot([p.x for p in points], [p.y for p in points], "o")
    panel.set_xlim(0, 4)
    plots._draw_names(panel, {"all": points}, "all")
    figure.canvas.draw()
    plots._spread_names(panel, points)
    boxes = [text.get_window_extent() for text in panel.texts]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    for point in points:
        assert not any(box.contains(*panel.transData.transform(point[:2])) for box in boxes)
