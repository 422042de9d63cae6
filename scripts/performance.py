"""Measure on this machine's processor what docs/performance.md shows, and write that page from the records.

    python scripts/performance.py --measure         # a quarter of an hour on two quiet cores
    python scripts/performance.py --measure head    # one of them again
    python scripts/performance.py                   # the page, from the records that are there

Records lie in docs/benchmarks as NAME_cpu.json. Those of a GPU, where there are any, come from scripts/measure_gpu.py.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mldec.benchmarks import growth, head
from mldec.benchmarks.figure import Figure, as_cell, as_grid, as_table
from mldec.benchmarks.gpu import RUNS as GPU_RUNS
from mldec.commands.main import run

ROOT = Path(__file__).resolve().parent.parent
RECORDS, PAGE = ROOT / "docs" / "benchmarks", ROOT / "docs" / "performance.md"
BEFORE = RECORDS / "before"  # of the same names, from before the changes below
IMAGE = "images/growth.png"

#: What is measured on the CPU, by name of the record.
RUNS: dict[str, list[str]] = {
    "head": ["head", "seconds=2", "repeats=5"],
    "growth": ["growth", "seconds=2"],
    "loss": ["loss", "repeats=5"],
    "ema": ["ema", "repeats=5"],
    "metric": ["metric"],
    "augment": ["augment"],
    "loader": ["loader", "workers=1,2", "repeats=5"],
    "train": ["train", "repeats=5"],
    "startup": ["startup"],
    "tresnet_l": [
        "model",
        "experiment=coco_tresnet_l",
        "backbone.pretrained=false",
        "heads=gap,ml_decoder",
        "labels=80",
        "head.num_groups=80",
        "schedule.batch_size=4",
        "seconds=10",
        "repeats=2",
    ],
}

SAID = {
    "head": "Forward and backward of ML-Decoder in training, over what one large matrix product reaches.",
    "loss": "Whole targets take value and slope of the asymmetric loss together, in parts that stay in the cache.",
    "ema": "The average of the weights moves after every step.",
    "metric": "Mean AP is exact, never binned. An evaluation keeps scores in float16 from 2^29 on.",
    "augment": "What happens to an image between its file and the batch, in one thread.",
    "loader": "From files to batches with the paper's augmentation, over decoding and resizing alone.",
    "train": "Loading, logging, schedule and average, over forward, backward and optimizer alone.",
    "startup": "Until a command has begun: heavy imports come late.",
    "tresnet_l": "The paper's network for COCO.",
}

FORWARD, BOTH = "forward, of the matrix product", "forward and backward, of the matrix product"
#: What the profiler found, what was done, and the figures that show it: record, name.
CHANGES = [
    (
        "A seventh of a training step of the head was torch drawing one Bernoulli variable an entry for dropout; "
        "16 bits of a uniform integer decide as well. Keys and values come from one product, and ReLU "
        "works in its memory.",
        [("head", f"{head.SHAPES[0]}, dropout 0: {FORWARD}"), ("head", f"{head.SHAPES[2]}, dropout 0.1: {BOTH}")],
    ),
    (
        "Two thirds of RandAugment were Pillow's bicubic shear. A row moves by one distance as a whole, so four "
        "weighted sums are enough. Histograms are OpenCV's.",
        [
            ("augment", "operation shear_x"),
            ("augment", "operation equalize"),
            ("augment", "paper: its two operations of RandAugment"),
            ("loader", "loader with 1 worker, of that"),
        ],
    ),
    (
        "The movements of the digits went through a Compose of albumentations, which cost four times the two calls of "
        "OpenCV in it.",
        [("augment", "digits, at 64")],
    ),
    (
        "Where the network is on the processor too, a loader process that takes a core for a moment stalls all "
        "threads of a product: there are a fourth as many of them now, on two cores none. `torch.manual_seed` "
        "formatted a stack trace for CUDA in each step.",
        [("train", "training loop of digits over a bare loop"), ("train", "training loop")],
    ),
]

#: Training runs of the paper: images of train, epochs. 30 epochs of Open Images are ours.
WHOLE_RUNS = {"MS-COCO, TResNet-L, 448 px": (82_081, 40), "Open Images, TResNet-M, 224 px": (9_011_219, 30)}
#: Images a second in training of one RTX 3090, according to timm's published benchmarks, contiguous, mixed precision.
PUBLISHED = {"MS-COCO, TResNet-L, 448 px": 103.0, "Open Images, TResNet-M, 224 px": 793.0}
#: Where a measured rate of our own stands, once there is one: record and figure.
MEASURED = {
    "MS-COCO, TResNet-L, 448 px": ("tresnet_l", "ml_decoder K=80, 80 labels: training"),
    "Open Images, TResNet-M, 224 px": ("table9_5000", "ml_decoder K=100, 5000 labels: training"),
}
FLEET = (1, 8, 64)
GPU_TESTS = "tests"  # the record of the tests that `make gpu-check` runs first


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--measure", nargs="*", metavar="NAME", help=f"of {', '.join(RUNS)}; without a name all")
    chosen = parser.parse_args(argv).measure
    for name in RUNS if chosen == [] else chosen or ():
        if name not in RUNS:
            parser.error(f"{name}: no such measurement; use {', '.join(RUNS)}")
        words = [] if name == "startup" else ["runtime.device=cpu"]  # processes of their own
        if run(["benchmark", *RUNS[name], *words, f"output={RECORDS / f'{name}_cpu.json'}"]):
            return 1
    records = read(RECORDS)
    if "growth_cpu" in records:
        growth.draw(records["growth_cpu"]["points"], ROOT / "docs" / IMAGE)
    PAGE.write_text(page(records, read(BEFORE)), encoding="utf-8")
    print(f"written to {PAGE}")
    return 0


def read(folder: Path) -> dict[str, dict[str, Any]]:
    """The records of a folder by name, `head_cpu` and so on."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*_?pu.json"))}


def page(records: Mapping[str, Mapping[str, Any]], before: Mapping[str, Mapping[str, Any]]) -> str:
    """The page from records by name, and from those of before the changes."""
    sections = [
        "# Performance",
        "Generated by `python scripts/performance.py` from the records in docs/benchmarks; do not edit.",
        "Every figure comes from `mldec benchmark` ([benchmarks.md](benchmarks.md)) and can be made again. Machines\n"
        "are shared and noisy: what counts are ratios, taken round by round within one run. Targets belong to two\n"
        "cores and float32.",
    ]
    on_cpu = [name for name in RUNS if f"{name}_cpu" in records and name != "growth"]
    sections += ["## On the processor"] if on_cpu else []
    for name in on_cpu:
        sections += [f"### `mldec benchmark {' '.join(RUNS[name])}`", SAID[name], *_body(records[f"{name}_cpu"])]
    sections += ["## What made it faster", *_changes(records, before)]
    if "growth_cpu" in records:
        image = f"![time and memory of the heads]({IMAGE})"
        sections += ["## How cost grows", image, *_growth(records["growth_cpu"])]
    sections += ["## On a GPU", *_gpu(records), "## Where one machine ends", *_fleet(records)]
    return "\n\n".join(sections) + "\n"


def _body(record: Mapping[str, Any]) -> list[str]:
    figures = [Figure(**figure) for figure in record["figures"]]
    table = as_grid(figures) if record["subject"] in ("model", "growth") else as_table(figures)
    return [table, _machine(record)]


def _gpu(records: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What was measured on a GPU, the most important first, and what was not."""
    planned = {GPU_TESTS: "the tests marked `cuda`", **{name: run.what for name, run in GPU_RUNS.items()}}
    there = [name for name in planned if f"{name}_gpu" in records]
    absent = "\n".join(f"* `{name}`: {what}" for name, what in planned.items() if name not in there)
    if not there:
        return [
            "Not measured yet: no GPU was at hand. `make gpu-check` takes one for at most 8 minutes, in this order,\n"
            "and this page then shows what it found:",
            absent,
        ]
    sections = [
        part
        for name in there
        for part in (f"### {planned[name][0].upper()}{planned[name][1:]}", *_body(records[f"{name}_gpu"]))
    ]
    return [*sections, "Not measured yet:", absent] if absent else sections


def _changes(records: Mapping[str, Mapping[str, Any]], before: Mapping[str, Mapping[str, Any]]) -> list[str]:
    sections = []
    for reason, names in CHANGES:
        rows = ["| what | before | after |", "| --- | --- | --- |"]
        for record, name in names:
            pair = (_figure(found.get(f"{record}_cpu"), name) for found in (before, records))
            rows.append(f"| {name} | {' | '.join('-' if f is None else as_cell(f) for f in pair)} |")
        sections += [textwrap.fill(reason, 118), "\n".join(rows)]
    commits = sorted({record["environment"]["commit"][:10] for record in before.values()})
    return [*sections, f"Before: commit {', '.join(commits)}, on the machine of the figures above."]


def _figure(record: Mapping[str, Any] | None, name: str) -> Figure | None:
    return next((Figure(**f) for f in (record or {"figures": ()})["figures"] if f["name"] == name), None)


def _machine(record: Mapping[str, Any]) -> str:
    environment = record["environment"]
    versions = ", ".join(f"{name} {environment['packages'][name]}" for name in ("torch", "timm"))
    threads = f", {environment['threads']} threads" if environment.get("threads") else ""
    commit = (environment["commit"] or "unknown")[:10]
    cuda = "".join(f", {name} {environment[name]}" for name in ("driver", "cuda", "cudnn") if environment.get(name))
    where = f"{environment['device']}{threads}{cuda}, Python {environment['python']}, {versions}"
    return f"{record['date']}, {where}, commit {commit}."


#: Why the head's cost grows as it does along each axis, in multiply-accumulates.
REASONS = {
    "classes": "only the group fully-connected layer knows of classes: 768 a class and image",
    "queries": "each query is projected and fed forward, 4.3 million; keys and values are made once for all of them",
    "tokens": "each token is projected three times, 2.8 million, and meets each query in 1,536 more",
    "images": "all but the projection of the queries is done for each",
}


def _growth(record: Mapping[str, Any]) -> list[str]:
    def doubled(head: str, axis: str, quantity: str) -> str:
        """By how much `quantity` grows where the axis doubles, from its two largest values."""
        a, b = [p for p in record["points"] if (p["head"], p["axis"]) == (head, axis)][-2:]
        if not a[quantity] or not b[quantity]:
            return "-"
        slope = math.log(b[quantity] / a[quantity]) / math.log(b["value"] / a["value"])
        return f"x {2**slope:.2f}"

    rows = ["| twice the | time of ML-Decoder | its memory | why |", "| --- | --- | --- | --- |"]
    for axis in dict.fromkeys(point["axis"] for point in record["points"]):
        cells = [doubled("ML-Decoder", axis, quantity) for quantity in ("milliseconds", "mebibytes")]
        rows.append(f"| {axis} | {' | '.join(cells)} | {REASONS[axis]} |")
    return [
        f"One of classes, queries, tokens and images varies, the others are {growth.BASE}; forward and backward in\n"
        f"training at dropout {growth.DROPOUT}. Between the two largest values of each:",
        "\n".join(rows),
        "A transformer decoder has a query for each class, and they attend to one another: doubling the classes there\n"
        f"takes {doubled('transformer decoder', 'classes', 'milliseconds')} the time already, and tends to x 4.",
        _machine(record),
    ]


def _fleet(records: Mapping[str, Mapping[str, Any]]) -> list[str]:
    rows = [["run", "images/s of one GPU", *(f"{count} GPU{'s' * (count > 1)}" for count in FLEET)]]
    rows.append(["---"] * len(rows[0]))
    for name, (images, epochs) in WHOLE_RUNS.items():
        record, figure = MEASURED[name]
        values = {f["name"]: f["value"] for f in records.get(f"{record}_gpu", {"figures": ()})["figures"]}
        rate, source = values.get(figure), "measured, above"
        if rate is None:
            rate, source = PUBLISHED[name], "published for an RTX 3090"
        hours = [f"{images * epochs / rate / count / 3600:,.1f} h" for count in FLEET]
        rows.append([f"{name}: {epochs} epochs of {images:,}", f"{rate:,.0f} ({source})", *hours])
    return [
        "How long a whole run of the paper would take: images times epochs over the rate, divided by the number of\n"
        "GPUs as if these did not wait for one another. In truth they exchange gradients after each step, 220 MB for\n"
        "TResNet-L: 20 ms over a link of 100 Gbit/s, against half a second of computing for 56 images on the GPU of\n"
        "the table. The loader has to keep up with all GPUs of a machine; how many cores that takes, `mldec benchmark\n"
        "loader` says.",
        "\n".join("| " + " | ".join(row) + " |" for row in rows),
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
