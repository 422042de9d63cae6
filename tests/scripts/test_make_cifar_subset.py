"""scripts/make_cifar_subset.py takes the same images whatever their order, and as many of each class."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from mldec.data.cifar import RECORD, CifarConfig, build_cifar
from scripts import make_cifar_subset

CLASSES = 100


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A small CIFAR-100: 90 and 25 images of each class, in random order."""
    generator = np.random.default_rng(0)
    folder = tmp_path / "source" / "cifar-100-binary"
    folder.mkdir(parents=True)
    for name, count in (("train.bin", 90), ("test.bin", 25)):
        labels = generator.permutation(np.repeat(np.arange(CLASSES), count))
        planes = generator.integers(0, 256, (len(labels), RECORD - 2), np.uint8)
        np.column_stack([labels // 5, labels, planes]).astype(np.uint8).tofile(folder / name)
    (folder / "fine_label_names.txt").write_text("\n".join(f"class {n}" for n in range(CLASSES)) + "\n")
    return tmp_path / "source"


def records(path: Path) -> np.ndarray:
    return np.fromfile(path, np.uint8).reshape(-1, RECORD)


def test_as_many_of_each_class_and_readable_as_cifar(source, tmp_path, capsys):
    out = tmp_path / "out"
    assert make_cifar_subset.main([str(source), str(out)]) == 0
    for name, count in make_cifar_subset.PER_CLASS.items():
        made = records(out / "cifar-100-binary" / name)
        assert np.bincount(made[:, 1], minlength=CLASSES).tolist() == [count] * CLASSES
        given = {row.tobytes() for row in records(source / "cifar-100-binary" / name)}
        assert {row.tobytes() for row in made} <= given
    index = build_cifar(CifarConfig(name="cifar100", root=str(out)), split="train")
    assert len(index) == 8_000


def test_the_choice_does_not_depend_on_the_order_of_images(source, tmp_path):
    make_cifar_subset.make(source, tmp_path / "out")
    for name in make_cifar_subset.PER_CLASS:
        path = source / "cifar-100-binary" / name
        np.random.default_rng(1).permutation(records(path)).tofile(path)
    make_cifar_subset.make(source, tmp_path / "again")
    for name in make_cifar_subset.PER_CLASS:
        made, again = (tmp_path / folder / "cifar-100-binary" / name for folder in ("out", "again"))
        assert made.read_bytes() == again.read_bytes()


def test_mistakes_get_one_line_and_nothing_is_written(source, tmp_path, capsys):
    out = tmp_path / "out"
    assert make_cifar_subset.main([str(source)]) == 2
    assert make_cifar_subset.main([str(tmp_path / "nowhere"), str(out)]) == 1
    assert "mldec data download dataset=cifar100" in capsys.readouterr().err
    path = source / "cifar-100-binary" / "test.bin"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    assert make_cifar_subset.main([str(source), str(out)]) == 1
    assert "no whole number of images" in capsys.readouterr().err
    path.write_bytes(whole)
    records(path)[:500].tofile(path)
    assert make_cifar_subset.main([str(source), str(out)]) == 1
    assert "fewer than 20" in capsys.readouterr().err
    assert not out.exists()
    shutil.copytree(source, out)
    assert make_cifar_subset.main([str(source), str(out)]) == 1
    assert "exists already" in capsys.readouterr().err
