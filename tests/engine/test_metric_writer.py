"""Properties: records stand once and in order, also after a crash, and TensorBoard shows them."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from mldec.engine.metric_writer import MetricWriter, read_records
from mldec.engine.run_directory import write_json
from mldec.files import write_text


def test_resuming_drops_the_records_behind_the_checkpoint(tmp_path):
    writer = MetricWriter(tmp_path, tensorboard=False)
    for step in (2, 4):
        writer.record("train", step, {"loss": step})
    writer.record("eval", 4, {"epoch": 1})
    writer.record("train", 6, {"loss": 6})
    writer.record("eval", 8, {"epoch": 2})
    writer.record("test", 8, {"mAP": 1})
    writer.close()
    MetricWriter(tmp_path, tensorboard=False, step=6, evaluations=1).close()
    assert [(r["kind"], r["step"]) for r in read_records(tmp_path / "metrics.jsonl")] == [
        ("train", 2),
        ("train", 4),
        ("eval", 4),
        ("train", 6),
    ]


def test_what_is_not_a_number_is_null(tmp_path):
    writer = MetricWriter(tmp_path, tensorboard=False)
    writer.record("eval", 1, {"epoch": 1, "raw": {"mAP": float("nan"), "CF1": 0.0}})
    writer.close()
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
    write_json(tmp_path / "environment.json", {})
    assert order == ["sync", "rename", *["sync"] * (os.name == "posix")]
    writer = MetricWriter(tmp_path, tensorboard=False)
    order.clear()
    writer.record("train", 1, {"loss": 1.0})
    assert order == []
    writer.record("eval", 1, {"epoch": 1})
    assert order == ["sync"]
    writer.close()


def test_tensorboard_shows_scalars_images_and_curves(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    writer = MetricWriter(tmp_path, tensorboard=True)
    writer.record("eval", 3, {"epoch": 1, "raw": {"mAP": 50.0}, "reported": "raw"})
    writer.image("sheet", np.zeros((8, 8, 3), np.uint8), 3)
    writer.label_histogram("labels", np.array([3, 0, 5]))
    writer.precision_recall("curve", np.array([0.1, 0.9, 0.5]), np.array([0, 1, -1]), 3)
    writer.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    assert "eval/raw/mAP" in tags["scalars"]
    assert tags["images"] == ["sheet"]
    assert "labels" in tags["histograms"]
    assert "curve" in tags["tensors"]
