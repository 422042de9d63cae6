"""Properties: `dataset=PATH` means the options that its summary prints, in every command, and never guesses."""

import json
import re
import shlex
from pathlib import Path

import cv2
import numpy as np
import pytest

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


TASKS = [{"data": {"image": name}, "predictions": [{"result": [{"value": {"choices": ["a"]}}]}]} for name in NAMES]


@pytest.mark.parametrize(
    ("content", "rounds"),
    [
        ([{"path": name, "labels": ["a"], "split": "x"} for name in NAMES], 1),
        ([{"path": name, "a": 1, "b": -1 if name == "i0.jpg" else 1, "age": 3} for name in NAMES], 2),
        ([{"path": name, "labels": ["a,b"] if name == "i0.jpg" else ["a"]} for name in NAMES], 1),
        (TASKS, 1),
    ],
)
def test_the_options_that_an_error_offers_are_taken_beside_the_path(
    folder: Path, content: object, rounds: int, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "e.json").write_text(json.dumps(content))
    words = ["dataset=e.json"]
    for _ in range(rounds):
        with pytest.raises(DataError) as caught:
            compose.compose(words)
        words.append(re.findall(r"dataset\.[a-z_]+=[\w\[\]]+", str(caught.value))[0])
    mapping = compose.compose(words)
    options = shlex.split(capsys.readouterr().err.splitlines()[3].removeprefix("the same: "))
    assert set(words[1:]) <= set(options)
    assert compose.compose(options)["dataset"] == mapping["dataset"]


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
