"""Properties: an image has the label of its folder; the disk decides which splits there are."""

import os
from pathlib import Path

import pytest

from mldec.data.data_checks import find_copies
from mldec.data.folder import FolderConfig, ImageNetConfig, build_folder, build_imagenet
from mldec.errors import ConfigError, DataError
from tests.tables import touch


def config(root: Path, **settings) -> FolderConfig:
    return FolderConfig(name="folder", root=str(root), **settings)


def test_folders_below_the_root_are_classes(tmp_path: Path) -> None:
    touch(tmp_path, "dog/b.JPG", "dog/deep/er/a.png", "cat/c d ü.webp", "cat/.hidden.jpg", ".git/x.jpg")
    mine = config(tmp_path)
    assert mine.splits == ("train",)
    index = build_folder(mine, split="train")
    assert index.labels.names == ("cat", "dog")
    assert list(index.names()) == ["cat/c d ü.webp", "dog/b.JPG", "dog/deep/er/a.png"]
    assert index.targets([0, 1, 2]).tolist() == [[1, 0], [0, 1], [0, 1]]
    with pytest.raises(ConfigError, match="no such split"):
        build_folder(mine, split="val")


@pytest.mark.parametrize("val", ["val", "valid", "validation"])
def test_splits_are_folders(tmp_path: Path, val: str) -> None:
    touch(tmp_path, "train/a/1.jpg", "train/b/2.jpg", f"{val}/b/3.jpg")
    mine = config(tmp_path)
    assert mine.splits == ("train", "val")
    assert build_folder(mine, split="val").targets([0]).tolist() == [[0, 1]]
    touch(tmp_path, f"{val}/c/4.jpg")
    with pytest.raises(DataError, match=rf"{val}/c: no label 'c'; .*a label that train lacks \(c\)"):
        build_folder(mine, split="val")


def test_classes_that_train_lacks_are_left_out_or_added(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "mldec")
    touch(tmp_path, "train/a/1.jpg", "train/c/2.jpg", "val/b/3.jpg", "val/c/4.jpg", "test/d/notes.txt", "test/a/5.jpg")
    with pytest.raises(DataError, match=r"use dataset\.labels=union to add, or dataset\.labels=train to leave out"):
        build_folder(config(tmp_path), split="val")
    union = config(tmp_path, labels="union")
    for split, targets in (("train", [[1, 0, 0, 0], [0, 0, 1, 0]]), ("val", [[0, 1, 0, 0], [0, 0, 1, 0]])):
        index = build_folder(union, split=split)
        assert index.labels.names == ("a", "b", "c", "d")
        assert index.targets(range(2)).tolist() == targets
    index = build_folder(config(tmp_path, labels="train"), split="val")
    assert (index.labels.names, list(index.names())) == (("a", "c"), ["c/4.jpg"])
    assert "left out 1 image of classes that train lacks (b)" in caplog.text
    assert (
        len(build_folder(config(tmp_path), split="test")) == 1
    )  # a folder without images is no label that train lacks


def test_class_folders_that_look_like_one_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, "Café/1.jpg", "cafe/2.jpg", "Traffic Light/3.jpg", "traffic_light/4.jpg", "-1/5.jpg", "1/6.jpg")
    build_folder(config(tmp_path, labels="union"), split="train")
    found = [record.getMessage() for record in caplog.records if "differ in case" in record.getMessage()]
    assert len(found) == 2
    assert "'Café' and 'cafe'" in found[0] + found[1]
    assert "'Traffic Light' and 'traffic_light'" in found[0] + found[1]


def test_what_is_no_image_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "mldec")
    touch(tmp_path, "a/1.jpg", "a/notes.txt", "b/Thumbs.db")
    assert len(build_folder(config(tmp_path), split="train")) == 1
    assert "left out 2 files whose ending is not that of an image (a/notes.txt, b/Thumbs.db)" in caplog.text
    assert "no image in 1 folder (b)" in caplog.text


def test_added_images_are_seen_at_any_depth(tmp_path: Path) -> None:
    touch(tmp_path, "a/deep/1.jpg")
    assert len(build_folder(config(tmp_path), split="train")) == 1
    touch(tmp_path, "a/deep/2.jpg")
    os.utime(tmp_path / "a" / "deep", ns=(0, 10**18))  # a coarse clock could have left it the same
    assert len(build_folder(config(tmp_path), split="train")) == 2


def test_the_cache_is_used_the_next_time_and_not_beside_the_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLDEC_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    touch(tmp_path / "data", "a/1.jpg", "b/2.jpg")
    build_folder(config(tmp_path / "data"), split="train")
    build_folder(config(tmp_path / "data"), split="train")
    assert len(os.listdir(tmp_path / "home" / "mldec")) == 1
    assert sorted(os.listdir(tmp_path / "data")) == ["a", "b"]
    touch(tmp_path / "data", "c/3.jpg")
    assert build_folder(config(tmp_path / "data"), split="train").labels.names == ("a", "b", "c")


def test_linked_class_folders_are_read(tmp_path: Path) -> None:
    touch(tmp_path, "store/x.jpg", "store/deep/y.jpg", "more/z.jpg", "mine/a/1.jpg")
    (tmp_path / "mine" / "b").symlink_to("../store")
    (tmp_path / "mine" / "a" / "c").symlink_to(tmp_path / "more")
    index = build_folder(config(tmp_path / "mine"), split="train")
    assert index.labels.names == ("a", "b")
    assert list(index.names()) == ["a/1.jpg", "a/c/z.jpg", "b/deep/y.jpg", "b/x.jpg"]
    touch(tmp_path, "store/new.jpg")
    os.utime(tmp_path / "store", ns=(0, 10**18))
    assert len(build_folder(config(tmp_path / "mine"), split="train")) == 5


def test_links_that_lead_back_are_left_out_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "mldec")
    touch(tmp_path, "mine/a/1.jpg", "mine/a/deep/2.jpg", "mine/b/3.jpg", "other/4.jpg")
    links = {"up": "..", "a/itself": "../a", "a/deep/root": tmp_path / "mine", "a/nowhere": "nowhere", "b/on": "on"}
    for name, target in links.items():
        (tmp_path / "mine" / name).symlink_to(target)
    (tmp_path / "link").symlink_to("mine")
    for root in ("mine", "link"):
        index = build_folder(config(tmp_path / root), split="train")
        assert list(index.names()) == ["a/1.jpg", "a/deep/2.jpg", "b/3.jpg"]
        assert "left out 3 folders behind links, read already (up, a/deep/root, a/itself)" in caplog.text
        caplog.clear()


def test_links_make_no_more_images_than_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for level in range(30):  # two links from each level to the next: 2**30 paths
        touch(tmp_path, f"web/{level}/{level}.jpg")
        for name in ("x", "y"):
            (tmp_path / "web" / str(level) / name).symlink_to(f"../{level + 1}")
    touch(tmp_path, "web/30/end.jpg", "mine/b/1.jpg")
    (tmp_path / "mine" / "a").symlink_to("../web/0")
    assert len(build_folder(config(tmp_path / "mine"), split="train")) == 32
    monkeypatch.setattr("mldec.data.folder_tree.MAX_LINKED", 29)
    with pytest.raises(DataError, match=r"links in .*mine lead to more than 29 folders; remove those"):
        build_folder(config(tmp_path / "mine", unannotated="drop"), split="train")


def test_a_class_that_is_a_broken_link_is_an_error(tmp_path: Path) -> None:
    touch(tmp_path, "mine/a/1.jpg")
    (tmp_path / "mine" / "b").symlink_to("/disk/not/mounted")
    with pytest.raises(DataError, match=r"mine/b: is a link to /disk/not/mounted, which does not exist .*mount what"):
        build_folder(config(tmp_path / "mine"), split="train")


def test_what_macos_adds_is_no_class_and_no_image(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "mldec")
    touch(tmp_path, "a/1.jpg", "a/._1.jpg", "__MACOSX/a/._1.jpg", ".DS_Store", ".git/x.jpg")
    index = build_folder(config(tmp_path), split="train")
    assert (index.labels.names, len(index)) == (("a",), 1)
    assert "left out 3 files and folders that macOS adds (.DS_Store, __MACOSX, a/._1.jpg)" in caplog.text


def test_formats_that_are_not_read_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, "a/1.jpg", "a/2.HEIC", "a/3.heic", "b/4.CR2", "b/5.jfif")
    assert len(build_folder(config(tmp_path), split="train")) == 2
    assert "skipped a/2.HEIC, a/3.heic: images in HEIC are not read; convert them to JPEG or PNG (macOS:" in caplog.text
    assert "skipped b/4.CR2: images in CR2 are not read; convert them to JPEG or PNG" in caplog.text
    touch(tmp_path / "phone", "a/1.heic")
    with pytest.raises(DataError, match=r"no image; skipped a/1\.heic: images in HEIC are not read; convert"):
        build_folder(config(tmp_path / "phone"), split="train")


def test_nothing_to_read_is_explained(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"dataset.root=.*absent: no such folder"):
        build_folder(config(tmp_path / "absent"), split="train")
    touch(tmp_path, "a.jpg")
    with pytest.raises(DataError, match=r"no folder in it; each class needs one. Found there: a.jpg"):
        build_folder(config(tmp_path), split="train")
    touch(tmp_path, "cat/a.txt")
    with pytest.raises(DataError, match="no image"):
        build_folder(config(tmp_path), split="train")


@pytest.mark.parametrize("prefix", ["", "ILSVRC/Data/CLS-LOC/"])
def test_imagenet(tmp_path: Path, prefix: str) -> None:
    names = ("train/n02/n02_1.JPEG", "train/n01/n01_7.JPEG", "val/n02/ILSVRC2012_val_00000001.JPEG", "val/n01/b.JPEG")
    touch(tmp_path, *(prefix + name for name in names))
    mine = ImageNetConfig(name="imagenet", root=str(tmp_path))
    train, test = (build_imagenet(mine, split=split) for split in ("train", "test"))
    assert train.labels.names == test.labels.names == ("n01", "n02")
    assert list(train.names()) == ["n01/n01_7.JPEG", "n02/n02_1.JPEG"]
    assert test.targets([0, 1]).tolist() == [[1, 0], [0, 1]]
    assert mine.expected("train").images == 1_281_167


def test_imagenet_as_unpacked_is_explained(tmp_path: Path) -> None:
    mine = ImageNetConfig(name="imagenet", root=str(tmp_path))
    with pytest.raises(DataError, match=r"train/   <- missing(.|\n)*Register at https://image-net.org/download"):
        build_imagenet(mine, split="train")
    touch(tmp_path, "train/n01/1.JPEG", "val/ILSVRC2012_val_00000001.JPEG")
    with pytest.raises(DataError, match=r"val: no class folders; sort its images into val/<wnid>/"):
        build_imagenet(mine, split="test")


def test_the_same_image_in_two_class_folders_is_named_or_joined(tmp_path: Path) -> None:
    contents = {"cat/1.jpg": "one", "dog/x.jpg": "one", "cat/2.jpg": "two", "cat/3.jpg": "two", "dog/4.jpg": "too"}
    for split, names in (("train", contents), ("val", {"dog/9.jpg": "one", "dog/8.jpg": "four"})):
        for name, content in names.items():
            (tmp_path / split / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / split / name).write_text(content)
    (tmp_path / "val" / "cat").mkdir()
    indexes = {split: build_folder(config(tmp_path), split=split) for split in ("train", "val")}
    apart, across = find_copies(indexes)
    assert "1 image is there several times" in apart
    assert "cat/1.jpg (train) = dog/x.jpg (train) = dog/9.jpg (val)" in apart
    assert "1 image is in several splits" in across
    assert len(find_copies({"train": indexes["train"]})) == 1

    joined = config(tmp_path, copies="join")
    index = build_folder(joined, split="train")
    assert (joined.single_label, config(tmp_path).single_label) == (False, True)
    assert list(index.names()) == ["cat/1.jpg", "cat/2.jpg", "dog/4.jpg"]
    assert index.targets(range(3)).tolist() == [[1, 1], [1, 0], [0, 1]]
    assert find_copies({"train": index}) == []
