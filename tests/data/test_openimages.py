"""Properties: what is known equals a plain loop over the files, in any order of rows; mistakes are placed."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from mldec.data.openimages import OpenImagesConfig, build_openimages
from mldec.errors import DataError

DESCRIPTIONS = Path(__file__).parents[3] / "shared" / "data" / "openimages" / "oidv6-class-descriptions.csv"
CODES = ["/m/01animal", "/m/02dog", "/m/03cat", "/m/04car", "/g/05wheel", "/m/06cat"]
NAMES = ["Animal", "Dog", "Cat", "Car", "Wheel", "Cat"]
HIERARCHY = {
    "LabelName": "/m/0bl9f",
    "Subcategory": [
        {"LabelName": CODES[0], "Subcategory": [{"LabelName": CODES[1]}, {"LabelName": CODES[2]}]},
        {"LabelName": CODES[3], "Part": [{"LabelName": CODES[4]}]},
    ],
}
Row = tuple[str, str, str]


def write_rows(path: Path, rows: list[Row], source: str = "verification") -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["ImageID", "Source", "LabelName", "Confidence"])
        writer.writerows((image, source, code, confidence) for image, code, confidence in rows)


def write(root: Path, human: list[Row] | None = None, machine: list[Row] | None = None) -> None:
    described = zip([*CODES, "/m/99other"], [*NAMES, 'Tea, "green"'], strict=True)
    with (root / "oidv6-class-descriptions.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("LabelName", "DisplayName"), *described])
    (root / "oidv6-classes-trainable.txt").write_text("\n".join(CODES) + "\n")
    (root / "bbox_labels_600_hierarchy.json").write_text(json.dumps(HIERARCHY))
    if human is not None:
        write_rows(root / "oidv6-train-annotations-human-imagelabels.csv", human)
    if machine is not None:
        write_rows(root / "train-annotations-machine-imagelabels.csv", machine, "machine")


def build(root: Path, split: str = "train", **settings):
    defaults = {"root": str(root), "missing": "ignore"}
    return build_openimages(OpenImagesConfig(name="openimages", **defaults | settings), split=split)


def image(number: int) -> str:
    return f"{number * 0x1F3A5C7E9B2D4681 % 2**64:016x}"


def random_rows(rng: np.random.Generator, count: int, confidences: list[str]) -> list[Row]:
    codes = [*CODES, "/m/99other"]
    return [(image(int(rng.integers(12))), str(rng.choice(codes)), str(rng.choice(confidences))) for _ in range(count)]


def slow(human: list[Row], machine: list[Row], least: float, expand: bool) -> tuple[list[str], np.ndarray, dict]:
    """The plain loop: the images, sorted, and their targets."""
    up = {1: [0], 2: [0]} if expand else {}
    down = {0: [1, 2]} if expand else {}
    images = sorted({row[0] for row in [*human, *machine]})
    said: dict = {}
    for name, code, confidence in human:
        if code in CODES and confidence == "0":
            for column in [CODES.index(code), *down.get(CODES.index(code), [])]:
                said.setdefault((name, column), 0)
    denied = set(said)
    for name, code, confidence in human:
        if code in CODES and confidence == "1":
            for column in [CODES.index(code), *up.get(CODES.index(code), [])]:
                said[name, column] = 1
    for name, code, confidence in machine:
        if code in CODES and float(confidence) >= least:
            for column in [CODES.index(code), *up.get(CODES.index(code), [])]:
                if (name, column) not in denied:
                    said[name, column] = 1
    targets = np.full((len(images), len(CODES)), -1, np.int8)
    for (name, column), state in said.items():
        targets[images.index(name), column] = state
    return images, targets


@pytest.mark.parametrize("expand", [False, True])
@pytest.mark.parametrize("annotations", ["human", "machine", "both"])
@pytest.mark.parametrize("seed", range(4))
def test_known_labels_equal_a_plain_loop(tmp_path: Path, annotations: str, expand: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    human = random_rows(rng, 60, ["0", "1"]) if annotations != "machine" else []
    machine = random_rows(rng, 60, ["0.0", "0.2", "0.5", "0.7", "1.0"]) if annotations != "human" else []
    write(tmp_path, human, machine)
    least = [0.5, 0.0, 0.7, 1.0][seed]
    index = build(tmp_path, annotations=annotations, min_confidence=least, expand_hierarchy=expand)
    images, targets = slow(human, machine, least, expand)
    assert list(index.names()) == [f"{name}.jpg" for name in images]
    np.testing.assert_array_equal(index.targets(range(len(index))), targets)


def test_the_order_of_rows_does_not_matter(tmp_path: Path) -> None:
    rows = sorted(set(random_rows(np.random.default_rng(0), 80, ["0", "1"])))
    write(tmp_path, rows)
    grouped = build(tmp_path)
    write(tmp_path, rows[::-1])
    np.testing.assert_array_equal(build(tmp_path).targets(range(12)), grouped.targets(range(12)))


def test_names_classes_and_unverified_labels(tmp_path: Path) -> None:
    write(tmp_path, [(image(1), CODES[1], "1")])
    index = build(tmp_path, unverified="absent")
    assert index.labels.names == ("Animal", "Dog", "Cat (/m/03cat)", "Car", "Wheel", "Cat (/m/06cat)")
    assert index.targets([0]).tolist() == [[0, 1, 0, 0, 0, 0]]
    (tmp_path / "oidv6-classes-trainable.txt").write_text("/m/02dog\n/m/77nameless\n")
    assert build(tmp_path).labels.names == ("Dog", "/m/77nameless")
    assert build(tmp_path, classes="all").labels.names[-1] == 'Tea, "green"'


def test_splits_have_the_published_names_in_any_of_some_folders(tmp_path: Path) -> None:
    write(tmp_path, [])
    (tmp_path / "labels").mkdir()
    for name, number in (("validation", 1), ("test", 2)):
        write_rows(tmp_path / "labels" / f"{name}-annotations-human-imagelabels.csv", [(image(number), CODES[0], "1")])
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{image(number)}.jpg").touch()
    assert build(tmp_path, "val", missing="error").path(0) == str(tmp_path / "validation" / f"{image(1)}.jpg")
    assert build(tmp_path, "test", missing="error").path(0) == str(tmp_path / "test" / f"{image(2)}.jpg")
    (tmp_path / "test" / f"{image(2)}.jpg").unlink()
    (tmp_path / "test" / "x.jpg").touch()
    with pytest.raises(DataError, match="1 of the 1 images"):
        build(tmp_path, "test", missing="error", on_error="skip", unannotated="drop")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "its first line must name ImageID, LabelName, Confidence; found nothing"),
        ("ImageID,Source\n", "must name ImageID, LabelName, Confidence; found ImageID,Source"),
        ("ImageID,LabelName,Confidence\n", "holds no label"),
        ("ImageID,LabelName,Confidence\n00,/m/02dog,1\n", "line 2: ImageID '00' is not 16"),
        (f"ImageID,LabelName,Confidence\n{image(1)},/m/02dog,1\n0x{image(1)[2:]},/m/02dog,1\n", "line 3: ImageID '0x"),
        (f"ImageID,LabelName,Confidence\n{image(1)},/m/02dog,0.5\n", "line 2: Confidence 0.5 is not 0 or 1"),
        (f"ImageID,LabelName,Confidence\n{image(1)},/m/02dog,yes\n", "line 2: could not convert"),
        (f"ImageID,LabelName,Confidence\n{image(1)},/m/02dog\n", "line 2: 2 cells, expected 3"),
        (b"ImageID,LabelName,Confidence\n\xff\xfe\n", "cannot be read as CSV"),
    ],
)
def test_broken_label_files_are_named_with_the_line(tmp_path: Path, content: str | bytes, message: str) -> None:
    write(tmp_path, [])
    path = tmp_path / "oidv6-train-annotations-human-imagelabels.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=message) as caught:
        build(tmp_path)
    assert path.name in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("oidv6-classes-trainable.txt", "dog\n", "among them 'dog'; expected one code such as /m/01g317"),
        ("oidv6-classes-trainable.txt", "", "0 labels"),
        ("oidv6-classes-trainable.txt", "/m/1\n/m/1\n", "listed twice"),
        ("bbox_labels_600_hierarchy.json", '{"LabelName": "x", "Subcategory": [{}]}', "no hierarchy of labels"),
        ("bbox_labels_600_hierarchy.json", "[", "cannot be read as JSON, or was cut short"),
    ],
)
def test_broken_class_files_are_named(tmp_path: Path, name: str, content: str, message: str) -> None:
    write(tmp_path, [(image(1), CODES[0], "1")])
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message) as caught:
        build(tmp_path, expand_hierarchy=True)
    assert name in str(caught.value)


def test_what_is_missing_is_shown(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(DataError, match=r"oidv6-train-annotations-human-imagelabels.csv   <- missing(.|\n)*download"):
        build(tmp_path)
    write(tmp_path, [(image(1), CODES[0], "1")])
    with pytest.raises(DataError, match=r"train/   <- missing"):
        build(tmp_path, missing="error")


@pytest.mark.skipif(not DESCRIPTIONS.is_file(), reason="the real class descriptions are not here")
def test_the_real_class_descriptions(tmp_path: Path) -> None:
    write(tmp_path, [(image(1), "/m/0104x9kv", "1")])
    (tmp_path / "oidv6-class-descriptions.csv").write_bytes(DESCRIPTIONS.read_bytes())
    index = build(tmp_path, classes="all")
    assert len(index.labels) == 19_994
    assert index.labels.names[index.positives[0][0]] == "Vinegret"
