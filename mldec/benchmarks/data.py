"""The index: time to build and to open it, and its memory, at the sizes of COCO and Open Images.

Annotation files of those sizes are generated in the published formats, with random labels. Images are empty files
(COCO) or not checked (Open Images).
"""

from __future__ import annotations

import gc
import json
import logging
import multiprocessing
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mldec.benchmarks.figure import Figure, seconds
from mldec.data.coco import CocoConfig, build_coco
from mldec.data.index import ImageIndex
from mldec.data.openimages import OpenImagesConfig, build_openimages

COCO_IMAGES, COCO_BOXES = 82_783, 604_907
OPEN_IMAGES_IMAGES, OPEN_IMAGES_ROWS, OPEN_IMAGES_LABELS = 9_000_000, 60_000_000, 9_605
WORKERS = 8

_kept: tuple[ImageIndex, Any]  # in a worker: the index it reads, and the barrier where it waits for the others


def measure(folder: Path, *, scale: float = 1.0, repeats: int = 3) -> list[Figure]:
    """All figures of the index. `scale` shrinks the generated files; targets belong to 1.

    Everything is written under `folder` (about 5 GB at scale 1) and removed again.
    """
    logging.getLogger("mldec").setLevel(logging.ERROR)
    return [*_coco(folder / "coco", scale, repeats), *_open_images(folder / "openimages", scale)]


def _coco(root: Path, scale: float, repeats: int) -> list[Figure]:
    images, boxes = round(COCO_IMAGES * scale), round(COCO_BOXES * scale)
    file = write_coco(root, images, boxes)
    config = CocoConfig(name="coco", root=str(root), cache=str(root / "cache"))

    def load() -> None:
        with open(file, encoding="utf-8") as opened:
            json.load(opened)

    def forget() -> None:
        shutil.rmtree(root / "cache", ignore_errors=True)
        gc.collect()

    try:
        loading, building = [], []
        for _ in range(repeats):  # in turn, so that both see the same state of a shared machine
            loading.append(seconds(load, 1, gc.collect))
            building.append(seconds(lambda: build_coco(config, split="train"), 1, forget))
        opening = seconds(lambda: build_coco(config, split="train"), max(repeats, 5))
    finally:
        shutil.rmtree(root, ignore_errors=True)
    size = f"{images:,} images, {boxes:,} boxes"
    built, loaded = float(np.median(building)), float(np.median(loading))
    return [
        Figure("COCO: json.load of the annotations", loaded, "s", None, size),
        Figure("COCO: index built and kept", built, "s", None, size),
        Figure(
            "COCO: building over json.load",
            built / loaded,
            "x",
            1.3,
            "in turn; json.load with Python's garbage collector on, building with it off",
        ),
        Figure("COCO: index opened from its cache", opening, "s", 0.3, size),
    ]


def _open_images(root: Path, scale: float) -> list[Figure]:
    images, rows = round(OPEN_IMAGES_IMAGES * scale), round(OPEN_IMAGES_ROWS * scale)
    labels = min(OPEN_IMAGES_LABELS, max(2, images // 10))
    size = f"{images:,} images, {rows:,} label rows, {labels:,} labels"
    try:
        write_open_images(root, images, rows, labels)
        config = OpenImagesConfig(name="openimages", root=str(root), missing="ignore", cache=str(root / "cache"))
        began = _in_process(_build_and_peak, config)
        opening = seconds(lambda: build_openimages(config, split="train"), 5)
        index = build_openimages(config, split="train")
        (cache,) = (root / "cache").iterdir()
        index_mb = cache.stat().st_size / 1e6
        growth = _private_growth(index)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    return [
        Figure("Open Images: index built in one pass", began["seconds"], "s", None, size),
        Figure("Open Images: peak memory of building", began["peak_mb"] / 1024, "GiB", 4.0, "of the whole process"),
        Figure("Open Images: index opened from its cache", opening, "s", 1.0, f"{index_mb:,.0f} MB, checksums read"),
        Figure(
            "Open Images: private memory of the workers",
            100 * growth / index_mb,
            "% of the index",
            5.0,
            f"growth of private dirty pages, all {WORKERS} workers together, every row touched by each",
        ),
    ]


def _build_and_peak(config: OpenImagesConfig) -> dict[str, float]:
    duration = seconds(lambda: build_openimages(config, split="train"), 1)
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": duration, "peak_mb": peak_kib / 1024}


def _in_process(work: Callable[..., Any], *arguments: Any) -> Any:
    """The result of `work` in a new process, so that its peak memory is measured alone."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, arguments)


def _private_growth(index: ImageIndex) -> float:
    """MB by which the private dirty pages of forked workers grow, together, when each reads every row."""
    context = multiprocessing.get_context("fork")
    with context.Pool(WORKERS, initializer=_keep, initargs=(index, context.Barrier(WORKERS))) as pool:
        return sum(pool.map(_touch, range(WORKERS), chunksize=1)) / 1000


def _keep(index: ImageIndex, barrier: Any) -> None:
    global _kept
    _kept = index, barrier


def _touch(_: int) -> float:
    """kB of growth in this worker."""
    index, barrier = _kept
    barrier.wait()  # each worker takes one share
    before = _private_dirty()
    for lists in (index.paths, index.positives, index.negatives, index.unknown):
        for first in range(0, len(index), 2**10):
            positions = lists.take(np.arange(first, min(first + 2**10, len(index))))[0]
            lists.values[positions].sum()
    return _private_dirty() - before


def _private_dirty() -> float:
    """kB of this process's private dirty pages."""
    with open("/proc/self/smaps_rollup", encoding="ascii") as file:
        return sum(float(line.split()[1]) for line in file if line.startswith("Private_Dirty"))


# Files in the published formats, of any size --------------------------------------------------------------------------


def write_coco(root: Path, num_images: int, boxes: int) -> Path:
    """Write annotations/instances_train2014.json with polygons of the usual length, and empty image files."""
    rng = np.random.default_rng(0)
    for entry in ("train2014", "val2014", "annotations"):
        (root / entry).mkdir(parents=True)
    names = [f"COCO_train2014_{number:012d}.jpg" for number in range(1, num_images + 1)]
    for name in names:
        (root / "train2014" / name).touch()
    entries = [
        {"license": 1, "file_name": name, "height": 480, "width": 640, "date_captured": "2013-11-14", "id": number}
        for number, name in enumerate(names, start=1)
    ]
    drawn = rng.integers((1, 1, 8), (num_images + 1, 81, 40), (boxes, 3)).tolist()
    annotations = [
        {
            "segmentation": [np.round(rng.uniform(0, 640, 2 * corners), 2).tolist()],
            "area": 1000.5,
            "iscrowd": 0,
            "image_id": image,
            "bbox": [100.5, 50.25, 200.0, 150.75],
            "category_id": category,
            "id": number,
        }
        for number, (image, category, corners) in enumerate(drawn, start=1)
    ]
    categories = [{"supercategory": "thing", "id": number, "name": f"thing {number}"} for number in range(1, 81)]
    content = {"images": entries, "annotations": annotations, "categories": categories}
    path = root / "annotations" / "instances_train2014.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def write_open_images(root: Path, num_images: int, rows: int, labels: int) -> None:
    """Write the class lists and the human labels of train, grouped by image in random order of labels."""
    (root / "train").mkdir(parents=True)
    rng = np.random.default_rng(0)
    names = [f"/m/{number:05x}" for number in range(labels)]
    (root / "oidv6-classes-trainable.txt").write_text("\n".join(names) + "\n")
    descriptions = [f"{name},Thing {number}" for number, name in enumerate(names)]
    (root / "oidv6-class-descriptions.csv").write_text("\n".join(["LabelName,DisplayName", *descriptions]) + "\n")
    per_image = -(-rows // num_images)
    with open(root / "oidv6-train-annotations-human-imagelabels.csv", "w", encoding="ascii") as file:
        file.write("ImageID,Source,LabelName,Confidence\n")
        for first in range(0, rows, 2**20):
            count = min(2**20, rows - first)
            ids = np.arange(first, first + count) // per_image * 2**20 + 7
            columns, present = rng.integers(0, labels, count).tolist(), rng.integers(0, 2, count).tolist()
            file.writelines(
                f"{image:016x},verification,{names[column]},{state}\n"
                for image, column, state in zip(ids.tolist(), columns, present, strict=True)
            )
