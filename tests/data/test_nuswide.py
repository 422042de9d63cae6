"""Properties: both layouts of the same images give the same labels; the real lists and vectors load exactly."""

import json
from pathlib import Path

import numpy as np
import pytest

from mldec.data.nuswide import NusWideConfig, build_nuswide
from mldec.data.nuswide_zsl import NusWideZslConfig, build_nuswide_zsl
from mldec.errors import DataError

SAMPLE = Path(__file__).parents[3] / "shared" / "data" / "nuswide"

CONCEPTS = ["bear", "sky", "cat"]  # not sorted, as in some copies
TAGS = ["blue", "cat", "zoo", "nice"]
IMAGES = {
    "train": {"actor\\0001_1.jpg": ["sky", "blue"], "actor\\0002_2.jpg": ["bear"], "b\\0003_3.jpg": ["zoo", "cat"]},
    "test": {"b\\0004_4.jpg": ["bear", "sky", "nice"], "b\\0005_5.jpg": ["zoo"], "b\\0006_6.jpg": []},
}


def write_release(root: Path) -> None:
    for folder in ("ImageList", "Groundtruth/TrainTestLabels", "ConceptsList", "NUS_WID_Tags"):
        (root / folder).mkdir(parents=True)
    (root / "ConceptsList" / "Concepts81.txt").write_text("\r\n".join(CONCEPTS) + "\r\n")
    (root / "NUS_WID_Tags" / "TagList1k.txt").write_text("\n".join(TAGS) + "\n")
    for split, images in IMAGES.items():
        part = split.capitalize()
        (root / "ImageList" / f"{part}Imagelist.txt").write_bytes("\r\n".join([*images, ""]).encode())
        for concept in CONCEPTS:
            lines = [str(int(concept in labels)) for labels in images.values()]
            (root / "Groundtruth/TrainTestLabels" / f"Labels_{concept}_{part}.txt").write_text("\n".join(lines) + "\n")
        rows = ["\t".join(str(int(tag in labels)) for tag in TAGS) + "\t" for labels in images.values()]
        (root / "NUS_WID_Tags" / f"{part}_Tags1k.dat").write_text("\n".join(rows) + "\n")


def write_csv(root: Path, concepts_only: bool) -> None:
    lines = ["filepath,label,split_name"]
    for split, images in IMAGES.items():
        for name, labels in images.items():
            listed = [label for label in labels if label in CONCEPTS or not concepts_only]
            lines.append(
                f'{name.replace(chr(92), "/")},"[{", ".join(listed)}]",{"train" if split == "train" else "val"}'
            )
    (root / "data.csv").write_text("\n".join(lines) + "\n")


def write_lists(root: Path) -> None:
    seen = sorted(set(TAGS) - set(CONCEPTS))
    content = {"test class": CONCEPTS, "train class": seen}
    (root / "benchmark_81_v0.json").write_text(json.dumps(content))


def build(root: Path, split: str = "train", **settings):
    return build_nuswide(NusWideConfig(name="nuswide", root=str(root), missing="ignore", **settings), split=split)


def zsl(root: Path, split: str = "train", **settings):
    config = NusWideZslConfig(name="nuswide_zsl", root=str(root), missing="ignore", **settings)
    return build_nuswide_zsl(config, split=split)


def test_the_original_release(tmp_path: Path) -> None:
    write_release(tmp_path)
    train, test = build(tmp_path), build(tmp_path, "test")
    assert train.labels.names == test.labels.names == ("bear", "sky", "cat")
    assert list(train.names()) == ["actor/0001_1.jpg", "actor/0002_2.jpg", "b/0003_3.jpg"]
    assert train.targets([0, 1, 2]).tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 1]]
    assert test.targets([0, 1, 2]).tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 0]]
    (tmp_path / "Flickr").mkdir()
    assert build(tmp_path).root == str(tmp_path / "Flickr")
    assert build(tmp_path, images="/elsewhere").root == "/elsewhere"


def test_the_csv_has_the_same_labels(tmp_path: Path) -> None:
    write_csv(tmp_path, concepts_only=True)
    train = build(tmp_path)
    assert train.labels.names == ("bear", "cat", "sky")
    assert list(train.names()) == ["actor/0001_1.jpg", "actor/0002_2.jpg", "b/0003_3.jpg"]
    assert train.targets([0, 1, 2]).tolist() == [[0, 0, 1], [1, 0, 0], [0, 1, 0]]
    assert build(tmp_path, "test").targets([0, 1, 2]).tolist() == [[1, 0, 1], [0, 0, 0], [0, 0, 0]]
    (tmp_path / "data.csv").write_text('a,b,c\nx.jpg,"[\'dog\', ""cat"", ]",TRAIN\n')
    assert build(tmp_path).labels.names == ("cat", "dog")


@pytest.mark.parametrize("layout", ["release", "csv"])
def test_unseen_labels_are_unknown_in_training_and_known_in_test(tmp_path: Path, layout: str) -> None:
    write_release(tmp_path)
    write_csv(tmp_path, concepts_only=False)
    write_lists(tmp_path)
    train, test = zsl(tmp_path, layout=layout), zsl(tmp_path, "test", layout=layout)
    assert train.labels == test.labels
    assert train.labels.names == ("bear", "blue", "cat", "nice", "sky", "zoo")
    assert train.labels.seen == (False, True, False, True, False, True)
    assert list(train.names()) == ["actor/0001_1.jpg", "b/0003_3.jpg"]  # the other has no seen label
    assert train.targets([0, 1]).tolist() == [[-1, 1, -1, 0, -1, 0], [-1, 0, -1, 0, -1, 1]]
    assert list(test.names()) == ["b/0004_4.jpg", "b/0005_5.jpg", "b/0006_6.jpg"]  # what is counted is the metric's
    assert test.targets([0, 1, 2]).tolist() == [[1, 0, 0, 1, 1, 0], [0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 0, 0]]
    labelled = zsl(tmp_path, "test", layout=layout, unannotated="drop")
    assert list(labelled.names()) == ["b/0004_4.jpg", "b/0005_5.jpg"]


def test_without_lists_the_tags_less_the_concepts_are_seen(tmp_path: Path) -> None:
    write_release(tmp_path)
    derived = zsl(tmp_path)
    write_lists(tmp_path)
    assert derived.labels == zsl(tmp_path).labels
    assert derived.fingerprint() == zsl(tmp_path).fingerprint()


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("Groundtruth/TrainTestLabels/Labels_sky_Train.txt", "1\n0\n", "2 lines for 3 images"),
        ("Groundtruth/TrainTestLabels/Labels_sky_Train.txt", "1\n0\n2\n", "line 3: '2'; allowed are 1 present and 0"),
        ("ImageList/TrainImagelist.txt", "a.jpg\na.jpg\nb.jpg\n", "'a.jpg' is listed twice"),
        ("ImageList/TrainImagelist.txt", "..\\a.jpg\nc.jpg\nb.jpg\n", "leaves the dataset's folder"),
        ("ImageList/TrainImagelist.txt", "\n", "is empty"),
        ("ConceptsList/Concepts81.txt", "bear\nsky\nbear\n", "label names must differ"),
        ("ConceptsList/Concepts81.txt", "bear\nmoon\n", "no Labels_moon_Train.txt there, nor in ImageList"),
    ],
)
def test_broken_files_of_the_release_are_named(tmp_path: Path, file: str, content: str, message: str) -> None:
    write_release(tmp_path)
    (tmp_path / file).write_text(content)
    with pytest.raises(DataError, match=message) as caught:
        build(tmp_path)
    assert Path(file).name in str(caught.value) or "moon" in content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no image"),
        ("a,b\n", "holds no image"),
        ("a,b\nx.jpg,[dog]\n", "line 2: 2 columns; expected a path, a list of labels, and train or val"),
        ("a,b,c\nx.jpg,dog,train\n", r"line 2: 'dog' is not a list of labels such as \[dog, cat\]"),
        ("a,b,c\nx.jpg,[dog],dev\n", "line 2: split 'dev'; allowed are train and val"),
        ("a,b,c\n/etc/x.jpg,[dog],train\n", "leaves the dataset's folder"),
        ('a,b,c\n"x.jpg,[dog],train\n', "cannot be read as CSV"),
    ],
)
def test_broken_rows_of_the_csv_are_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "data.csv").write_text(content)
    with pytest.raises(DataError, match=f"data.csv.*{message}"):
        build(tmp_path)


def test_what_is_missing_is_shown(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"TrainImagelist.txt   <- missing(.|\n)*nuswide/NUS-WIDE.html"):
        build(tmp_path)
    with pytest.raises(DataError, match=r"data.csv: cannot be read"):
        build(tmp_path, layout="csv") if (tmp_path / "data.csv").write_bytes(b"\xff\xfe") else None


def test_broken_zero_shot_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"TagList1k.txt   <- missing"):
        zsl(tmp_path)
    write_csv(tmp_path, concepts_only=False)
    with pytest.raises(DataError, match=r"nus_classes.json   <- missing(.|\n)*or benchmark_81_v0.json"):
        zsl(tmp_path)
    (tmp_path / "data.csv").unlink()
    write_release(tmp_path)
    for content, message in [
        ("{", "cannot be read as JSON"),
        ("[]", "expected a JSON object, found a list"),
        ('{"test class": [1], "train class": ["zoo"]}', "expected a list of names under 'test class'"),
        ('{"test class": ["sky"], "train class": ["sky", "zoo"]}', "among both sky; none may be both"),
        (
            '{"test class": ["sky"], "train class": ["moon"]}',
            r"TagList1k.txt: 1 seen labels are no tags there \(moon\)",
        ),
    ]:
        (tmp_path / "benchmark_81_v0.json").write_text(content)
        with pytest.raises(DataError, match=message):
            zsl(tmp_path)
    write_lists(tmp_path)
    for content, message in [("1\t0\t1\n", "line 1: 3 values for 4 tags"), ("1\t0\t1\t0\n", "1 lines for 3 images")]:
        (tmp_path / "NUS_WID_Tags" / "Train_Tags1k.dat").write_text(content)
        with pytest.raises(DataError, match=message):
            zsl(tmp_path)


@pytest.mark.skipif(not SAMPLE.is_dir(), reason="the sample of NUS-WIDE is not here")
def test_the_real_lists(tmp_path: Path) -> None:
    for name in ("nus_classes.json", "nus_unseen_classes.json", "nus_seen_925.txt"):
        (tmp_path / name).write_bytes((SAMPLE / name).read_bytes())
    rows = ["a,b,c", '1.jpg,"[zebra, abandoned]",train', '2.jpg,"[zoo, sky]",train', '3.jpg,"[zebra, zoo]",val']
    (tmp_path / "data.csv").write_text("\n".join(rows))
    names = list(json.loads((SAMPLE / "nus_classes.json").read_text()).values())
    unseen = set(json.loads((SAMPLE / "nus_unseen_classes.json").read_text()))
    train, test = zsl(tmp_path), zsl(tmp_path, "test")
    assert train.labels.names == tuple(names)
    assert [name for name, seen in zip(names, train.labels.seen, strict=True) if not seen] == sorted(unseen)
    assert (len(names), sum(train.labels.seen)) == (1006, 925)
    targets = train.targets([0, 1])
    assert sorted(np.flatnonzero(targets[0] == -1)) == sorted(names.index(name) for name in unseen)
    assert [names[column] for column in np.flatnonzero(targets[0] == 1)] == ["abandoned"]
    assert [names[column] for column in np.flatnonzero(targets[1] == 1)] == ["zoo"]
    assert [names[column] for column in np.flatnonzero(test.targets([0])[0] == 1)] == ["zebra", "zoo"]
