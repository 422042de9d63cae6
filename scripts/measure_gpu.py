"""Measure on a CUDA device what docs/performance.md has room for, in one call of less than 9 minutes.

    python scripts/measure_gpu.py                   # all, into docs/benchmarks/*_gpu.json
    python scripts/measure_gpu.py table9 loop       # some of it
    python scripts/performance.py                   # then the page

The paper's Table 9 whole (TResNet-M, 224 px, 100 to 5,000 classes), TResNet-L at 448 px and ResNet-50 with GAP and
ML-Decoder; contiguous against channels_last, eager against compiled; the head, the loss and the average alone; the
whole training loop on JPEG files. All in bfloat16. What would begin after the time is up is left out, and said.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from mldec.commands.main import run

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "benchmarks"
DEADLINE = 500.0  # seconds after which nothing is begun

GPU = ["runtime.device=cuda", "runtime.precision=bf16"]
PAPER = ["experiment=coco_tresnet_l", "backbone.pretrained=false"]
QUICK = ["seconds=0.5", "largest_batch=false"]
M_224 = ["model", *PAPER, "backbone=tresnet_m", "dataset.image_size=224", "labels=1000", "head.num_groups=100"]
L_448 = ["model", *PAPER, "labels=80", "head.num_groups=80", "schedule.batch_size=64"]
R50_224 = [*M_224[:3], "backbone=resnet50", "dataset.image_size=224", "labels=1000", "head.num_groups=100"]
TWO_HEADS, ONE_HEAD = "heads=gap,ml_decoder", "heads=ml_decoder"
CHANNELS_LAST, COMPILED = "runtime.channels_last=true", "runtime.compile=true"
BATCH = "schedule.batch_size=256"  # halved where it does not fit, as the record then says

#: By name of the record; what matters most comes first.
RUNS: dict[str, list[str]] = {
    "table9": [
        *M_224[:-2],
        "head.num_groups=100",
        "heads=gap,transformer_decoder,ml_decoder",
        "labels=100,1000,5000",
        BATCH,
        "seconds=0.6",
    ],
    "loop": ["train", *PAPER, "pictures=2048", "labels=80", "steps=25", "repeats=2", "schedule.batch_size=64"],
    "tresnet_l": [*L_448, TWO_HEADS, *QUICK],
    "resnet50": [*R50_224, TWO_HEADS, BATCH, *QUICK],
    "head": ["head", "seconds=0.3"],
    "tresnet_l_channels_last": [*L_448, TWO_HEADS, CHANNELS_LAST, *QUICK],
    "resnet50_channels_last": [*R50_224, TWO_HEADS, BATCH, CHANNELS_LAST, *QUICK],
    "tresnet_m": [*M_224, ONE_HEAD, BATCH, *QUICK],
    "tresnet_m_channels_last": [*M_224, ONE_HEAD, BATCH, CHANNELS_LAST, *QUICK],
    "tresnet_m_compiled": [*M_224, ONE_HEAD, BATCH, COMPILED, *QUICK],
    "resnet50_compiled_channels_last": [*R50_224, ONE_HEAD, BATCH, CHANNELS_LAST, COMPILED, *QUICK],
    "loss": ["loss", "seconds=0.3"],
    "ema": ["ema", "seconds=0.3"],
    "tresnet_m_compiled_channels_last": [*M_224, ONE_HEAD, BATCH, CHANNELS_LAST, COMPILED, *QUICK],
}


def main(names: Sequence[str]) -> int:
    """Run what is named, or all; returns how many failed."""
    unknown = [name for name in names if name not in RUNS]
    if unknown:
        print(f"{', '.join(unknown)}: no such measurement; use {', '.join(RUNS)}")
        return 2
    began, failed = time.monotonic(), 0
    for name in names or RUNS:
        spent = time.monotonic() - began
        if spent > DEADLINE:
            print(f"left out after {spent:.0f} s: {name}")
            continue
        print(f"\n{name}, after {spent:.0f} s", flush=True)
        failed += run(["benchmark", *RUNS[name], *GPU, f"output={FOLDER / f'{name}_gpu.json'}"]) != 0
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
