"""Properties: the labels are those of the XML, difficult objects in three ways; every broken file is named."""

import shutil
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from mldec.data.voc import LABELS, Voc2007Config, Voc2012Config, build_voc
from mldec.errors import DataError

SAMPLE = Path(__file__).parents[3] / "shared" / "data" / "voc2007_100"


def xml(*objects: tuple[str, int]) -> str:
    body = "".join(
        f"<object><name>{name}</name><pose>Left</pose><difficult>{difficult}</difficult></object>"
        for name, difficult in objects
    )
    return f"<annotation><filename>x.jpg</filename>{body}</annotation>"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three images in trainval.txt, one in test.txt."""
    folder = tmp_path / "VOCdevkit" / "VOC2007"
    for name in ("ImageSets/Main", "Annotations", "JPEGImages"):
        (folder / name).mkdir(parents=True)
    objects = {
        "000005": [("dog", 0), ("cat", 1), ("dog", 1)],
        "000007": [("person", 1)],
        "000009": [],
        "000001": [("tvmonitor", 0)],
    }
    for name, content in objects.items():
        (folder / "Annotations" / f"{name}.xml").write_text(xml(*content))
        (folder / "JPEGImages" / f"{name}.jpg").touch()
    (folder / "ImageSets" / "Main" / "trainval.txt").write_text("000007\n000005  1\r\n\n000009\n")
    (folder / "ImageSets" / "Main" / "test.txt").write_text("000001\n")
    return tmp_path


def build(root: Path, split: str = "train", **settings):
    return build_voc(Voc2007Config(name="voc2007", root=str(root), **settings), split=split)


@pytest.mark.parametrize(("difficult", "cat", "person"), [("unknown", -1, -1), ("present", 1, 1), ("absent", 0, 0)])
def test_difficult_objects_count_as_said_and_clear_ones_always(
    root: Path, difficult: str, cat: int, person: int
) -> None:
    index = build(root, difficult=difficult)
    assert list(index.names()) == ["000007.jpg", "000005.jpg", "000009.jpg"]
    expected = np.zeros((3, 20), np.int8)
    expected[0, LABELS.index("person")] = person
    expected[1, LABELS.index("cat")] = cat
    expected[1, LABELS.index("dog")] = 1
    np.testing.assert_array_equal(index.targets([0, 1, 2]), expected)
    assert build(root, "test").targets([0])[0, 19] == 1


def test_the_root_may_be_any_of_three_folders(root: Path) -> None:
    expected = build(root).fingerprint()
    for below in ("VOCdevkit", "VOCdevkit/VOC2007"):
        assert build(root / below).fingerprint() == expected


def test_an_annotation_that_is_corrected_in_place_is_read_again(root: Path) -> None:
    assert build(root).targets([1])[0, LABELS.index("sheep")] == 0
    path = root / "VOCdevkit" / "VOC2007" / "Annotations" / "000005.xml"
    before = path.parent.stat()
    path.write_text(xml(("sheep", 0)))
    assert path.parent.stat().st_mtime_ns == before.st_mtime_ns  # the folder tells nothing of it
    assert build(root).targets([1])[0, LABELS.index("sheep")] == 1


def test_2012_is_tested_on_val(root: Path) -> None:
    folder = root / "VOCdevkit" / "VOC2012"
    (root / "VOCdevkit" / "VOC2007").rename(folder)
    (folder / "ImageSets" / "Main" / "train.txt").write_text("000005\n")
    (folder / "ImageSets" / "Main" / "val.txt").write_text("000007\n000001\n")
    config = Voc2012Config(name="voc2012", root=str(root))
    assert [len(build_voc(config, split=split)) for split in ("train", "test")] == [1, 2]
    with pytest.raises(DataError, match=r"VOCdevkit/VOC2007/ImageSets/Main/trainval\.txt   <- missing"):
        build(root)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("ImageSets/Main/trainval.txt", "\n", "trainval.txt: names no image"),
        ("ImageSets/Main/trainval.txt", "../x\n", r"trainval.txt: '../x' is not an image id"),
        ("ImageSets/Main/trainval.txt", "000005\n000005\n", "'000005.jpg' is listed twice"),
        ("ImageSets/Main/trainval.txt", "000008\n", r"000008.xml: cannot be read: No such file"),
        ("Annotations/000005.xml", "<annotation><object>", r"000005.xml: is not XML, or was cut short"),
        ("Annotations/000005.xml", xml(("dgo", 0)), r"000005.xml: no label 'dgo'; did you mean dog"),
        ("Annotations/000005.xml", "<annotation><object/></annotation>", "000005.xml: an object without a name"),
        (
            "Annotations/000005.xml",
            '<!DOCTYPE a [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><annotation>&b;</annotation>',
            "000005.xml: holds a document type or entities",
        ),
    ],
)
def test_broken_files_are_named(root: Path, file: str, content: str, message: str) -> None:
    (root / "VOCdevkit" / "VOC2007" / file).write_text(content)
    with pytest.raises(DataError, match=message):
        build(root)


def test_own_classes_are_those_of_train_and_the_error_says_how(root: Path) -> None:
    folder = root / "VOCdevkit" / "VOC2007"
    for name, label in (("000005", "helmet"), ("000007", "vest"), ("000001", "vest")):
        (folder / "Annotations" / f"{name}.xml").write_text(xml((label, 0), ("helmet", 1)))
    with pytest.raises(DataError, match=r"no label '\w+'; .*for classes of your own: dataset\.classes=own$"):
        build(root)
    index = build(root, classes="own")
    assert index.labels.names == ("helmet", "vest")
    assert list(index.names()) == ["000007.jpg", "000005.jpg", "000009.jpg"]
    np.testing.assert_array_equal(index.targets([0, 1, 2]), [[-1, 1], [1, 0], [0, 0]])
    np.testing.assert_array_equal(build(root, "test", classes="own").targets([0]), [[-1, 1]])
    (folder / "Annotations" / "000001.xml").write_text(xml(("glove", 0)))
    with pytest.raises(DataError, match=r"000001.xml: no label 'glove'; .*no annotation of train has it"):
        build(root, "test", classes="own")


def test_own_splits_are_the_image_sets_that_there_are(root: Path) -> None:
    main = root / "VOCdevkit" / "VOC2007" / "ImageSets" / "Main"
    config = Voc2007Config(name="voc2007", root=str(root), classes="own")
    assert config.splits == ("train", "test")
    (main / "train.txt").write_text("000005\n")
    (main / "val.txt").write_text("000005\n")
    assert config.splits == ("train", "val", "test")
    assert len(build_voc(config, split="train")) == len(build_voc(config, split="val")) == 1
    (main / "test.txt").unlink()
    assert config.splits == ("train", "val")
    assert Voc2007Config(name="voc2007", root=str(root)).splits == ("train", "test")
    (main / "trainval.txt").unlink()
    with pytest.raises(DataError, match=r"trainval\.txt   <- missing(.|\n)*dataset\.classes=own"):
        build(root)
    shutil.rmtree(main)
    assert config.splits == ("train",)
    assert list(build(root, classes="own").names()) == ["000001.jpg", "000005.jpg", "000007.jpg", "000009.jpg"]
    (root / "VOCdevkit" / "VOC2007" / "JPEGImages").rename(root / "VOCdevkit" / "VOC2007" / "images")
    with pytest.raises(DataError, match=rf"in this layout: dataset={root};"):
        build(root, classes="own")


def test_names_may_hold_spaces_and_images_be_png(root: Path) -> None:
    folder = root / "VOCdevkit" / "VOC2007"
    for name, suffix in (("IMG 01-a", ".png"), ("IMG 1", ".jpg"), ("IMG", ".JPEG")):
        (folder / "Annotations" / f"{name}.xml").write_text(xml(("cat", 0)))
        (folder / "JPEGImages" / f"{name}{suffix}").touch()
    (folder / "ImageSets" / "Main" / "trainval.txt").write_text("IMG 01-a\nIMG 1\nIMG  1\n")
    assert list(build(root).names()) == ["IMG 01-a.png", "IMG 1.jpg", "IMG.JPEG"]


def test_a_missing_image_is_named(root: Path) -> None:
    (root / "VOCdevkit" / "VOC2007" / "JPEGImages" / "000009.jpg").unlink()
    with pytest.raises(DataError, match=r"1 of the 3 images .* missing \(000009.jpg\)"):
        build(root)


@pytest.mark.skipif(not SAMPLE.is_dir(), reason="the sample of VOC2007 is not here")
@pytest.mark.parametrize(("split", "image_set", "count"), [("train", "trainval", 64), ("test", "test", 36)])
def test_the_real_sample_has_the_labels_of_its_xml_and_of_its_image_sets(
    split: str, image_set: str, count: int
) -> None:
    index = build(SAMPLE, split)
    assert len(index) == count
    folder = SAMPLE / "VOCdevkit" / "VOC2007"
    names = (folder / "ImageSets" / "Main" / f"{image_set}.txt").read_text().split()
    assert list(index.names()) == [f"{name}.jpg" for name in names]
    targets = index.targets(range(count))
    for row, name in enumerate(names):
        expected = np.zeros(20, np.int8)
        objects = ElementTree.parse(folder / "Annotations" / f"{name}.xml").getroot().findall("object")
        for wanted, value in (("1", -1), ("0", 1)):
            for item in objects:
                if item.findtext("difficult") == wanted:
                    expected[LABELS.names.index(item.findtext("name"))] = value
        np.testing.assert_array_equal(targets[row], expected)
    assert (targets == -1).any()
    for column, label in enumerate(LABELS.names):  # there 1 is present, -1 absent, 0 difficult
        lines = (folder / "ImageSets" / "Main" / f"{label}_{image_set}.txt").read_text().splitlines()
        states = {line.split()[0]: {"1": 1, "-1": 0, "0": -1}[line.split()[1]] for line in lines}
        assert [states[name] for name in names] == targets[:, column].tolist()
