"""Property: `mldec data` leads from a user's files to a dataset that trains, and each dataset trains for an epoch."""

from __future__ import annotations

import functools
import hashlib
import json
import shlex
import shutil
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mldec.commands import compose
from mldec.commands.main import run
from mldec.config import build_component
from mldec.data import sources
from mldec.data.download import Download
from mldec.data.sources import DatasetSource
from mldec.engine.metric_writer import read_records
from mldec.registry import DATASETS

SHARED = Path(__file__).parents[3] / "shared" / "data"
SMALL = [
    "backbone=resnet_digits",
    "head.dim=32",
    "head.ffn_dim=32",
    "head.num_heads=4",
    "dataset.image_size=48",
    "schedule.epochs=1",
    "schedule.batch_size=4",
    "runtime=cpu",
    "runtime.workers=0",
    "runtime.tensorboard=false",
]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def make_image(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (60, 80, 3), np.uint8)).save(path)


def write_table(folder: Path, rows: int = 12) -> Path:
    lines = ["path,labels"]
    for number in range(rows):
        make_image(folder / f"images/{number}.jpg", number)
        lines.append(f"images/{number}.jpg,{('cat', 'dog', 'cat;dog', '')[number % 4]}")
    (folder / "all.csv").write_text("\n".join(lines) + "\n")
    return folder / "all.csv"


def test_one_s_own_table_from_split_to_training_and_evaluation(tmp_path, capsys, caplog):
    write_table(tmp_path / "mine")
    assert run(["data", "split", "table=mine/all.csv", "train=0.5", "val=0.5", "seed=1"]) == 0
    text = capsys.readouterr().out
    assert "next: mldec train dataset=table dataset.train=mine/train.csv dataset.val=mine/val.csv" in text
    options = text.rpartition("next: mldec train ")[2].split()
    assert run(["train", *options, *SMALL, "run_dir=run"]) == 0
    assert "table has no test split" in caplog.text
    printed = capsys.readouterr().out
    assert "\ntest = the val images (no test split)\nrun directory: run\n" in printed
    assert "\ntest = the val images (no test split); standard protocol, ema weights of epoch 1\n" in printed
    record = read_records(tmp_path / "run" / "metrics.jsonl")[-1]
    assert record["kind"] == "test"
    assert run(["evaluate", "run=run"]) == 0
    assert "\ntest = the val images (no test split)\n" in capsys.readouterr().out
    other = json.loads((tmp_path / "run" / "evaluation" / "table_test" / "metrics.json").read_text())
    assert other["metrics"]["mAP"] == record["mAP"]
    names = [set((tmp_path / "mine" / f"{split}.csv").read_text().split()[1:]) for split in ("train", "val")]
    assert [len(part) for part in names] == [6, 6]
    assert not names[0] & names[1]


def test_what_was_typed_to_split_is_part_of_what_comes_next(tmp_path, capsys):
    table = write_table(tmp_path)
    table.write_text(table.read_text().replace(";", "|"))
    options = ["table=all.csv", "train=0.5", "val=0.5", "output=parts", "dataset.separator='|'"]
    assert run(["data", "split", *options]) == 0
    following = shlex.split(capsys.readouterr().out.rpartition("next: mldec train ")[2])
    assert run(["data", "verify", *following, "workers=1"]) == 0
    assert "table val: 6 images, 0 of them cannot be used" in capsys.readouterr().out


def test_split_refuses_what_it_cannot_do_and_overwrites_nothing(tmp_path, capsys):
    write_table(tmp_path)
    for options, message in [
        (["table=all.csv", "train=0.5"], "at least two shares that sum to 1"),
        (["table=all.csv", "val=1.2"], "val=1.2"),
        (["table=all.csv", "train=x"], "train=x: expected a number from 0 to 1"),
        (["table=none.csv"], "no such file"),
        (["val=0.5"], "dataset=PATH is missing"),
        (["dataset=folder", "dataset.root=images"], "images: no folder in it; each class needs one"),
        (
            ["dataset=table", "dataset.train=all.csv", "dataset.val=all.csv"],
            "has splits of its own already (train, val); redi",
        ),
        (["table=all.csv", "seed=-1"], "seed=-1: expected an integer from 0 to"),
        (["table=all.csv", "head=gap"], "head=gap: no such option of mldec data split"),
    ]:
        assert run(["data", "split", *options]) == 2
        assert message in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all.csv", "images"]
    (tmp_path / "val.csv").write_text("mine")
    assert run(["data", "split", "table=all.csv"]) == 2
    assert "val.csv: exists already" in capsys.readouterr().err
    assert (tmp_path / "val.csv").read_text() == "mine"
    assert not (tmp_path / "train.csv").exists()


def test_a_path_can_be_divided_and_train_is_what_the_others_leave(tmp_path, capsys):
    write_table(tmp_path)
    assert run(["data", "split", "dataset=all.csv", "val=0.25", "output=parts"]) == 0
    assert [len((tmp_path / "parts" / f"{split}.csv").read_text().split()) - 1 for split in ("train", "val")] == [9, 3]


def following(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The overrides of the command that is printed as next."""
    return shlex.split(capsys.readouterr().out.rpartition("next: mldec train ")[2])


def content_of(config) -> dict[str, dict[str, frozenset[str]]]:
    """The labels of each image of each split, by the image's file."""
    indexes = {split: DATASETS[config.name].build(config, split=split) for split in config.splits}
    return {
        split: {
            Path(index.path(row)).resolve().as_posix(): frozenset(
                f"{state}{name}" for name, state in zip(index.labels.names, index.targets([row])[0], strict=True)
            )
            for row in range(len(index))
        }
        for split, index in indexes.items()
    }


def whole(*overrides: str) -> dict[str, frozenset[str]]:
    """The same of all images of a dataset."""
    compose.load_components(())
    parts = content_of(build_component(compose.compose(overrides)["dataset"], "dataset"))
    return {image: labels for part in parts.values() for image, labels in part.items()}


TABLES = {
    "semicolons": ("t.csv", "path;labels\n{0};cat|dog\n{1};dog\n{2};cat\n{3};\n", []),
    "no header": ("t.csv", "{0},cat\n{1},dog\n{2},cat\n{3},dog\n", []),
    "tabs": ("t.txt", "path\tlabels\n{0}\tcat,dog\n{1}\tdog\n{2}\tcat\n{3}\tcat\n", []),
    "spaces": ("t.csv", "path,labels\n{0},traffic light\n{1},stop sign\n{2},cat\n{3},cat\n", []),
    "classes": ("t.csv", "path,cat,dog,age\n{0},1,-1,3\n{1},0,1,4\n{2},1,0,5\n{3},0,1,6\n", []),
    "minus": (
        "t.csv",
        "path,cat,x\n{0},1,a\n{1},-1,b\n{2},1,c\n{3},-1,d\n",
        ["dataset.minus_one=absent", "dataset.ignore=[x]"],
    ),
    "divided": (
        "t.csv",
        "path,labels,split\n{0},cat,train\n{1},dog,val\n{2},cat,val\n{3},dog,train\n",
        ["redivide=true"],
    ),
    "divided classes": (
        "t.csv",
        "path,cat,dog,split\n{0},1,0,train\n{1},0,1,val\n{2},1,0,val\n{3},0,1,train\n",
        ["redivide=true"],
    ),
    "divided, no header": ("t.csv", "{0},train,cat\n{1},val,dog\n{2},val,cat\n{3},train,dog\n", ["redivide=true"]),
    "divided lines": (
        "t.jsonl",
        "".join(
            f'{{{{"id": "{{{n}}}", "tags": ["{n % 2}"], "set": "{("train", "val")[n // 2]}"}}}}\n' for n in range(4)
        ),
        ["redivide=true"],
    ),
    "divided by flag": (
        "t.csv",
        "path,labels,is_valid\n{0},cat,True\n{1},dog,False\n{2},cat,False\n{3},dog,True\n",
        ["redivide=true"],
    ),
    "latin": ("t.csv", "path;labels\n{0};caf\xe9\n{1};th\xe9\n{2};caf\xe9\n{3};th\xe9\n", []),
    "numbers": ("t.csv", "path,labels\n{0},0\n{1},1\n{2},0\n{3},1\n", []),
    "lines": (
        "t.jsonl",
        '{{"file": "{0}", "tags": ["a"]}}\n{{"file": "{1}", "tags": ["b"]}}\n{{"file": "{2}", "tags": ["a"]}}\n',
        [],
    ),
    "columns": (
        "t.csv",
        "a,b,c\n{0},cat,1\n{1},dog,1\n{2},cat,2\n{3},dog,2\n",
        ["dataset.path_column=a", "dataset.label_column=b"],
    ),
}


@pytest.mark.parametrize("output", [None, "parts"])
@pytest.mark.parametrize("name", TABLES)
def test_what_is_printed_next_reads_any_table_that_was_divided(tmp_path, capsys, name, output):
    file, text, given = TABLES[name]
    for number in range(4):
        make_image(tmp_path / f"{number}.jpg", number)
    (tmp_path / file).write_bytes(text.format(*(f"{n}.jpg" for n in range(4))).encode("cp1252"))
    if name == "numbers":
        (tmp_path / "classes.txt").write_text("cat\ndog\n")
    before = whole(f"dataset={file}", *(text for text in given if text != "redivide=true"))
    options = [f"table={file}", *given, "train=0.5", "val=0.5", *([] if output is None else [f"output={output}"])]
    assert run(["data", "split", *options]) == 0
    overrides = following(capsys)
    parts = content_of(build_component(compose.compose(overrides)["dataset"], "dataset"))
    assert set(parts) == {"train", "val"}
    assert {image: labels for part in parts.values() for image, labels in part.items()} == before
    assert not parts["train"].keys() & parts["val"].keys()


def test_class_directories_and_exports_are_divided_into_tables(tmp_path, capsys):
    tasks = []
    for number in range(8):
        name = ("traffic light", "stop, sign")[number % 2]
        make_image(tmp_path / "photos" / name / f"{number}.jpg", number)
        tasks.append({"image": f"photos/{name}/{number}.jpg", "labels": [name]})
    (tmp_path / "list.json").write_text(json.dumps(tasks))
    for path, places in (("photos", "photos_split"), ("list.json", ".")):
        before = whole(f"dataset={path}")
        assert run(["data", "split", f"dataset={path}", "dataset.image_size=32", "train=0.5", "val=0.5"]) == 0
        overrides = following(capsys)
        assert (tmp_path / places / "val.csv").exists()
        config = build_component(compose.compose(overrides)["dataset"], "dataset")
        assert (config.name, config.splits, config.image_size) == ("table", ("train", "val"), 32)
        assert config.single_label == (path == "photos")
        parts = content_of(config)
        assert [len(part) for part in parts.values()] == [4, 4]
        assert {image: labels for part in parts.values() for image, labels in part.items()} == before
    assert run(["data", "split", "dataset=list.json", "groups=labels"]) == 2
    assert "only a table has columns" in capsys.readouterr().err
    (tmp_path / "photos").rename(tmp_path / "train")
    assert run(["data", "split", "dataset=folder", f"dataset.root={tmp_path}", "output=x"]) == 0
    (tmp_path / "val").mkdir()
    assert run(["data", "split", "dataset=folder", f"dataset.root={tmp_path}", "output=y"]) == 2
    assert "dataset=folder: has splits of its own already (train, val); redivide=true" in capsys.readouterr().err


def write_divided(folder: Path, kind: str) -> None:
    """Eight images in train and val of `folder`, in the layout of a tool."""
    names = {f"{n}.jpg": (("train", "val")[n // 4], ("cat", "dog")[n % 2]) for n in range(8)}
    names["8.jpg"] = ("val", "owl")  # a label that train lacks
    labels = ["cat", "dog", "owl"]
    rows: dict[str, list[str]] = {"train": [], "val": []}
    for number, (name, (split, label)) in enumerate(names.items()):
        places = {"classes": f"{split}/{label}", "yolo": f"{split}/images", "coco": f"images/{split}"}
        make_image(folder / places.get(kind, split) / name, number)
        if kind == "yolo":
            (folder / split / "labels").mkdir(exist_ok=True)
            box = f"{labels.index(label)} 0.5 0.5 0.5 0.5\n"
            (folder / split / "labels" / name).with_suffix(".txt").write_text(box)
        cells = {"hub": label, "roboflow": ",".join(str(int(label == one)) for one in labels)}
        rows[split].append(f"{name},{cells.get(kind, label)}\n")
    heads = {"hub": ("metadata.csv", "file_name,labels"), "roboflow": ("_classes.csv", "filename,cat,dog,owl")}
    for split in rows if kind in heads else ():
        (folder / split / heads[kind][0]).write_text(heads[kind][1] + "\n" + "".join(rows[split]))
    if kind == "yolo":
        (folder / "data.yaml").write_text(f"train: train/images\nval: val/images\nnames: [{', '.join(labels)}]\n")
    for split in rows if kind == "coco" else ():
        own = [name for name in names if names[name][0] == split]
        content = {
            "images": [{"id": place, "file_name": name} for place, name in enumerate(own)],
            "annotations": [
                {"id": place, "image_id": place, "category_id": labels.index(names[name][1])}
                for place, name in enumerate(own)
            ],
            "categories": [{"id": place, "name": name} for place, name in enumerate(labels)],
        }
        (folder / "annotations").mkdir(exist_ok=True)
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))


@pytest.mark.parametrize("kind", ["classes", "hub", "roboflow", "yolo", "coco"])
def test_a_dataset_with_splits_is_divided_anew_on_demand(tmp_path, capsys, kind):
    write_divided(tmp_path / "set", kind)
    union = ["dataset.labels=union"]
    before = whole("dataset=set", *union)
    assert len(before) == 9
    words = ["data", "split", "dataset=set", "train=0.5", "val=0.5", "dedupe=false"]
    assert run([*words, *union]) == 2
    assert "set: has splits of its own already (train, val); redivide=true divides the im" in capsys.readouterr().err
    assert not (tmp_path / "set_split").exists()
    assert run([*words, "redivide=true"]) == 0  # without union, since train may get any label
    printed = following(capsys)
    assert "dataset.labels=union" not in printed
    for overrides in (printed, ["dataset=set_split"]):
        parts = content_of(build_component(compose.compose(overrides)["dataset"], "dataset"))
        assert {image: labels for part in parts.values() for image, labels in part.items()} == before
        assert set(parts) == {"train", "val"}
        assert not parts["train"].keys() & parts["val"].keys()
        olds = {Path(image).parts[-2 if kind != "classes" else -3] for image in parts["train"]}
        assert kind == "yolo" or olds == {"train", "val"}
    assert whole("dataset=set", *union) == before


def test_near_duplicates_of_two_splits_end_on_one_side(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for number in range(6):
        scene = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8)).resize((160, 120), Image.Resampling.BICUBIC)
        for split, quality in (("train", 95), ("val", 40)):
            file = tmp_path / "set" / split / ("cat", "dog")[number % 2] / f"{number}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            scene.save(file, quality=quality)
    words = ["data", "split", "dataset=set", "train=0.5", "val=0.5", "redivide=true", "workers=1"]
    assert run([*words, "dedupe=true"]) == 0
    assert "12 images have near-duplicates, 6 pairs; each stays with them" in capsys.readouterr().out
    train = (tmp_path / "set_split" / "train.csv").read_text()
    for number in range(6):
        assert train.count(f"{number}.jpg") in (0, 2)


def test_redividing_what_has_no_splits_is_a_note(tmp_path, capsys):
    write_table(tmp_path)
    assert run(["data", "split", "table=all.csv", "redivide=true", "dedupe=false"]) == 0
    assert "note: redivide=true: without effect, all.csv has no splits of its own" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["classes", "table", "numbers", "list", "unknown", "tags", "lines"])
def test_the_directory_that_was_written_is_a_dataset_and_the_first_one_stays(tmp_path, capsys, kind):
    rows = [("a.jpg", "owl"), ("b.jpg", "owl"), ("c.jpg", "ant, bee"), ("d.jpg", "ant, bee")]
    for number, (name, label) in enumerate(rows):
        make_image(tmp_path / "set" / (label if kind == "classes" else "images") / name, number)
    given = []
    if kind == "table":
        cells = "".join(f'images/{name},"{label}"\n' for name, label in rows)
        (tmp_path / "set" / "metadata.csv").write_text(f"file_name,labels\n{cells}")
        given = ["dataset.separator=none"]
    elif kind == "numbers":
        cells = "".join(f"images/{name},{len(label) // 4}\n" for name, label in rows)
        (tmp_path / "set" / "labels.csv").write_text(f"path,labels\n{cells}")
        (tmp_path / "set" / "classes.txt").write_text("owl\nunused\nant\n")
    elif kind == "tags":
        cells = "".join(f"images/{name};{label.replace(', ', '|')}\n" for name, label in rows)
        (tmp_path / "set" / "labels.csv").write_text(f"path;labels\n{cells}")
    elif kind == "lines":
        lines = (json.dumps({"file_name": f"images/{name}", "labels": [label]}) for name, label in rows)
        (tmp_path / "set" / "metadata.jsonl").write_text("".join(f"{line}\n" for line in lines))
        given = ["dataset.separator=none"]
    elif kind != "classes":
        states = {"ant": 1, "owl": None if kind == "unknown" else 0}
        content = [
            {"image": f"images/{n}", "labels": states if "ant" in one else {"ant": 0, "owl": 1}} for n, one in rows
        ]
        (tmp_path / "set" / "list.json").write_text(json.dumps(content))
    before = whole("dataset=set", *given)
    assert run(["data", "split", "dataset=set", *given, "train=0.5", "val=0.5", "dedupe=false"]) == 0
    printed = following(capsys)
    for overrides in (printed, ["dataset=set_split", *given]):
        config = build_component(compose.compose(overrides)["dataset"], "dataset")
        assert config.single_label == (kind == "classes")
        parts = content_of(config)
        assert set(parts) == {"train", "val"}
        assert {image: labels for part in parts.values() for image, labels in part.items()} == before
    assert whole("dataset=set", *given) == before
    assert not list((tmp_path / "set").glob("train*"))


def test_parts_of_a_file_beside_it_are_the_dataset_of_the_directory(tmp_path, capsys):
    rows = [(f"images/{number}.jpg", ("cat", "dog, cow")[number % 2]) for number in range(8)]
    for number, (name, _) in enumerate(rows):
        make_image(tmp_path / "export" / name, number)
    (tmp_path / "export" / "list.json").write_text(json.dumps([{"image": n, "labels": [label]} for n, label in rows]))
    before = whole("dataset=export/list.json")
    assert run(["data", "split", "dataset=export/list.json", "train=0.5", "val=0.5", "dedupe=false"]) == 0
    printed = following(capsys)
    for overrides in (printed, ["dataset=export"], ["dataset=export/list.json"]):
        assert whole(*overrides) == before
    assert run(["data", "split", "dataset=export/list.json", "train=0.5", "val=0.5"]) == 2
    assert "export/labels.txt: exists already" in capsys.readouterr().err


def test_split_gives_train_every_label_and_what_it_prints_next_can_be_used(tmp_path, capsys):
    write_table(tmp_path, 8)
    rows = [f"images/{n}.jpg,{('cat', 'dog')[n % 2]}" + (f";rare{n}" if n < 5 else "") for n in range(8)]
    (tmp_path / "all.csv").write_text("path,labels\n" + "\n".join(rows) + "\n")
    assert run(["data", "split", "table=all.csv", "train=0.5", "val=0.5", "output=parts"]) == 0
    following = shlex.split(capsys.readouterr().out.rpartition("next: mldec train ")[2])
    assert run(["data", "verify", *following, "workers=1"]) == 0
    printed = capsys.readouterr().out
    assert "table train: 5 images, 0 of them" in printed
    assert "table val: 3 images, 0 of them" in printed


def test_split_leaves_out_parts_without_an_image(tmp_path, capsys):
    write_table(tmp_path, 3)
    assert run(["data", "split", "table=all.csv", "train=0.6", "val=0.3", "test=0.1", "output=a"]) == 0
    printed, notes = capsys.readouterr()
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["train.csv", "val.csv"]
    assert "note: no image is left for test, which has no file" in notes
    assert "dataset.test" not in printed
    (tmp_path / "one.csv").write_text("path,labels\nimages/0.jpg,a\nimages/1.jpg,b\n")
    assert run(["data", "split", "table=one.csv", "output=b"]) == 2
    assert "one.csv: all 2 images would be in train: it gets one of each of the 2 labels" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()
    assert run(["data", "split", "table=all.csv", "val=0.5", "test=0.5", "output=c"]) == 0
    printed, notes = capsys.readouterr()
    assert "next:" not in printed
    assert "note: with a table to train on: mldec train dataset=table dataset.val=c/val.csv" in notes


@pytest.mark.parametrize("kind", ["labels", "classes"])
def test_rows_of_a_group_stay_together(tmp_path, capsys, kind):
    write_table(tmp_path, 30)
    cells = ("cat", "dog") if kind == "labels" else ("1,0", "0,1")
    header = "path,labels,patient" if kind == "labels" else "path,cat,dog,patient"
    rows = [f"images/{n}.jpg,{cells[n % 2]},{f'p {n // 3}' if n < 27 else ' '}" for n in range(30)]
    (tmp_path / "all.csv").write_text("\n".join([header, *rows]) + "\n")
    options = ["table=all.csv", "train=0.5", "val=0.5", "dedupe=false"]
    assert run(["data", "split", *options, "groups=pacient"]) == 2
    assert "groups=pacient: all.csv has no such column; did you mean patient?" in capsys.readouterr().err
    assert run(["data", "split", *options, "groups=patient", "output=parts"]) == 0
    printed = capsys.readouterr().out
    assert "9 groups by patient, the largest has 3 images; 3 rows without a value are each on their own" in printed
    parts = [(tmp_path / "parts" / f"{split}.csv").read_text().splitlines()[1:] for split in ("train", "val")]
    assert [len(part) for part in parts] == [15, 15]
    patients = [{row.rpartition(",")[2] for row in part} - {" "} for part in parts]
    assert not patients[0] & patients[1]
    following = shlex.split(printed.rpartition("next: mldec train ")[2])
    assert run(["data", "stats", *following]) == 0
    assert "labels          2" in capsys.readouterr().out


def test_split_warns_of_near_duplicates_or_keeps_them_together(tmp_path, capsys):
    rng, rows = np.random.default_rng(0), ["path,labels"]
    for number in range(8):
        scene = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8)).resize((160, 120), Image.Resampling.BICUBIC)
        for name, quality in (("a", 95), ("b", 40)):
            scene.save(tmp_path / f"{name}{number}.jpg", quality=quality)
            rows.append(f"{name}{number}.jpg,{'cat' if name == 'a' else 'dog'}")
    rows.append("gone.jpg,dog")
    (tmp_path / "all.csv").write_text("\n".join(rows) + "\n")
    assert run(["data", "split", "table=all.csv", "train=0.5", "val=0.5", "output=x", "workers=1"]) == 0
    warned = capsys.readouterr().err
    assert "warning: 7 pairs of near-duplicates are in different parts" in warned
    assert "  a0.jpg (train)   b0.jpg (val)\n" in warned
    assert "  and 4 more\n" in warned
    assert "note: 1 of 17 images were not compared with the others, such as: cannot read image" in warned
    assert run(["data", "split", "table=all.csv", "train=0.5", "val=0.5", "output=y", "dedupe=true", "workers=1"]) == 0
    printed, warned = capsys.readouterr()
    assert "16 images have near-duplicates, 8 pairs; each stays with them" in printed
    assert "warning" not in warned
    train = (tmp_path / "y" / "train.csv").read_text()
    assert all((f"a{number}.jpg" in train) == (f"b{number}.jpg" in train) for number in range(8))
    assert run(["data", "split", "table=all.csv", "train=0.5", "val=0.5", "output=z", "dedupe=false"]) == 0
    assert "compared" not in capsys.readouterr().err


def test_verify_finds_lists_and_mends(tmp_path, capsys):
    table = write_table(tmp_path)
    (tmp_path / "images" / "3.jpg").write_bytes(b"broken")
    (tmp_path / "images" / "5.jpg").unlink()
    make_image(tmp_path / "images" / "unlisted.png")
    options = ["dataset=table", f"dataset.train={table}"]
    assert run(["data", "verify", *options, "workers=1"]) == 1
    text, diagnostics = capsys.readouterr()
    assert "table train: 12 images, 2 of them cannot be used" in text
    assert "1 image beside them that no annotation mentions, such as" in text
    assert "note: add fix=true" in diagnostics
    assert len((tmp_path / "outputs" / "data" / "table" / "problems.txt").read_text().splitlines()) == 2
    training = [*options, *SMALL, "protocol.holdout=0.2", "schedule.epochs=1"]
    assert run(["train", *training, "run_dir=a"]) == 2  # an image is missing
    assert run(["data", "verify", *options, "workers=2", "fix=true"]) == 0
    assert run(["data", "verify", *options, "workers=1"]) == 0
    text = capsys.readouterr().out
    assert "10 images, 0 of them" in text.rpartition("lists 2 images")[2]
    assert "1 image beside them" in text.rpartition("lists 2 images")[2]  # not the one that was left out
    assert run(["train", *training, "run_dir=b"]) == 0
    assert (tmp_path / "images" / "3.jpg").exists()


def test_a_broken_image_is_skipped_and_counted_in_training_but_stops_evaluation(tmp_path, capsys):
    table = write_table(tmp_path)
    (tmp_path / "images" / "3.jpg").write_bytes(b"broken")
    (tmp_path / "val.csv").write_text("path,labels\nimages/0.jpg,cat\nimages/1.jpg,dog\n")
    options = ["train", "dataset=table", f"dataset.train={table}", "dataset.val=val.csv", *SMALL, "runtime.log_every=1"]
    assert run([*options, "run_dir=a"]) == 2
    assert "cannot decode image" in capsys.readouterr().err
    assert run([*options, "dataset.on_error=skip", "schedule.epochs=2", "run_dir=b"]) == 0
    assert "3.jpg (6 bytes): not an image; another image replaces it" in capsys.readouterr().err
    records = [record for record in read_records(tmp_path / "b" / "metrics.jsonl") if record["kind"] == "train"]
    assert records[-1]["broken"] == 2  # once in each epoch
    (tmp_path / "val.csv").write_text("path,labels\nimages/0.jpg,cat\nimages/3.jpg,dog\n")
    assert run([*options, "dataset.on_error=skip", "run_dir=c"]) == 2
    assert "cannot decode image" in capsys.readouterr().err


def test_stats_writes_text_json_and_an_image(tmp_path, capsys):
    table = write_table(tmp_path)
    assert run(["data", "stats", "dataset=table", f"dataset.train={table}"]) == 0
    text = capsys.readouterr().out
    assert "images        12" in text
    folder = tmp_path / "outputs" / "data" / "table"
    assert json.loads((folder / "train.json").read_text())["labels"][0] == {
        "label": "cat",
        "present": 6,
        "absent": 6,
        "unknown": 0,
    }
    assert Image.open(folder / "train.png").size[0] > 1000
    assert run(["data", "stats", "dataset=table", f"dataset.train={table}", "split=val"]) == 2
    assert "split=val: table has train; all is each of them" in capsys.readouterr().err


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real samples are not here")
@pytest.mark.parametrize(
    ("options", "split"),
    [
        (["dataset=coco", "dataset.year=2017", f"root={SHARED / 'tiny_coco'}"], "test"),
        (["dataset=voc2007", f"root={SHARED / 'voc2007_100'}"], "train"),
    ],
)
def test_a_shrunk_dataset_has_the_same_labels(tmp_path, capsys, options, split):
    assert run(["data", "shrink", *options, "side=64", "output=small", "workers=2"]) == 0
    typed = [word for word in options if word.startswith("dataset.")]
    following = ["mldec", "train", options[0], "dataset.root=small", *typed]
    assert shlex.split(capsys.readouterr().out.rpartition("next: ")[2]) == following
    small = [word if not word.startswith("root=") else "root=small" for word in options]
    for place, folder in ((options, "a"), (small, "b")):
        assert run(["data", "stats", *place, f"split={split}", f"output={folder}"]) == 0
    figures = [json.loads((tmp_path / folder / f"{split}.json").read_text()) for folder in ("a", "b")]
    assert figures[0]["labels"] == figures[1]["labels"]
    assert max(min(size) for size in figures[1]["sizes"]["width_height"]) == 64
    assert run(["data", "verify", *small]) == 0


def test_a_shrunk_table_trains(tmp_path, capsys):
    table = write_table(tmp_path / "mine")
    options = ["dataset=table", f"dataset.train={table}", "side=30", "output=small", "workers=1"]
    assert run(["data", "shrink", *options]) == 0
    options = capsys.readouterr().out.rpartition("next: mldec train ")[2].split()
    assert Image.open(tmp_path / "small" / "images" / "1.jpg").size == (40, 30)
    assert run(["train", *options, *SMALL, "protocol.holdout=0.2", "run_dir=run"]) == 0
    assert run(["data", "shrink", "dataset=table", f"dataset.train={table}", "side=99", "output=small"]) == 2
    assert "was begun with" in capsys.readouterr().err
    assert run(["data", "shrink", "dataset=table", f"dataset.train={table}"]) == 2
    assert "side=… and output=… are missing" in capsys.readouterr().err


def test_download_says_what_is_there_and_what_is_done_by_hand(tmp_path, capsys, monkeypatch):
    assert run(["data", "download", "dataset=imagenet", f"root={tmp_path}"]) == 0
    assert "image-net.org" in capsys.readouterr().out
    assert run(["data", "download", "dataset=digits"]) == 2
    assert "there is nothing to download" in capsys.readouterr().err
    (tmp_path / "there").touch()
    item = Download(file="there", urls=("http://127.0.0.1:9/there",), provides=("there",))
    monkeypatch.setattr(sources, "find_source", lambda *_, **named: DatasetSource(downloads=(item,)))
    assert run(["data", "download", "dataset=coco", f"root={tmp_path}"]) == 0
    assert "there already" in capsys.readouterr().out


def test_a_downloaded_dataset_is_ready_to_train(tmp_path, capsys, monkeypatch):
    """Two archives in COCO's layout, from a server on this machine, by the command a user types."""
    made = tmp_path / "made"
    for split in ("train2014", "val2014"):
        for number in range(6):
            make_image(made / split / f"{number}.jpg", number)
        content = {
            "images": [{"id": number, "file_name": f"{number}.jpg"} for number in range(6)],
            "annotations": [{"id": n, "image_id": n, "category_id": 1 + n % 2} for n in range(6)],
            "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        }
        (made / "annotations").mkdir(exist_ok=True)
        (made / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    served = tmp_path / "served"
    served.mkdir()
    for name in ("train2014", "val2014", "annotations"):
        shutil.make_archive(str(served / name), "zip", made, name)
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(served))
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        home = f"http://127.0.0.1:{server.server_port}"
        items = tuple(
            Download(
                file=path.name,
                urls=(f"{home}/gone/{path.name}", f"{home}/{path.name}"),
                checksum="sha256:" + hashlib.sha256(path.read_bytes()).hexdigest(),
                unpack=".",
                provides=(f"{path.stem}/",),
            )
            for path in sorted(served.iterdir())
        )
        monkeypatch.setattr(sources, "find_source", lambda *_, **named: DatasetSource(downloads=items))
        assert run(["data", "download", "dataset=coco", "root=coco"]) == 0
        assert capsys.readouterr().out.count("sha256 as expected") == 3
        assert run(["data", "download", "dataset=coco", "root=coco"]) == 0
        assert capsys.readouterr().out.count("there already") == 3
        server.shutdown()
    assert sorted(path.name for path in (tmp_path / "coco").iterdir()) == ["annotations", "train2014", "val2014"]
    assert run(["train", "dataset=coco", "dataset.root=coco", *SMALL, "protocol.holdout=0.34", "run_dir=run"]) == 0


def test_options_that_do_not_exist_are_one_line(capsys):
    for argv in (["data", "verfy"], ["data", "verify", "dataset=coco", "--fx"], ["benchmark", "loder"]):
        assert run(argv) == 2
        assert capsys.readouterr().err.startswith("error: ")
    assert run(["benchmark", "loader", "scal=1"]) == 2
    assert "scal=1: no such option of mldec benchmark loader; did you mean scale" in capsys.readouterr().err


# One epoch from each dataset, in its published form ------------------------------------------------------------------


def make_folder(root: Path) -> list[str]:
    for split in ("train", "val"):
        for number in range(6):
            make_image(root / split / ("cat", "dog")[number % 2] / f"{number}.jpg", number)
    return ["dataset=folder", f"dataset.root={root}", "loss=ce"]


def make_imagenet(root: Path) -> list[str]:
    make_folder(root)
    return ["dataset=imagenet", f"dataset.root={root}", "loss=ce"]


def make_cifar(root: Path) -> list[str]:
    folder = root / "cifar-100-binary"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        records = rng.integers(0, 256, (100, 3074), np.uint8)
        records[:, 1] = np.arange(100)
        records.tofile(folder / f"{split}.bin")
    (folder / "fine_label_names.txt").write_text("".join(f"n{number:02d}\n" for number in range(100)))
    return ["dataset=cifar100", f"dataset.root={root}", "loss=ce", "schedule.batch_size=50"]


def make_cars(root: Path) -> list[str]:
    make_folder(root)
    (root / "val").rename(root / "test")
    return ["dataset=stanford_cars", f"dataset.root={root}", "loss=bce"]


def make_coco_json(root: Path) -> list[str]:
    for split in ("train", "val"):
        images = [{"id": number, "file_name": f"{number}.jpg"} for number in range(6)]
        for image in images:
            make_image(root / split / image["file_name"], image["id"])
        annotations = [{"id": n, "image_id": n, "category_id": 1 + n % 2} for n in range(6)]
        content = {"images": images, "annotations": annotations}
        content["categories"] = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
        (root / split / "labels.json").write_text(json.dumps(content))
    return ["dataset=coco_json", *(f"dataset.{split}={root / split / 'labels.json'}" for split in ("train", "val"))]


def make_open_images(root: Path) -> list[str]:
    root.mkdir(parents=True)
    (root / "oidv6-class-descriptions.csv").write_text("LabelName,DisplayName\n/m/0a,Cat\n/m/0b,Dog\n")
    (root / "oidv6-classes-trainable.txt").write_text("/m/0a\n/m/0b\n")
    names = {"train": "oidv6-train", "validation": "validation", "test": "test"}
    for place, (split, name) in enumerate(names.items()):
        lines = ["ImageID,Source,LabelName,Confidence"]
        for number in range(4):
            image = f"{16 * place + number:016x}"
            make_image(root / split / f"{image}.jpg", number)
            lines += [f"{image},verification,/m/0a,{number % 2}", f"{image},verification,/m/0b,{number // 2}"]
        (root / f"{name}-annotations-human-imagelabels.csv").write_text("\n".join(lines) + "\n")
    return ["dataset=openimages", f"dataset.root={root}", "loss.unknown_weight=0.1", "protocol=paper"]


def make_nuswide(root: Path, name: str = "nuswide") -> list[str]:
    rows = ["path,labels,split"]
    for number in range(8):
        make_image(root / f"{number}.jpg", number)
        labels = ("sky", "cat, sky", "zoo", "zoo, cat")[number % 4]
        rows.append(f'{number}.jpg,"[{labels}]",{"train" if number < 4 else "val"}')
    (root / "data.csv").write_text("\n".join(rows) + "\n")
    return [f"dataset={name}", f"dataset.root={root}", "protocol=paper"]


def make_nuswide_zsl(root: Path) -> list[str]:
    options = make_nuswide(root, "nuswide_zsl")
    (root / "benchmark_81_v0.json").write_text('{"test class": ["cat"], "train class": ["sky", "zoo"]}')
    return options


def make_voc(root: Path) -> list[str]:
    if not SHARED.is_dir():
        pytest.skip("the real samples are not here")
    return ["dataset=voc2007", f"dataset.root={SHARED / 'voc2007_100'}", "protocol=paper"]


MAKERS = [
    make_folder,
    make_imagenet,
    make_cifar,
    make_cars,
    make_coco_json,
    make_open_images,
    make_nuswide,
    make_nuswide_zsl,
    make_voc,
]


@pytest.mark.parametrize("make", MAKERS)
def test_an_epoch_of_training_runs_from_each_dataset(tmp_path, make):
    options = make(tmp_path / "data")
    if "protocol=paper" not in options:
        options.append("protocol.holdout=0.34")
    batch = [] if any(word.startswith("schedule.batch_size") for word in options) else ["schedule.batch_size=16"]
    small = [word for word in SMALL if not word.startswith("schedule.batch_size")]
    assert run(["train", *small, *batch, *options, "run_dir=run", "augment=paper"]) == 0
    records = read_records(tmp_path / "run" / "metrics.jsonl")
    assert [record["kind"] for record in records][-1] == "test"
    assert records[-1]["classes_counted"] > 0
    shutil.rmtree(tmp_path / "run")


def test_resuming_on_other_labels_is_a_warning(tmp_path, capsys):
    table = write_table(tmp_path)
    options = [*SMALL, "protocol.holdout=0.2", "schedule.epochs=2", "run_dir=run"]
    assert run(["train", "dataset=table", f"dataset.train={table}", *options]) == 0
    capsys.readouterr()
    table.write_text(table.read_text().replace("images/1.jpg,dog", "images/1.jpg,cat"))
    assert run(["train", "resume=run"]) == 2
    assert "the train images or labels are not those that run began with" in capsys.readouterr().err
    assert run(["train", "resume=run", "allow_other_data=true"]) == 0
    assert "warning: the train images or their labels are not those that this run began with" in capsys.readouterr().err


def test_linked_class_folders_are_shrunk_too(tmp_path, capsys):
    for name in ("mine/cat/1.jpg", "store/2.jpg", "elsewhere/3.jpg"):
        make_image(tmp_path / name)
    (tmp_path / "mine" / "dog").symlink_to("../store")
    options = ["dataset=folder", "root=mine", "side=30", "workers=1"]
    assert run(["data", "shrink", *options, "output=small"]) == 0
    assert "2 images and 0 other files in small" in capsys.readouterr().out
    assert sorted(str(path.relative_to("small")) for path in Path("small").rglob("*.jpg")) == ["cat/1.jpg", "dog/2.jpg"]
