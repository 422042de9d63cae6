"""Property: whatever a run folder's small files hold, there is a page; what cannot be shown is a sentence on it.

The files are those of a run, with one value at a time replaced by one that nobody expects there. No weights are needed.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from mldec.report.comparison import compare
from mldec.report.page import report
from mldec.report.run import read_run

ODD = [None, -1, 0, 10**400, float("inf"), "\u202e<b>", [1], {"a": None}]

METRICS = {"mAP": 50.0, "CF1": 40.0, "OF1": 41.0, "CF1@3": 30.0, "OF1@3": 31.0, "classes_counted": 2.0}
RECORDS = [
    {"kind": "train", "step": 2, "epoch": 1, "loss": 0.5, "lr": 0.1, "images_per_second": 10.0, "data_wait": 0.1},
    {
        "kind": "eval",
        "step": 4,
        "epoch": 1,
        "loss": 0.4,
        "ema": METRICS,
        "raw": METRICS,
        "reported": "ema",
        "best": 50.0,
    },
    {"kind": "train", "step": 6, "epoch": 2, "loss": 0.3, "lr": 0.1, "images_per_second": 10.0, "data_wait": 0.1},
    {
        "kind": "eval",
        "step": 8,
        "epoch": 2,
        "loss": 0.2,
        "ema": METRICS,
        "raw": METRICS,
        "reported": "ema",
        "best": 50.0,
    },
    {"kind": "test", "step": 8, "epoch": 2, "weights": "ema", "protocol": "standard", **METRICS},
]
SPLIT = {"images": 3, "labels": 2, "fingerprint": "0123456789abcdef"}
FILES: dict[str, Any] = {
    "metrics.jsonl": RECORDS,
    "data.json": {"train": SPLIT, "val": SPLIT, "test": SPLIT},
    "cost.json": {"seconds": 1.5, "peak_memory": {"host": 10**9, "device": 10**9}},
    "environment.json": {
        "mldec": "1",
        "commit": "abc",
        "command": ["mldec", "train"],
        "python": "3.11",
        "platform": "Linux",
        "device": "cpu",
        "precision": "float32",
        "threads": 1,
        "packages": {"torch": "2"},
        "processes": 1,
    },
    "config.yaml": {
        "name": "run",
        "seed": 0,
        "dataset": {"name": "table"},
        "head": {"name": "gap"},
        "schedule": {"epochs": 2, "batch_size": 4, "max_lr": 0.1},
        "protocol": {"name": "standard"},
    },
}


def write(folder: Path, files: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        if name == "metrics.jsonl":
            text = "".join(json.dumps(record) + "\n" for record in content)
        else:
            text = yaml.safe_dump(content) if name == "config.yaml" else json.dumps(content)
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "per_class_ap.csv").write_text("label,average_precision,positives\ncat,50.0,2\ndog,,0\n")
    return folder


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all values within `value`, and of itself."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


def replaced(files: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    changed: Any = copy.deepcopy(files)
    inside = changed
    for key in path[:-1]:
        inside = inside[key]
    inside[path[-1]] = value
    return changed


def pages(folder: Path) -> list[str]:
    run, sentence = read_run(folder), "The weights were not asked."
    return [report(run, sentence), compare([run, run], [sentence, sentence])]


def check(folder: Path, changed: str) -> None:
    for page in pages(folder):
        assert page.lower().startswith("<!doctype html>"), changed


@pytest.mark.parametrize("value", ODD, ids=repr)
def test_odd_values_in_the_files_of_a_run_are_no_traceback(tmp_path, value):
    """Each key of each kind of record, and each whole record; of the other files every second value at a time."""
    for path in [(number, key) for number in (0, 1, 4) for key in RECORDS[number]] + [(2,), (3, "ema", "mAP")]:
        check(write(tmp_path / "run", replaced(FILES, ("metrics.jsonl", *path), value)), str(path))
    for name in list(FILES)[1:]:
        paths = [path for path in places(FILES[name], (name,)) if len(path) > 1]
        for chosen in (paths[::2], paths[1::2], [(name,)]):
            files = FILES
            for path in reversed(chosen):  # what lies within another one first
                files = replaced(files, path, value)
            check(write(tmp_path / "run", files), str(chosen))


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_any_odd_value_in_a_file_of_a_run_is_no_traceback(tmp_path, name):
    for path in places(FILES[name], (name,)):
        for value in ODD if path != ("metrics.jsonl",) else ():
            check(write(tmp_path / "run", replaced(FILES, path, value)), f"{path}: {value}")


@pytest.mark.parametrize(
    "rows", ["", "cat,x,1\n", "cat,50.0,x\n", "cat,50.0\n", "cat,nan,²\n", "cat,1e999,1\n", "\n\n"]
)
def test_odd_rows_of_the_table_are_no_traceback(tmp_path, rows):
    folder = write(tmp_path / "run", FILES)
    (folder / "per_class_ap.csv").write_text("label,average_precision,positives\n" + rows)
    check(folder, rows)


@pytest.mark.parametrize(
    "text",
    [
        "label,average_precision\ncat,50.0\n",
        'label,average_precision,positives\n"' + "x" * 140_000 + '",1,1\n',
        *(f"label,average_precision,positives\n{row}\n" for row in ("cat", "cat,50.0", ",50.0,1", "cat,1e999,1")),
        *(f"label,average_precision,positives\n{row}\n" for row in ("cat,nan,1", "cat,-1,1", f"cat,1,{'9' * 400}")),
    ],
)
def test_a_damaged_table_of_classes_is_a_sentence(tmp_path, text):
    folder = write(tmp_path / "run", FILES)
    (folder / "per_class_ap.csv").write_text(text)
    run = read_run(folder)
    assert run.average_precision == {}
    assert run.problems["per_class_ap.csv"].startswith("per_class_ap.csv is damaged: ")
    assert "per_class_ap.csv is damaged" in report(run, "No weights.")


def test_an_epoch_that_is_null_leaves_the_others(tmp_path):
    for number, done in ((1, "2 of 2 epochs"), (3, "1 of 2 epochs")):
        folder = write(tmp_path / "run", replaced(FILES, ("metrics.jsonl", number, "epoch"), None))
        (folder / "checkpoints").mkdir(exist_ok=True)
        (folder / "checkpoints" / "best.pt").touch()  # whose date is shown with them
        assert done in report(read_run(folder), "No weights.")
