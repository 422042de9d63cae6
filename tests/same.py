"""When two runs are the same run."""

from __future__ import annotations

from pathlib import Path

import torch

from mldec.engine.checkpoint import load_checkpoint
from mldec.engine.metric_writer import read_records

#: Record fields that measure time and therefore differ between two runs of one experiment.
TIMES = frozenset({"images_per_second", "data_wait", "seconds"})


def assert_same_run(ours: Path, theirs: Path) -> None:
    """Records but for times, weights, EMA, optimizer and all else in the checkpoints, figures by class: bit for bit."""
    assert timeless(ours) == timeless(theirs)
    for name in ("last", "best"):
        contents = [load_checkpoint(folder / "checkpoints" / f"{name}.pt") for folder in (ours, theirs)]
        for content in contents:
            content["config"].pop("run_dir")  # where it lies
        assert_same_tensors(*contents)
    for table in ("per_class_ap.csv", "thresholds.csv"):
        assert (ours / table).read_bytes() == (theirs / table).read_bytes()


def timeless(folder: Path) -> list[dict]:
    """The records of a run without what measures time."""
    return [{k: v for k, v in record.items() if k not in TIMES} for record in read_records(folder / "metrics.jsonl")]


def assert_same_tensors(ours, theirs, path=""):
    if isinstance(ours, torch.Tensor):
        assert torch.equal(ours, theirs), path
    elif isinstance(ours, dict):
        assert ours.keys() == theirs.keys(), path
        for key in ours:
            assert_same_tensors(ours[key], theirs[key], f"{path}.{key}")
    elif isinstance(ours, (list, tuple)):
        assert len(ours) == len(theirs), path
        for number, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            assert_same_tensors(a, b, f"{path}[{number}]")
    else:
        assert ours == theirs, path
