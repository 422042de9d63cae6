"""Properties: images keep their names and proportions, other files are copied unchanged, a stopped call is repeated."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mldec.data.coco import CocoJsonConfig
from mldec.data.image import decode, read_size
from mldec.data.index import ImageIndex
from mldec.data.shrink import copy_others, prepare_target, shrink, shrink_image
from mldec.data.voc import Voc2007Config
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
    prepare_target(str(source), tmp_path / "new", side=80, quality=90)
    prepare_target(str(source), tmp_path / "new", side=80, quality=90)
    with pytest.raises(DataError, match=r"was begun with .*'side': 80.*use another folder"):
        prepare_target(str(source), tmp_path / "new", side=96, quality=90)
    for inside in (source, source / "new", tmp_path):
        with pytest.raises(DataError, match="must lie outside of"):
            prepare_target(str(source), inside, side=80, quality=90)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(DataError, match="is not empty"):
        prepare_target(str(source), tmp_path / "full", side=80, quality=90)


def test_annotations_are_copied_byte_for_byte(source: Path, tmp_path: Path) -> None:
    """Also those of splits that lie elsewhere, and two of one name."""
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 400, "height": 200}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [40, 20, 100, 60], "area": 6000}],
        "categories": [{"id": 1, "name": "x"}],
    }
    lists = {"train": source / "list.json", "val": tmp_path / "list.json"}
    for path in lists.values():
        path.write_text(json.dumps(content))
    (source / "notes.txt").write_text("mine")
    files = {split: str(path) for split, path in lists.items()}
    images = {f"{split}_images": str(source / "images") for split in lists}
    config = CocoJsonConfig(name="coco_json", root=str(source), **files, **images)
    new = tmp_path / "new"
    settings = copy_others(config, new, dict.fromkeys(lists, "images"), ["list.json", "notes.txt"])
    assert settings == {
        "dataset.train": str(new / "list.json"),
        "dataset.train_images": str(new / "images"),
        "dataset.val": str(new / "val-list.json"),
        "dataset.val_images": str(new / "images"),
    }
    for name, old in (
        ("list.json", lists["train"]),
        ("val-list.json", lists["val"]),
        ("notes.txt", source / "notes.txt"),
    ):
        assert (new / name).read_bytes() == old.read_bytes()
    voc = Voc2007Config(name="voc2007", root=str(source))
    assert copy_others(voc, tmp_path / "voc", {"train": "images"}, ["notes.txt"]) == {}
    assert (tmp_path / "voc" / "notes.txt").read_text() == "mine"


def test_a_stop_leaves_nothing_half(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mldec.data.shrink.os.replace", stop)
    with pytest.raises(KeyboardInterrupt):
        shrink_image(str(source / "images" / "a.jpg"), tmp_path / "new" / "a.jpg", side=80, quality=90)
    assert list((tmp_path / "new").iterdir()) == []
    shutil.rmtree(tmp_path / "new")
