"""coco18 is rebuilt by file names: the same tables to the byte, small JPEGs; what is missing or broken is named."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mldec.data.table import TableConfig, build_table
from mldec.errors import DataError
from scripts import make_coco18

#: sha256 of the tables and lists with which the results of this project were measured.
PUBLISHED = {
    "train.csv": "24ba8689f91d3bc531921068415e607b98c313dd13dbe492ec0125353579765a",
    "val.csv": "faa261f78600b4d99a35bc41692f042c5cdd72b5b32698352f23e7eb77ff072d",
    "test.csv": "8aa7664f0422d657c07f9a227d852fa1831aaab334fcc4171e4b3fcf3a342f89",
    "tags/train.csv": "6c67beee6d26734547f5564acaa43c4796ca14198eb9586cbe03f693ff087a08",
    "tags/val.csv": "9207a4094d6673152c821d58851fbeec905c5d45ece4a49b400d514f7c14a5d4",
    "tags/val_seen.csv": "d0d2383e335815be33bf5ab504b7463058276971ca12499ccd1e3041e9e82487",
    "tags/test.csv": "fe362e60a32d5d6143abc7772d1dccfd064787ced8567dbe1c72e1e42310d169",
    "tags/labels.txt": "4ca69da8c7edd569f0d47e1efeed1e77f5e7a4a668dc0daa4c7084f4b0c2a61c",
    "tags/seen.txt": "3b3f57d31642e0fa45dcd025efd2decf85d1683759d24445e59029dc97e58e9b",
    "tags/unseen.txt": "87c8d8b78299ed796e3113ed3ce4ce55e2bc7a9223f7e8d0d48925657a5401a8",
    "tags/heldout.txt": "b66d832996719efe751c7b2c4493be3399f6ba5419d5bf7fd36ecab6786133f5",
}
DATA = """# labels: 1 person, 10 traffic light
# tags, counted from 0: dog sky zebra
# tags held out where settings are chosen: sky
number,split,labels,tags
3,train,1 10,0 1
4,train,10,
7,val,1,1 2
20,test,1,
"""
SIZES = {3: (320, 240), 4: (100, 60), 7: (200, 301), 20: (1, 300)}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Four images of several sizes and modes, and coco18.csv for them beside their folder."""
    (tmp_path / "source" / "data").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for (number, (width, height)), mode in zip(SIZES.items(), ("RGB", "L", "CMYK", "RGB"), strict=True):
        image = Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).convert(mode)
        image.save(tmp_path / "source" / "data" / f"{number}.jpg", quality=75)
    (tmp_path / "coco18.csv").write_text(DATA)
    return tmp_path / "source"


def test_tables_of_the_committed_list_are_those_of_the_published_results(tmp_path: Path) -> None:
    photographs, tags, held_out = make_coco18.read_data()
    assert Counter(one.split for one in photographs) == {"train": 6000, "val": 1500, "test": 3000}
    (tmp_path / "tags").mkdir()
    make_coco18.write_tables(photographs, tags, held_out, tmp_path)
    found = {path.relative_to(tmp_path).as_posix(): path for path in tmp_path.rglob("*.*")}
    assert {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in found.items()} == PUBLISHED
    head = make_coco18.DATA.read_text(encoding="utf-8").partition("number,")[0]
    assert re.search(r"MS-COCO(.|\n)*CC BY 4.0(.|\n)*none is part of this project", head)


def test_a_source_becomes_small_images_and_tables_that_train_zero_shot(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "coco18"
    make_coco18.make(source, out, tmp_path / "coco18.csv")
    sizes = {3: (256, 192), 4: (100, 60), 7: (170, 256), 20: (1, 256)}
    assert {path.name for path in (out / "images").iterdir()} == {f"{number:05d}.jpg" for number in sizes}
    for number, size in sizes.items():
        with Image.open(out / "images" / f"{number:05d}.jpg") as image:
            assert (image.size, image.format) == (size, "JPEG")
            assert image.mode == ("L" if number == 4 else "RGB")
    assert (
        out / "train.csv"
    ).read_text() == "path,labels\nimages/00003.jpg,person;traffic light\nimages/00004.jpg,traffic light\n"
    assert (out / "tags" / "train.csv").read_text() == "path,labels\nimages/00003.jpg,dog;sky\n"
    assert (out / "tags" / "val_seen.csv").read_text() == "path,labels\nimages/00007.jpg,sky\n"
    assert (out / "tags" / "test.csv").read_text() == "path,labels\nimages/00020.jpg,\n"
    files = {split: str(out / "tags" / f"{split}.csv") for split in ("train", "val", "test")}
    config = TableConfig(name="table", root=str(out), unseen=str(out / "tags" / "unseen.txt"), **files)
    val = build_table(config, split="val")
    assert dict(zip(val.labels.names, val.labels.seen or (), strict=True)) == {"dog": True, "sky": True, "zebra": False}
    assert val.targets([0]).tolist() == [[0, 1, 1]]


def test_what_is_missing_broken_or_there_already_is_named(source: Path, tmp_path: Path) -> None:
    data = tmp_path / "coco18.csv"
    with pytest.raises(DataError, match=r"source: exists already; delete it, or name another directory"):
        make_coco18.make(source, source, data)
    (source / "data" / "7.jpg").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"7.jpg: cannot be read"):
        make_coco18.make(source, tmp_path / "broken", data)
    assert not list((tmp_path / "broken").rglob("*.csv"))
    (source / "data" / "7.jpg").unlink()
    with pytest.raises(DataError, match=r"1 of 4 photographs are missing \(.*7.jpg\); clone https://github.com/"):
        make_coco18.make(source, tmp_path / "out", data)
    assert not (tmp_path / "out").exists()
