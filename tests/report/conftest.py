"""A run on images of one's own, whose labels are chosen to break a page, and what its report holds."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from mldec.commands.main import run

SCRIPT, QUOTES, HIDDEN = "<script>alert(1)</script>", "\"quoted\" & 'more'", "back\u202ewards"
LABELS = [SCRIPT, QUOTES, HIDDEN, "=SUM(A1)", "red"]
NAME = "<img src=x onerror=alert(1)>"


class Page(HTMLParser):
    """The text of a page: its tables by id, as rows of cells, its elements by tag, and all it would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._table: list[list[str]] | None = None
        self._silent = False
        self._words: list[str] = []
        self.feed(text)
        self.text = " ".join(self._words)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        self._silent = tag in ("script", "style")
        if tag == "table":
            self._table = self.tables.setdefault(str(attributes.get("id")), [])
        elif self._table is not None and tag == "tr":
            self._table.append([])
        elif self._table is not None and tag in ("td", "th") and self._table:
            self._table[-1].append("")

    def handle_endtag(self, tag):
        if tag == "table":
            self._table = None
        self._silent = False

    def handle_data(self, data):
        if self._silent:
            return
        self._words.append(data)
        if self._table and self._table[-1]:
            self._table[-1][-1] = (self._table[-1][-1] + data).strip()

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def draw(folder: Path, split: str, images: int, seed: int) -> Path:
    """Images with a coloured square for each of their labels, and the table that lists them."""
    rng = np.random.default_rng(seed)
    lines = []
    for number in range(images):
        image = rng.integers(0, 60, (40, 48, 3), dtype=np.uint8)
        present = np.flatnonzero(rng.random(len(LABELS)) < 0.35)
        for column in present:
            x, y = rng.integers(0, 36, 2)
            colour = [int(value) for value in cv2.applyColorMap(np.uint8([[50 * column]]), cv2.COLORMAP_HSV)[0, 0]]
            cv2.rectangle(image, (int(x), int(y)), (int(x) + 10, int(y) + 10), colour, -1)
        cv2.imwrite(str(folder / f"{split}{number}.png"), image)
        lines.append(json.dumps({"path": f"{split}{number}.png", "labels": [LABELS[c] for c in present]}))
    table = folder / f"{split}.jsonl"
    table.write_text("\n".join(lines) + "\n")
    return table


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images and a table of each split."""
    folder = tmp_path_factory.mktemp("images")
    for seed, (split, count) in enumerate({"train": 64, "val": 30, "test": 30}.items()):
        draw(folder, split, count, seed)
    return folder


def train(image_folder: Path, folder: Path, *more: str) -> Path:
    """A run of three epochs on them."""
    words = [
        "experiment=digits",
        "dataset=table",
        *(f"dataset.{split}={image_folder / split}.jsonl" for split in ("train", "val", "test")),
        "dataset.image_size=32",
        "augment.repeats=1",
        "schedule.epochs=3",
        "schedule.batch_size=16",
        "schedule.max_lr=0.01",
        "runtime=cpu",
        "runtime.threads=1",
        "runtime.workers=0",
        "runtime.log_every=2",
        "runtime.tensorboard=false",
        f"run_dir={folder}",
    ]
    assert run(["train", *words, f"name='{NAME}'", *more]) == 0
    return folder


@pytest.fixture(scope="session")
def trained(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; copy it before anything is changed in it."""
    small = ("head.dim=32", "head.ffn_dim=32", "head.num_heads=4")
    return train(image_folder, tmp_path_factory.mktemp("runs") / "first", *small)


@pytest.fixture(scope="session")
def second(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another one: another head, another protocol."""
    words = ("head=gap", "protocol.threshold=0.4", "seed=1")
    return train(image_folder, tmp_path_factory.mktemp("runs") / "second", *words)
