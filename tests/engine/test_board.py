"""Property: curves can fail to be written without the run."""

from __future__ import annotations

import errno
import json
import logging
import threading
from pathlib import Path

import numpy as np
import pytest

from mldec.engine import metric_writer
from mldec.engine.metric_writer import MetricWriter
from mldec.errors import RunError


@pytest.mark.parametrize("room", [0, 200, 1000])
def test_a_full_disk_is_one_warning_and_the_records_go_on(
    room: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    written = 0
    write = metric_writer._EventFile.write

    def full(self: metric_writer._EventFile, content: bytes) -> None:
        nonlocal written
        written += len(content)
        if written > room:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, content)

    monkeypatch.setattr(metric_writer._EventFile, "write", full)
    before = set(threading.enumerate())
    with caplog.at_level(logging.WARNING):
        writer = MetricWriter(tmp_path, tensorboard=True)
        for step in range(1, 30):
            writer.record("train", step, {"loss": 1.0, "lr": 0.1})
        writer.image("x", np.zeros((4, 4, 3), np.uint8), 3)
        writer.label_histogram("x", np.array([1, 2, 3]))
        writer.precision_recall("x", np.array([0.1, 0.9]), np.array([0, 1]), 3)
        writer.close()
    assert set(threading.enumerate()) <= before  # none that could die by itself
    assert [record.getMessage().partition(" (")[0] for record in caplog.records] == [
        f"warning: no curves can be written to {tmp_path / 'tensorboard'} any more"
    ]
    assert "No space left on device" in caplog.text
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 29


def test_each_event_is_there_at_once(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    writer = MetricWriter(tmp_path, tensorboard=True)
    writer.record("train", 1, {"loss": 2.5})
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.value for event in events.Scalars("train/loss")] == [2.5]
    writer.close()


def test_a_record_that_cannot_be_written_is_one_error_that_names_its_file(tmp_path: Path) -> None:
    writer = MetricWriter(tmp_path, tensorboard=False)
    writer.record("train", 1, {"loss": 2.5})
    writer._file.close()
    writer._file = Path("/dev/full").open("w")  # noqa: SIM115
    with pytest.raises(RunError, match=rf"cannot write {tmp_path}/metrics\.jsonl: No space left.*resume={tmp_path}"):
        writer.record("train", 2, {"loss": 2.5})
    writer.close()  # does not raise once more
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["step"] == 1
