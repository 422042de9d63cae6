"""Properties: images keep their names and proportions, annotations keep what training reads, a stopped call is repeated."""

import json
import shutil
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from mldec.data.coco import read_coco_json
from mldec.data.image import decode, read_size
from mldec.data.index import ImageIndex
from mldec.data.shrink import (
    prepare,
    shrink,
    shrink_coco_json,
    shrink_image,
    shrink_voc_xml,
)
from mldec.errors import DataError
from mldec.labels import LabelSpace


def scene(width: int, height: int, box: tuple[int, int, int, int]) -> Image.Image:
    """Grey with a white box (x, y, width, height)."""
    pixels = np.full((height, width, 3), 60, np.uint8)
    x, y, w, h = box
    pixels[y : y + h, x : x + w] = 255
    return Image.fromarray(pixels)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    (folder / "images" / "sub").mkdir(parents=True)
    scene(400, 200, (40, 20, 100, 60)).save(folder / "images" / "a.jpg", quality=95)
    scene(90, 300, (9, 30, 30, 90)).save(folder / "images" / "sub" / "b.png")
    scene(100, 80, (1, 1, 9, 9)).save(folder / "images" / "small.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    scene(400, 200, (0, 0, 200, 200)).save(folder / "images" / "turned.jpg", exif=exif)
    (folder / "images" / "broken.jpg").write_bytes(b"no")
    return folder


def make(source: Path) -> ImageIndex:
    names = ["a.jpg", "sub/b.png", "small.jpg", "turned.jpg", "broken.jpg"]
    samples = [(name, [0], [], []) for name in names]
    return ImageIndex.build(samples, root=str(source / "images"), labels=LabelSpace(["x"]))


def test_the_shorter_side_shrinks_and_proportions_stay(source: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in source.rglob("*.*")}
    target = tmp_path / "new"
    done: list[int] = []
    problems = shrink(make(source), target, side=80, quality=90, workers=2, on_done=done.append)
    assert [Path(problem.path).name for problem in problems] == ["broken.jpg"]
    assert sum(done) == 5
    sizes = {name: read_size(str(target / name)) for name in ("a.jpg", "sub/b.png", "small.jpg", "turned.jpg")}
    assert sizes == {"a.jpg": (160, 80), "sub/b.png": (80, 267), "small.jpg": (100, 80), "turned.jpg": (80, 160)}
    assert (target / "small.jpg").read_bytes() == (source / "images" / "small.jpg").read_bytes()
    assert Image.open(target / "sub" / "b.png").format == "PNG"
    assert decode(str(target / "turned.jpg"))[:70].mean() > 250  # upright: the white half is on top
    assert {path: path.read_bytes() for path in source.rglob("*.*")} == before
    assert not list(target.rglob("*.partial"))


def test_what_is_there_is_not_made_again(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "new"
    shrink(make(source), target, side=80, workers=1)
    (target / "a.jpg").write_bytes(b"mine")
    (target / "sub" / "b.png").unlink()
    shrink(make(source), target, side=80, workers=1)
    assert (target / "a.jpg").read_bytes() == b"mine"
    assert read_size(str(target / "sub" / "b.png")) == (80, 267)


def test_folders_that_do_not_fit_are_refused(source: Path, tmp_path: Path) -> None:
    prepare(str(source), tmp_path / "new", side=80, quality=90)
    prepare(str(source), tmp_path / "new", side=80, quality=90)
    with pytest.raises(DataError, match=r"was begun with .*'side': 80.*use another folder"):
        prepare(str(source), tmp_path / "new", side=96, quality=90)
    for inside in (source, source / "new", tmp_path):
        with pytest.raises(DataError, match="must lie outside of"):
            prepare(str(source), inside, side=80, quality=90)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(DataError, match="is not empty"):
        prepare(str(source), tmp_path / "full", side=80, quality=90)


def test_coco_keeps_ids_labels_and_sizes_and_loses_geometry(source: Path, tmp_path: Path) -> None:
    """Boxes of the old image would be wrong in the new one; what training reads is the same in both."""
    geometry = {
        "bbox": [40, 20, 100, 60],
        "area": 6000,
        "segmentation": [[40, 20, 140, 20, 140, 80, 40, 80]],
        "keypoints": [1, 2, 3],
        "num_keypoints": 1,
    }
    content = {
        "images": [
            {"id": 1, "file_name": "a.jpg", "width": 400, "height": 200},
            {"id": 2, "file_name": "gone.jpg", "width": 9, "height": 9},
            {"id": 3, "file_name": "b.jpg"},
        ],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0} | geometry,
            {"id": 9, "image_id": 2, "category_id": 2, "bbox": [1, 2, 3, 4]},
        ],
        "categories": [{"id": 1, "name": "x"}, {"id": 2, "name": "y"}],
    }
    target = tmp_path / "new"
    shrink(make(source), target, side=80, workers=1)
    path = tmp_path / "x.json"
    path.write_text(json.dumps(content))
    old = read_coco_json(str(path), str(target))
    shrink_coco_json(path, None)
    assert json.loads(path.read_text()) == content  # a check writes nothing
    shrink_coco_json(path, target)
    new = json.loads(path.read_text())
    assert (new["images"][0]["width"], new["images"][0]["height"]) == (160, 80)
    assert new["images"][1:] == content["images"][1:]
    assert new["annotations"] == [
        {"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0},
        {"id": 9, "image_id": 2, "category_id": 2},
    ]
    assert new["categories"] == content["categories"]
    assert read_coco_json(str(path), str(target)).fingerprint() == old.fingerprint()
    path.write_text(json.dumps({"images": [{"width": 1}], "annotations": [7]}))
    with pytest.raises(DataError, match=r"x\.json: is not COCO JSON"):
        shrink_coco_json(path, None)


def test_voc_keeps_labels_and_sizes_and_loses_boxes(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "new"
    shrink(make(source), target, side=80, workers=1)
    path = tmp_path / "a.xml"
    box = "<bndbox><xmin>41</xmin><ymin>21</ymin><xmax>140</xmax><ymax>80</ymax></bndbox>"
    part = f"<part><name>head</name>{box}</part>"
    text = (
        "<annotation><size><width>400</width><height>200</height><depth>3</depth></size>"
        f"<object><name>x</name><difficult>1</difficult>{box}{part}</object><object>{box}<name>y</name></object></annotation>"
    )
    path.write_text(text)
    shrink_voc_xml(path, None)
    shrink_voc_xml(path, target / "gone.jpg")
    assert path.read_text() == text
    shrink_voc_xml(path, target / "a.jpg")
    root = ElementTree.parse(path).getroot()
    assert [root.findtext(f"size/{name}") for name in ("width", "height", "depth")] == ["160", "80", "3"]
    assert [item.findtext("name") for item in root.iter("object")] == ["x", "y"]
    assert root.findtext("object/difficult") == "1"
    assert list(root.iter("bndbox")) == []


def test_a_stop_leaves_nothing_half(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mldec.data.shrink.os.replace", stop)
    with pytest.raises(KeyboardInterrupt):
        shrink_image(str(source / "images" / "a.jpg"), tmp_path / "new" / "a.jpg", side=80, quality=90)
    assert list((tmp_path / "new").iterdir()) == []
    shutil.rmtree(tmp_path / "new")
