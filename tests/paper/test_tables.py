"""The tables as data: complete, consistent, and each row with an experiment that exists."""

import re
from pathlib import Path

import pytest

from mldec.commands import compose
from mldec.errors import ConfigError
from mldec.paper import tables
from mldec.paper.tables import COUNTED, SOURCES, find_table, load_tables

ALL = [f"table{number}" for number in range(1, 15)] + ["figure5", "figure6"]
ROWS = [(scale, table, row) for scale in ("paper", "desk") for table in load_tables(scale) for row in table.rows]


def test_all_tables_are_there_in_order():
    assert [table.id for table in load_tables("paper")] == ALL
    desk = [table.id for table in load_tables("desk")]
    assert {f"table{n}" for n in (1, 2, 3, 4, 7, 8, 10, 13)} | {"figure5"} <= set(desk) <= set(ALL)


def test_every_reproduced_row_has_an_experiment_of_its_own():
    shipped = set(compose.choices("experiment"))
    trained = [row for _, table, row in ROWS if row.experiment and table.kind == "training"]
    experiments = [row.experiment for row in trained if not row.settings]
    assert len(set(experiments)) == len(experiments)
    assert {row.experiment for row in trained if row.settings} <= set(experiments)
    runs = [(row.experiment, tuple(row.settings.items())) for row in trained]
    assert len(set(runs)) == len(runs)
    in_folders = {name for name in shipped if re.match(r"(desk/)?(table|figure)\d+/", name)}
    assert in_folders == {row.experiment for _, _, row in ROWS if row.experiment}


def test_every_published_value_names_its_source():
    for _, _, row in ROWS:
        assert set(row.sources) == set(row.published)
        assert set(row.sources.values()) <= set(SOURCES)
    assert not any(row.published for scale, _, row in ROWS if scale == "desk")


@pytest.mark.parametrize("table", ["table5", "table6", "table11", "table12"])
def test_every_method_is_run_or_says_why_not(table):
    """Other methods' rows: an experiment, or a note that begins with the reason."""
    for row in find_table(table, "paper").rows:
        assert (row.experiment is None) == row.note.startswith("Not run: "), row.key


def test_rows_that_the_paper_does_not_have_follow_its_own_and_say_so():
    own = {
        "table5": "ml_gcn kssnet ssgrl ms_cma asl_resnet101 asl_tresnet_l query2label_tresnet_l resnet101 tresnet_l",
        "table11": "rnn_attention fev_lv ml_gcn ssgrl bmml asl query2label ml_decoder",
    }
    for _, table, row in [found for found in ROWS if found[0] == "paper"]:
        assert "Not in the paper's table" not in row.note or table.id in own
    for name, keys in own.items():
        rows = find_table(name, "paper").rows
        assert [row.key for row in rows[: len(keys.split())]] == keys.split()
        added = [row.note.startswith("Not in the paper's table") for row in rows]
        assert added == [False] * len(keys.split()) + [True] * (len(rows) - len(keys.split()))


@pytest.mark.parametrize(
    ("table", "row", "figure", "value", "source"),
    [  # values of the paper that the abstract, the text or the code confirm
        ("table1", "ml_decoder_k20", "mAP", 88.0, "S"),
        ("table2", "ml_decoder_k200", "mAP", 86.8, "S"),
        ("table3", "both", "zsl_mAP", 31.1, "S"),
        ("table5", "tresnet_l", "mAP", 90.0, "S"),
        ("table6", "ml_decoder", "zsl_mAP", 31.1, "C"),
        ("table6", "ml_decoder", "gzsl_mAP", 19.9, "M"),
        ("table8", "embeddings_embeddings", "zsl_mAP", 28.7, "S"),
        ("table9", "ml_decoder_5000", "train_speed", 562, "S"),
        ("table10", "tresnet_xl_640", "mAP", 91.4, "S"),
        ("table11", "ml_decoder", "mAP", 96.6, "P"),
        ("table13", "a1", "top1", 80.7, "C"),
        ("table14", "tresnet_l", "top1", 96.41, "S"),
        ("figure5", "tresnet_l_gap", "mAP", 89.4, "F"),
    ],
)
def test_published_values(table, row, figure, value, source):
    found = find_table(table, "paper").row(row)
    assert found.published[figure] == value
    assert found.sources[figure] == source


def test_rows_at_desk_scale_have_the_key_of_a_row_of_the_paper():
    """But for those that the paper does not have."""
    own = [
        row.key
        for scale, table, row in ROWS
        if scale == "desk" and row.key not in _paper_keys(table.id) and not row.settings  # another length of training
    ]
    assert own == ["ml_decoder_k20_random"] + [f"ml_decoder_k{k}" for k in (720, 72, 36, 18)]


def _paper_keys(table: str) -> set[str]:
    return {row.key for row in find_table(table, "paper").rows}


@pytest.mark.parametrize("name", ["5", "table5", "Table 5", "T5", "table-5"])
def test_a_table_has_several_names(name):
    assert find_table(name, "paper").id == "table5"


def test_a_figure_is_no_table():
    assert find_table("F5", "paper").id == find_table("figure5", "paper").id == "figure5"
    assert find_table("figure5", "paper").name == "Figure 5"


@pytest.mark.parametrize(
    ("name", "found"), [("5", "arena"), ("table11", "arena"), ("6", "arena_zsl"), ("14", "table13"), ("13", "table13")]
)
def test_a_table_may_stand_for_others_at_its_scale(name, found):
    assert find_table(name, "probe").id == found


def test_every_table_of_the_paper_but_that_of_speed_has_a_version_on_photographs():
    assert {find_table(table.id, "probe").scale for table in load_tables("paper") if table.id != "table9"} == {"probe"}


@pytest.mark.parametrize(
    ("name", "scale", "message"),
    [
        ("15", "paper", "table=15: no such table; did you mean"),
        ("foo", "paper", "table=foo: no such table"),
        ("-1", "paper", "table=-1: no such table; allowed: figure5, figure6, table1, "),
        ("0", "paper", "table=0: no such table; "),
        ("table--1", "paper", "table=table--1: no such table; "),
        ("6", "desk", "table=6: has no version at desk scale; use scale=paper, or one of table1"),
    ],
)
def test_unknown_tables(name, scale, message):
    with pytest.raises(ConfigError) as caught:
        find_table(name, scale)
    assert message in str(caught.value)


def test_an_unknown_row():
    with pytest.raises(ConfigError, match="rows=gab: Table 1 has no such row; did you mean gap"):
        find_table("1", "paper").row("gab")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("  rows: [{key: a, cells: {b: 1}}]", "a cell: .*do not exist"),
        ("  rows: [{key: a, cells: {}}, {key: a, cells: {}}]", "two rows have the same key"),
        ("  rows: [{key: a, published: {mAP: 1}, source: X}]", "unknown sources"),
        ("  rows: [{key: a, publised: {mAP: 1}}]", "unknown entries"),
        ("  rows: [{key: a, cells: {}}]\n  plateau: {a: b}", "do not exist"),
        ("  rows: [{key: a, cells: {}}]\n  findings: [{claim: c, better: a, worse: b, figure: mAP}]", "do not exist"),
    ],
)
def test_a_file_that_contradicts_itself_is_refused(change, message, tmp_path: Path, monkeypatch):
    head = ["- id: table1", "title: t", "about: a", "cells: {head: Head}", "figures: {mAP: mAP}", "needs: {labels: 3}"]
    text = "\n  ".join(head) + f"\n{change}\n"
    (tmp_path / "published.yaml").write_text(text)
    monkeypatch.setattr(tables.resources, "files", lambda package: tmp_path)
    with pytest.raises(ValueError, match=message):
        tables.load_tables.__wrapped__("paper")


def test_figures_that_are_counted_are_known():
    assert set(COUNTED) == {"macs", "parameters"}


def test_the_groups_of_table_4_are_those_of_the_trained_labels():
    """925 trained labels by 100 queries; the paper's 1,006 by 100 would be 11 a group."""
    group_size = -(-925 // 100)
    assert (group_size, -(-925 // group_size), -(-1006 // 100)) == (10, 93, 11)
    note = find_table("4", "paper").row("group").note
    assert "93 groups of 10" in note
    assert "11 per group" in note


def test_the_voc_run_states_no_initial_weights():
    """No source has them."""
    row = find_table("11", "paper").row("ml_decoder")
    assert not row.note
    assert row.needs.published_start == "weights that are not stated"
