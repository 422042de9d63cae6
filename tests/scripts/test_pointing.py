"""docs/explain.md has the figures that the committed records give, and they are of the trainings that it names."""

from __future__ import annotations

import json

import pytest

from mldec.commands import compose
from scripts import pointing


def test_the_committed_page_is_what_the_committed_records_give():
    page = pointing.PAGE.read_text(encoding="utf-8")
    assert pointing.with_figures(page, pointing.figures(pointing.read_measured(pointing.RECORDS))) == page
    for name in ("explain-heads.jpg", "explain-group.jpg"):
        assert f"images/{name}" in page
        assert (pointing.IMAGES / name).stat().st_size < 150_000


def test_records_are_of_the_trainings_as_they_are_configured_today():
    compose.load_components(())
    for row, contents in pointing.read_measured(pointing.RECORDS).items():
        for content in contents:
            assert content["key"] == pointing.job(row, content["seed"]).key
            for scored in content["pointing"].values():
                assert 0 < scored["labels"] <= scored["present"]
                assert scored["inside"] + scored["another"] <= 100


def test_without_a_head_or_marks_there_is_no_page(tmp_path):
    with pytest.raises(SystemExit, match="no seed of which all heads were measured"):
        pointing.read_measured(tmp_path)
    with pytest.raises(ValueError, match="lacks the lines"):
        pointing.with_figures("# A page", "figures")


def test_only_seeds_that_all_heads_have_are_shown(tmp_path):
    for row in pointing.ROWS:
        for seed in (0, 1, 2) if row.key == "gap" else (1, 2):
            (tmp_path / f"{row.key}_seed{seed}_0.json").write_text(json.dumps({"seed": seed}))
    shown = pointing.read_measured(tmp_path)
    assert {row.key: [content["seed"] for content in found] for row, found in shown.items()} == {
        row.key: [1, 2] for row in pointing.ROWS
    }
