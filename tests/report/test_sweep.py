"""The table at the end of several runs says what differs, by how much, and over what that is paired."""

from __future__ import annotations

import json
import re
from pathlib import Path

from mldec.report.sweep import sweep_table


def run(folder: Path, test: float, val: float = 50.0, labels: dict[str, float] | None = None, **more: float) -> Path:
    folder.mkdir(parents=True)
    records = [
        {"kind": "eval", "step": 1, "epoch": 1, "best": val},
        {"kind": "test", "step": 1, "epoch": 1, "mAP": test, **more},
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (folder / "cost.json").write_text('{"seconds": 12.4}')
    lines = [f"{name},{ap},1,1,0" for name, ap in (labels or {}).items()]
    table = "\n".join(["label,average_precision,positives,negatives,unknown", *lines, "rare,,0,2,0"])
    (folder / "per_class_ap.csv").write_text(table + "\n")
    return folder


def test_seeds_are_averaged_and_paired(tmp_path):
    values = {"gap": (60.0, 61.0, 62.0), "ml_decoder": (61.0, 62.5, 63.5)}
    runs = [
        ([f"head={head}", f"seed={seed}"], run(tmp_path / f"{head}{seed}", value))
        for head, found in values.items()
        for seed, value in enumerate(found)
    ]
    table = sweep_table(runs)
    assert re.search(r"head=gap +61\.00 +50\.00 +12$", table, re.M)
    # Differences 1, 1.5, 1.5: mean 4/3, standard error 1/6, t quantile 4.303.
    assert re.search(r"head=ml_decoder +62\.33 +50\.00 +12  \+1\.33 \(\+0\.62 to \+2\.05\), p = 0\.015$", table, re.M)
    assert table.endswith("differences are paired over 3 seeds")


def test_one_seed_is_paired_over_labels_and_says_what_that_leaves_out(tmp_path):
    first = run(tmp_path / "a", 60.0, labels={"cat": 50.0, "dog": 70.0})
    second = run(tmp_path / "b", 62.0, labels={"cat": 52.0, "dog": 72.0})
    table = sweep_table([(["head=gap"], first), (["head=gmp"], second)])
    assert "+2.00 (+2.00 to +2.00)" in table
    assert "paired over 2 labels of one seed; seed=0,1,2,3,4 shows what seeds change" in table


def test_top1_is_compared_where_there_is_one(tmp_path):
    first, second = run(tmp_path / "a", 60.0, top1=80.0), run(tmp_path / "b", 60.0, top1=79.0)
    table = sweep_table([(["loss=ce"], first), (["loss=bce"], second)])
    assert "test top1" in table
    assert "-1.00" in table


def test_runs_without_a_result_are_left_out(tmp_path):
    (tmp_path / "none").mkdir()
    done = run(tmp_path / "a", 60.0)
    assert sweep_table([(["head=gap"], done), (["head=gmp"], tmp_path / "none")]) == ""
    assert sweep_table([(["seed=0"], done), (["seed=1"], run(tmp_path / "b", 61.0))]) == ""
