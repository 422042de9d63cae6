"""Measure the paper's Table 9 on a CUDA device and write docs/benchmarks/table9_gpu.json; less than 9 minutes.

python scripts/measure_gpu.py                           # TResNet-M, 224 px, bfloat16, 100 to 5000 classes
python scripts/measure_gpu.py schedule.batch_size=512   # any word of `mldec benchmark model`, added or replaced
"""

from __future__ import annotations

import sys
from pathlib import Path

from mldec.commands.main import main

WORDS = {
    "experiment": "coco_tresnet_l",
    "backbone": "tresnet_m",
    "backbone.pretrained": "false",
    "dataset.image_size": "224",
    "heads": "gap,transformer_decoder,ml_decoder",
    "head.num_groups": "100",
    "labels": "100,1000,5000",
    "schedule.batch_size": "256",  # halved where it does not fit, as the record then says
    "runtime.device": "cuda",
    "runtime.precision": "bf16",
    "seconds": "1.5",  # keeps the whole of it below 9 minutes, the searches for the largest batch included
    "output": str(Path(__file__).resolve().parent.parent / "docs" / "benchmarks" / "table9_gpu.json"),
}

if __name__ == "__main__":
    typed = dict(word.partition("=")[::2] for word in sys.argv[1:] if "=" in word)
    options = [word for word in sys.argv[1:] if "=" not in word]
    main(["benchmark", "model", *options, *(f"{name}={value}" for name, value in {**WORDS, **typed}.items())])
