"""Properties: `dataset=PATH` means the options that its summary prints, in every command, and never guesses."""

import json
import random
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
from mldec.errors import ConfigError, DataError, as_override, setting
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


ODD = ["mes données", "a\\b", "${x}", "it's", 'a"b', "[x]", "a,b", "a=b", " blank ", "{a}", "123", "null", "名\u0301"]
ODD += ["a\\", "$(x)", "~x"]


@pytest.mark.parametrize("name", ODD)
def test_a_path_may_hold_any_sign(folder: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "classes").rename(folder / name)
    table = f"{name}.csv"
    (folder / "t.csv").rename(folder / table)
    for text in (name, table):
        if text == "null":
            continue  # no dataset
        mapping = compose.compose([f"dataset={text}"])
        options = shlex.split(capsys.readouterr().err.splitlines()[3].removeprefix("the same: "))
        assert mapping["dataset"].get("root" if text == name else "train") == text
        assert compose.compose(options)["dataset"] == mapping["dataset"]
        assert compose.compose([as_override("dataset", text)])["dataset"] == mapping["dataset"]
        assert compose.expand_sweep([f"dataset={text}", "seed=1"]) == [[as_override("dataset", text), "seed=1"]]
        stored = compose.change(compose.compose(["dataset=digits"]), [f"dataset={text}"])
        assert stored["dataset"]["name"] == mapping["dataset"]["name"]
    mapping = compose.compose(["dataset=table", f"dataset.train={table}"])
    assert mapping["dataset"]["train"] == table


def test_any_text_comes_back_from_an_override_and_a_shell(folder: Path) -> None:
    """What Hydra reads, with what OmegaConf makes of it, of text at random, as a value, in a list, and as a path."""
    rng = random.Random(0)
    signs = "ab/.\\\\\"'${}[](),=: \t\n~#%@+-_0159?*|&;!üé名\U0001f600\u0301"
    texts = [*ODD, "", "1e5", "1_0", ".5", "inf", "a/1", "-", "???", "\udce9", "\\'", "\\${x}", "\\\\${x}"]
    texts += ["".join(rng.choice(signs) for _ in range(rng.randrange(9))) for _ in range(500)]
    texts += ["".join(chr(rng.randrange(1, 0xD800)) for _ in range(5)) for _ in range(50)]
    for text in texts:
        for value in (text, (text, "x")):
            (pasted,) = shlex.split(setting("dataset.ignore", value))
            assert pasted == as_override("dataset.ignore", value)
            found = compose.change({"dataset": {}}, [pasted])["dataset"]["ignore"]
            assert found == (list(value) if isinstance(value, tuple) else text), pasted


def test_the_same_image_in_two_class_folders_is_never_silent(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["backbone=timm", "backbone.model=test_resnet", "dataset.image_size=32", "debug=fast", "runtime.device=cpu"]
    for arguments in (
        ["data", "verify", "output=out.txt"],
        ["data", "stats", "output=out"],
        ["train", *words, "run_dir=run", "head=gap", "runtime.workers=0"],
    ):
        assert run([*arguments, "dataset=folder", "dataset.root=classes"]) == 0, capsys.readouterr()
        output = capsys.readouterr()
        text = " ".join((output.out + output.err).split())
        assert "warning: 1 images are there several times, byte for byte, with different labels: cat/i1.jpg" in text
        assert "dataset.copies=join" in text


def test_what_macos_adds_is_left_out_and_counted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("__MACOSX/export/._i0.jpg", "export/._train", "export/train/._i0.jpg", "export/valid/.DS_Store"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"\0\5\x16\7")
    compose.compose(["dataset=export"])
    assert "left out 3 files and folders that macOS adds (._train, train/._i0.jpg, " in capsys.readouterr().err
    rows = "".join(f"{name};cat\n" for name in (*NAMES, "__MACOSX/export/._i0.jpg", "export/train/._i0.jpg"))
    (folder / "t.csv").write_text(f"path;labels\n{rows}")
    mapping = compose.compose(["dataset=t.csv"])
    error = capsys.readouterr().err
    assert "left out 2 listed files that macOS adds (__MACOSX/export/._i0.jpg, export/train/._i0.jpg)" in error
    config = build_component(mapping["dataset"], "dataset")
    names = {name for s in config.splits for name in DATASETS["table"].build(config, split=s).names()}
    assert names == set(NAMES)


@pytest.mark.parametrize("place", ["", "cat", "train/cat"])
def test_a_folder_of_heic_says_what_to_install(folder: Path, place: str) -> None:
    (folder / "phone" / place).mkdir(parents=True)
    for name in ("IMG_1.HEIC", "IMG_2.heic", "._IMG_1.HEIC"):
        (folder / "phone" / place / name).touch()
    with pytest.raises(
        DataError, match=r"no image in it that is read: skipped \S*IMG_1.HEIC, \S*IMG_2.heic: .*libheif"
    ):
        compose.compose(["dataset=phone"])


@pytest.mark.parametrize(
    "beside", ["labels.txt", "README.txt", "README.csv", "classes.txt", "License.txt", "notes.txt"]
)
def test_what_explains_a_table_is_no_table(folder: Path, beside: str, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "set").mkdir()
    (folder / "set" / "t.csv").write_text(
        "path,labels\n" + "".join(f"../{name},{i % 2}\n" for i, name in enumerate(NAMES))
    )
    (folder / "set" / beside).write_text("cat\ndog\n")
    mapping = compose.compose(["dataset=set", "dataset.root=."])
    assert mapping["dataset"]["train"] == "set/t.csv"
    assert ("class numbers named by" in capsys.readouterr().err) == (beside in ("labels.txt", "classes.txt"))
    (folder / "classes" / beside).write_text("cat\ndog\n")
    assert compose.compose(["dataset=classes"])["dataset"]["name"] == "folder"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("nothere.csv", ("does not exist", "digits")),
        ("export/nothere", ("does not exist", "found in export: train/, valid/", "digits")),
        ("expor", ("did you mean dataset=export?", "does not exist")),
        ("export/trian", ("did you mean dataset=export/train?", "does not exist")),
        ("/none/x", ("does not exist", "found in /none: no such folder")),
        ("digit", ("no such file or folder", "did you mean digits?")),
        ("my photos,[1].csv", ("does not exist", "digits")),
        ("nothere", ("no such dataset, and no such file or folder", "digits")),
    ],
)
def test_a_path_that_does_not_exist_is_named(folder: Path, value: str, words: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        compose.compose([f"dataset={value}"])
    assert str(caught.value).startswith(f"dataset={value}: no such dataset")
    for text in words:
        assert text in str(caught.value)
