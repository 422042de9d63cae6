"""Properties: `dataset=PATH` means the options that its summary prints, in every command, and never guesses."""

import dataclasses
import json
import random
import re
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

import mldec
from mldec.commands import compose, own_dataset
from mldec.commands.main import run
from mldec.commands.own_dataset import find_own
from mldec.config import build_component
from mldec.errors import ConfigError, DataError, as_override, setting
from mldec.registry import DATASETS
from tests.forked import begin

NAMES = [f"i{number}.jpg" for number in range(6)]

#: Overrides that make a training a matter of a second.
SMALL = (
    *(
        "dataset.image_size=16",
        "backbone=resnet_digits",
        "backbone.widths=[8,16]",
        "backbone.blocks=[1,1]",
        "head.dim=32",
    ),
    *("head.ffn_dim=32", "head.num_heads=4", "schedule.epochs=1", "schedule.batch_size=4", "runtime=cpu"),
    *("runtime.threads=1", "runtime.workers=0", "runtime.tensorboard=false", "run_dir=run"),
)


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


TABLES = {
    "semicolon": ("path;labels", "{};cat|dog", ["dataset.separator=pipe", "dataset.val_share=0.5"]),
    "header": ("", "{},cat", ["dataset.header=false"]),
    "states": ("file,cat,dog,note", "{},1,-1,x", ["dataset.minus_one=absent", "dataset.ignore=[note]"]),
    "unlisted": ("image,tags", "{},cat/dog", ["dataset.separator=slash", "dataset.unlisted=unknown", "dataset.root=."]),
    "column": ("path,a,b", "{},dog,x", ["dataset.label_column=a", "dataset.labels=union", "dataset.split_seed=3"]),
    "decided": ("path\tlabels", '{}\t["cat"]', []),
    "names": ("path,labels", "{},1", ["dataset.labels=names.txt", "dataset.first_number=0"]),
}


@pytest.mark.parametrize("name", TABLES)
def test_the_printed_options_hold_those_of_the_user(
    folder: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    header, row, given = TABLES[name]
    lines = [*([header] if header else []), *(row.format(image) for image in NAMES)]
    (folder / "own.csv").write_text("\n".join(lines) + "\n")
    (folder / "names.txt").write_text("cat\ndog\n")
    ours = build_component(compose.compose(["dataset=own.csv", *given])["dataset"], "dataset")
    printed = shlex.split(capsys.readouterr().err.splitlines()[-1].removeprefix("the same: "))
    theirs = build_component(compose.compose(printed)["dataset"], "dataset")
    assert {override.partition("=")[0] for override in given} <= {text.partition("=")[0] for text in printed}
    assert ours == theirs
    assert ours.splits == theirs.splits == ("train", "val")
    for split in ours.splits:
        first, second = (DATASETS["table"].build(config, split=split) for config in (ours, theirs))
        assert first.fingerprint() == second.fingerprint()


def write_hub(folder: Path, sizes: dict[str, int], cells: Sequence[str]) -> None:
    """A folder in the layout of Hugging Face: a table for each split beside its images."""
    for split, count in sizes.items():
        (folder / "hub" / split).mkdir(parents=True, exist_ok=True)
        names = [f"{split}{number}.jpg" for number in range(count)]
        for name in names:
            shutil.copy(folder / NAMES[0], folder / "hub" / split / name)
        rows = "".join(f"{name},{cells[number % len(cells)]}\n" for number, name in enumerate(names))
        (folder / "hub" / split / "metadata.csv").write_text(f"file_name,labels\n{rows}")


def test_train_and_test_without_val_are_given_one_by_labels(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_hub(folder, {"train": 40, "test": 8}, ("a;b", "b;c", "c;d", "d"))
    dataset = build_component(compose.compose(["dataset=hub"])["dataset"], "dataset")
    printed = capsys.readouterr().err
    assert "images: train 36, val 4, test 8;" in printed
    assert "no val of its own, so 10% for val, drawn from train" in printed
    assert "dataset.val_share=0.1" in printed
    parts = {split: DATASETS["table"].build(dataset, split=split) for split in dataset.splits}
    assert parts["val"].positives_per_class().all()
    assert not set(parts["train"].names()) & set(parts["val"].names())
    assert len({path.parent for part in parts.values() for path in map(Path, map(part.path, range(len(part))))}) == 2
    for given in ("protocol.holdout=0.25", "protocol=paper", "dataset.val_share=0"):
        assert not compose.compose(["dataset=hub", given])["dataset"].get("val_share"), given


def test_class_folders_for_train_and_test_are_given_a_val(folder: Path) -> None:
    for split in ("train", "test"):
        shutil.copytree(folder / "classes", folder / "divided" / split)
    dataset = build_component(compose.compose(["dataset=divided"])["dataset"], "dataset")
    assert dataset.splits == ("train", "val", "test")
    sizes = [len(DATASETS["folder"].build(dataset, split=split)) for split in dataset.splits]
    assert sizes == [4, 2, 6]
    assert dataset.unused() == []
    assert "has its own test split" in dataclasses.replace(dataset, test_share=0.1).unused()[0]


@pytest.mark.parametrize(
    ("cells", "splits"),
    [("abcdef", ("train",)), ("aabcde", ("train", "val")), ("aaaaaa", ("train", "val"))],
)
def test_a_part_that_would_be_empty_is_left_out(
    folder: Path, cells: str, splits: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    rows = "".join(f"{name},{cell}\n" for name, cell in zip(NAMES, cells, strict=True))
    (folder / "few.csv").write_text(f"path,labels\n{rows}")
    dataset = build_component(compose.compose(["dataset=few.csv"])["dataset"], "dataset")
    assert dataset.splits == splits
    told = "6 images are too few for a share of each label: val is protocol.holdout of train"
    assert (told in capsys.readouterr().err) == (splits == ("train",))


def test_a_table_of_four_images_trains(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = "".join(f"{name},{cell}\n" for name, cell in zip(NAMES, "abcd", strict=False))
    (folder / "four.csv").write_text(f"path,labels\n{rows}")
    assert run(["train", "dataset=four.csv", *SMALL]) == 0
    assert "val is 1 image of train, drawn at random" in caplog.text
    assert caplog.text.count("warning: val (1 image) has no image of 3 of 4 labels") == 1


def test_each_fact_is_told_once(folder: Path) -> None:
    cells = zip(NAMES, ("a|b", "A|b", "nan") * 2, strict=True)
    table, printed = folder / "t.csv", folder / "printed.txt"
    table.write_text("path;labels\n" + "".join(f"{name};{cell}\n" for name, cell in cells))
    (folder / "excluded.txt").write_text(f"{NAMES[0]}\n")
    explicit = ("dataset=table", f"dataset.train={table}", "dataset.val_share=0.25", f"dataset.cache={table}/none")
    stats, train = ("data", "stats", "split=all", f"output={folder}"), ("train", *SMALL[:-1])
    own, training = (f"dataset={table}", f"dataset.cache={table}/none"), (*train, f"run_dir={folder}/run")
    for command in ((*stats, *own), (*stats, *explicit), (*training, *own)):
        process = begin(command, output=str(printed))
        process.join()
        assert process.exitcode == 0, printed.read_text()
        text = printed.read_text()
        printed.unlink()
        for fact in ("differ in case", "2 cells with nan", "leaving out the images"):
            assert text.count(fact) == 1, f"{command} {fact}\n{text}"


def test_the_summary_is_the_same_with_a_cached_index(folder: Path) -> None:
    """What is decided in finding images, and what is warned of, is said by the second command as by the first."""
    names = [f"C:\\Users\\x\\{name}" for name in NAMES]
    rows = zip(names, ("cat", "Cat", "fox", "a|b|c|d|e|f", "nan", f"{'long' * 20}"), strict=True)
    (folder / "t.csv").write_text("path;labels\n" + "".join(f"{name};{cell}\n" for name, cell in rows))
    printed, texts = folder / "printed.txt", []
    for _ in range(2):
        command = ["data", "stats", "dataset=t.csv", f"dataset.cache={folder}/cache", f"output={folder}/out"]
        process = begin([*command, "dataset.val_share=0.25"], output=str(printed))
        process.join()
        assert process.exitcode == 0, printed.read_text()
        lines = printed.read_text().splitlines()
        texts.append(
            [line for line in lines if line.startswith(("t.csv", "images:", "decided:", "the same", "warning:"))]
        )
        printed.unlink()
    assert texts[0] == texts[1]
    (decided,) = (line for line in texts[0] if line.startswith("decided: "))
    assert decided.count("'C:/Users/x/' cut from 6 paths") == 1
    assert sum("'Cat' and 'cat' differ in case" in line for line in texts[0]) == 1
    (images,) = (line for line in texts[0] if line.startswith("images: "))
    assert images.endswith("; labels: 10 (Cat, a, b, c, cat, d, e, f, …)")


def test_images_in_several_tables_are_warned_of_once(folder: Path) -> None:
    (folder / "own").mkdir()
    for split, names in (("train", NAMES[:4]), ("val", NAMES[2:5]), ("test", NAMES[5:])):
        rows = "".join(f"../{name},{label}\n" for name, label in zip(names, ["cat", "dog"] * 2, strict=False))
        (folder / "own" / f"{split}.csv").write_text(f"path,labels\n{rows}")
    printed = folder / "printed.txt"

    def warned(*command: str) -> int:
        """How often a command warns of the images that train and val share."""
        process = begin([*command, f"dataset.root={folder}"], output=str(printed))
        process.join()
        text = printed.read_text()
        printed.unlink()
        shutil.rmtree(folder / "run", ignore_errors=True)
        assert process.exitcode == 0, text
        words = f"warning: 2 images are in several splits (train and val: {NAMES[2]}, {NAMES[3]}), so metrics are"
        assert text.count("in several splits (") == text.count(words)
        return text.count(words)

    files = [f"dataset.{split}=own/{split}.csv" for split in ("train", "val", "test")]
    stats = ["data", "stats", "split=all", "output=out"]
    commands = (stats, stats, ["data", "stats", "split=val", "output=out"], ["data", "verify"], ["train", *SMALL])
    for dataset in (["dataset=own"], ["dataset=table", *files]):
        for command in commands:
            assert warned(*command, *dataset) == 1, (command, dataset)
    (folder / "own" / "val.csv").write_text(f"path,labels\n../{NAMES[4]},cat\n")
    assert warned(*stats, "dataset=own") == 0


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
        ("flat", ("1 image and nothing",)),
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


def test_a_misspelt_option_is_reported_before_the_data_are_read(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "broken.csv").write_text("path,labels\nnone.jpg,cat\n")
    for words in (["schedule.epoch=2"], ["schedule.epoch=2", "experiment=digits"], ["head=gapp"]):
        assert run(["train", "dataset=broken.csv", *words]) == 2
        error = capsys.readouterr().err
        assert "did you mean" in error or "no such head" in error, error
        assert "none.jpg" not in error
        assert "read as" not in error


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
    mapping = compose.compose(["dataset=table", f"dataset.train={table}", f"init_from={table}"])
    assert (mapping["dataset"]["train"], mapping["init_from"]) == (table, table)


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
        assert "warning: 1 image is there several times, byte for byte, with different labels: cat/i1.jpg" in text
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


@pytest.mark.parametrize(
    ("places", "words"),
    [
        ("train2017/cat train2017/dog val2017/cat val2017/dog", ("call them train, val", "dataset=set/train2017")),
        ("fold1/cat fold1/dog fold2/cat fold2/dog", ("fold1, fold2 hold the same", "dataset=set/fold1 or")),
        ("cat/train cat/test dog/train dog/test", ("move them to test/cat and train/cat",)),
        ("mydata/train/cat mydata/train/dog mydata/val/cat", ("use dataset=set/mydata (cat, dog)",)),
        ("train/images/cat train/images/dog", ("use dataset=set/train/images (cat, dog)",)),
        ("images/train/cat images/train/dog", ("use dataset=set/images (cat, dog)",)),
        ("train/mydata/cat train/mydata/dog", ("mydata is the only folder", "dataset=set/train/mydata")),
    ],
)
def test_folders_around_classes_are_not_taken_for_them(folder: Path, places: str, words: tuple[str, ...]) -> None:
    for number, place in enumerate(places.split()):
        (folder / "set" / place).mkdir(parents=True)
        shutil.copy(folder / NAMES[0], folder / "set" / place / f"{number}.jpg")
    with pytest.raises(DataError) as caught:
        compose.compose(["dataset=set"])
    for text in words:
        assert text in str(caught.value)
    assert ("dataset=folder dataset.root=set" in str(caught.value)) == (" (cat, dog)" not in words[0])
    for text in re.findall(r"dataset=set/\S+", str(caught.value)):
        compose.compose([text.rstrip(";")])


def test_images_beside_class_folders_are_counted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a.jpg", "b.jpg", "._a.jpg"):
        (folder / "classes" / name).touch()
    compose.compose(["dataset=classes"])
    assert "left out 2 images beside the class folders (a.jpg, b.jpg)" in capsys.readouterr().err
    shutil.copytree(folder / "classes", folder / "zip" / "mydata")
    (folder / "zip/e.jpg").touch()
    with pytest.raises(DataError, match=r"mydata is the only folder of images.* dataset=zip/mydata for"):
        compose.compose(["dataset=zip"])
    for name in ("a.jpg", "b.jpg"):
        (folder / "zip/mydata" / name).unlink()
    compose.compose(["dataset=zip"])
    assert "left out 1 image beside the folder mydata" in capsys.readouterr().err
    for split in ("train", "val"):
        shutil.copytree(folder / "classes", folder / "set" / split)
    (folder / "set/val/c.jpg").touch()
    (folder / "set/unlabeled/deep").mkdir(parents=True)
    (folder / "set/unlabeled/deep/d.jpg").touch()
    (folder / "set/docs").mkdir()
    for _ in range(2):  # also with an index from the cache
        own_dataset._shown.clear()
        compose.compose(["dataset=set"])
        error = capsys.readouterr().err
        assert "left out 2 images beside the class folders (a.jpg, b.jpg)" in error
        assert "left out 3 images beside the class folders (a.jpg, b.jpg, c.jpg)" in error
        assert "left out 1 folder of images beside those of splits (unlabeled)" in error


def test_what_commands_write_beside_class_folders_is_no_class(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder / "classes")
    for name in ("outputs/data/folder/train.png", "runs/a/1.png", "mine/predictions/1.png"):
        Path(name).parent.mkdir(parents=True)
        Path(name).touch()
    Path("mine/config.yaml").touch()
    compose.compose(["dataset=."])
    error = capsys.readouterr().err
    assert "labels: 2 (cat, dog)\n" in error
    assert "left out 3 folders of outputs (mine, outputs, runs)" in error
    shutil.copy("cat/i1.jpg", "outputs")  # a class of that name
    compose.compose(["dataset=.", "dataset.val_share=0.5"])
    assert "labels: 3 (cat, dog, outputs)\n" in capsys.readouterr().err


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


def test_another_dataset_without_splits_is_used_whole(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", "dataset=t.csv", *SMALL]) == 0
    (folder / "new.csv").write_text("path,labels\n" + "".join(f"{name},cat\n" for name in NAMES[:5]))
    capsys.readouterr()
    assert run(["evaluate", "run=run", "dataset=new.csv"]) == 0
    printed = capsys.readouterr()
    assert "table test: 5 images, all of new.csv, 2 labels," in printed.out
    assert "(1 class counted; CF1 and OF1 at 0.5)" in printed.out  # dog is unknown there
    assert "images: train 5; labels: 1 (cat)\n" in printed.err
    assert run(["evaluate", "run=run", "dataset=t.csv"]) == 0  # its own, of which it has seen the rest
    assert re.search(r"table test: [12] images?, 2 labels,", capsys.readouterr().out)
    assert run(["evaluate", "run=run", "dataset=table", "dataset.train=new.csv"]) == 0
    assert "table test: 5 images, all of new.csv" in capsys.readouterr().out
    (folder / "new.csv").write_text(f"path,labels\n{NAMES[0]},owl\n")
    assert run(["evaluate", "run=run", "dataset=new.csv"]) == 2
    assert "table has 1 label that the checkpoint does not have (owl)" in capsys.readouterr().err

    assert run(["predict", "run=run", "dataset=classes", "top_k=1"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(NAMES)
    for options in ([], ["dataset=classes", "input=classes"]):
        assert run(["predict", "run=run", *options]) == 2
        assert "input=… or dataset=PATH" in capsys.readouterr().err
    assert run(["benchmark", "data", "dataset=classes", "repeats=1"]) == 0
    assert " 2 labels; files looked for" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"path,labels\n{NAMES[0]},cat\n", None),
        (f"path,labels\n{NAMES[0]},\n{NAMES[1]},\n", "no label in any row of train; fill its column of labels"),
        ("path,labels\n", "no image and no label in it"),
    ],
)
def test_every_command_ends_in_one_error_where_there_is_nothing_to_learn_from(
    folder: Path, text: str, message: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "own.csv").write_text(text)
    for command in ("stats", "verify", "browse", "split", "train", "export"):
        words = {"train": ["train", *SMALL], "export": ["data", "export", "format=csv", "output=out"]}.get(command)
        code = run([*(words or ["data", command]), "dataset=own.csv"])
        errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
        wanted = {"split": "the only image would be in train", "train": "train has 1 image, and protocol.holdout"}
        expected = wanted.get(command) if message is None else message
        assert code == (0 if expected is None else 2), command
        assert len(errors) == (expected is not None)
        assert expected is None or expected in errors[0], command


def test_every_command_finds_images_where_training_does(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Paths of another machine, ids without suffix and prefixes of Label Studio."""
    (folder / "photos").mkdir()
    for number, name in enumerate(NAMES):
        shutil.copy(folder / name, folder / "photos" / f"{number:04d}.jpg")
    tables = {"windows": "C:\\me\\photos\\{:04d}.jpg", "ids": "{:d}", "prefix": "1a2b3c4d-{:04d}.jpg"}
    for name, form in tables.items():
        (folder / f"{name}.csv").write_text("path,labels\n" + "".join(f"{form.format(i)},cat\n" for i in range(6)))
    for name in tables:
        words = [f"dataset={name}.csv", "dataset.root=photos", "dataset.separator=none"]
        for arguments in (["stats", f"output={name}"], ["browse", f"output={name}.html"], ["verify"], ["split"]):
            assert run(["data", *arguments, *words]) == 0, (name, arguments, capsys.readouterr().err)
            printed = capsys.readouterr()
            assert "cannot be read" not in printed.out + printed.err, (name, arguments)
            assert arguments != ["verify"] or printed.out.count(" 0 of them cannot be used") == 2
            assert "dataset.missing" not in printed.err  # of what means the same in training
        assert (
            "cannot be read" not in (folder / f"{name}.html").read_text(encoding="utf-8").split("</style>")[-1][:200000]
        )
        for part in ("train.csv", "val.csv", "test.csv"):
            (folder / part).unlink(missing_ok=True)


def test_a_missing_image_is_listed_by_verify(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = "".join(f"C:\\me\\{name},cat\n" for name in (*NAMES, "none.jpg"))
    (folder / "own.csv").write_text(f"path,labels\n{rows}")
    assert run(["data", "verify", "dataset=own.csv"]) == 1
    assert "1 of them cannot be used" in capsys.readouterr().out


def write_split_folders(folder: Path) -> list[str]:
    """Images in hub/train and hub/test, and their paths relative to hub."""
    names = [f"{('train', 'test')[number % 2]}/{name}" for number, name in enumerate(NAMES)]
    for name in names:
        (folder / "hub" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / Path(name).name, folder / "hub" / name)
    return names


@pytest.mark.parametrize(
    ("file", "head", "row"),
    [
        ("metadata.csv", "file_name,labels\n", "{},cat\n"),
        ("metadata.jsonl", "", '{{"file_name": "{}", "labels": ["cat"]}}\n'),
        ("own.csv", "path,cat,dog\n", "./{},1,0\n"),
        ("own.csv", "path,labels\n", "C:\\me\\hub\\{},cat\n"),
        ("own.json", "", ""),
    ],
)
def test_the_folders_of_splits_in_the_paths_of_one_file_divide_it(
    folder: Path, file: str, head: str, row: str, capsys: pytest.CaptureFixture[str]
) -> None:
    names = write_split_folders(folder)
    content = json.dumps([{"path": name, "labels": ["cat"]} for name in names])
    (folder / "hub" / file).write_text(head + "".join(map(row.format, names)) if row else content)
    for path in (f"hub/{file}", *(["hub"] if file.startswith("metadata") else [])):
        own_dataset._shown.clear()
        mapping = compose.compose([f"dataset={path}"])
        lines = capsys.readouterr().err.splitlines()
        assert "train 2, val 1, test 3" in lines[1] or "train 3, test 3" in lines[1]
        assert "split by the folders that paths begin with (test, train)" in lines[2]
        options = shlex.split(lines[3].removeprefix("the same: "))
        assert "dataset.split_folders=true" in options
        assert compose.compose(options)["dataset"] == mapping["dataset"]
        for chosen in (mapping["dataset"], compose.compose(options)["dataset"]):
            config = build_component(chosen, "dataset")
            test = DATASETS["table"].build(config, split="test")
            assert sorted(test.names()) == sorted(name for name in names if name.startswith("test"))
    assert compose.compose([f"dataset=hub/{file}", "dataset.split_folders=false"])["dataset"]["val_share"] == 0.25
    assert "paths begin with" not in capsys.readouterr().err


def test_folders_of_splits_that_do_not_divide_a_table_are_said(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = write_split_folders(folder)
    shutil.copy(folder / NAMES[0], folder / "hub" / "other.jpg")
    table = folder / "hub" / "metadata.csv"
    rows = "".join(f"{name},cat\n" for name in names)
    said = "paths begin with test, train, which does not divide them: write a column split"
    for more, told in (("other.jpg,cat\n", True), ("", False)):
        table.write_text(f"file_name,labels\n{rows}{more}")
        assert compose.compose(["dataset=hub"])["dataset"].get("split_folders", False) != told
        assert (said in capsys.readouterr().err) == told
    table.write_text(f"file_name,labels\n{rows}other.jpg,cat\n")
    explicit = build_component(
        compose.compose(["dataset=table", f"dataset.train={table}", "dataset.split_folders=true"])["dataset"], "dataset"
    )
    with pytest.raises(DataError, match=r"metadata.csv: every path must begin with a folder of train, val or test"):
        DATASETS["table"].build(explicit, split="train")
    both = ["dataset=table", f"dataset.train={table}", f"dataset.val={table}", "dataset.split_folders=true"]
    with pytest.raises(ConfigError, match="divides one file; leave out val and test"):
        build_component(compose.compose(both)["dataset"], "dataset")
    (folder / "hub" / "test").rename(folder / "hub" / "other")
    table.write_text(f"file_name,labels\n{rows}".replace("test/", "other/"))
    compose.compose(["dataset=hub"])
    assert "paths begin with" not in capsys.readouterr().err
