"""Properties: all three forms of the dataset say the same."""

import struct
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from mldec.data.cars import MAX_UNPACKED, CarsConfig, build_cars
from mldec.errors import DataError

NAMES = ["AM General Hummer SUV 2000", "Acura RL Sedan 2012", "Ram C/V Cargo Van Minivan 2012"]
TRAIN = [("00001.jpg", 3), ("00002.jpg", 1), ("00003.jpg", 3)]
TEST = [("00001.jpg", 2), ("00002.jpg", 3)]


def cells(names: list[str]) -> np.ndarray:
    cell = np.empty((1, len(names)), object)
    cell[0] = names
    return cell


def structs(rows: list[dict[str, object]]) -> np.ndarray:
    array = np.empty((1, len(rows)), [(name, object) for name in rows[0]])
    for place, row in enumerate(rows):
        array[0, place] = tuple(row.values())
    return array


def boxes(rows: list[tuple[str, int]]) -> np.ndarray:
    box = {"bbox_x1": 39.0, "bbox_y1": 116.0, "bbox_x2": 569.0, "bbox_y2": 375.0}
    return structs([box | {"class": float(number), "fname": name} for name, number in rows])


def write_kit(root: Path, beside: bool) -> None:
    (root / "devkit").mkdir()
    savemat(root / "devkit" / "cars_meta.mat", {"class_names": cells(NAMES)})
    savemat(root / "devkit" / "cars_train_annos.mat", {"annotations": boxes(TRAIN)})
    place = root if beside else root / "devkit"
    savemat(place / "cars_test_annos_withlabels.mat", {"annotations": boxes(TEST)})
    for split, rows in (("train", TRAIN), ("test", TEST)):
        (root / f"cars_{split}").mkdir()
        for name, _ in rows:
            (root / f"cars_{split}" / name).touch()


def config(root: Path) -> CarsConfig:
    return CarsConfig(name="stanford_cars", root=str(root))


def targets(root: Path, split: str) -> list[list[int]]:
    index = build_cars(config(root), split=split)
    assert index.labels.names == tuple(NAMES)
    return index.targets(range(len(index))).tolist()


@pytest.mark.parametrize("beside", [False, True])
def test_the_development_kit(tmp_path: Path, beside: bool) -> None:
    write_kit(tmp_path, beside)
    assert targets(tmp_path, "train") == [[0, 0, 1], [1, 0, 0], [0, 0, 1]]
    assert targets(tmp_path, "test") == [[0, 1, 0], [0, 0, 1]]


def test_the_single_file(tmp_path: Path) -> None:
    rows = [
        {"relative_im_path": f"car_ims/{place:06d}.jpg", "bbox_x1": 1.0, "class": float(number), "test": float(test)}
        for place, (number, test) in enumerate([(3, 0), (2, 1), (1, 0), (3, 0), (3, 1)], start=1)
    ]
    savemat(tmp_path / "cars_annos.mat", {"annotations": structs(rows), "class_names": cells(NAMES)})
    (tmp_path / "car_ims").mkdir()
    for row in rows:
        (tmp_path / row["relative_im_path"]).touch()
    assert targets(tmp_path, "train") == [[0, 0, 1], [1, 0, 0], [0, 0, 1]]
    assert targets(tmp_path, "test") == [[0, 1, 0], [0, 0, 1]]


def test_class_folders(tmp_path: Path) -> None:
    for name in ("train/BMW X5/1.jpg", "train/Audi A4/2.jpg", "test/Audi A4/3.jpg", "test/BMW X5/4.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    index = build_cars(config(tmp_path), split="test")
    assert index.labels.names == ("Audi A4", "BMW X5")
    assert index.targets([0, 1]).tolist() == [[1, 0], [0, 1]]


def test_what_is_missing_or_wrong_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"devkit/cars_meta.mat   <- missing(.|\n)*cars_annos.mat with car_ims/"):
        build_cars(config(tmp_path), split="train")
    write_kit(tmp_path, beside=False)
    kit = tmp_path / "devkit"
    without = [{"bbox_x1": 1.0, "fname": "00001.jpg"}]
    for name, content, message in [
        (
            "cars_train_annos.mat",
            {"annotations": boxes([("00001.jpg", 4)])},
            "class 4 is out of range; classes are 1 to 3",
        ),
        ("cars_train_annos.mat", {"annotations": boxes([("../1.jpg", 1)])}, "'../1.jpg' leaves the dataset's folder"),
        (
            "cars_train_annos.mat",
            {"annotations": structs([{"fname": "00001.jpg", "class": "BMW"}])},
            "expected a number, found 'BMW'",
        ),
        ("cars_train_annos.mat", {"annotations": structs(without)}, "must have fname, class, found bbox_x1, fname"),
        ("cars_train_annos.mat", {"other": 1}, "must have fname, class, found nothing"),
        ("cars_meta.mat", {"other": 1}, "holds no class_names"),
    ]:
        kept = (kit / name).read_bytes()
        savemat(kit / name, content)
        with pytest.raises(DataError, match=f"{name}: .*{message}"):
            build_cars(config(tmp_path), split="train")
        (kit / name).write_bytes(kept)
    (kit / "cars_train_annos.mat").write_bytes(b"no matlab")
    with pytest.raises(DataError, match=r"cannot be read as a \.mat file"):
        build_cars(config(tmp_path), split="train")


def nested(depth: int) -> bytes:
    """A .mat file whose only variable is a cell in a cell in a cell, …"""
    cell = struct.pack("<6I2i2I", 6, 8, 1, 0, 5, 8, 1, 1, 1, 0)
    name = b"annotations".ljust(16, b"\0")
    outermost = struct.pack("<6I2i2I", 6, 8, 1, 0, 5, 8, 1, 1, 1, 11) + name
    parts, size = [], 0
    for level in range(depth):
        head = cell if level < depth - 1 else outermost
        size += len(head)
        parts.append(struct.pack("<2I", 14, size) + head)
        size += 8
    return b"MATLAB 5.0".ljust(124) + struct.pack("<2H", 0x100, 0x4D49) + b"".join(reversed(parts))


def test_files_of_strangers_crash_and_fill_nothing(tmp_path: Path) -> None:
    write_kit(tmp_path, beside=False)
    file = tmp_path / "devkit" / "cars_train_annos.mat"
    for depth in (10, 50_000):  # scipy recurses in C
        file.write_bytes(nested(depth))
        with pytest.raises(DataError, match=r"cars_train_annos\.mat"):
            build_cars(config(tmp_path), split="train")
    savemat(file, {"annotations": np.zeros(MAX_UNPACKED, np.uint8)}, do_compression=True)
    assert file.stat().st_size < 2**20
    with pytest.raises(DataError, match="unpack to more than 134,217,728 bytes"):
        build_cars(config(tmp_path), split="train")
    savemat(file, {"annotations": boxes(TRAIN)}, do_compression=True)
    assert targets(tmp_path, "train")
