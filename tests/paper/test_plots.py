"""The plots of figures 5 and 6: drawn where there are points, the same every time, and never in the way."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from mldec.paper import plots
from mldec.paper.plots import draw
from mldec.paper.records import Record
from mldec.paper.report import Line
from mldec.paper.tables import Row, Scale, Table, find_table


@pytest.fixture
def table() -> Table:
    return find_table("figure5", "paper")


def make_line(row: Row, *values: float | None, macs: float | None = 20.0) -> Line:
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
    return Line(row=row, records=records, sizes=None if macs is None else {"macs": macs}, published=row)


def make_image(path: Path) -> np.ndarray:
    image = cv2.imread(str(path))
    assert image is not None
    return image


@pytest.mark.parametrize("scale", ["paper", "desk"])
def test_a_readable_image_on_white(table: Table, scale: Scale, tmp_path: Path) -> None:
    lines = [make_line(row, 88.0 + n, 88.4 + n, macs=20.0 + n) for n, row in enumerate(table.rows)]
    assert draw(table, lines, scale, tmp_path / "a" / "figure5.png")
    image = make_image(tmp_path / "a" / "figure5.png")
    assert image.shape == (750, 1200, 3)
    assert (image[0] == 255).all()
    assert (image == 255).all(axis=2).mean() > 0.8


def test_the_same_lines_give_the_same_file(table: Table, tmp_path: Path) -> None:
    lines = [make_line(row, 88.0, 89.0) for row in table.rows]
    mirrored = [replace(line, records=line.records[::-1]) for line in lines]
    draw(table, lines, "paper", tmp_path / "a.png")
    draw(table, mirrored, "paper", tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_points_that_are_missing_are_left_out(table: Table, tmp_path: Path) -> None:
    lines = [Line(row=row, published=row) for row in table.rows]
    lines[1] = make_line(table.rows[1], None)
    lines[2] = make_line(table.rows[2], 89.0)
    lines[3] = make_line(table.rows[3], 89.0, macs=None)
    lines[4] = Line(row=table.rows[4])
    assert table.plot is not None
    given, gained = plots._points(table, table.plot, lines, "paper")
    assert {series: len(points) for series, points in given.items()} == {"GAP": 3, "ML-Decoder": 2}
    assert gained == {"GAP": [plots.Point(20.0, 89.0, None, "TResNet-L")]}
    assert draw(table, lines, "paper", tmp_path / "a.png")


def test_spread_is_one_standard_deviation(table: Table) -> None:
    assert table.plot is not None
    _, gained = plots._points(table, table.plot, [make_line(table.rows[0], 87.0, 88.0, 89.0)], "paper")
    assert gained["GAP"] == [plots.Point(20.0, 88.0, 1.0, "TResNet-S")]


def test_published_points_without_macs_stand_where_they_were_counted(tmp_path: Path) -> None:
    figure6 = find_table("figure6", "paper")
    lines = [make_line(row, macs=4.1) for row in figure6.rows]
    assert draw(figure6, lines, "paper", tmp_path / "a.png")
    assert not draw(figure6, lines, "desk", tmp_path / "b.png")  # another network


def test_nothing_is_drawn_without_a_point(table: Table, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    assert not draw(table, [Line(row=row) for row in table.rows], "paper", path)
    assert not draw(table, [], "paper", path)
    assert not draw(replace(table, plot=None), [make_line(row, 88.0) for row in table.rows], "paper", path)
    assert not path.exists()


def test_names_are_no_formulas(table: Table, tmp_path: Path) -> None:
    row = replace(table.rows[0], cells={"backbone": r"$\bad{", "head": "a_b $x"})
    assert draw(replace(table, title="$5_{"), [make_line(row, 88.0, 89.0)], "paper", tmp_path / "a.png")


def test_at_desk_scale_each_point_has_the_name_of_its_own_network(table: Table) -> None:
    paper = table.rows[0]
    row = replace(paper, cells={"backbone": "width 16", "head": "GAP"})
    assert table.plot is not None
    given, gained = plots._points(table, table.plot, [replace(make_line(row, 88.0), published=paper)], "desk")
    assert [point.name for point in given["GAP"] + gained["GAP"]] == ["TResNet-S", "width 16"]
