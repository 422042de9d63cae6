"""Properties: images are those of the published batches, to the pixel; what is damaged is named."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from mldec.data.cifar import CifarConfig, build_cifar
from mldec.data.image import decode
from mldec.errors import DataError

NAMES = [f"thing_{number:02d}" for number in range(100)]
COUNTS = {"train": 200, "test": 100}


def batch(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Planes (S,3072) and fine labels (S,)."""
    rng = np.random.default_rng(len(split))
    labels = np.concatenate([np.arange(100), rng.integers(0, 100, COUNTS[split] - 100)])
    return rng.integers(0, 256, (COUNTS[split], 3072), np.uint8), labels


def write_binary(root: Path) -> None:
    folder = root / "cifar-100-binary"
    folder.mkdir()
    for split in COUNTS:
        planes, labels = batch(split)
        records = np.column_stack([labels // 5, labels, planes]).astype(np.uint8)
        records.tofile(folder / f"{split}.bin")
    (folder / "fine_label_names.txt").write_text("\n".join(NAMES) + "\n\n")


def config(root: Path) -> CifarConfig:
    return CifarConfig(name="cifar100", root=str(root))


def test_images_and_labels_are_those_of_the_batches(tmp_path: Path) -> None:
    write_binary(tmp_path)
    for split, count in COUNTS.items():
        index = build_cifar(config(tmp_path), split=split)
        assert len(index) == count
        assert index.labels.names == tuple(NAMES)
        planes, labels = batch(split)
        for row in range(0, count, 17):
            number = int(Path(index.path(row)).stem)
            np.testing.assert_array_equal(decode(index.path(row)).transpose(2, 0, 1).ravel(), planes[number])
            assert index.positives[row].tolist() == [labels[number]]
    assert len([name for name in os.listdir(tmp_path) if name.startswith("images-")]) == 1
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".draft")]


def test_pickles_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "cifar-100-python").mkdir()
    for name in ("train", "test", "meta"):
        (tmp_path / "cifar-100-python" / name).write_bytes(pickle.dumps({b"data": 1}))
    with pytest.raises(
        DataError, match=r"cifar-100-binary/train.bin   <- missing(.|\n)*holds pickles, which are not read"
    ):
        build_cifar(config(tmp_path), split="train")


def test_damaged_batches_are_named_and_leave_nothing(tmp_path: Path) -> None:
    write_binary(tmp_path)
    path = tmp_path / "cifar-100-binary" / "test.bin"
    whole = path.read_bytes()
    for content, message in [
        (whole[:-1], "no whole number of images of 3,074; cut short"),
        (b"", "cut short"),
        (whole[:1] + b"\x64" + whole[2:], "label 100 is out of range; fine labels are 0 to 99"),
    ]:
        path.write_bytes(content)
        with pytest.raises(DataError, match=rf"test.bin: .*{message}"):
            build_cifar(config(tmp_path), split="train")
    path.write_bytes(whole)
    (tmp_path / "cifar-100-binary" / "fine_label_names.txt").write_text("../evil\n" * 100)
    with pytest.raises(DataError, match=r"fine_label_names.txt: expected 100 names"):
        build_cifar(config(tmp_path), split="train")
    assert os.listdir(tmp_path) == ["cifar-100-binary"]


def test_what_is_missing_is_shown(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"cifar-100-binary/train.bin   <- missing(.|\n)*data download dataset=cifar100"
    ):
        build_cifar(config(tmp_path), split="train")
