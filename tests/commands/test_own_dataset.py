"""Properties: `dataset=PATH` means the options that its summary prints, in every command, and never guesses."""

import json
import shlex
from pathlib import Path

import cv2
import numpy as np
import pytest

import mldec

from mldec.commands import compose, own_dataset
from mldec.commands.main import run
from mldec.commands.own_dataset import find_own
from mldec.config import build_component
from mldec.errors import DataError
from mldec.registry import DATASETS

NAMES = [f"i{number}.jpg" for number in range(6)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(own_dataset, "_shown", set())
    compose.load_components(())
    image = np.zeros((8, 8, 3), np.uint8)
    for name in [*NAMES, *(f"classes/{'cat' if i % 2 else 'dog'}/{name}" for i, name in enumerate(NAMES))]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / name), image)
    for split, names in (("train", NAMES[:4]), ("valid", NAMES[4:])):
        (tmp_path / "export" / split).mkdir(parents=True)
        for name in names:
            cv2.imwrite(str(tmp_path / "export" / split / name), image)
        rows = "".join(f"{name}, 1, 0\n" for name in names)
        (tmp_path / "export" / split / "_classes.csv").write_text(f"filename, cat, dog\n{rows}")
    (tmp_path / "t.csv").write_text("path;labels\n" + "".join(f"{name};cat|dog\n" for name in NAMES))
    return tmp_path


@pytest.mark.parametrize("path", ["t.csv", "./t.csv", "classes", "classes/", "export", "export/train/_classes.csv"])
def test_a_path_means_the_options_that_are_printed(folder: Path, path: str, capsys: pytest.CaptureFixture[str]) -> None:
    mapping = compose.compose([f"dataset={path}"])
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4
    assert path.rstrip("/").removeprefix("./") in lines[0]
    options = shlex.split(lines[3].removeprefix("the same: "))
    assert compose.compose(options)["dataset"] == mapping["dataset"]
    config = build_component(mapping["dataset"], "dataset")
    counts = ", ".join(f"{s} {len(DATASETS[config.name].build(config, split=s)):,}" for s in config.splits)
    assert lines[1].startswith(f"images: {counts};")
    assert "val" in config.splits
    compose.compose([f"dataset={path}"])
    assert capsys.readouterr().err == ""  # once


def test_options_of_the_user_come_first(folder: Path) -> None:
    mapping = compose.compose(["dataset=t.csv", "dataset.val_share=0.5", "dataset.separator=none"])
    assert mapping["dataset"]["val_share"] == 0.5
    assert "test_share" not in mapping["dataset"]
    assert mapping["dataset"]["separator"] == "none"
    changed = compose.change(compose.compose(["dataset=digits"]), ["dataset=classes"])
    assert (changed["dataset"]["name"], changed["dataset"]["root"]) == ("folder", "classes")


def test_a_name_wins_over_a_file(folder: Path) -> None:
    (folder / "digits").mkdir()
    assert find_own(["dataset=digits"], ["digits"]) == (["dataset=digits"], None)
    assert find_own(["dataset=absent.csv"], ["digits"]) == (["dataset=absent.csv"], None)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        (".", ("t.csv", "dataset=folder", "dataset.root=.")),
        ("export/train", ("_classes.csv",)),
        ("empty", ("an empty folder",)),
        ("flat", ("1 images and nothing",)),
        ("i0.jpg", ("i0.jpg", "no table")),
    ],
)
def test_what_is_not_certain_is_one_error(folder: Path, path: str, words: tuple[str, ...]) -> None:
    (folder / "empty").mkdir()
    (folder / "flat").mkdir()
    (folder / "flat" / "a.jpg").touch()
    if path == "export/train":
        compose.compose([f"dataset={path}"])  # a table beside its images
        return
    with pytest.raises(DataError) as caught:
        compose.compose([f"dataset={path}"])
    assert "\n" not in str(caught.value)
    for text in words:
        assert text in str(caught.value)


def test_commands_take_a_path(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["data", "stats", "dataset=export", "split=val", "output=out"]) == 0
    assert run(["data", "verify", "dataset=t.csv", "output=out.txt"]) == 0
    assert run(["data", "stats", "dataset=none.csv"]) == 2
    assert "no such dataset" in capsys.readouterr().err


#: Overrides that make a training a matter of a second.
SMALL = (
    *("dataset.image_size=16", "backbone=resnet_digits", "backbone.widths=[8,16]", "backbone.blocks=[1,1]", "head.dim=32"),
    *("head.ffn_dim=32", "head.num_heads=4", "schedule.epochs=1", "schedule.batch_size=4", "runtime=cpu"),
    *("runtime.threads=1", "runtime.workers=0", "runtime.tensorboard=false", "run_dir=run"),
)


def test_from_a_folder_per_class_to_predictions_and_a_report(
    folder: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert run(["train", "dataset=classes", *SMALL]) == 0
    assert "mldec predict run=run input=DIR" in capsys.readouterr().out
    assert run(["predict", "run=run", "input=classes", "thresholds=tuned", "output=out"]) == 0
    assert caplog.text.count("one label each, so the best label is listed") == 1
    assert "warning" not in capsys.readouterr().err
    rows = [json.loads(line) for line in Path("out/predictions.jsonl").read_text().splitlines()]
    assert [len(row["labels"]) for row in rows] == [1] * len(NAMES)
    network = mldec.load("run")
    paths = [row["path"] for row in rows]
    best = [max(zip(scores, network.labels.names, strict=True))[1] for scores in network.scores(paths).tolist()]
    assert [list(row["labels"]) for row in rows] == [[name] for name in best]
    assert [list(found) for found in network.predict(paths, threshold="tuned")] == [[name] for name in best]
    assert run(["predict", "run=run", "input=classes", "thresholds=tuned", "threshold=0.3"]) == 2
    assert "one label each, so there are no tuned thresholds" in capsys.readouterr().err
    assert run(["report", "run=run"]) == 0
