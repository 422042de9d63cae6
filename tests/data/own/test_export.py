"""Property: what `mldec data export` writes is read back as the same images, labels and states, by our readers and by
the packages whose formats they are."""

from __future__ import annotations

import csv
import json
import os
import shlex
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from mldec.commands import compose
from mldec.commands.main import run
from mldec.config import build_component
from mldec.data.coco import CocoJsonConfig, build_coco_json
from mldec.data.index import ImageIndex
from mldec.data.own import export_writers
from mldec.data.own.export_set import from_indexes
from mldec.data.table import TableConfig, build_table
from mldec.engine import predictions
from mldec.labels import LabelSpace
from mldec.registry import DATASETS

PLAIN = ("dog", "cat", "traffic light", "unused")
HARD = ("=1+1", "a;b", "c, d", "nan", 'say "x"', "été/<b>", "[zebra]")
SIZES = {"train": 4, "test": 2}
NAMES = ("b.jpg", "sub/a.jpg", "=SUM(1).jpg", "#one.jpg", "über, all.jpg", "-x;y.jpg")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def draw(folder: Path, names: tuple[str, ...] = NAMES) -> None:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (20 + number, 30, 3), np.uint8)
        Image.fromarray(pixels).save(folder / name)


def write_dataset(folder: Path, labels: tuple[str, ...] = PLAIN, *, unknown: bool = False) -> list[str]:
    """Images in train and test; the overrides that name them. The first image has no label."""
    rng = np.random.default_rng(3)
    overrides = ["dataset=table"]
    for split, part in {"train": NAMES[:4], "test": NAMES[4:]}.items():
        draw(folder, part)
        lines = []
        for number, name in enumerate(part):
            states = rng.integers(-1 if unknown else 0, 2, len(labels)) * (number > 0)
            states[-1] = 0
            row: dict[str, object] = {"path": name}
            row |= zip(labels, states.tolist(), strict=True)
            lines.append(json.dumps(row))
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
        overrides.append(f"dataset.{split}={folder}/{split}.jsonl")
    return overrides


def read(folder: Path, split: str, labels: tuple[str, ...]) -> ImageIndex:
    config = TableConfig(name="table", train=f"{folder}/train.jsonl", test=f"{folder}/test.jsonl")
    index = build_table(config, split=split)
    assert index.labels.names == labels
    return index


def same(one: ImageIndex, other: ImageIndex) -> bool:
    rows = range(len(one))
    paths = [[os.path.realpath(index.path(row)) for row in rows] for index in (one, other)]
    same_targets = np.array_equal(one.targets(rows), other.targets(rows))
    return paths[0] == paths[1] and one.labels.names == other.labels.names and same_targets


def next_settings(text: str) -> dict[str, str]:
    """The settings of the command that is offered."""
    line = next(line for line in text.splitlines() if line.startswith("next: mldec data stats "))
    pairs = (word.partition("=") for word in shlex.split(line.partition("stats ")[2]))
    return {key.removeprefix("dataset."): value.strip("'") for key, _, value in pairs}


@pytest.mark.parametrize("labels", [PLAIN, HARD], ids=["plain", "hard"])
@pytest.mark.parametrize("unknown", [False, True], ids=["known", "unknown"])
@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_tables_are_read_back_as_they_were(form, unknown, labels, tmp_path, capsys):
    if form == "csv" and unknown and labels is HARD:
        labels = tuple(name for name in HARD if name != "=1+1")  # its column would begin with an apostrophe
    overrides = write_dataset(tmp_path / "in", labels, unknown=unknown)
    assert run(["data", "export", *overrides, f"format={form}", "output=out"]) == 0
    settings = next_settings(capsys.readouterr().out)
    assert settings.pop("dataset") == "table"
    config = TableConfig(name="table", **settings)
    for split in ("train", "test"):
        assert same(build_table(config, split=split), read(tmp_path / "in", split, labels))
    assert (tmp_path / "out" / "labels.txt").exists() == (not unknown)


@pytest.mark.parametrize("labels", [PLAIN, HARD], ids=["plain", "hard"])
def test_coco_is_read_back_by_our_reader_and_by_pycocotools(labels, tmp_path, capsys):
    overrides = write_dataset(tmp_path / "in", labels)
    assert run(["data", "export", *overrides, "format=coco", "output=out"]) == 0
    settings = next_settings(capsys.readouterr().out)
    assert settings.pop("dataset") == "coco_json"
    config = CocoJsonConfig(name="coco_json", **settings)
    for split in ("train", "test"):
        index = read(tmp_path / "in", split, labels)
        assert same(build_coco_json(config, split=split), index)
        coco = COCO(str(tmp_path / "out" / f"{split}.json"))
        assert [category["name"] for category in coco.loadCats(coco.getCatIds())] == list(labels)
        for row, image in enumerate(coco.loadImgs(coco.getImgIds())):
            with Image.open(index.path(row)) as opened:
                assert (image["width"], image["height"]) == opened.size
            found = coco.loadAnns(coco.getAnnIds(imgIds=[image["id"]]))
            assert [a["category_id"] - 1 for a in found] == np.flatnonzero(index.targets([row])[0] == 1).tolist()


def test_one_file_of_all_splits_names_the_split_of_each_row(tmp_path, capsys):
    overrides = write_dataset(tmp_path / "in")
    assert run(["data", "export", *overrides, "format=csv", "output=all.csv"]) == 0
    with open("all.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["split"] for row in rows] == ["train"] * 4 + ["test"] * 2
    assert [row["path"].removeprefix("./") for row in rows] == list(NAMES)
    assert all(row["path"][0] not in "=+-@" for row in rows)
    assert (tmp_path / "all.labels.txt").read_text().splitlines() == list(PLAIN)
    assert run(["data", "export", *overrides, "format=coco", "output=all.json"]) == 2
    error = capsys.readouterr().err
    assert "holds one split, not train, test; use output=DIR, which gets a file for each, or split=train" in error
    assert run(["data", "export", *overrides, "format=coco", "output=all.json", "split=test"]) == 0


def test_an_image_of_two_splits_is_in_no_file_of_both(tmp_path, capsys):
    draw(tmp_path, ("a.jpg",))
    for split in ("train", "val"):
        (tmp_path / f"{split}.csv").write_text("path,labels\na.jpg,cat\n")
    words = ["data", "export", "dataset=table", "dataset.train=train.csv", "dataset.val=val.csv", "format=jsonl"]
    assert run([*words, "output=all.jsonl"]) == 2
    assert "a.jpg is in train and in val, which one file cannot say; use output=DIR" in capsys.readouterr().err
    assert not Path("all.jsonl").exists()
    assert run([*words, "output=all"]) == 0


@pytest.mark.parametrize("form", ["coco", "label_studio"])
def test_unknown_labels_are_lost_only_if_that_is_said(form, tmp_path, capsys):
    overrides = write_dataset(tmp_path / "in", unknown=True)
    assert run(["data", "export", *overrides, f"format={form}", "output=out"]) == 2
    assert "cannot say that a label is unknown" in capsys.readouterr().err
    assert not Path("out").exists()
    assert run(["data", "export", *overrides, f"format={form}", "output=out", "unknown=absent"]) == 0


def test_labels_that_are_only_known_where_they_are_listed_stay_so():
    index = ImageIndex.build(
        [("a.jpg", [0], [1], []), ("b.jpg", [], [], [])], root="x", labels=LabelSpace(["p", "q", "r"]), default=-1
    )
    images = from_indexes({"train": index})
    assert images.unknown == 4
    rows = list(export_writers.table_rows(images, "path"))
    assert rows == [{"path": "a.jpg", "p": 1, "q": 0, "r": -1}, {"path": "b.jpg", "p": -1, "q": -1, "r": -1}]


# Label Studio ---------------------------------------------------------------------------------------------------------


def test_label_studio_gets_tasks_and_the_configuration_that_shows_them(tmp_path):
    overrides = write_dataset(tmp_path / "in", HARD)
    assert run(["data", "export", *overrides, "format=label_studio", "output=tasks.json"]) == 0
    tasks = json.loads(Path("tasks.json").read_text(encoding="utf-8"))
    assert [task["data"]["split"] for task in tasks] == ["train"] * 4 + ["test"] * 2
    assert tasks[1]["data"]["image"] == "/data/local-files/?d=sub/a.jpg"
    assert tasks[4]["data"]["image"] == "/data/local-files/?d=%C3%BCber%2C%20all.jpg"
    assert tasks[0]["annotations"] == [{"result": []}]
    view = ElementTree.parse("tasks.config.xml").getroot()
    choices = view.find("Choices")
    assert [choice.get("value") for choice in choices] == list(HARD)
    index = read(tmp_path / "in", "train", HARD)
    for row, task in enumerate(tasks[:4]):
        found = [name for result in task["annotations"][0]["result"] for name in result["value"]["choices"]]
        assert found == [HARD[column] for column in np.flatnonzero(index.targets([row])[0])]
        for result in task["annotations"][0]["result"]:
            assert result["type"] == "choices"
            assert (result["from_name"], result["to_name"]) == (choices.get("name"), view.find("Image").get("name"))


# Hugging Face ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["copy", "link", "none"])
def test_the_folder_for_hugging_face_has_tables_and_images(how, tmp_path, capsys):
    overrides = write_dataset(tmp_path / "in")
    words = ["data", "export", *overrides, "format=hf", "output=out", f"images={how}"]
    assert run(words) == 0
    for split, folder in {"train": "train", "test": "test"}.items():
        lines = (tmp_path / "out" / folder / "metadata.jsonl").read_text().splitlines()
        index = read(tmp_path / "in", split, PLAIN)
        for row, line in enumerate(map(json.loads, lines)):
            assert line["file_name"] == index.name(row)
            assert line["labels"] == [PLAIN[column] for column in np.flatnonzero(index.targets([row])[0])]
            image = tmp_path / "out" / folder / line["file_name"]
            assert image.is_symlink() == (how == "link")
            assert image.exists() == (how != "none")
            assert how == "none" or image.read_bytes() == Path(index.path(row)).read_bytes()
    captured = capsys.readouterr()
    assert "1 label that no image has, in no file, such as unused" in captured.err
    assert ("6 images" in captured.err) == (how != "none")
    assert run(words) == 2
    assert "output=out: is not empty; name a new directory" in capsys.readouterr().err


def test_a_folder_that_was_not_finished_leaves_nothing(tmp_path, monkeypatch):
    from mldec.data.own import export_folder

    overrides = write_dataset(tmp_path / "in")
    before = sorted(tmp_path.iterdir())

    def stop(image, root, folder, how):
        raise KeyboardInterrupt

    monkeypatch.setattr(export_folder, "_place", stop)
    with pytest.raises(KeyboardInterrupt):
        export_folder.write_hf(
            tmp_path / "out", from_indexes({"train": read(tmp_path / "in", "train", PLAIN)}), "copy", int
        )
    assert sorted(tmp_path.iterdir()) == before
    assert overrides


@pytest.mark.parametrize("unknown", [False, True], ids=["known", "unknown"])
def test_the_package_datasets_loads_the_folder(unknown, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    datasets = pytest.importorskip("datasets", reason="Hugging Face's datasets is not installed")
    overrides = write_dataset(tmp_path / "in", HARD, unknown=unknown)
    overrides = [word.replace("dataset.test=", "dataset.val=") for word in overrides]
    assert run(["data", "export", *overrides, "format=hf", "output=out"]) == 0
    loaded = datasets.load_dataset("imagefolder", data_dir="out", cache_dir=str(tmp_path / "cache"))
    assert set(loaded) == {"train", "validation"}
    for split, ours in {"train": "train", "validation": "test"}.items():
        index = read(tmp_path / "in", ours, HARD)
        rows = {row["image"].height: row for row in loaded[split]}  # each image of this test has a height of its own
        assert len(rows) == len(index)
        for number in range(len(index)):
            with Image.open(index.path(number)) as opened:
                row = rows[opened.height]
            (states,) = index.targets([number])
            if unknown:
                assert [row[name] for name in HARD] == states.tolist()
            else:
                assert row["labels"] == [HARD[column] for column in np.flatnonzero(states)]


# Predictions ----------------------------------------------------------------------------------------------------------

SCORES = {"in/b.jpg": [0.9, 0.2, 0.7], "in/sub/a.jpg": [0.1, 0.2, 0.3], "in/=SUM(1).jpg": [0.4, 0.51, 0.25]}
LABELS = ("dog", "=cat", "bird")


def write_predictions(form: str, *, all_scores: bool) -> Path:
    records = []
    for path, scores in SCORES.items():
        listed = {name: score for name, score in zip(LABELS, scores, strict=True) if score > 0.5}
        record = {"path": path, "labels": dict(sorted(listed.items(), key=lambda item: -item[1]))}
        records.append(record | {"scores": scores} if all_scores else record)
    file = Path(f"predictions.{form}")
    predictions.write(file, form, records, LabelSpace(LABELS), all_scores=all_scores)
    return file


@pytest.mark.parametrize("all_scores", [False, True], ids=["listed", "all"])
@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_predictions_of_every_format_are_exported_with_their_scores(form, all_scores, tmp_path):
    if form == "parquet":
        pytest.importorskip("pyarrow")
    draw(tmp_path / "in")
    file = write_predictions(form, all_scores=all_scores)
    words = ["data", "export", f"predictions={file}"]
    assert run([*words, "format=jsonl", "output=out.jsonl"]) == 0
    rows = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert rows == [
        {"path": "in/b.jpg", "labels": ["dog", "bird"], "scores": [0.9, 0.7]},
        {"path": "in/sub/a.jpg", "labels": [], "scores": []},
        {"path": "in/=SUM(1).jpg", "labels": ["=cat"], "scores": [0.51]},
    ]
    assert run([*words, "format=label_studio", "output=out.json", "prefix=s3://bucket/", "model_version=v7"]) == 0
    tasks = json.loads(Path("out.json").read_text())
    assert tasks[0]["data"] == {"image": "s3://bucket/in/b.jpg", "scores": {"dog": 0.9, "bird": 0.7}}
    (prediction,) = tasks[0]["predictions"]
    assert (prediction["model_version"], prediction["score"]) == ("v7", 0.7)
    assert prediction["result"][0]["value"] == {"choices": ["dog", "bird"]}
    assert tasks[1]["predictions"] == [{"model_version": "v7", "result": []}]
    assert run([*words, "format=coco", "output=coco.json"]) == 0
    coco = COCO("coco.json")
    assert sorted(annotation["score"] for annotation in coco.anns.values()) == [0.51, 0.7, 0.9]
    assert run([*words, "format=hf", "output=hf"]) == 0
    lines = Path("hf/metadata.jsonl").read_text().splitlines()
    assert json.loads(lines[0]) == {"file_name": "in/b.jpg", "labels": ["dog", "bird"], "scores": [0.9, 0.7]}
    assert Path("hf/in/b.jpg").exists()
    assert run([*words, "format=csv", "output=low.csv", "threshold=0.22"]) == 0
    with open("low.csv", newline="") as table:
        low = [json.loads(row["labels"]) for row in csv.DictReader(table)]
    expected = [["dog", "bird"], ["bird"], ["=cat", "dog", "bird"]] if all_scores else [["dog", "bird"], [], ["=cat"]]
    assert low == expected


def test_images_of_predictions_that_lie_elsewhere_are_found(tmp_path, capsys):
    draw(tmp_path / "far" / "in", ("b.jpg",))
    record = {"path": str(tmp_path / "far" / "in" / "b.jpg"), "labels": {"dog": 0.9}}
    Path("here").mkdir()
    os.chdir("here")
    Path("p.jsonl").write_text(json.dumps(record) + "\n")
    words = ["data", "export", "predictions=p.jsonl", "format=csv", "output=o.csv"]
    assert run(words) == 0
    assert f"paths are relative to {tmp_path / 'far' / 'in'}" in capsys.readouterr().err
    assert Path("o.csv").read_text().splitlines()[1] == "b.jpg,dog,0.9"
    assert run([*words, "root=."]) == 2
    assert "lies outside of" in capsys.readouterr().err


# What is refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["format=csv", "output=o.csv"], "dataset=NAME or predictions=FILE: neither is given"),
        (["dataset=digits", "predictions=p", "format=csv", "output=o.csv"], "both are given"),
        (["dataset=digits", "format=csv", "output=o.json"], "a file of format=csv ends in .csv"),
        (["dataset=digits", "format=hf", "output=o.json"], "format=hf writes a directory"),
        (["dataset=digits", "format=csv", "output=o.csv", "images=copy"], "no effect on format=csv, only on format=hf"),
        (["dataset=digits", "format=csv", "output=o.csv", "threshold=0.5"], "has no effect on a dataset"),
        (["predictions=p", "format=csv", "output=o.csv", "unknown=absent"], "has no effect on predictions"),
        (["predictions=p.jsonl", "format=csv", "output=o.csv"], "p.jsonl"),
        (["predictions=list.csv", "format=csv", "output=o.csv"], "is no file of mldec predict"),
        (["predictions=list.jsonl", "format=csv", "output=o.csv"], "line 1: is no prediction of mldec predict"),
        (["predictions=bad.jsonl", "format=csv", "output=o.csv"], "line 2: the score 7 is no number from 0 to 1"),
        (["predictions=twice.csv", "format=csv", "output=o.csv"], "a.jpg is listed twice"),
        (["predictions=twice.csv", "format=csv", "output=o.csv", "split=val"], "split=val: has no effect"),
    ],
)
def test_what_cannot_be_exported_is_one_error(words, error, tmp_path, capsys):
    Path("list.csv").write_text("file,labels\na.jpg,cat\n")
    Path("list.jsonl").write_text('{"path": "a.jpg", "labels": ["cat"]}\n')
    Path("bad.jsonl").write_text('{"path": "a.jpg", "labels": {"cat": 1}}\n{"path": "b.jpg", "labels": {"cat": 7}}\n')
    Path("twice.csv").write_text("path,label,score\na.jpg,x,0.9\nb.jpg,x,0.9\na.jpg,y,0.9\n")
    before = sorted(tmp_path.iterdir())
    assert run(["data", "export", *words]) == 2
    shown = capsys.readouterr().err
    assert error in shown
    assert len(shown.strip().splitlines()) == 1
    assert sorted(tmp_path.iterdir()) == before


def test_no_input_is_overwritten(tmp_path, capsys):
    overrides = write_dataset(tmp_path / "in")
    assert run(["data", "export", *overrides, "format=jsonl", "output=in"]) == 2
    assert "would be overwritten" in capsys.readouterr().err


def test_statistics_overwrite_no_annotations(tmp_path, capsys):
    record = {"path": "a.jpg", "labels": ["cat"]}
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").touch()
    (tmp_path / "in" / "train.json").write_text(json.dumps([record]))
    for dataset in ("dataset=in", "dataset=in/train.json"):
        assert run(["data", "stats", dataset, "output=in"]) == 2
        assert "in/train.json would be overwritten, and it is read" in capsys.readouterr().err
    assert json.loads((tmp_path / "in" / "train.json").read_text()) == [record]
    for _ in range(2):  # what it wrote itself is replaced
        assert run(["data", "stats", "dataset=in", "output=out"]) == 0


def test_images_of_splits_in_different_folders_keep_their_names_for_hugging_face(tmp_path):
    overrides = []
    for split in ("train", "val"):
        draw(tmp_path / split, ("sub/a.jpg", "b.jpg"))
        (tmp_path / split / "t.csv").write_text("path,labels\nsub/a.jpg,cat\nb.jpg,dog\n")
        overrides.append(f"dataset.{split}={split}/t.csv")
    assert run(["data", "export", "dataset=table", *overrides, "format=hf", "output=hf", "images=copy"]) == 0
    for split, folder in (("train", "train"), ("val", "validation")):
        rows = [json.loads(line) for line in (tmp_path / "hf" / folder / "metadata.jsonl").read_text().splitlines()]
        assert [row["file_name"] for row in rows] == ["sub/a.jpg", "b.jpg"]
        for row in rows:
            original = (tmp_path / split / row["file_name"]).read_bytes()
            assert (tmp_path / "hf" / folder / row["file_name"]).read_bytes() == original


def test_the_folder_for_hugging_face_is_read_back_by_our_reader(tmp_path):
    overrides = write_dataset(tmp_path / "in", HARD)
    assert run(["data", "export", *overrides, "format=hf", "output=hf"]) == 0
    (tmp_path / "names.txt").write_text("".join(f"{name}\n" for name in HARD))
    for split in ("train", "test"):
        config = TableConfig(name="table", train=f"hf/{split}/metadata.jsonl", labels="names.txt")
        assert same(build_table(config, split="train"), read(tmp_path / "in", split, HARD))


def test_label_studio_s_tasks_are_read_back_by_our_reader(tmp_path, capsys):
    overrides = write_dataset(tmp_path / "in", HARD)
    assert run(["data", "export", *overrides, "format=label_studio", "output=tasks.json"]) == 0
    settings = next_settings(capsys.readouterr().out)
    assert settings.pop("dataset") == "table"
    (tmp_path / "names.txt").write_text("".join(f"{name}\n" for name in HARD))
    config = TableConfig(name="table", labels="names.txt", **settings)
    assert config.splits == ("train", "test")
    for split in config.splits:
        assert same(build_table(config, split=split), read(tmp_path / "in", split, HARD))


@pytest.mark.parametrize("form", ["csv", "jsonl", "coco", "label_studio", "hf"])
def test_predictions_are_read_back_by_the_command_that_is_offered(form, tmp_path, capsys):
    draw(tmp_path / "in")
    file = write_predictions("jsonl", all_scores=False)
    output = "out" if form == "hf" else f"out{export_writers.FORMATS[form].suffix}"
    assert run(["data", "export", f"predictions={file}", f"format={form}", f"output={output}"]) == 0
    shown = capsys.readouterr().out
    command = shlex.split(next(line for line in shown.splitlines() if line.startswith("next: ")))
    config = build_component(compose.compose(command[4:])["dataset"], "dataset")
    index = DATASETS[config.name].build(config, split="train")
    found = {index.name(row): {index.labels.names[c] for c in index.positives[row]} for row in range(len(index))}
    assert found == {"in/b.jpg": {"bird", "dog"}, "in/sub/a.jpg": set(), "in/=SUM(1).jpg": {"=cat"}}


@pytest.mark.parametrize(("form", "all_scores"), [("jsonl", False), ("jsonl", True), ("csv", True), ("csv", False)])
def test_predictions_are_a_dataset_or_one_error_whose_command_makes_them_one(form, all_scores, tmp_path, capsys):
    draw(tmp_path / "in")
    file = write_predictions(form, all_scores=all_scores)
    given = run(["data", "stats", f"dataset={file}"])
    if (form, all_scores) != ("csv", False):
        assert given == 2
        error = capsys.readouterr().err.strip()
        assert len(error.splitlines()) == 1
        command = shlex.split(error.partition("choose the labels first: ")[2])
        assert command[:3] == ["mldec", "data", "export"]
        assert run(command[1:]) == 0
        file = Path("labels.csv")
    index = build_table(TableConfig(name="table", train=str(file)), split="train")
    found = {index.name(row): {index.labels.names[c] for c in index.positives[row]} for row in range(len(index))}
    assert found == {"in/b.jpg": {"bird", "dog"}, "in/sub/a.jpg": set(), "in/=SUM(1).jpg": {"=cat"}}
