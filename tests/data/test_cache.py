"""Properties: a cached index equals the fresh one; any change of a source is seen; damage is seen; nothing is half."""

import errno
import logging
import os
import pickle
import resource
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from mldec.data import cache
from mldec.data.cache import cached
from mldec.data.dataset import DatasetConfig
from mldec.data.index import ImageIndex
from mldec.data.index_file import open_index, save_index
from mldec.errors import DataError
from mldec.labels import LabelSpace


@dataclass(frozen=True, kw_only=True)
class Config(DatasetConfig):
    shape: int = 0


SAMPLES = [("a.jpg", [0, 2], [1], []), ("sub/ü.jpg", [], [], []), ("c.jpg", [1], [0, 2], [])]


def make(root: Path) -> ImageIndex:
    labels = LabelSpace(["cat", "dog", "ein Vögelchen"], seen=[True, False, True])
    return ImageIndex.build(SAMPLES, root=str(root / "images"), labels=labels, default=-1)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, *_ in SAMPLES:
        (tmp_path / "data" / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / "images" / name).touch()
    (tmp_path / "data" / "labels.txt").write_text("one")
    return tmp_path / "data"


class Reader:
    """Reads `make(root)` and counts how often."""

    def __init__(self, root: Path) -> None:
        self.root, self.calls = root, 0

    def __call__(self) -> ImageIndex:
        self.calls += 1
        return make(self.root)


def get(root: Path, read: Callable[[], ImageIndex], split: str = "train", **settings) -> ImageIndex:
    config = Config(name="mine", root=str(root), **{"cache": str(root / "cache")} | settings)
    return cached(config, split, [str(root / "labels.txt")], read)


def test_what_is_saved_is_what_is_opened(root: Path, tmp_path: Path) -> None:
    index = make(root)
    mapped = save_index(index, str(tmp_path / "x.index"), str(root))
    assert mapped.fingerprint() == index.fingerprint()
    assert (mapped.root, mapped.labels) == (index.root, index.labels)
    assert list(mapped.names()) == [sample[0] for sample in SAMPLES]
    np.testing.assert_array_equal(mapped.targets([2, 0]), index.targets([2, 0]))
    assert isinstance(mapped.positives.values, np.memmap)
    assert sorted(os.listdir(tmp_path)) == ["data", "x.index"]
    copy = pickle.loads(pickle.dumps(mapped))
    assert copy.fingerprint() == index.fingerprint()
    assert isinstance(copy.paths.values, np.memmap)


def test_a_moved_dataset_takes_its_cache_along(root: Path, tmp_path: Path) -> None:
    save_index(make(root), str(root / "x.index"), str(root))
    root.rename(tmp_path / "elsewhere")
    moved, _, _ = open_index(str(tmp_path / "elsewhere" / "x.index"), str(tmp_path / "elsewhere"))
    assert moved.root == str(tmp_path / "elsewhere" / "images")


def test_empty_lists_take_no_room(tmp_path: Path) -> None:
    samples = [(f"{i}.jpg", [0], [], []) for i in range(10_000)]
    index = ImageIndex.build(samples, root=str(tmp_path), labels=LabelSpace(["a"]))
    save_index(index, str(tmp_path / "x"), str(tmp_path))
    assert os.path.getsize(tmp_path / "x") < 10_000 * (8 + 8 + 8 + 4) + 4096  # negatives and unknown: nothing
    assert len(pickle.dumps(open_index(str(tmp_path / "x"), str(tmp_path))[0])) < 4000


def test_sources_are_read_once_and_again_when_they_change(root: Path) -> None:
    read = Reader(root)
    first = get(root, read)
    assert get(root, read).fingerprint() == first.fingerprint() == make(root).fingerprint()
    assert read.calls == 1
    get(root, read, image_size=99, on_error="skip", scaled_decoding=False)  # these shape no index
    assert read.calls == 1
    get(root, read, split="test")
    get(root, read, shape=1)
    assert read.calls == 3
    (root / "labels.txt").write_text("three")
    get(root, read)
    assert read.calls == 4
    status = os.stat(root / "labels.txt")
    (root / "labels.txt").write_text("thr33")  # as long as before
    os.utime(root / "labels.txt", ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    get(root, read)
    assert read.calls == 5


@pytest.mark.parametrize("level", [logging.INFO, logging.WARNING])
def test_what_was_said_in_reading_is_said_each_time(root: Path, caplog: pytest.LogCaptureFixture, level: int) -> None:
    def read() -> ImageIndex:
        logging.getLogger("mldec.data.table").info("t.csv: labels separated by %s", "comma")
        logging.getLogger("mldec.data.own.label_names").warning("warning: t.csv: alike")
        logging.getLogger("mldec.data.table").info("t.csv: \x1b[2J%s", "a" * 10_000)
        logging.getLogger("mldec.data.coco").info("reading t.csv")  # progress
        return make(root)

    for calls in (0, 1):
        caplog.clear()
        with caplog.at_level(level if calls == 0 else logging.INFO):
            get(root, read)  # type: ignore[arg-type]
        said = [(record.levelno, record.getMessage()) for record in caplog.records if "t.csv" in record.getMessage()]
        if calls == 0:
            assert len(said) == (4 if level == logging.INFO else 1)
            continue
        assert said[:2] == [(20, "t.csv: labels separated by comma"), (30, "warning: t.csv: alike")]
        assert said[2][1].startswith("t.csv: \\x1b[2Jaaa")
        assert len(said[2][1]) == 2000
        assert len(said) == 3


def test_damage_anywhere_is_seen_and_mended(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    read = Reader(root)
    expected = get(root, read).fingerprint()
    (path,) = (root / "cache").iterdir()
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    spoilt = [whole[:-1], whole[: len(whole) // 2], b"", whole + b"x", whole[8:]]
    for place in (0, 70, len(whole) - 5, len(whole) - 30, *rng.integers(0, len(whole), 200)):
        spoilt.append(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
    for number, content in enumerate(spoilt, start=2):
        path.write_bytes(content)
        caplog.clear()
        assert get(root, read).fingerprint() == expected
        if read.calls != number:  # only bytes between arrays may change unseen, and they are covered too
            pytest.fail(f"damage {number} was not seen")
        assert "building it anew" in caplog.text
        assert path.read_bytes() == whole


def test_a_full_disk_leaves_nothing_half(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("mldec.files.os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        save_index(make(root), str(root / "cache" / "x.index"), str(root))
    assert os.listdir(root / "cache") == []
    monkeypatch.undo()
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    try:
        with pytest.raises(ValueError, match=r"cannot be written: .*too large"):
            save_index(make(root), str(root / "cache" / "x.index"), str(root))
    finally:
        resource.setrlimit(
            resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.getrlimit(resource.RLIMIT_FSIZE)[1])
        )
    assert os.listdir(root / "cache") == []


def test_what_a_killed_writer_left_is_removed(root: Path) -> None:
    (root / "cache").mkdir()
    old, new = root / "cache" / ".1.partial.index", root / "cache" / ".2.partial.index"
    old.touch()
    new.touch()
    os.utime(old, (0, 0))
    save_index(make(root), str(root / "cache" / "x.index"), str(root))
    assert sorted(os.listdir(root / "cache")) == [".2.partial.index", "x.index"]


def test_an_index_that_cannot_be_kept_is_used_all_the_same(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    (root / "file").touch()
    index = get(root, lambda: make(root), cache=str(root / "file" / "below"))
    assert index.fingerprint() == make(root).fingerprint()
    assert "is not kept" in caplog.text


def test_places_are_tried_in_their_order(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config(name="mine", root=str(root))
    monkeypatch.setenv("MLDEC_CACHE", str(tmp_path / "named"))
    assert cache.cache_folder(config) == str(tmp_path / "named")
    assert cache.cache_folder(replace(config, cache="/mine")) == "/mine"
    monkeypatch.delenv("MLDEC_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    get(root, lambda: make(root), cache=None)
    assert len(os.listdir(tmp_path / "home" / "mldec")) == 1
    assert not (root / ".mldec").exists()


def test_missing_images_stop_unless_told_otherwise(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    (root / "images" / "sub" / "ü.jpg").unlink()
    with pytest.raises(DataError, match=r"1 of the 3 images .* are missing \(sub/ü.jpg\).*dataset.missing=drop"):
        get(root, lambda: make(root))
    assert not (root / "cache").exists()
    assert list(get(root, lambda: make(root), missing="drop").names()) == ["a.jpg", "c.jpg"]
    assert "they are left out" in caplog.text
    assert len(get(root, lambda: make(root), missing="ignore")) == 3


def test_images_that_come_later_are_found(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    """dataset.missing=drop while images are still being fetched, some into folders that are yet to be made."""
    read = Reader(root)
    (root / "images" / "sub" / "ü.jpg").unlink()
    (root / "images" / "sub").rmdir()
    (root / "images" / "c.jpg").unlink()
    for _ in range(2):  # from the cache, too, it is said that some are missing
        caplog.clear()
        assert list(get(root, read, missing="drop").names()) == ["a.jpg"]
        assert "2 of the 3 images that the annotations list are missing; they are left out" in caplog.text
    assert read.calls == 1
    (root / "images" / "sub").mkdir()
    (root / "images" / "sub" / "ü.jpg").touch()
    assert list(get(root, read, missing="drop").names()) == ["a.jpg", "sub/ü.jpg"]
    (root / "images" / "c.jpg").touch()
    caplog.clear()
    assert len(get(root, read, missing="drop")) == len(get(root, read, missing="drop")) == 3
    assert read.calls == 3
    assert "missing" not in caplog.text


def test_when_no_image_is_left_it_is_said_why(root: Path) -> None:
    with pytest.raises(DataError, match=r"no image with a label; dataset.unannotated=keep"):
        get(root, lambda: make(root).subset([1]), unannotated="drop")
    for name, *_ in SAMPLES:
        (root / "images" / name).unlink()
    for missing in ("error", "drop"):
        with pytest.raises(DataError, match=r"3 of the 3 images .* are missing .*; use dataset.root=FOLDER"):
            get(root, lambda: make(root), missing=missing)


def test_excluded_and_unannotated_images_are_left_out(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "mldec")
    assert list(get(root, lambda: make(root), unannotated="drop").names()) == ["a.jpg", "c.jpg"]
    (root / "excluded.txt").write_text("# said by hand\n./images/a.jpg\n\nother/c.jpg\n")
    assert list(get(root, lambda: make(root)).names()) == ["sub/ü.jpg", "c.jpg"]
    assert "excluded.txt" in caplog.text
    (root / "mine.txt").write_text("images/c.jpg\nimages/sub/ü.jpg\nimages/a.jpg")
    with pytest.raises(DataError, match=r"mine.txt: leaves no image of .*; delete lines"):
        get(root, lambda: make(root), exclude=str(root / "mine.txt"))
    (root / "mine.txt").write_bytes(b"\xff")
    with pytest.raises(DataError, match=r"mine.txt: cannot be read as a list of images"):
        get(root, lambda: make(root), exclude=str(root / "mine.txt"))
    with pytest.raises(DataError, match=r"dataset.exclude=.*nothing.txt: no such file"):
        get(root, lambda: make(root), exclude=str(root / "nothing.txt"))
