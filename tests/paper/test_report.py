"""Published against obtained: the numbers, the words where there are none, and text that breaks no format."""

from __future__ import annotations

import csv
import io
import itertools
import math
import re
import statistics
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from mldec.paper.exports import csv_text, latex
from mldec.paper.findings import findings, holm, judge, plateaus, t_test
from mldec.paper.records import Record
from mldec.paper.report import PageSection, markdown, page
from mldec.paper.tables import Finding, PaperTable, Requirements, TableRow, load_tables
from mldec.paper.values import RowResult, result_values

SEEDS = (88.11, 87.64, 88.42)


def make_row(key: str = "a", **given: Any) -> TableRow:
    needs = Requirements(labels=80)
    return TableRow(**{"key": key, "cells": {"head": key}, "experiment": f"t/{key}", "needs": needs, **given})


def make_record(row: TableRow, seed: int, value: float | None, **given: Any) -> Record:
    shell: dict[str, Any] = {
        "table": "table1",
        "row": row.key,
        "scale": "paper",
        "seed": seed,
        "key": f"{row.key}{seed}",
        "experiment": str(row.experiment),
        "overrides": (),
        "outcome": "finished",
        "protocol": "paper",
        "metrics": {"mAP": value},
        "seconds": 60.0,
        "peak_memory": {"host": 2**30},
        "environment": {"device": "a device", "threads": 2, "mldec": "1.0", "packages": {"torch": "2.7"}},
    }
    return Record(**{**shell, **given})


def make_result(row: TableRow, values: Any = SEEDS, **given: Any) -> RowResult:
    pairs = values.items() if isinstance(values, Mapping) else enumerate(values)
    records = tuple(make_record(row, seed, value) for seed, value in pairs)
    return RowResult(**{"row": row, "records": records, "published": row, **given})


def make_table(*rows: TableRow, **given: Any) -> PaperTable:
    shell: dict[str, Any] = {
        "id": "table1",
        "title": "Heads",
        "about": "About.",
        "cells": {"head": "Head"},
        "figures": {"macs": "MACs [G]", "mAP": "mAP"},
    }
    return PaperTable(**{**shell, "rows": rows, **given})


def body(text: str) -> list[list[str]]:
    """The rows of the one Markdown table in a text, its head first."""
    rows = [result for result in text.splitlines() if result.startswith("|")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows]
    assert len({len(row) for row in cells}) == 1
    return [cells[0], *cells[2:]]


def entries(text: str) -> dict[tuple[str, str], dict[str, str]]:
    return {(row["row"], row["figure"]): row for row in csv.DictReader(io.StringIO(text))}


# Values


def test_mean_and_deviation_are_those_of_the_sample() -> None:
    row = make_row(published={"mAP": 88.0}, sources={"mAP": "S"})
    value = result_values(make_table(row), make_result(row))["mAP"]
    assert value.mean == pytest.approx(statistics.mean(SEEDS))
    assert value.std == pytest.approx(statistics.stdev(SEEDS))
    assert value.seeds == 3
    assert value.difference == pytest.approx(statistics.mean(SEEDS) - 88.0)


@pytest.mark.parametrize(("published", "within"), [(11.0, True), (12.0, True), (7.9, False), (12.1, False)])
def test_within_the_spread_is_two_standard_deviations(published: float, within: bool) -> None:
    row = make_row(published={"mAP": published}, sources={"mAP": "S"})
    result = make_result(row, (9.0, 10.0, 11.0))  # deviation 1
    assert result_values(make_table(row), result)["mAP"].within is within
    shown = body(markdown(make_table(row), [result]))[1]
    assert shown[-1].endswith("(within)" if within else "(outside)")


def test_one_seed_has_a_difference_and_no_spread() -> None:
    row = make_row(published={"mAP": 88.0}, sources={"mAP": "S"})
    result = make_result(row, (88.5,))
    value = result_values(make_table(row), result)["mAP"]
    assert (value.std, value.within, value.seeds) == (None, None, 1)
    assert body(markdown(make_table(row), [result]))[1][-2:] == ["88.50 (1)", "+0.50"]


def test_seeds_without_a_value_do_not_count() -> None:
    row = make_row()
    value = result_values(make_table(row), make_result(row, (80.0, None, math.nan, 82.0)))["mAP"]
    assert (value.mean, value.seeds) == (81.0, 2)


@pytest.mark.parametrize(
    ("metrics", "status"), [({"mAP": None}, "undefined"), ({"mAP": math.nan}, "undefined"), ({}, "not measured")]
)
def test_records_without_a_value_say_so(metrics: dict[str, float | None], status: str) -> None:
    row = make_row()
    result = RowResult(row=row, records=(make_record(row, 0, None, metrics=metrics),))
    assert result_values(make_table(row), result)["mAP"].status == status
    assert status in body(markdown(make_table(row), [result]))[1]


def test_counted_figures_come_from_the_sizes_and_have_no_spread() -> None:
    row = make_row(published={"macs": 23.0}, sources={"macs": "S"})
    result = RowResult(
        row=row,
        records=tuple(make_record(row, seed, 1.0, metrics={"macs": 1.0, "mAP": 1.0}) for seed in range(3)),
        sizes={"macs": 23.25, "parameters": 30e6},
        published=row,
    )
    value = result_values(make_table(row), result)["macs"]
    assert (value.mean, value.std, value.seeds, value.difference, value.within) == (23.25, None, 0, 0.25, None)


def test_seconds_are_those_of_the_fastest_run_and_have_no_spread() -> None:
    table = make_table(make_row(), figures={"seconds": "Seconds", "mAP": "mAP"}, scale="probe")
    times = [make_record(table.rows[0], seed, 88.0, seconds=seconds) for seed, seconds in enumerate((31.0, 25.0, None))]
    value = result_values(table, RowResult(row=table.rows[0], records=tuple(times)))["seconds"]
    assert (value.mean, value.std, value.seeds) == (25.0, None, 0)
    assert result_values(table, RowResult(row=table.rows[0]))["seconds"].status == "not run"
    text = page([PageSection(table, [RowResult(row=table.rows[0], records=tuple(times))])], command="x")
    assert "Seconds: of a row's fastest run" in text
    assert "| 25.00 |" in text


def test_at_desk_scale_there_is_no_difference_and_the_titles_say_so() -> None:
    row, paper = make_row(), make_row(published={"mAP": 88.1, "macs": 23.0}, sources={"mAP": "S", "macs": "S"})
    table, result = make_table(row, scale="desk"), make_result(row, published=paper, sizes={"macs": 0.0123})
    values = result_values(table, result)
    assert {value.difference for value in values.values()} == {None}
    text = markdown(table, [result])
    head, shown = body(text)
    assert head[1:3] == ["MACs [G], in the paper (other data)", "MACs [G], obtained at desk scale"]
    assert shown[1:] == ["23.0", "0.0123", "88.1", "88.06 ± 0.39 (3)"]
    assert "no difference is shown" in text
    assert entries(csv_text(table, [result]))["a", "mAP"]["difference"] == ""


# Words


@pytest.mark.parametrize("tag", ["M", "?"])
def test_unverified_values_are_marked_and_explained(tag: str) -> None:
    sure, doubtful = (make_row(key, published={"mAP": 88.1}, sources={"mAP": t}) for key, t in (("a", "S"), ("b", tag)))
    table = make_table(sure, doubtful)
    results = [make_result(sure), make_result(doubtful)]
    text = markdown(table, results)
    assert [row[2] for row in body(text)[1:]] == ["88.1 [S]", f"88.1 [{tag}] †"]
    assert "unverified" in text
    assert r"\textdagger{}" in latex(table, results)
    assert "†" not in markdown(make_table(sure), [make_result(sure)])
    assert entries(csv_text(table, results))["b", "mAP"]["source"] == tag


def test_one_source_is_named_once() -> None:
    row = make_row(published={"mAP": 88.1}, sources={"mAP": "C"})
    text = markdown(make_table(row), [make_result(row)])
    assert body(text)[1][2] == "88.1"
    assert "Published values are from: the authors' code or README (C)." in text


def test_out_of_memory_stands_beside_what_the_paper_could_not_print() -> None:
    row = make_row(published={"macs": 178.6, "mAP": None}, sources={"macs": "S", "mAP": "S"}, expect="out_of_memory")
    records = (make_record(row, 0, None, metrics={}, outcome="out_of_memory"),)
    result = RowResult(row=row, records=records, sizes={"macs": 212.0}, published=row)
    text = markdown(make_table(row), [result])
    assert body(text)[1][1:] == ["178.6", "212.0", "+33.4", "NA", "out of memory", ""]
    assert "NA: the paper prints none." in text


def test_what_is_not_known_is_not_called_not_printed() -> None:
    row = make_row(published={"mAP": None}, sources={"mAP": "?"})
    assert "not known" in body(markdown(make_table(row), [make_result(row)]))[1]


def test_some_seeds_out_of_memory_are_a_footnote() -> None:
    row = make_row()
    records = (make_record(row, 0, 80.0), make_record(row, 1, None, metrics={}, outcome="out_of_memory"))
    assert "1 of 2 seeds ran out of memory" in markdown(make_table(row), [RowResult(row=row, records=records)])


@pytest.mark.parametrize("status", ["not run", "dataset absent", "literature", "out of memory"])
def test_rows_without_records_say_why(status: str) -> None:
    row = make_row(published={"mAP": 88.1}, sources={"mAP": "S"})
    result = RowResult(row=row, status=status, published=row)
    assert body(markdown(make_table(row), [result]))[1][3] == status
    assert status in latex(make_table(row), [result])
    assert entries(csv_text(make_table(row), [result]))["a", "mAP"]["status"] == status


def test_why_a_row_failed_is_a_footnote() -> None:
    row = make_row()
    text = markdown(make_table(row), [RowResult(row=row, status="failed: rc 1\n| last | <line>")])
    assert body(text)[1] == ["a <sup>1</sup>", "not counted", "failed"]
    assert "1. failed: rc 1 \\| last \\| &lt;line&gt;" in text


def test_equal_notes_share_a_number() -> None:
    rows = [make_row("a", note="One."), make_row("b", note="Two."), make_row("c", note="One.")]
    text = markdown(make_table(*rows), [make_result(row) for row in rows])
    assert [row[0] for row in body(text)[1:]] == ["a <sup>1</sup>", "b <sup>2</sup>", "c <sup>1</sup>"]
    assert "1. One.\n2. Two." in text


def test_below_the_table_stand_seeds_device_time_and_memory() -> None:
    row = make_row()
    text = markdown(make_table(row), [make_result(row)])
    facts = "3 records; protocol paper; seeds 0, 1, 2; device a device; 3 min 00 s in total; peak memory 1.0 GiB"
    assert f"{facts} of the host." in text
    assert "Protocols differ" not in text


def test_a_record_that_rows_share_is_counted_once() -> None:
    first, second = make_row("a"), make_row("b")
    shared = make_record(first, 0, 80.0)
    results = [RowResult(row=first, records=(shared,)), RowResult(row=second, records=(shared,))]
    assert "1 record; protocol paper; seed 0; device a device; 1 min 00 s" in markdown(
        make_table(first, second), results
    )


def test_differing_protocols_are_said() -> None:
    first, second = make_row("a"), make_row("b")
    other = RowResult(row=second, records=(make_record(second, 0, 80.0, protocol="standard"),))
    text = markdown(make_table(first, second), [make_result(first), other])
    assert "**Protocols differ**, so these rows cannot be compared: paper (a); standard (b)." in text


def test_left_out_records_are_listed_by_name_alone() -> None:
    row = make_row()
    others = {Path("/some/where/b.json"): "is a record of version 9", Path("/some/where/a.json"): "other settings"}
    text = markdown(make_table(row), [make_result(row)], others)
    assert "`a.json` (other settings); `b.json` (is a record of version 9)" in text
    assert "/some/where" not in text


def test_what_was_chosen_is_listed() -> None:
    row = make_row(choose={"schedule.max_lr": [0.001, 0.01]})
    text = markdown(make_table(row), [make_result(row, chosen={"schedule.max_lr": 0.01})])
    assert "* a: `schedule.max_lr` `0.01`, of `0.001`, `0.01`" in text
    assert "not chosen yet" in markdown(make_table(row), [RowResult(row=row)])


# Text that breaks no format

HOSTILE = "a|b 5% x_y & <tag> *bold* $x$ \\ ~ ^ {z} #1 `code|x`"


def test_published_and_obtained_order_stand_side_by_side() -> None:
    figures = {"a": (80.0, 70.0), "b": (90.0, 60.0), "c": (70.0, 50.0), "d": (None, 99.0)}
    rows = [make_row(key, published={"mAP": value}, sources={"mAP": "S"}) for key, (value, _) in figures.items()]
    table = make_table(*rows, order="mAP", figures={"mAP": "mAP"}, scale="probe")
    results = [make_result(row, (figures[row.key][1],)) for row in rows]
    text = markdown(table, results)
    assert "2 of 3 pairs of rows are in the same order as published" in text
    places = [line.split("|")[1:4] for line in text.splitlines() if line.startswith(("| 1 ", "| 2 ", "| 3 "))]
    assert [[cell.strip() for cell in line] for line in places] == [["1", "b", "a"], ["2", "a", "b"], ["3", "c", "c"]]
    assert "in the same order" not in markdown(replace(table, order=None), results)


def test_hostile_text_keeps_the_markdown_table_whole() -> None:
    row = make_row(cells={"head": HOSTILE}, note=HOSTILE)
    text = markdown(make_table(row, title=HOSTILE), [make_result(row)])
    assert len(body(text)[1]) == 3
    assert "<tag>" not in text
    assert "`code\\|x`" in text
    assert "x\\_y" in text
    assert "\\*bold\\*" in text


def test_hostile_text_is_escaped_in_latex() -> None:
    row = make_row(cells={"head": HOSTILE}, note=HOSTILE)
    text = latex(make_table(row, title=HOSTILE), [make_result(row)])
    escaped = (
        r"a\textbar{}b 5\% x\_y \& \textless{}tag\textgreater{} *bold* \$x\$ \textbackslash{} \textasciitilde{} "
        r"\textasciicircum{} \{z\} \#1 \texttt{code\textbar{}x}"
    )
    assert text.count(escaped) == 3
    rows = [result for result in text.splitlines() if result.endswith(r"\\")]
    columns = {len(re.findall(r"(?<!\\)&", result)) for result in rows}
    assert columns == {2}
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")


def test_latex_has_rules_caption_and_label() -> None:
    row = make_row(published={"mAP": 88.1}, sources={"mAP": "S"})
    text = latex(make_table(row, scale="desk"), [make_result(row)])
    for piece in (r"\toprule", r"\midrule", r"\bottomrule", r"\caption{Table 1 at desk scale. Heads}"):
        assert piece in text
    assert r"\label{tab:table1-desk}" in text
    assert r"88.06 $\pm$ 0.39 (3)" in text


@pytest.mark.parametrize("sign", ["=", "+", "-", "@", "\t=", " ="])
def test_a_spreadsheet_finds_no_formula(sign: str) -> None:
    formula = f'{sign}HYPERLINK("http://x","y")'
    row = make_row(cells={"head": formula}, published={"mAP": 99.0}, sources={"mAP": "S"})
    table = make_table(row)
    for result in (make_result(row), RowResult(row=row, status=formula, published=row)):
        for entry in csv.reader(io.StringIO(csv_text(table, [result]))):
            for cell in entry:
                assert not cell.strip().startswith(("=", "+", "@"))
                assert not cell.startswith("-") or float(cell) < 0  # a number is no formula


def test_csv_has_the_numbers_in_full() -> None:
    row = make_row(published={"mAP": 88.0}, sources={"mAP": "S"})
    text = csv_text(make_table(row), [make_result(row)])
    head = "table,row,head,figure,published,source,mean,std,seeds,difference,within,status"
    assert text.splitlines()[0] == head
    entry = entries(text)["a", "mAP"]
    assert float(entry["mean"]) == pytest.approx(statistics.mean(SEEDS), abs=1e-12)
    assert float(entry["std"]) == pytest.approx(statistics.stdev(SEEDS), abs=1e-12)
    assert (entry["seeds"], entry["within"], entry["status"]) == ("3", "yes", "finished")
    assert entries(text)["a", "macs"]["status"] == "not counted"


# Findings


def verdict(better: Any, worse: Any, **given: Any) -> str:
    rows = make_row("a"), make_row("b")
    finding = Finding(**{"claim": "a is above b.", "better": "a", "worse": "b", "figure": "mAP", **given})
    table = make_table(*rows, findings=(finding,))
    (found,) = judge(table, [make_result(row, values) for row, values in zip(rows, (better, worse), strict=True)])
    return found.text


@pytest.mark.parametrize(
    ("differences", "word"),
    [
        ((0.9, 1.0, 1.1), "holds"),
        ((-0.9, -1.0, -1.1), "does not hold"),
        ((-1.0, 0.0, 1.3), "not decided"),
        ((0.0, 0.0, 0.0), "not decided"),
        ((0.5, 0.5, 0.5), "holds"),
        ((1.0,), "not decided"),
    ],
)
def test_above(differences: tuple[float, ...], word: str) -> None:
    worse = (80.0, 85.0, 90.0)[: len(differences)]  # seeds differ widely, their differences do not
    assert verdict([w + d for w, d in zip(worse, differences, strict=True)], worse) == word


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_the_bar_is_student_s_t(seeds: int) -> None:
    """Two standard errors are too few for few seeds: with three of them it takes 4.30."""
    spread = [float(seed) for seed in range(seeds)]
    spread = [value - statistics.fmean(spread) for value in spread]
    error = statistics.stdev(spread) / math.sqrt(seeds)
    reach = {2: 12.706, 3: 4.303, 5: 2.776}[seeds]  # 97.5 % quantiles of t with 1, 2, 4 degrees of freedom
    for shift, word in ((1.01, "holds"), (0.99, "not decided"), (-0.99, "not decided"), (-1.01, "does not hold")):
        assert verdict([50 + shift * reach * error + d for d in spread], [50.0] * seeds) == word


@pytest.mark.parametrize("seed", range(20))
def test_p_values_are_those_of_scipy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    better, worse = rng.normal(1, 2, 5), rng.normal(0, 2, 5)
    expected = stats.ttest_rel(better, worse).pvalue
    assert t_test((better - worse).tolist()).p == pytest.approx(expected)
    assert t_test((better - worse + 3).tolist(), 3.0).p == pytest.approx(expected)


def test_holm_by_hand() -> None:
    assert holm([]) == []
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])  # Holm 1979: times 4, 3, 2, 1
    assert holm([0.9, 0.6]) == [1.0, 1.0]


def test_a_claim_among_many_needs_more_evidence() -> None:
    differences = (0.7, 1.0, 1.35)  # p = 0.03 by itself
    assert verdict([80 + d for d in differences], [80.0] * 3) == "holds"
    rows = make_row("a"), make_row("b"), make_row("c")
    pairs = [("a", "b"), ("c", "b")]
    table = make_table(*rows, findings=tuple(Finding(claim="c", better=x, worse=y, figure="mAP") for x, y in pairs))
    values = ([80 + d for d in differences], [80.0] * 3, [80.0, 80.1, 79.9])
    words = [v.text for v in judge(table, [make_result(r, v) for r, v in zip(rows, values, strict=True)])]
    assert words == ["not decided", "not decided"]


@pytest.mark.parametrize(
    ("gap", "word"), [(-0.2, "holds"), (-0.5, "not decided"), (-0.8, "does not hold"), (3.0, "holds")]
)
def test_as_good_up_to_points(gap: float, word: str) -> None:
    better = [80 + gap + d for d in (-0.1, 0.0, 0.1)]  # standard error 0.058
    assert verdict(better, [80.0] * 3, within=0.5) == word


@pytest.mark.parametrize(("speed", "word"), [(960.0, "holds"), (950.0, "not decided"), (900.0, "does not hold")])
def test_as_good_up_to_percent(speed: float, word: str) -> None:
    assert verdict([speed - 1, speed, speed + 1], [1000.0] * 3, within=5, percent=True) == word


def test_only_seeds_that_both_rows_have_are_compared() -> None:
    better, worse = {0: 81.1, 1: 86.0, 2: 90.9, 7: 10.0}, {0: 80.0, 1: 85.0, 2: 90.0, 8: 99.0}
    assert verdict(better, worse) == "holds"
    assert verdict({seed + 10: value for seed, value in better.items()}, worse) == "not decided"


def test_a_difference_within_the_tolerance_may_be_significant_all_the_same() -> None:
    rows = make_row("a"), make_row("b")
    finding = Finding(claim="c", better="a", worse="b", figure="mAP", within=25, percent=True)
    table = make_table(*rows, findings=(finding,))
    (found,) = judge(table, [make_result(rows[0], (95.0, 95.2, 94.9)), make_result(rows[1], (100.0, 100.1, 100.0))])
    assert found.text == "holds"
    assert "the difference itself is significant" in found.evidence
    (found,) = judge(table, [make_result(rows[0], (99.0, 101.2, 100.9)), make_result(rows[1], (100.0, 100.1, 100.0))])
    assert "itself" not in found.evidence


def val(row: TableRow, *values: float) -> RowResult:
    records = make_result(row, tuple(99.0 + 0.01 * seed for seed in range(len(values)))).records
    return RowResult(row=row, records=tuple(replace(r, best=v) for r, v in zip(records, values, strict=True)))


@pytest.mark.parametrize(
    ("short", "doubled", "word", "verdict"),
    [
        ((98.0, 98.2), (98.15,), "long enough", "holds"),
        ((98.0, 98.2), (98.25,), "not long enough", "not decided"),
        ((98.0, 98.2), (97.7,), "long enough", "holds"),  # more epochs fit the training images too closely
        ((98.0, 98.2), (), "not known", "not decided"),
        ((99.85, 99.9), (), "long enough", "holds"),  # 100 is the most that there is
        ((), (98.0,), "not known", "not run"),
    ],
)
def test_better_is_judged_at_the_plateau(short, doubled, word: str, verdict: str) -> None:
    rows = make_row("a"), make_row("a_double"), make_row("b")
    finding = Finding(claim="c", better="a", worse="b", figure="mAP")
    table = make_table(*rows, findings=(finding,), plateau={"a": "a_double"})
    results = [val(rows[0], *short), val(rows[1], *doubled), make_result(rows[2], (90.0, 90.01))]
    assert f"**{word}**" in plateaus(table, results)
    assert judge(table, results)[0].text == verdict


@pytest.mark.parametrize(
    ("sizes", "within", "word"),
    [((2.0, 1.0), None, "holds"), ((1.0, 1.0), None, "does not hold"), ((1.0, 1.0), 0.0, "holds")],
)
def test_what_is_counted_is_decided_without_seeds(sizes: tuple[float, float], within: float | None, word: str) -> None:
    rows = make_row("a"), make_row("b")
    finding = Finding(claim="c", better="a", worse="b", figure="macs", within=within)
    results = [RowResult(row=row, sizes={"macs": size}) for row, size in zip(rows, sizes, strict=True)]
    assert judge(make_table(*rows, findings=(finding,)), results)[0].text == word


def test_a_finding_needs_both_rows() -> None:
    assert verdict(SEEDS, ()) == "not run"
    assert verdict((), SEEDS) == "not run"
    rows = make_row("a"), make_row("b")
    table = make_table(*rows, findings=(Finding(claim="c", better="a", worse="b", figure="mAP"),))
    assert judge(table, [])[0].text == "not run"


def test_a_bullet_has_claim_verdict_and_numbers() -> None:
    rows = [make_row(k, published={"mAP": v}, sources={"mAP": t}) for k, v, t in (("a", 88.1, "S"), ("b", 87.0, "M"))]
    table = make_table(*rows, findings=(Finding(claim="a is above b.", better="a", worse="b", figure="mAP"),))
    results = [make_result(rows[0], (81.0, 82.0)), make_result(rows[1], (80.0, 80.9))]
    assert findings(table, results) == (
        "* a is above b: **holds**. mAP of a: 81.50 ± 0.71 (2); of b: 80.45 ± 0.64 (2); difference +1.05 "
        "over 2 pairs, 95 % interval +0.41 to +1.69, p = 0.03 after Holm's correction. Published: +1.10 †."
    )


# The page


def test_the_page_is_the_same_whatever_the_order_of_records() -> None:
    rows = make_row("a", note="N."), make_row("b")
    finding = Finding(claim="a is above b", better="a", worse="b", figure="mAP")
    table = make_table(*rows, findings=(finding,), scale="desk")
    values = (0.1, 1e16, -1e16, 0.3)  # a plain sum depends on its order
    pages = set()
    for order in itertools.permutations(range(4)):
        results = []
        for row in rows:
            records = make_result(row, values).records
            results.append(RowResult(row=row, records=tuple(records[place] for place in order)))
        pages.add(page([PageSection(table, results)], command="mldec table all scale=desk"))
    assert len(pages) == 1


def test_the_page_has_findings_first_and_every_table_after() -> None:
    rows = make_row("a"), make_row("b")
    finding = Finding(claim="a | b", better="a", worse="b", figure="mAP")
    first = make_table(*rows, findings=(finding,), scale="desk")
    second = make_table(*rows, id="figure5")
    results = [make_result(rows[0]), make_result(rows[1], (80.0, 80.1, 80.2))]
    parts = [PageSection(first, results), PageSection(second, results, plot="images/figure5.png")]
    text = page(parts, command="mldec table all", introduction="Read *this*.")
    assert "Generated by `mldec table all`" in text
    assert "Of 1 claim, holds: 1." in text
    assert "| a \\| b | **holds** |" in text
    places = [
        text.rindex(piece)
        for piece in (
            "Read *this*.",
            "## Which",
            "## Table 1 at desk scale. Heads",
            "## Figure 5. Heads",
            "![Figure 5. Heads](images/figure5.png)",
            "## Machine and time",
            "6 min 00 s in total",  # records that tables share count once
        )
    ]
    assert places == sorted(places)
    for anchor in re.findall(r"\]\(#([^)]+)\)", text):
        assert f'<a id="{anchor}"></a>' in text


def test_a_page_without_a_record_says_so() -> None:
    row = make_row()
    text = page([PageSection(make_table(row, scale="desk"), [RowResult(row=row)])], command="x")
    assert "No row has a record yet." in text


@pytest.mark.parametrize("table", load_tables("paper"), ids=lambda table: table.id)
def test_every_table_of_the_paper_is_shown_before_anything_was_run(table: PaperTable) -> None:
    results = [
        RowResult(row=row, published=row, status="not run" if row.experiment else "literature", sizes={"macs": 1.0})
        for row in table.rows
    ]
    text = markdown(table, results)
    assert len(body(text)) == len(table.rows) + 1
    assert len(entries(csv_text(table, results))) == len(table.rows) * len(table.figures)
    assert latex(table, results).count(r" \\") == len(table.rows) + 2
    unverified = any(
        tag in "M?" and row.published[f] is not None for row in table.rows for f, tag in row.sources.items()
    )
    assert ("†" in text) == unverified
