"""Properties: the page of a dataset says what the index says, shows every problem, and loads nothing from elsewhere."""

from __future__ import annotations

import base64
import contextlib
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from mldec.commands.main import run
from mldec.data.index import ImageIndex
from mldec.data.table import TableConfig, build_table
from mldec.errors import as_override
from mldec.labels import LabelSpace
from mldec.report import browse
from mldec.report.browse_images import check
from tests.report.conftest import LABELS, SCRIPT, Page

ODD = "javascript:alert(1)#?.png"  # a name that a link must not take for a scheme


def write_dataset(folder: Path) -> list[str]:
    """Two splits with a problem of each kind and labels that would break a page; the overrides that name them."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    rows: dict[str, list[str]] = {"train": [], "val": []}
    names = ",".join(f'"{name.replace(chr(34), chr(34) * 2)}"' for name in LABELS)
    for split, count in {"train": 40, "val": 12}.items():
        for number in range(count):
            name = ODD if (split, number) == ("train", 7) else f"{split}{number}.png"
            Image.fromarray(rng.integers(0, 256, (48 + number, 64, 3), np.uint8)).save(folder / name)
            states = rng.integers(-1, 2, len(LABELS)) if number else [0] * len(LABELS)
            rows[split].append(f"{name},{','.join(map(str, states))}")
    Image.new("RGB", (200, 20)).save(folder / "train3.png")
    (folder / "train4.png").write_bytes(b"no image")
    (folder / "train5.png").unlink()
    shutil.copy(folder / "val1.png", folder / "train6.png")
    Image.open(folder / "val2.png").save(folder / "train8.png", "JPEG", quality=60)
    for split, lines in rows.items():
        (folder / f"{split}.csv").write_text(f"path,{names}\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return ["dataset=table", *(as_override(f"dataset.{split}", f"{folder}/{split}.csv") for split in rows)]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    folder = tmp_path_factory.mktemp("own") / "my <photos>"
    return folder, write_dataset(folder)


@pytest.fixture(scope="module")
def page(dataset) -> Page:
    folder, overrides = dataset
    output = folder.parent / "browse.html"
    assert run(["data", "browse", *overrides, f"output={output}"]) == 0
    return Page(output.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def indexes(dataset) -> dict[str, ImageIndex]:
    folder, _ = dataset
    files = {split: f"{folder}/{split}.csv" for split in ("train", "val")}
    config = TableConfig(name="table", missing="ignore", **files)
    return {split: build_table(config, split=split) for split in files}


def photos(page: Page) -> list[dict[str, str | None]]:
    return [attributes for attributes in page.of("figure") if attributes["class"] == "photo"]


def test_every_image_is_shown_with_the_states_of_its_labels(page, indexes):
    shown = photos(page)
    assert [photo["data-split"] for photo in shown] == ["train"] * 40 + ["val"] * 12
    targets = np.concatenate([index.targets(range(len(index))) for index in indexes.values()])
    for photo, states in zip(shown, targets, strict=True):
        for kind, state in (("present", 1), ("unknown", -1)):
            columns = [int(column) for column in (photo[f"data-{kind}"] or "").split()]
            assert columns == np.flatnonzero(states == state).tolist()


def test_counts_are_those_of_the_index(page, indexes):
    present, _, unknown = (sum(parts) for parts in zip(*(i.states_per_class() for i in indexes.values()), strict=True))
    each = {split: index.states_per_class()[0] for split, index in indexes.items()}
    table = page.tables["counts"]
    assert [cell for cell in table[0] if cell] == ["label", "images", "train", "val", "unknown"]
    assert len(table) == 1 + len(LABELS)
    for row in table[1:]:
        column = next(c for c, name in enumerate(LABELS) if row[0] == name)
        expected = [present[column], each["train"][column], each["val"][column], unknown[column]]
        assert [int(cell) for cell in row[1:5]] == expected
    targets = np.concatenate([index.targets(range(len(index))) for index in indexes.values()]) == 1
    together = targets.T.astype(int) @ targets
    order = np.argsort(-present, kind="stable")
    heat = page.tables["heat"]
    rows = [row[1:] for row in heat if row and row[0] in LABELS and len(row) == 1 + len(LABELS)]
    assert [[int(cell or 0) for cell in row] for row in rows] == together[np.ix_(order, order)].tolist()


def test_each_problem_is_found(page, indexes):
    problems: dict[str, list[int]] = {}
    for place, photo in enumerate(photos(page)):
        for key in (photo["data-problems"] or "").split():
            problems.setdefault(key, []).append(place)
    unlabelled = [
        place
        for place, states in enumerate(np.concatenate([i.targets(range(len(i))) for i in indexes.values()]))
        if not (states == 1).any()
    ]
    assert problems == {"unreadable": [4, 5], "small": [3], "same": [6, 41], "near": [8, 42], "unlabelled": unlabelled}
    assert "train6.png (train) = val1.png (val)" in page.text
    assert "train8.png (train) ~ val2.png (val)" in page.text
    assert "train3.png (train): 200 \u00d7 20" in page.text
    assert page.text.count("cannot be read") >= 2


def test_nothing_runs_or_is_loaded_but_what_is_in_the_page(page):
    (policy,) = (meta["content"] for meta in page.of("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "unsafe" not in policy
    assert len(page.of("script")) == 1
    assert all("src" not in script for script in page.of("script"))
    assert SCRIPT in page.text
    assert all(str(image["src"]).startswith("data:image/jpeg;base64,") and image["alt"] for image in page.of("img"))
    links = [str(link["href"]) for link in page.of("a")]
    files = [link for link in links if not link.startswith("#")]
    assert all(link.startswith("./") for link in files)
    assert "./my%20%3Cphotos%3E/javascript%3Aalert%281%29%23%3F.png" in files
    assert not any(attribute.startswith("on") for _, attributes in page.tags for attribute in attributes)
    assert not any("style" in attributes for _, attributes in page.tags)
    image = base64.b64decode(str(page.of("img")[0]["src"]).partition(",")[2])
    assert cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR).shape == (48, 64, 3)


def test_a_limit_keeps_problems_and_every_label(dataset, tmp_path):
    _, overrides = dataset
    assert run(["data", "browse", *overrides, f"output={tmp_path}/few.html", "limit=16"]) == 0
    shown = photos(Page((tmp_path / "few.html").read_text(encoding="utf-8")))
    assert len(shown) == 16
    keys = {key for photo in shown for key in (photo["data-problems"] or "").split()}
    assert {"unreadable", "same"} <= keys
    assert {column for photo in shown for column in (photo["data-present"] or "").split()} == set("01234")


def test_what_is_unlisted_is_unknown_where_the_dataset_says_so(tmp_path):
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    samples = [("a.png", [0], [1], [])]
    index = ImageIndex.build(samples, root=str(tmp_path), labels=LabelSpace(["p", "q", "r", "s"]), default=-1)
    page = Page(browse.browse("x", {"test": index}, tmp_path, limit=5, workers=1))
    (photo,) = photos(page)
    assert (photo["data-present"], photo["data-absent"], photo.get("data-unknown")) == ("0", "1", None)
    assert "2 unknown" in page.text


def test_small_images_stay_within_the_room_of_the_page(tmp_path, monkeypatch):
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)
    names = [f"{number}.png" for number in range(6)]
    for name in names:
        cv2.imwrite(str(tmp_path / name), noise)
    samples = [(name, [0], [], []) for name in names]
    index = ImageIndex.build(samples, root=str(tmp_path), labels=LabelSpace(["p"]))
    monkeypatch.setattr(browse, "MOST_BYTES", 60_000)
    page = Page(browse.browse("x", {"train": index}, tmp_path, limit=6, workers=2))
    assert len(page.of("img")) == 6
    assert sum(len(str(image["src"])) for image in page.of("img")) <= 60_000


def test_of_a_large_dataset_some_images_are_checked_and_that_is_written(indexes, monkeypatch, tmp_path):
    monkeypatch.setattr("mldec.report.browse_images.CHECKED", 20)
    assert len(check(indexes, workers=1, on_done=lambda count: None).rows) == 20
    page = Page(browse.browse("x", indexes, tmp_path, limit=5, workers=1))
    assert "20 of 52 images were decoded, drawn at random" in " ".join(page.text.split())


def test_ctrl_c_leaves_the_page_that_was_there(dataset, tmp_path, monkeypatch):
    _, overrides = dataset
    (tmp_path / "browse.html").write_text("old")

    def stop(*args, **named):
        raise KeyboardInterrupt

    monkeypatch.setattr(browse, "thumbnails", stop)
    with contextlib.suppress(KeyboardInterrupt):
        assert run(["data", "browse", *overrides, f"output={tmp_path}/browse.html"]) == 130
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("browse.html", "old")]


def test_no_input_is_overwritten(dataset, capsys):
    folder, overrides = dataset
    assert run(["data", "browse", *overrides, f"output={folder}/val.csv"]) == 2
    assert "would be overwritten" in capsys.readouterr().err


def test_images_that_several_splits_share_are_a_warning(dataset, tmp_path, capsys) -> None:
    _, overrides = dataset
    for split, count in (("all", 1), ("val", 0)):
        assert run(["data", "browse", *overrides, f"split={split}", f"output={tmp_path / 'page.html'}"]) == 0
        warned = capsys.readouterr().err
        assert warned.count("warning: 2 groups of the same or nearly the same images lie in several splits") == count
