"""Property: whatever a stranger or an accident put into a folder, `mldec data` says so in one line; nothing is lost."""

from __future__ import annotations

import errno
import json
import os
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from mldec.commands.main import run
from mldec.data import shrink
from mldec.data.shrink import copy_regular
from mldec.errors import DataError


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def image(path: Path | str, side: int = 40) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side + 8, 3), np.uint8)).save(path, "JPEG")


def folder_dataset(root: str = "ds") -> list[str]:
    for name in ("cat/0.jpg", "cat/1.jpg", "dog/2.jpg"):
        image(f"{root}/{name}")
    return ["dataset=folder", f"dataset.root={root}"]


def error(capsys: pytest.CaptureFixture[str]) -> str:
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert len(lines) == 1
    return lines[0]


def present(capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, int]:
    assert run(["data", "stats", *options, "output=stats"]) == 0
    capsys.readouterr()
    return {label["label"]: label["present"] for label in json.loads(Path("stats/train.json").read_text())["labels"]}


def test_fix_leaves_out_what_is_broken_whatever_it_is_called(capsys):
    sound, broken = ["p0.jpg", "7.jpg", "a.jpg"], ["#7.jpg", "x\np0.jpg", '"a.jpg"']
    for name in sound:
        image(name)
    for name in broken:
        Path(name).write_bytes(b"broken")
    rows = [json.dumps({"path": name, "labels": [f"l{number}"]}) for number, name in enumerate(sound + broken)]
    Path("t.jsonl").write_text("\n".join(rows) + "\n")
    options = ["dataset=table", "dataset.train=t.jsonl"]
    assert run(["data", "verify", *options, "workers=1", "fix=true", "output=problems.txt"]) == 0
    assert list(present(capsys, *options).values()) == [1, 1, 1, 0, 0, 0]
    assert run(["data", "verify", *options, "workers=1"]) == 0


def test_shrink_copies_regular_files_of_the_folder_and_says_what_not(capsys):
    options = folder_dataset()
    Path("ds/list.txt").write_text("x")
    os.symlink("list.txt", "ds/same.txt")
    os.symlink("/dev/zero", "ds/zeros.txt")
    os.symlink("/etc/hostname", "ds/elsewhere.txt")
    os.symlink("nowhere", "ds/nothing.txt")
    os.symlink("/etc", "ds/etc")
    os.mkfifo("ds/pipe.txt")
    began = time.monotonic()
    assert run(["data", "shrink", *options, "side=20", "output=out", "workers=1"]) == 1
    assert time.monotonic() - began < 60
    captured = capsys.readouterr()
    assert [line for line in captured.err.splitlines() if line.startswith("error: output=out: ")]
    for name in ("zeros.txt", "elsewhere.txt", "nothing.txt", "etc", "pipe.txt"):
        assert f"warning: left out: {name}: " in captured.err
        assert not os.path.lexists(f"out/{name}")
    assert (Path("out/list.txt").read_text(), Path("out/same.txt").read_text()) == ("x", "x")
    assert sorted(Image.open(path).size for path in Path("out").rglob("*.jpg")) == [(24, 20)] * 3


def test_shrink_looks_for_room_first(capsys, monkeypatch):
    options = folder_dataset()
    Path("ds/notes.txt").write_text("x")
    os.truncate("ds/notes.txt", 2**33)
    monkeypatch.setattr("mldec.data.shrink.shutil.disk_usage", lambda place: SimpleNamespace(free=2**32))
    assert run(["data", "shrink", *options, "side=20", "output=out", "workers=1"]) == 2
    assert "about 8.0 GiB are needed and 4.0 GiB are free" in error(capsys)
    assert not Path("out").exists()


COCO = {
    "images": [{"id": 1, "file_name": "0.jpg", "width": 48, "height": 40}],
    "annotations": [{"id": 7, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "area": 12}],
    "categories": [{"id": 1, "name": "cat"}],
}


@pytest.mark.parametrize(
    "geometry",
    [
        {"bbox": [float("nan"), 2, 3, float("inf")], "segmentation": [["x"]]},
        {"segmentation": {"size": [10**6, 10**6], "counts": [10**12]}},
        {"area": "large", "segmentation": {"size": [2, 2], "counts": "ooooooooo0"}},
    ],
)
def test_geometry_is_copied_unread(capsys, geometry):
    """Of a forged mask nothing is decoded: training reads ids and labels only."""
    image("ds/0.jpg")
    content = COCO | {"annotations": [COCO["annotations"][0] | geometry]}
    Path("ds/a.json").write_text(json.dumps(content))
    options = ["dataset=coco_json", "dataset.train=ds/a.json", "side=20", "output=out", "workers=1"]
    assert run(["data", "shrink", *options]) == 0
    assert Path("out/a.json").read_bytes() == Path("ds/a.json").read_bytes()


def test_two_tables_of_one_name_stay_two(capsys):
    for place, label in (("one", "cat"), ("two", "dog")):
        image(f"ds/{place}.jpg")
        Path(place).mkdir()
        Path(place, "list.csv").write_text(f"path,labels\n{place}.jpg,{label}\n")
    Path("labels.txt").write_text("cat\ndog\n")
    options = ["dataset=table", "dataset.root=ds", "dataset.train=one/list.csv", "dataset.val=two/list.csv"]
    assert run(["data", "shrink", *options, "dataset.labels=labels.txt", "side=20", "output=out", "workers=1"]) == 0
    printed = capsys.readouterr().out
    assert "dataset.train=out/list.csv dataset.val=out/val-list.csv" in printed
    assert "one.jpg" in Path("out/list.csv").read_text()
    assert "two.jpg" in Path("out/val-list.csv").read_text()


def test_a_disk_that_fills_up_leaves_whole_files_and_one_line(capsys, monkeypatch):
    options = folder_dataset()
    Path("ds/list.txt").write_text("x")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(shrink, "open_regular", full)
        assert run(["data", "shrink", *options, "side=20", "output=out", "workers=1"]) == 1
    assert "output=out: cannot write: No space left on device; the files that are written are whole" in error(capsys)
    assert not [path for path in Path("out").rglob("*") if "partial" in path.name]
    assert len(list(Path("out").rglob("*.jpg"))) == 3
    Path("out/cat/.77.partial.jpg").write_bytes(b"of a call that was killed")
    assert run(["data", "shrink", *options, "side=20", "output=out", "workers=1"]) == 0
    assert not Path("out/cat/.77.partial.jpg").exists()


def test_holes_stay_holes_and_bytes_bytes(tmp_path):
    content = b"a" + bytes(3 * 2**20) + b"b" + bytes(2**21)
    (tmp_path / "x").write_bytes(content)
    copy_regular(tmp_path / "x", tmp_path / "sub" / "y")
    assert (tmp_path / "sub" / "y").read_bytes() == content
    (tmp_path / "sparse").touch()
    os.truncate(tmp_path / "sparse", 2**30)
    copy_regular(tmp_path / "sparse", tmp_path / "copy")
    assert os.stat(tmp_path / "copy").st_size == 2**30
    assert os.stat(tmp_path / "copy").st_blocks * 512 < 2**24
    with pytest.raises(DataError, match="not a regular file"):
        copy_regular("/dev/zero", tmp_path / "z")
    assert sorted(os.listdir(tmp_path)) == ["copy", "sparse", "sub", "x"]


def test_an_image_too_long_to_be_written_is_left_out_and_no_stop(capsys):
    image("ds/cat/0.jpg")
    Image.new("L", (30, 80_000)).save("ds/cat/1.png")
    os.rename("ds/cat/1.png", "ds/cat/1.jpg")  # JPEG has no room for its longer side
    image("ds/dog/2.jpg")
    options = ["dataset=folder", "dataset.root=ds", "side=25", "output=out", "workers=1"]
    assert run(["data", "shrink", *options]) == 1
    assert "1.jpg: cannot be resized" in capsys.readouterr().err
    assert sorted(path.name for path in Path("out").rglob("*.jpg")) == ["0.jpg", "2.jpg"]


def test_folders_whose_names_are_no_utf8_work(capsys):
    """The names of images must be UTF-8; where the dataset lies is the user's."""
    root = os.fsdecode(b"d\xe9")
    folder_dataset(root)
    options = ["dataset=folder", f"root={root}"]
    assert present(capsys, *options) == {"cat": 2, "dog": 1}
    assert run(["data", "verify", *options, "workers=1"]) == 0
    Path(root, "cat", "1.jpg").write_bytes(b"broken")
    assert run(["data", "verify", *options, "workers=1", "fix=true"]) == 0
    assert "d\\xe9" in capsys.readouterr().out
    assert present(capsys, *options) == {"cat": 1, "dog": 1}
    assert run(["data", "shrink", *options, "side=20", "workers=1", f"output={os.fsdecode(bytes([0xE8]))}"]) == 0
