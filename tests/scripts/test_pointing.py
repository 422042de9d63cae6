"""docs/explain.md has the figures of the committed records, and these are of the trainings that it names."""

from __future__ import annotations

import json

import pytest

from mldec.commands import compose
from scripts import pointing


def test_the_committed_page_is_what_the_committed_records_give():
    page = pointing.PAGE.read_text(encoding="utf-8")
    assert pointing.with_figures(page, pointing.figures(pointing.read_scores(pointing.RECORDS))) == page
    for name in ("explain-heads.jpg", "explain-group.jpg"):
        assert f"images/{name}" in page
        assert (pointing.IMAGES / name).stat().st_size < 150_000


def test_records_are_of_the_trainings_as_they_are_configured_today():
    compose.load_components(())
    for head, contents in pointing.read_scores(pointing.RECORDS).items():
        for content in contents:
            assert content["key"] == pointing.job(head, content["seed"]).key
            for scored in content["pointing"].values():
                assert 0 < scored["labels"] <= scored["present"]
                assert scored["inside"] + scored["another"] <= 100


def test_without_a_head_or_marks_there_is_no_page(tmp_path):
    with pytest.raises(SystemExit, match="no seed of which all heads were measured"):
        pointing.read_scores(tmp_path)
    with pytest.raises(ValueError, match="lacks the lines"):
        pointing.with_figures("# A page", "figures")


def test_only_seeds_that_all_heads_have_are_shown(tmp_path):
    for head in pointing.HEADS:
        for seed in (0, 1, 2) if head.key == "gap" else (1, 2):
            content = json.dumps({"row": head.key, "seed": seed})
            (tmp_path / f"{head.key}_seed{seed}_0.json").write_text(content)
    shown = pointing.read_scores(tmp_path)
    assert {head.key: [content["seed"] for content in found] for head, found in shown.items()} == {
        head.key: [1, 2] for head in pointing.HEADS
    }
