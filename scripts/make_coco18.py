"""Rebuild coco18, 10,500 photographs with 18 labels and 196 tags, from its public source, by names in coco18.csv.

    git clone --depth 1 https://github.com/syf0122/COMP5329_Assignment02 source
    python scripts/make_coco18.py source/data data/coco18

SOURCE, the folder `data` of the clone, has the photographs as data/NUMBER.jpg. OUT, which must not exist yet, gets

    images/NNNNN.jpg                     longest side at most 256 pixels (Lanczos, never enlarged), JPEG of quality 71
    train.csv, val.csv, test.csv         path,labels: 6,000, 1,500 and 3,000 images
    tags/train.csv                       the train images with a seen tag, and seen tags alone
    tags/val.csv, val_seen.csv, test.csv all images with all tags, or with the seen ones
    tags/labels.txt, seen.txt, unseen.txt, heldout.txt    names of all tags, 157, 39, and 16 of the seen ones

Labels and tags are from the annotations of MS-COCO (CC BY 4.0); the photographs belong to their owners.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from mldec.data.dataset import name_some
from mldec.errors import DataError

DATA = Path(__file__).resolve().parent / "coco18.csv"
SPLITS = ("train", "val", "test")
SIDE, QUALITY = 256, 71


class Photograph(NamedTuple):
    """One line of coco18.csv: its number in the source, its split, and the names of its labels and tags."""

    number: int
    split: str
    labels: list[str]
    tags: list[str]

    @property
    def path(self) -> str:
        """Of the file that is written, relative to OUT."""
        return f"images/{self.number:05d}.jpg"


def read_data(path: Path = DATA) -> tuple[list[Photograph], list[str], list[str]]:
    """The photographs by ascending number, all tags, and the tags that are held out where settings are chosen."""
    lines = path.read_text(encoding="utf-8").splitlines()
    heads = [line[2:].partition(": ") for line in lines if line.startswith("# ")]
    texts = {key: text for key, _, text in heads}
    labels = dict(item.split(" ", 1) for item in texts["labels"].split(", "))
    tags = texts["tags, counted from 0"].split()
    found = [
        Photograph(
            int(row["number"]),
            row["split"],
            [labels[name] for name in row["labels"].split()],
            [tags[int(place)] for place in row["tags"].split()],
        )
        for row in csv.DictReader(line for line in lines if not line.startswith("#"))
    ]
    return found, tags, texts["tags held out where settings are chosen"].split()


def make(source: Path, out: Path, data: Path = DATA) -> None:
    """Write OUT from SOURCE.

    Raises:
        DataError: OUT exists, or photographs are missing in SOURCE or broken; names some. Tables are written last.
    """
    photographs, tags, held_out = read_data(data)
    if out.exists():
        raise DataError(f"{out}: exists already; delete it, or name another directory")
    files = [source / "data" / f"{one.number}.jpg" for one in photographs]
    missing = [str(file) for file in files if not file.is_file()]
    if missing:
        raise DataError(
            f"{source}: {len(missing):,} of {len(files):,} photographs are missing "
            f"({name_some(missing, len(missing))}); clone https://github.com/syf0122/COMP5329_Assignment02 and name "
            "its folder `data`"
        )
    for folder in ("images", "tags"):
        (out / folder).mkdir(parents=True)
    for done, (one, file) in enumerate(zip(photographs, files, strict=True)):
        write_photograph(file, out / one.path)
        if done % 1000 == 0:
            print(f"{done:,} of {len(files):,} images")
    write_tables(photographs, tags, held_out, out)
    print(f"written to {out}: {len(photographs):,} images")


def write_photograph(source: Path, target: Path) -> None:
    """Write a photograph, at most SIDE pixels long, as JPEG. Raises DataError if it cannot be read, naming it."""
    try:
        with Image.open(source) as image:
            small = image if image.mode in ("L", "RGB") else image.convert("RGB")
            if (longest := max(small.size)) > SIDE:
                width, height = (max(1, round(side * (SIDE / longest))) for side in small.size)
                small = small.resize((width, height), Image.Resampling.LANCZOS)
            small.save(target, "JPEG", quality=QUALITY, optimize=True)
    except (OSError, Image.DecompressionBombError) as error:
        raise DataError(f"{source}: cannot be read: {error}") from None


def write_tables(photographs: Sequence[Photograph], tags: Sequence[str], held_out: Sequence[str], out: Path) -> None:
    """Write the tables and lists of names. A tag is seen if a train image has it."""
    seen = {tag for one in photographs if one.split == "train" for tag in one.tags}
    for split in SPLITS:
        own = [one for one in photographs if one.split == split]
        _write_table(out / f"{split}.csv", ((one.path, one.labels) for one in own))
        tagged = [one for one in own if one.tags or split != "train"]
        _write_table(out / "tags" / f"{split}.csv", ((one.path, one.tags) for one in tagged))
        if split == "val":
            kept = ((one.path, [tag for tag in one.tags if tag in seen]) for one in own)
            _write_table(out / "tags" / "val_seen.csv", kept)
    unseen = [tag for tag in tags if tag not in seen]
    lists = {"labels": tags, "seen": [tag for tag in tags if tag in seen], "unseen": unseen, "heldout": held_out}
    for name, names in lists.items():
        (out / "tags" / f"{name}.txt").write_text("".join(f"{text}\n" for text in names), encoding="utf-8")


def _write_table(path: Path, rows: Iterable[tuple[str, list[str]]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["path", "labels"])
        writer.writerows((name, ";".join(labels)) for name, labels in rows)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    try:
        make(Path(sys.argv[1]), Path(sys.argv[2]))
    except DataError as error:
        sys.exit(f"error: {error}")
