"""Property: dataset.unseen makes a table zero-shot, in training, a resumed run, evaluation and prediction."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mldec.commands.main import run
from mldec.data.digits import DigitsConfig, build_digits, unseen_classes
from mldec.engine.metric_writer import read_records
from tests.curve import SCENES, SMALLER

HEAD = ["head=zero_shot", "head.label_embeddings.source=random:12", "head.dim=32", "head.ffn_dim=32"]
SMALL = [
    *("backbone=resnet_digits", *SMALLER, "dataset.image_size=64", "augment=none", "schedule.batch_size=32"),
    *("schedule.epochs=2", "runtime=cpu", "runtime.threads=1", "runtime.workers=0", "runtime.tensorboard=false"),
]


@pytest.fixture
def options(digits_root: Path, tmp_path: Path, monkeypatch) -> list[str]:
    """Three tables of scenes of digits; train lists seen labels alone, as coco18's tags do. Run where they lie."""
    monkeypatch.chdir(tmp_path)
    config = DigitsConfig(name="digits", root=str(digits_root), **SCENES)
    indexes = {split: build_digits(config, split=split) for split in SCENES}
    names = indexes["train"].labels.names
    has = {split: {names[c] for c in np.flatnonzero(index.positives_per_class())} for split, index in indexes.items()}
    seen = has["train"] - set(unseen_classes(8)[0])
    for split, index in indexes.items():
        lines = ["path,labels"]
        for row, name in enumerate(index.names()):
            labels = [names[column] for column in index.positives[row].tolist()]
            labels = [label for label in labels if split != "train" or label in seen]
            lines.append(f"{split}/{name},{';'.join(labels)}")
        (tmp_path / f"{split}.csv").write_text("\n".join(lines))
    (tmp_path / "unseen.txt").write_text("\n".join(sorted((has["val"] | has["test"]) - seen)))
    images = Path(indexes["train"].root).parent
    tables = [f"dataset.{split}={split}.csv" for split in SCENES]
    return ["dataset=table", f"dataset.root={images}", *tables, "dataset.unseen=unseen.txt", *SMALL]


def test_a_table_is_trained_resumed_measured_and_predicted_zero_shot(options, tmp_path, capsys) -> None:
    folder = tmp_path / "run"
    assert run(["train", *options, *HEAD, "schedule.epochs=1", f"run_dir={folder}"]) == 0
    assert f"unseen: {tmp_path / 'unseen.txt'}" in (folder / "config.yaml").read_text()
    unseen = (tmp_path / "unseen.txt").read_text().splitlines()
    content = torch.load(folder / "checkpoints" / "best.pt", weights_only=True)
    names, seen = content["labels"], [name for name in content["labels"] if name not in unseen]
    assert content["seen"] == [name in seen for name in names]
    records = read_records(folder / "metrics.jsonl")
    val, test = next(record for record in records if record["kind"] == "eval")["raw"], records[-1]
    for found in (val, test):  # val has a file of its own, which names them
        assert {"seen_mAP", "zsl_mAP", "gzsl_mAP", "zsl_chance"} <= set(found)
    data = json.loads((folder / "data.json").read_text())
    assert [data[split]["labels"] for split in SCENES] == [len(seen), len(names), len(names)]

    more = ["schedule.epochs=2", "allow_schedule_change=true"]
    assert run(["train", f"resume={folder}", *more]) == 0
    assert read_records(folder / "metrics.jsonl")[-1]["epoch"] in (1, 2)
    capsys.readouterr()
    assert run(["evaluate", f"run={folder}"]) == 0
    assert "unseen labels (ZSL)" in capsys.readouterr().out
    metrics = json.loads((folder / "evaluation" / "table_test" / "metrics.json").read_text())["metrics"]
    last = read_records(folder / "metrics.jsonl")[-1]
    assert metrics == {name: last[name] for name in metrics}
    image = next(Path(options[1].partition("=")[2], "test").glob("*.jpg"))
    label = unseen[0]
    assert run(["predict", f"run={folder}", f"input={image}", f"labels={label},red four", "top_k=2"]) == 0
    assert label in capsys.readouterr().out

    (tmp_path / "unseen.txt").write_text("\n".join([*unseen, seen[0]]))
    assert run(["train", f"resume={folder}", "schedule.epochs=3", "allow_schedule_change=true"]) == 2
    assert "labels are not those that" in capsys.readouterr().err


def test_a_head_without_label_embeddings_is_trained_and_measured_on_what_is_seen(options, tmp_path) -> None:
    folder = tmp_path / "gap"
    assert run(["train", *options, "head=gap", "schedule.epochs=1", f"run_dir={folder}"]) == 0
    record = read_records(folder / "metrics.jsonl")[-1]
    assert "zsl_mAP" not in record
    labels = {line.partition(",")[0] for line in (folder / "per_class_ap.csv").read_text().splitlines()}
    assert not labels & set((tmp_path / "unseen.txt").read_text().splitlines())
    assert np.isfinite(record["mAP"])


def test_a_path_is_a_zero_shot_dataset_too(options, digits_root, tmp_path, capsys) -> None:
    rows = [line for split in SCENES for line in (tmp_path / f"{split}.csv").read_text().splitlines()[1:]]
    (tmp_path / "all.csv").write_text("\n".join(["path,labels", *rows]))
    settings = [option for option in options if not option.startswith(("dataset=", "dataset.t", "dataset.v"))]
    assert run(["train", "dataset=all.csv", *settings, *HEAD, "schedule.epochs=1", "run_dir=whole"]) == 0
    assert "dataset.unseen=unseen.txt" in capsys.readouterr().err  # in the line of what means the same
    assert "zsl_mAP" in read_records(tmp_path / "whole" / "metrics.jsonl")[-1]


def test_mistakes_end_with_one_line(options, tmp_path, capsys) -> None:
    (tmp_path / "unseen.txt").write_text("red sevn\n")
    assert run(["train", *options, *HEAD]) == 2
    assert "unseen.txt: 1 name that no label of table has (red sevn); for 'red sevn': did you mean red seven?" in (
        capsys.readouterr().err
    )
    assert not (tmp_path / "outputs").exists()
