"""Properties: Parquet files with images in them, in the layout of Hugging Face's `datasets`, give the index that the
same images and labels give as files and a table; images are unpacked once, whole or not at all."""

import io
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mldec.commands.compose import compose, load_components
from mldec.config import build_component
from mldec.data.index import ImageIndex
from mldec.data.own import parquet_images
from mldec.data.own.locate import locate
from mldec.data.own.parquet_images import find_images_inside, shards_of
from mldec.data.table import TableConfig, build_table
from mldec.data.table_file import open_table_file, write_table_file
from mldec.errors import DataError

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
NAMES = ["dog", "cat", "bird"]
FEATURES = {
    "image": {"_type": "Image"},
    "labels": {"feature": {"names": NAMES, "_type": "ClassLabel"}, "_type": "Sequence"},
}
LABELS: list[list[int]] = [[0, 1], [0], [], [1, 0]]


def encoded(number: int, form: str = "JPEG") -> bytes:
    """An image of one colour, which tells its number."""
    out = io.BytesIO()
    Image.new("RGB", (8, 8), (number * 20, 100, 50)).save(out, form)
    return out.getvalue()


def write(
    path: Path, images: list[dict[str, Any] | None], labels: list[Any], features: Any = FEATURES, **options: Any
) -> str:
    table = pa.table({"image": pa.array(images, IMAGE), "labels": labels})
    if features is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table, path, **options)
    return str(path)


def some(count: int = 4, name: str = "p{}.jpg", start: int = 0) -> list[dict[str, Any] | None]:
    return [{"bytes": encoded(start + i), "path": name.format(start + i)} for i in range(count)]


def build(path: str, split: str = "train", **settings: Any) -> ImageIndex:
    return build_table(TableConfig(name="table", train=path, **settings), split=split)


def colours(index: ImageIndex) -> list[int]:
    return [round(np.asarray(Image.open(index.path(row)))[0, 0, 0] / 20) for row in range(len(index))]


def test_images_and_the_names_of_classes_are_read(tmp_path: Path) -> None:
    index = build(write(tmp_path / "t.parquet", some(), LABELS, row_group_size=3))
    assert index.labels.names == tuple(NAMES)  # in the order of ClassLabel, also those without an image
    assert index.targets(range(4)).tolist() == [[1, 1, 0], [1, 0, 0], [0, 0, 0], [1, 1, 0]]
    assert list(index.names()) == ["p0.jpg", "p1.jpg", "p2.jpg", "p3.jpg"]
    assert colours(index) == [0, 1, 2, 3]
    assert Path(index.root).parent == Path(os.environ["MLDEC_CACHE"])


@pytest.mark.parametrize(
    ("labels", "features", "names", "expected"),
    [
        ([1, 0, -1, 1], {"labels": {"names": NAMES, "_type": "ClassLabel"}}, NAMES, [[1], [0], [], [1]]),
        (LABELS, {"labels": [{"names": NAMES, "_type": "ClassLabel"}]}, NAMES, LABELS),  # `datasets` before 4
        (LABELS, {"labels": {"feature": {"names": NAMES, "_type": "ClassLabel"}, "_type": "List"}}, NAMES, LABELS),
        (LABELS, None, ["0", "1"], LABELS),
        ([["b", "a"], ["b"], [], ["a"]], None, ["a", "b"], [[0, 1], [1], [], [0]]),
        (["a", "b", "", "a"], None, ["a", "b"], [[0], [1], [], [0]]),
    ],
)
def test_every_kind_of_labels(tmp_path: Path, labels: Any, features: Any, names: list[str], expected: Any) -> None:
    index = build(write(tmp_path / "t.parquet", some(), labels, features))
    assert list(index.labels.names) == names
    assert [sorted(index.positives[row].tolist()) for row in range(4)] == [sorted(row) for row in expected]


CLASS = {"names": NAMES, "_type": "ClassLabel"}
BOX = [1.0, 2.0, 3.0, 4.0]


@pytest.mark.parametrize("feature", [{"feature": CLASS, "_type": "Sequence"}, CLASS])
@pytest.mark.parametrize("form", ["lists", "boxes", "texts"])
def test_the_classes_of_boxes_are_labels(tmp_path: Path, form: str, feature: Any) -> None:
    """`objects` of datasets for detection: a struct of lists (Sequence of a dict) or a list of structs (List)."""
    objects: list[Any]
    if form == "lists":
        objects = [{"bbox": [BOX] * len(ids), "category": ids} for ids in LABELS[:3]] + [None]
    else:
        names = NAMES if form == "texts" else range(len(NAMES))
        objects = [[{"bbox": BOX, "category": names[one]} for one in ids] for ids in LABELS[:3]] + [None]
    inner = {"bbox": {"_type": "Sequence"}, "category": feature}
    nested = {"lists": inner, "boxes": {"feature": inner, "_type": "List"}, "texts": [inner]}[form]
    table = pa.table({"image": pa.array(some(), IMAGE), "width": [8] * 4, "objects": objects})
    if form != "texts":
        features = {"image": {"_type": "Image"}, "objects": nested}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    parquet.write_table(table, tmp_path / "train-00000-of-00001.parquet")
    index = build(str(tmp_path / "train-00000-of-00001.parquet"))
    found = [{index.labels.names[c] for c in index.positives[row].tolist()} for row in range(4)]
    assert found == [{"dog", "cat"}, {"dog"}, set(), set()]
    if form != "texts":
        assert index.labels.names == tuple(NAMES)


def test_a_class_of_minus_1_means_that_no_label_is_known(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    features = {"labels": {"names": NAMES, "_type": "ClassLabel"}}
    with caplog.at_level("INFO"):
        index = build(write(tmp_path / "t.parquet", some(5), [1, -1, None, 0, -1], features))
    assert index.targets(range(5)).tolist() == [[0, 1, 0], [-1] * 3, [0, 0, 0], [1, 0, 0], [-1] * 3]
    assert "2 rows with -1 for no label: all labels are unknown there" in caplog.text
    assert "1 cell with nan, None, NA or null, which is no label" in caplog.text
    lists = build(write(tmp_path / "l.parquet", some(3), [[1, -1], [None, 0], [-1]]))
    assert lists.targets(range(3)).tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 0]]


def test_a_plain_column_of_bytes_and_names_of_any_kind(tmp_path: Path) -> None:
    columns = {"img": [encoded(0, "PNG"), encoded(1, "WEBP")], "label": ["cat", "dog"], "text": [b"no image", b"none"]}
    parquet.write_table(pa.table(columns), tmp_path / "t.parquet")
    index = build(str(tmp_path / "t.parquet"))
    assert list(index.names()) == ["0.png", "1.webp"]
    for names in (
        ["x.jpg", "X.jpg"],
        ["../a.jpg", ".."],
        ["", None],
        ["a", "a.jpg"],
        ["\u732b" * 70 + ".jpg", "b.jpg"],
        ["a/b.jpg", "c\\b.jpg"],
        ["a\n.jpg", "b.jpg"],
    ):
        images = [{"bytes": encoded(i), "path": name} for i, name in enumerate(names)]
        index = build(write(tmp_path / "u.parquet", images, ["cat", "dog"], None))
        assert list(index.names()) == ["0.jpg", "1.jpg"]
        os.unlink(tmp_path / "u.parquet")
    images = [{"bytes": encoded(i), "path": name} for i, name in enumerate([r"C:\x\a.jpg", "/home/b.png"])]
    assert list(build(write(tmp_path / "u.parquet", images, ["cat", "dog"], None)).names()) == ["a.jpg", "b.png"]


def test_several_files_are_one_table(tmp_path: Path) -> None:
    names = [f"train-0000{number}-of-00003.parquet" for number in range(3)]
    for number, name in enumerate(names):
        write(tmp_path / "data" / name, some(2, start=2 * number), LABELS[:2])
    write(tmp_path / "data" / "validation-00000-of-00001.parquet", some(1, "v.jpg"), [[2]])
    (tmp_path / "README.md").write_text("a dataset card")
    found = locate(str(tmp_path))
    assert found.settings["train"].endswith(names[0])
    assert found.settings["val"].endswith("validation-00000-of-00001.parquet")
    train, val = found.settings["train"], found.settings["val"]
    index = build(train, val=val)
    assert colours(index) == [0, 1, 2, 3, 4, 5]
    assert len(build(train, "val", val=val)) == 1
    os.unlink(tmp_path / "data" / names[1])
    with pytest.raises(DataError, match=r"one of 3 files, of which 1 are missing \(train-00001-of-00003.parquet\)"):
        shards_of(train)


@pytest.mark.parametrize("form", ["train-0000{}-of-00002-{:016x}.parquet", "{:04d}.parquet"])
def test_names_that_the_hub_gives_the_files_of_a_set(tmp_path: Path, form: str) -> None:
    folder = tmp_path / ("default/train" if form.startswith("{") else "data")
    for number in range(2):
        write(folder / form.format(number, 10**9 + number), some(2, start=2 * number), LABELS[:2])
    assert colours(build(locate(str(tmp_path)).settings["train"])) == [0, 1, 2, 3]


def test_each_file_of_a_set_has_its_own_numbers_of_names(tmp_path: Path) -> None:
    for number, names in enumerate((["a", "b "], ["c", "a"])):
        features = {"labels": {"names": names, "_type": "ClassLabel"}}
        write(tmp_path / f"t-0000{number}-of-00002.parquet", some(2, start=2 * number), [0, 1], features)
    index = build(str(tmp_path / "t-00000-of-00002.parquet"))
    assert index.labels.names == ("a", "b", "c")
    assert [index.positives[row].tolist() for row in range(4)] == [[0], [1], [2], [0]]


def _unpack(path: str, cache: str) -> list[str]:
    inside = find_images_inside(path)
    assert inside is not None
    return inside.unpack(cache)


def test_processes_that_want_the_same_images_get_them(tmp_path: Path) -> None:
    path = write(tmp_path / "t.parquet", some(40), LABELS * 10)
    with ThreadPoolExecutor(4) as pool:  # file locks hold between descriptors, of threads too
        found = list(pool.map(lambda _: _unpack(path, str(tmp_path / "cache")), range(8)))
    assert found == [[f"p{number}.jpg" for number in range(40)]] * 8
    assert len(os.listdir(tmp_path / "cache")) == 1


def test_a_link_in_the_cache_is_not_followed_and_a_damaged_folder_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "t.parquet", some(), LABELS)
    inside = find_images_inside(path)
    assert inside is not None
    folder = Path(inside.folder(str(tmp_path / "cache")))
    (tmp_path / "cache").mkdir()
    (tmp_path / "elsewhere").mkdir()
    Path(f"{folder}.draft").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"cannot be unpacked"):
        inside.unpack(str(tmp_path / "cache"))
    assert not any((tmp_path / "elsewhere").iterdir())
    os.unlink(f"{folder}.draft")
    folder.mkdir()
    with pytest.raises(DataError, match=r"names.json: is damaged; remove .*images-"):
        inside.unpack(str(tmp_path / "cache"))


def test_files_with_other_columns_are_an_error(tmp_path: Path) -> None:
    write(tmp_path / "a-00000-of-00002.parquet", some(), LABELS)
    parquet.write_table(pa.table({"path": ["a.jpg"]}), tmp_path / "a-00001-of-00002.parquet")
    with pytest.raises(DataError, match=r"a-00001-of-00002.parquet: has no column image.path"):
        build(str(tmp_path / "a-00000-of-00002.parquet"))
    parquet.write_table(pa.table({"path": ["a.jpg"], "label": ["cat"]}), tmp_path / "b-00000-of-00002.parquet")
    parquet.write_table(pa.table({"path": ["a.jpg"], "tag": ["cat"]}), tmp_path / "b-00001-of-00002.parquet")
    with pytest.raises(DataError, match=r"b-00001-of-00002.parquet: has other columns than"):
        build(str(tmp_path / "b-00000-of-00002.parquet"))


def test_images_are_unpacked_once_and_again_where_they_are_gone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    path = write(tmp_path / "t.parquet", some(), LABELS)
    index = build(path)
    assert len([text for text in caplog.messages if "unpacking 4 images, 0.0 MB" in text]) == 1
    caplog.clear()
    assert build(path).root == index.root
    assert not any("unpacking" in text for text in caplog.messages)
    shutil.rmtree(index.root)
    assert colours(build(path)) == [0, 1, 2, 3]
    write(tmp_path / "t.parquet", some(start=5), LABELS)
    assert colours(build(path)) == [5, 6, 7, 8]


def test_nothing_stays_of_what_was_not_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "t.parquet", some(), LABELS)
    inside = find_images_inside(path)
    assert inside is not None
    cache = tmp_path / "cache"
    with monkeypatch.context() as patch:
        patch.setattr(parquet_images, "write_text", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
        with pytest.raises(
            DataError, match=r"t.parquet: its images cannot be unpacked .*No space left; use dataset.cache"
        ):
            inside.unpack(str(cache))
    assert [name for name in os.listdir(cache) if not name.endswith(".lock")] == []
    os.makedirs(f"{inside.folder(str(cache))}.draft/x")  # of a killed process
    assert inside.unpack(str(cache)) == ["p0.jpg", "p1.jpg", "p2.jpg", "p3.jpg"]
    assert os.listdir(cache) == [os.path.basename(inside.folder(str(cache)))]


@pytest.mark.parametrize("broken", [None, {"bytes": None, "path": "a.jpg"}, {"bytes": b"", "path": "a.jpg"}])
def test_a_row_without_an_image_is_an_error(tmp_path: Path, broken: dict[str, Any] | None) -> None:
    path = write(tmp_path / "t.parquet", [*some(2), broken], LABELS[:3])
    with pytest.raises(DataError, match=r"t.parquet row 3: no image in column image"):
        build(path)


def test_a_label_without_a_name_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "t.parquet", some(2), [[0], [3]])
    with pytest.raises(DataError, match=r"t.parquet row 2: column labels holds 3; its 3 names have the numbers 0 to 2"):
        build(path)


def test_several_columns_of_images_are_a_choice(tmp_path: Path) -> None:
    columns = {"image": pa.array(some(), IMAGE), "mask": pa.array(some(start=5), IMAGE), "labels": LABELS}
    parquet.write_table(pa.table(columns), tmp_path / "t.parquet")
    with pytest.raises(DataError, match=r"dataset.path_column=image or dataset.path_column=mask"):
        build(str(tmp_path / "t.parquet"))
    assert colours(build(str(tmp_path / "t.parquet"), path_column="mask")) == [5, 6, 7, 8]


def test_bombs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = {"bytes": encoded(0) + bytes(10**6), "path": None}
    path = write(tmp_path / "t.parquet", [image] * 200, [[]] * 200, compression="zstd")
    assert os.path.getsize(path) < 20_000
    with pytest.raises(DataError, match=r"unpack to far more than the file says"):
        build(path)
    monkeypatch.setattr(parquet_images, "MAX_BYTES", 100)
    with pytest.raises(DataError, match=r"u.parquet row 1: an image of .* bytes; 100 are allowed"):
        build(write(tmp_path / "u.parquet", some(), LABELS))


def test_parts_of_a_table_keep_their_images(tmp_path: Path) -> None:
    path = write(tmp_path / "t.parquet", some(), LABELS)
    write_table_file(open_table_file(path), [1, 3], str(tmp_path / "part.parquet"))
    index = build(str(tmp_path / "part.parquet"))
    assert colours(index) == [1, 3]
    assert index.labels.names == tuple(NAMES)  # the metadata is kept


def test_the_images_need_a_cache(tmp_path: Path) -> None:
    inside = find_images_inside(write(tmp_path / "t.parquet", some(), LABELS))
    assert inside is not None
    with pytest.raises(DataError, match=r"use dataset.cache=FOLDER"):
        inside.unpack(None)
    own = build(str(tmp_path / "t.parquet"), cache=str(tmp_path / "own"))
    assert Path(own.root).parent == tmp_path / "own"


def test_it_composes_as_any_dataset(tmp_path: Path) -> None:
    path = write(tmp_path / "t.parquet", some(8), LABELS * 2)
    load_components(())
    config = build_component(
        compose(["dataset=table", f"dataset.train={path}", "dataset.val_share=0.25"])["dataset"], "dataset"
    )
    assert sum(len(build_table(config, split=split)) for split in config.splits) == 8


@pytest.mark.parametrize("sequence", [False, True], ids=["one", "several"])
def test_what_the_package_datasets_writes_is_read(
    sequence: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    datasets = pytest.importorskip("datasets", reason="Hugging Face's datasets is not installed")
    kind = datasets.ClassLabel(names=NAMES)
    features = datasets.Features({"image": datasets.Image(), "labels": datasets.Sequence(kind) if sequence else kind})
    labels: list[Any] = LABELS if sequence else [0, 2, 1, 0]
    rows = [{"image": image, "labels": cell} for image, cell in zip(some(), labels, strict=True)]
    path = tmp_path / "data" / "train-00000-of-00001.parquet"
    path.parent.mkdir()
    datasets.Dataset.from_list(rows, features=features).to_parquet(str(path))
    index = build(locate(str(tmp_path)).settings["train"])
    assert index.labels.names == tuple(NAMES)
    assert colours(index) == [0, 1, 2, 3]
    found = [sorted(index.positives[row].tolist()) for row in range(4)]
    assert found == ([sorted(row) for row in LABELS] if sequence else [[0], [2], [1], [0]])
