"""Properties: the page says what `mldec evaluate` finds, whatever the labels are called and whatever is missing."""

from __future__ import annotations

import base64
import csv
import dataclasses
import json
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from mldec.commands.main import run
from mldec.engine.checkpoint import load_checkpoint, restore, save_checkpoint
from mldec.engine.display import Display
from mldec.engine.image_sheets import View
from mldec.labels import LabelSpace
from mldec.report import gallery
from mldec.report.measure import measure_split
from mldec.report.page import report
from mldec.report.run import read_run
from tests.report.conftest import HIDDEN, LABELS, NAME, QUOTES, SCRIPT, Page, train


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> Path:
    """A run in which a test may change what it likes; its checkpoints keep their dates."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def make(folder: Path, *words: str) -> Page:
    assert run(["report", f"run={folder}", *words]) == 0
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def test_the_page_says_what_evaluate_finds(copy, capsys):
    page = make(copy)
    assert run(["evaluate", f"run={copy}"]) == 0
    folder = copy / "evaluation" / "table_test"
    metrics = json.loads((folder / "metrics.json").read_text())["metrics"]
    for name in ("mAP", "CF1", "OF1", "CF1@3", "OF1@3"):
        assert re.search(rf"\b{metrics[name]:.2f}\b", page.text), name
    with (folder / "per_class_ap.csv").open(newline="", encoding="utf-8") as file:
        rows = {row["label"].removeprefix("'"): row for row in csv.DictReader(file)}
    table = page.tables["ap"][1:]
    assert {row[0] for row in table} == set(LABELS) == set(rows)
    for name, positives, ap, _ in table:
        assert (positives, ap) == (rows[name]["positives"], f"{float(rows[name]['average_precision']):.2f}")
    values = [float(row[2]) for row in table]
    assert values == sorted(values, reverse=True)
    data = json.loads((copy / "data.json").read_text())["test"]["fingerprint"]
    assert data[:12] in page.text


def test_thresholds_are_chosen_on_val_and_shown_on_test(copy):
    rows = {row[0]: row[1:] for row in make(copy).tables["at"][2:]}
    restored = restore(copy)
    measured = measure_split(restored, restored.config, "test", Display(quiet=True))
    threshold_of = dict(zip(measured.labels.names, measured.thresholds.values, strict=True))
    for column, name in enumerate(LABELS):
        index = measured.labels.index(name)
        threshold = threshold_of[name]
        given = measured.scores.scores[:, index] > threshold
        present = measured.scores.targets[:, index] == 1
        true = (given & present).sum()
        assert rows[name][4] == f"{threshold:.3f}", column
        assert rows[name][6] == (f"{100 * true / present.sum():.1f}")
        assert rows[name][7] == f"{100 * 2 * true / (given.sum() + present.sum()):.1f}"
    # Those of the checkpoint are taken as they are; the file that lists them is for people.
    content = load_checkpoint(copy / "checkpoints" / "best.pt")
    save_checkpoint(copy / "checkpoints" / "best.pt", content | {"thresholds": {"red": 0.125}})
    (copy / "thresholds.csv").write_text("nothing\n1\n")
    page = make(copy)
    rows = {row[0]: row[1:] for row in page.tables["at"][2:]}
    assert rows["red"][4] == "0.125"
    assert rows[SCRIPT][4] == "0.500"
    assert "best.pt of the run, tuned on val; 4 labels that it lacks keep the protocol's" in page.text
    # Without any, they are tuned on val again.
    save_checkpoint(copy / "checkpoints" / "best.pt", content | {"thresholds": None})
    rows = {row[0]: row[1:] for row in make(copy).tables["at"][2:]}
    assert {name: row[4] for name, row in rows.items()} == {name: f"{threshold_of[name]:.3f}" for name in LABELS}


def test_nothing_of_a_label_or_a_name_is_markup(copy):
    (copy / "config.yaml").write_text(
        (copy / "config.yaml").read_text() + "# </pre><script>alert(2)</script> \x1b[31m\n"
    )
    environment = json.loads((copy / "environment.json").read_text())
    environment["command"] = ["mldec", "</dd><svg onload=alert(3)>", "\ud800"]
    (copy / "environment.json").write_text(json.dumps(environment))
    page = make(copy)
    text = (copy / "report.html").read_text(encoding="utf-8")
    assert len(page.of("script")) == 1
    assert not [tag for tag, attributes in page.tags if any(name.startswith("on") for name in attributes)]
    assert not [1 for image in page.of("img") if not str(image["src"]).startswith("data:image/jpeg;base64,")]
    assert "\x1b" not in text
    for word in (SCRIPT, QUOTES, HIDDEN, NAME, "alert(2)", "<svg onload=alert(3)>", "\\x1b[31m", "\\ud800"):
        assert word in page.text, word
    alts = [str(image["alt"]) for image in page.of("img")]
    assert any(SCRIPT in alt for alt in alts)
    assert any(QUOTES in alt for alt in alts)


def test_the_page_needs_nothing_else(copy):
    page = make(copy)
    text = (copy / "report.html").read_text(encoding="utf-8")
    policy = next(str(m["content"]) for m in page.of("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not [a for _, attributes in page.tags for a in attributes if a in ("style", "srcset", "action")]
    links = [value for _, attributes in page.tags for name, value in attributes.items() if name in ("src", "href")]
    assert all(str(link).startswith(("data:", "#")) for link in links)
    assert "url(" not in text
    assert "@import" not in text
    ids = [str(attributes["id"]) for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {str(link)[1:] for link in links if str(link).startswith("#")} <= set(ids)
    assert all(svg.get("aria-label") or svg.get("aria-hidden") for svg in page.of("svg"))
    assert all(image.get("alt") for image in page.of("img"))


def test_the_same_run_gives_the_same_bytes(copy):
    make(copy)
    first = (copy / "report.html").read_bytes()
    make(copy)
    assert (copy / "report.html").read_bytes() == first


def test_images_and_maps_are_those_of_the_split(copy, image_folder):
    page = make(copy)
    images = page.of("img")
    shown = [image for image in images if str(image["alt"]).startswith("Image test")]
    maps = [image for image in images if str(image["alt"]).startswith("Where the network looked for")]
    assert len(shown) == 12
    assert len(maps) > 12
    encoded = base64.b64decode(str(shown[0]["src"]).partition(",")[2])
    pil_image = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)
    original = cv2.imread(str(image_folder / str(shown[0]["alt"]).removeprefix("Image ")))
    assert pil_image.shape[:2] == (160, 192)  # its own shape
    small = cv2.resize(pil_image, (48, 40), interpolation=cv2.INTER_AREA)
    assert np.abs(small.astype(int) - original).mean() < 12


def test_a_heading_without_an_image_is_left_out(copy, monkeypatch):
    assert {"Best", "Worst"} <= set(make(copy).text.split())
    monkeypatch.setattr(gallery, "WORST", 0)  # as where all images are among the best
    words = set(make(copy).text.split())
    assert "Best" in words
    assert "Worst" not in words


def test_chosen_labels_are_drawn(copy, capsys):
    page = make(copy, "labels=red,=SUM(A1)")
    drawn = [str(svg["aria-label"]) for svg in page.of("svg") if "Precision and recall" in str(svg.get("aria-label"))]
    assert [label.partition(",")[0] for label in drawn] == [
        "Precision and recall of red",
        "Precision and recall of =SUM(A1)",
    ]
    before = (copy / "report.html").read_bytes()
    assert run(["report", f"run={copy}", "labels=rde"]) == 2
    assert "did you mean red?" in capsys.readouterr().err
    assert (copy / "report.html").read_bytes() == before


@pytest.mark.parametrize(
    ("missing", "sentence"),
    [
        ("metrics.jsonl", "There are no curves"),
        ("config.yaml", "The run has no config.yaml."),
        ("environment.json", "The run has no environment.json."),
        ("data.json", "The run has no data.json."),
        ("checkpoints", "The weights could not be read"),
    ],
)
def test_what_a_run_lacks_is_a_sentence(copy, missing, sentence, capsys):
    path = copy / missing
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    page = make(copy)
    assert sentence in page.text
    assert len(page.tables["ap"]) == len(LABELS) + 1  # measured, or as the run recorded it


def test_what_is_damaged_is_a_sentence(copy):
    (copy / "metrics.jsonl").write_text('{"kind": "train", "step": "x", "loss": null}\n[1]\n')
    (copy / "environment.json").write_text("{")
    (copy / "config.yaml").write_text("a: [")
    (copy / "per_class_ap.csv").write_text("label,average_precision,positives\nred,many,1\n")
    words = make(copy).text
    for name in ("metrics.jsonl", "environment.json", "config.yaml", "per_class_ap.csv"):
        assert f"{name} is damaged" in words


def test_an_interrupted_run_and_one_without_images_have_pages(copy, tmp_path, capsys):
    records = (copy / "metrics.jsonl").read_text().splitlines()
    (copy / "metrics.jsonl").write_text("\n".join(line for line in records if '"test"' not in line) + '\n{"kind": "tr')
    assert "The run did not finish" in make(copy).text
    page = make(copy, f"dataset.test={tmp_path / 'gone.jsonl'}")
    assert "warning:" in capsys.readouterr().err
    assert page.text.count("The images could not be read") >= 5
    assert "as the run recorded it" in page.text.lower()


def test_val_images_in_place_of_a_test_split_are_noted(copy):
    """Measured again, and as the run recorded it."""
    assert "optimistically biased" not in make(copy).text
    note = "the epoch was chosen on them, too, so these metrics are optimistically biased"
    assert f"test = the val images (no test split): {note}" in make(copy, "dataset.test=null").text
    data = json.loads((copy / "data.json").read_text())
    (copy / "data.json").write_text(json.dumps({**data, "test": data["val"]}))
    shutil.rmtree(copy / "checkpoints")
    assert f"test = the val images: {note}" in make(copy).text


def test_images_that_are_gone_are_a_sentence(copy, image_folder, tmp_path):
    moved = Path(shutil.copytree(image_folder, tmp_path / "moved"))
    (moved / "test7.png").unlink()
    words = make(copy, f"dataset.root={moved}").text
    assert "The images could not be read" in words
    assert "test7.png" in words


def test_a_head_without_maps_says_so(second, tmp_path, monkeypatch):
    from mldec.engine.predictor import Predictor
    from mldec.errors import DataError

    def none(self, images):
        raise DataError("head=gap has none")

    monkeypatch.setattr(Predictor, "maps", none)
    page = make(Path(shutil.copytree(second, tmp_path / "run")))
    assert "No maps: head=gap has none." in page.text
    assert all(str(image["alt"]).startswith("Image") for image in page.of("img"))


def test_single_labels_and_other_splits(image_folder, tmp_path):
    one = {"train": 40, "test": 20}
    for split, count in one.items():
        lines = [json.dumps({"path": f"train{i}.png", "labels": [LABELS[i % 5]]}) for i in range(count)]
        (image_folder / f"single_{split}.jsonl").write_text("\n".join(lines) + "\n")
    words = [f"dataset.{split}={image_folder / f'single_{split}.jsonl'}" for split in one]
    folder = train(
        image_folder,
        tmp_path / "run",
        *words,
        "dataset.val=null",
        "dataset.single_label=true",
        "loss=ce",
        "schedule.epochs=1",
        "protocol.holdout=0.2",
    )
    page = make(folder)
    assert "top-1, percent" in page.text
    assert "there are no thresholds" in page.text
    page = make(folder, "split=val")
    assert "8 images, 5 labels" in page.text


def test_thousands_of_labels_stay_small(copy):
    """9,605 labels as Open Images has, with images, scores and maps of all of them."""
    restored = restore(copy)
    measured = measure_split(restored, restored.config, "test", Display(quiet=True))
    rng = np.random.default_rng(0)
    count, size = 9605, len(measured.index)
    labels = LabelSpace([f"A label of about this length {i}" for i in range(count)])
    scores = rng.random((size, count), np.float32)
    targets = (rng.random((size, count)) < 0.1).astype(np.int8)

    class Predictor:
        def __init__(self):
            self.labels = labels

        def maps(self, images):
            return rng.random((len(images), count, 7, 7), np.float32)

        def view(self, height, width):
            return View((0, 0, width, height))

    large = dataclasses.replace(
        measured,
        labels=labels,
        scores=measured.scores._replace(scores=scores, targets=targets),
        result=measured.result._replace(per_class=rng.random(count)),
        thresholds=dataclasses.replace(measured.thresholds, values=rng.random(count)),
        predictor=Predictor(),
    )
    text = report(read_run(copy), large)
    assert len(Page(text).tables["ap"]) == count + 1
    assert len(text.encode()) < 5 * 2**20
