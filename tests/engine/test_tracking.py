"""Properties: a run folder is one's own, and records stand once and in order."""

from __future__ import annotations

import json
import logging
import os
import sys

import numpy as np
import pytest

from mldec.engine.export.exported_model import DESCRIPTION, MOST_DESCRIPTION, WEIGHTS, read_exported
from mldec.engine.metric_writer import MOST_RECORDS, MetricWriter, read_records
from mldec.engine.run_directory import MOST_JSON, make_run_directory, read_json, read_metadata, write_text
from mldec.engine.settings_file import MOST_BYTES, read_settings
from mldec.engine.thresholds import read_thresholds
from mldec.errors import CheckpointError, ConfigError, DataError
from mldec.report.run import read_run


def test_two_runs_of_one_second_get_two_folders(tmp_path):
    folders = {make_run_directory(str(tmp_path), "x") for _ in range(5)}
    assert len(folders) == 5
    assert all(folder.parent == tmp_path / "x" for folder in folders)


def test_a_folder_that_holds_a_run_is_not_taken_again(tmp_path):
    folder = make_run_directory("", "x", str(tmp_path / "mine"))
    assert folder == make_run_directory("", "x", str(tmp_path / "mine"))  # empty still
    (folder / "checkpoints").mkdir()
    assert folder == make_run_directory("", "x", str(tmp_path / "mine"))  # killed before the first checkpoint was there
    (folder / "checkpoints" / "last.pt").touch()
    with pytest.raises(FileExistsError):
        make_run_directory("", "x", str(tmp_path / "mine"))


def test_resuming_drops_the_records_behind_the_checkpoint(tmp_path):
    tracker = MetricWriter(tmp_path, tensorboard=False)
    for step in (2, 4):
        tracker.record("train", step, {"loss": step})
    tracker.record("eval", 4, {"epoch": 1})
    tracker.record("train", 6, {"loss": 6})
    tracker.record("eval", 8, {"epoch": 2})
    tracker.record("test", 8, {"mAP": 1})
    tracker.close()
    MetricWriter(tmp_path, tensorboard=False, step=6, evaluations=1).close()
    assert [(r["kind"], r["step"]) for r in read_records(tmp_path / "metrics.jsonl")] == [
        ("train", 2),
        ("train", 4),
        ("eval", 4),
        ("train", 6),
    ]


def test_what_is_not_a_number_is_null(tmp_path):
    tracker = MetricWriter(tmp_path, tensorboard=False)
    tracker.record("eval", 1, {"epoch": 1, "raw": {"mAP": float("nan"), "CF1": 0.0}})
    tracker.close()
    text = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(text, parse_constant=pytest.fail)["raw"] == {"mAP": None, "CF1": 0.0}


def test_a_line_cut_short_by_a_crash_is_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write_text(path, json.dumps({"kind": "train", "step": 1}) + '\n{"kind": "tra')
    assert len(read_records(path)) == 1


def test_a_damaged_line_is_left_out_and_said(tmp_path, caplog):
    path, sound = tmp_path / "metrics.jsonl", json.dumps({"kind": "train", "step": 1})
    odd = [
        '{"kind"',
        "[1]",
        '{"kind": "eval", "step": 1, "epoch": null}',
        '{"kind": "train", "step": "1"}',
        "[" * 10**5,
    ]
    write_text(path, "\n".join([*odd, sound, ""]))
    assert read_records(path) == [json.loads(sound)]
    assert "metrics.jsonl is damaged: 5 lines are skipped (line 1, 2, 3, 4, 5)" in caplog.text


def test_what_resuming_needs_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    order = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: order.append("sync") or sync(file))
    monkeypatch.setattr(os, "replace", lambda *paths: order.append("rename") or replace(*paths))
    write_text(tmp_path / "config.yaml", "a: 1\n")
    assert order == ["sync", "rename", *["sync"] * (os.name == "posix")]
    tracker = MetricWriter(tmp_path, tensorboard=False)
    order.clear()
    tracker.record("train", 1, {"loss": 1.0})
    assert order == []
    tracker.record("eval", 1, {"epoch": 1})
    assert order == ["sync"]
    tracker.close()


def test_tensorboard_shows_scalars_images_and_curves(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tracker = MetricWriter(tmp_path, tensorboard=True)
    tracker.record("eval", 3, {"epoch": 1, "raw": {"mAP": 50.0}, "reported": "raw"})
    tracker.image("sheet", np.zeros((8, 8, 3), np.uint8), 3)
    tracker.label_histogram("labels", np.array([3, 0, 5]))
    tracker.precision_recall("curve", np.array([0.1, 0.9, 0.5]), np.array([0, 1, -1]), 3)
    tracker.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    assert "eval/raw/mAP" in tags["scalars"]
    assert tags["images"] == ["sheet"]
    assert "labels" in tags["histograms"]
    assert "curve" in tags["tensors"]


READERS = [
    (read_json, "data.json", MOST_JSON, DataError),
    (read_records, "metrics.jsonl", MOST_RECORDS, DataError),
    (read_settings, "config.yaml", MOST_BYTES, ConfigError),
    (lambda path: read_exported(path.parent / WEIGHTS), DESCRIPTION, MOST_DESCRIPTION, CheckpointError),
]


@pytest.mark.skipif(sys.platform == "win32", reason="devices and sparse files")
@pytest.mark.parametrize(("read", "name", "most", "error"), READERS, ids=[name for _, name, _, _ in READERS])
def test_a_file_of_a_run_directory_is_read_only_if_it_is_regular_and_bounded(read, name, most, error, tmp_path):
    path = tmp_path / name
    path.symlink_to("/dev/null")
    with pytest.raises(error, match=rf"{name}: is not a regular file but a device"):
        read(path)
    path.unlink()
    with path.open("wb") as file:
        file.truncate(most + 1)  # takes no room on the disk
    with pytest.raises(error, match=rf"{name}: {most + 1:,} bytes; at most {most:,} are read"):
        read(path)


@pytest.mark.skipif(sys.platform == "win32", reason="devices and sparse files")
def test_a_note_that_cannot_be_read_is_a_warning(tmp_path, caplog):
    os.mkfifo(tmp_path / "cost.json")
    with caplog.at_level(logging.WARNING):
        assert read_metadata(tmp_path / "cost.json") == {}
    assert "a device, a pipe or a socket" in caplog.text


@pytest.mark.skipif(sys.platform == "win32", reason="devices and sparse files")
def test_tables_of_a_run_directory_that_hold_no_text_are_refused(tmp_path):
    (tmp_path / "config.yaml").write_text("name: a")
    for name in ("thresholds.csv", "per_class_ap.csv", "environment.json"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(2**26)
    with pytest.raises(DataError, match="NUL bytes"):
        read_thresholds(tmp_path / "thresholds.csv")
    problems = read_run(tmp_path).problems
    assert "NUL bytes" in problems["per_class_ap.csv"]
    assert "at most" in problems["environment.json"]
