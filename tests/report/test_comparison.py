"""Properties: a comparison shows each run's metrics, the settings that differ, and warns of other data or protocols."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from mldec.commands.main import run
from mldec.engine.metric_writer import read_records
from tests.report.conftest import LABELS, NAME, SCRIPT, Page


@pytest.fixture
def runs(trained: Path, second: Path, tmp_path: Path) -> list[Path]:
    return [Path(shutil.copytree(folder, tmp_path / folder.name)) for folder in (trained, second)]


def compare(runs: list[Path], output: Path, *options: str) -> Page:
    assert run(["report", f"run={','.join(map(str, runs))}", f"output={output}", *options]) == 0
    return Page(output.read_text(encoding="utf-8"))


def test_figures_settings_and_labels_of_two_runs(runs, tmp_path):
    page = compare(runs, tmp_path / "page.html")
    tables = list(page.tables.values())
    assert len(page.of("script")) == 1
    for folder in runs:
        recorded = read_records(folder / "metrics.jsonl")[-1]
        assert f"{recorded['mAP']:.2f}" in page.text
        assert f"{recorded['CF1']:.2f}" in page.text
    assert NAME in page.text
    cells = [cell for rows in tables for row in rows for cell in row]
    assert "head.name" in cells
    assert "seed" in cells
    assert "protocol.threshold" in cells
    assert "loss.name" not in cells
    assert "run_dir" not in cells
    assert "The protocols differ" in page.text
    assert "other fingerprints" not in page.text
    assert SCRIPT in cells
    drawn = [str(svg["aria-label"]) for svg in page.of("svg") if svg.get("aria-label")]
    assert any(label.startswith("mAP on val by run: A ends at") for label in drawn)


def test_changes_of_labels_are_the_differences(runs, tmp_path):
    page = compare(runs, tmp_path / "page.html")
    rows = [row for table in page.tables.values() for row in table if len(row) == 5 and row[0] in LABELS]
    assert {row[0] for row in rows} <= set(LABELS)
    assert rows
    for _, before, after, difference, _ in rows:
        assert float(difference.replace("\u2212", "-")) == pytest.approx(float(after) - float(before), abs=0.011)


def test_other_images_and_a_run_without_weights_are_warned_of(runs, tmp_path, capsys):
    data = json.loads((runs[1] / "data.json").read_text())
    data["test"]["fingerprint"] = data["train"]["fingerprint"] = "0" * 64
    (runs[1] / "data.json").write_text(json.dumps(data))
    shutil.rmtree(runs[1] / "checkpoints")
    page = compare([runs[0], runs[1], runs[0]], tmp_path / "page.html")
    assert "Some runs were measured again" in page.text
    assert "other fingerprints" in page.text
    assert "trained on different images" in page.text
    assert "A to C" in page.text


def test_a_wrong_option_is_one_line(runs, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    for options, part in (
        ([], "run=… is missing"),
        (["run=nowhere"], "no run directory"),
        (["run=,"], "run=,: names no run"),
        (["run=empty"], "is not a run directory"),
        ([f"run={runs[0]}", "split=tset"], "expected one of train, val, test"),
        ([f"run={runs[0]}", "weights=no"], "expected one of best, ema, raw"),
        ([f"run={runs[0]}", f"output={tmp_path}"], "is a directory"),
        ([f"run={runs[0]},{runs[1]}", "labels=red"], "leave labels out"),
        ([f"run={runs[0]}", f"runs={runs[1]}"], "no such option of mldec report; did you mean run"),
        ([f"run={runs[0]}", "hed=gap"], "hed"),
    ):
        assert run(["report", *options]) == 2, options
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert part in error
        assert "Traceback" not in error
    assert not list(tmp_path.glob("*.html"))
    assert not list(runs[0].glob("*.html"))


def test_a_list_and_a_comma_in_a_name_are_understood(runs, tmp_path, monkeypatch):
    odd = runs[0].rename(tmp_path / "a,b")
    monkeypatch.chdir(tmp_path)
    assert run(["report", f"run={odd}"]) == 0
    assert (odd / "report.html").exists()
    assert run(["report", f"run=[{runs[1]},{runs[1] / 'checkpoints' / 'last.pt'}]"]) == 0
    assert (tmp_path / "comparison.html").exists()
