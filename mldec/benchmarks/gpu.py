"""What is measured on a GPU, the most important first: arguments of `mldec benchmark`, and what they take.

All in bfloat16. The paper's Table 9 (TResNet-M, 224 px; GAP, ML-Decoder and transformer decoder at 100, 1,000 and 5,000
classes), TResNet-L at 448 px in training and inference, three networks with torch.compile; then the rest.
"""

from __future__ import annotations

from typing import NamedTuple

PAPER = ["experiment=coco_tresnet_l", "backbone.pretrained=false"]
QUICK = ["seconds=0.5", "largest_batch=false"]
M_224 = ["model", *PAPER, "backbone=tresnet_m", "dataset.image_size=224", "head.num_groups=100"]
R50_224 = ["model", *PAPER, "backbone=resnet50", "dataset.image_size=224", "head.num_groups=100"]
L_448 = ["model", *PAPER, "labels=80", "head.num_groups=80", "schedule.batch_size=64"]
CHANNELS_LAST, COMPILED = "runtime.channels_last=true", "runtime.compile=true"
BATCH = "schedule.batch_size=256"  # halved where it does not fit, as the record then says
TWO_HEADS, THOUSAND = "heads=gap,ml_decoder", ["heads=ml_decoder", "labels=1000", BATCH]
TABLE_9 = ["model", "experiment=table9/ml_decoder", "heads=gap,ml_decoder,transformer_decoder", BATCH, "seconds=0.5"]


class Measurement(NamedTuple):
    """What is measured, arguments of `mldec benchmark`, and seconds that a current GPU is expected to take at most."""

    what: str
    overrides: list[str]
    seconds: float


#: By name of the record.
RUNS: dict[str, Measurement] = {
    "table9_100": Measurement("Table 9, TResNet-M at 224 px, 100 classes", [*TABLE_9, "labels=100"], 60),
    "table9_1000": Measurement("Table 9, TResNet-M at 224 px, 1,000 classes", [*TABLE_9, "labels=1000"], 60),
    "table9_5000": Measurement("Table 9, TResNet-M at 224 px, 5,000 classes", [*TABLE_9, "labels=5000"], 75),
    "tresnet_l": Measurement("TResNet-L at 448 px, 80 classes", [*L_448, TWO_HEADS, *QUICK], 30),
    "tresnet_m_compiled": Measurement(
        "TResNet-M at 224 px, 1,000 classes, compiled", [*M_224, *THOUSAND, COMPILED, *QUICK], 60
    ),
    "resnet50_compiled_channels_last": Measurement(
        "ResNet-50 at 224 px, 1,000 classes, compiled, channels-last",
        [*R50_224, *THOUSAND, CHANNELS_LAST, COMPILED, *QUICK],
        60,
    ),
    "tresnet_m_compiled_channels_last": Measurement(
        "TResNet-M at 224 px, 1,000 classes, compiled, channels-last",
        [*M_224, *THOUSAND, CHANNELS_LAST, COMPILED, *QUICK],
        60,
    ),
    "loop": Measurement(
        "the training loop of TResNet-L at 448 px on JPEG files",
        ["train", *PAPER, "images=2048", "labels=80", "steps=25", "repeats=2", "schedule.batch_size=64"],
        60,
    ),
    "resnet50_channels_last": Measurement(
        "ResNet-50 at 224 px, 1,000 classes, channels-last", [*R50_224, *THOUSAND, CHANNELS_LAST, *QUICK], 20
    ),
    "tresnet_m_channels_last": Measurement(
        "TResNet-M at 224 px, 1,000 classes, channels-last", [*M_224, *THOUSAND, CHANNELS_LAST, *QUICK], 20
    ),
    "tresnet_l_channels_last": Measurement(
        "TResNet-L at 448 px, 80 classes, channels-last", [*L_448, TWO_HEADS, CHANNELS_LAST, *QUICK], 30
    ),
    "resnet50": Measurement(
        "ResNet-50 at 224 px, 1,000 classes", [*R50_224, TWO_HEADS, "labels=1000", BATCH, *QUICK], 25
    ),
    "head": Measurement("ML-Decoder alone, against the rate of a matrix product", ["head", "seconds=0.3"], 30),
    "loss": Measurement("the asymmetric loss, against the plain chain of operations", ["loss", "seconds=0.3"], 10),
    "ema": Measurement("the average of the weights, against a copy and a step", ["ema", "seconds=0.3"], 15),
}

#: A rehearsal has these values in place of those of the same key,
TINY = {
    "dataset.image_size": "64",
    "head.num_groups": "4",
    "schedule.batch_size": "4",
    "runtime.compile": "false",  # a C++ compiler would take half a minute
    "labels": "8",
    "images": "8",
    "steps": "1",
    "seconds": "0.01",
    "repeats": "1",
}
#: and for each subject these besides.
SMALL_NETWORK = {"backbone": "resnet_digits", "dataset.image_size": "64"}
TINY_BESIDES = {
    "model": {**SMALL_NETWORK, "repeats": "1"},
    "train": {**SMALL_NETWORK, "runtime.workers": "0"},
    "head": {"scale": "0.02", "repeats": "1"},
    "loss": {"scale": "0.01", "repeats": "1"},
    "ema": {"repeats": "1"},
}


def benchmark_words(name: str, device: str = "cuda", *, tiny: bool = False) -> list[str]:
    """Arguments of `mldec benchmark` for the measurement called `name`; `tiny`: at a size that says nothing."""
    subject, *overrides = RUNS[name].overrides
    overrides = [*overrides, f"runtime.device={device}", "runtime.precision=bf16"]
    if tiny:
        typed = dict(override.split("=", 1) for override in overrides)
        replaced = {key: TINY.get(key, value) for key, value in typed.items()} | TINY_BESIDES[subject]
        overrides = [f"{key}={value}" for key, value in replaced.items()]
    return [subject, *overrides]
