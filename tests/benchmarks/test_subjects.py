"""The subjects of `mldec benchmark`: that they run, and count what they say. How fast anything is, is not tested."""

import json
import os

import pytest
import torch
from PIL import Image

from mldec.benchmarks import growth, head, rate, startup
from mldec.benchmarks.generated_images import HEIGHT, WIDTH, write_images
from mldec.benchmarks.head import Shape, macs
from mldec.commands.main import run
from mldec.data.image import decode
from mldec.models.heads import MLDecoder

FAST = ["repeats=2", "seconds=0.001", "runtime.threads=1", "runtime.device=cpu"]


@pytest.fixture(autouse=True)
def small_limit(monkeypatch):
    monkeypatch.setattr(rate, "matrix_side", lambda device: 64)


def figures_of(tmp_path, *words: str) -> dict[str, dict]:
    assert run(["benchmark", *words, f"output={tmp_path / 'out.json'}", f"page={tmp_path / 'page.md'}"]) == 0
    record = json.loads((tmp_path / "out.json").read_text())
    assert record["environment"]["packages"]["torch"]
    assert (tmp_path / "page.md").read_text().startswith(f"# Benchmark: {words[0]}\n")
    figures = {figure["name"]: figure for figure in record["figures"]}
    assert all(figure["value"] is None or figure["value"] >= 0 for figure in figures.values())
    return figures


def test_the_head_is_measured_against_a_matrix_product(tmp_path, monkeypatch):
    monkeypatch.setattr(head, "SHAPES", (Shape(80, 20, 9, 2),))
    monkeypatch.setattr(head, "FEW", Shape(100, 100, 9, 2))
    monkeypatch.setattr(head, "MANY", Shape(300, 100, 9, 2))
    figures = figures_of(tmp_path, "head", *FAST)
    shares = [name for name in figures if name.endswith("of the matrix product")]
    assert len(shares) == 4
    assert {figures[name]["target"] for name in shares} == {85, 80, 70, None}
    assert figures["300 classes against 100, 100 queries: forward and backward"]["better"] == "lower"


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_the_work_of_the_head_is_counted_as_torch_counts_it(dropout):
    from torch.utils.flop_counter import FlopCounterMode

    shape = Shape(90, 20, 9, 2)
    module = MLDecoder(head.FEATURES, shape.classes, shape.queries, dim=head.DIM, ffn_dim=head.FFN_DIM, dropout=dropout)
    with FlopCounterMode(display=False) as counter, torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        module(torch.zeros(shape.images, shape.tokens, head.FEATURES))
    assert macs(shape, shared=dropout == 0) == pytest.approx(counter.get_total_flops() / 2, rel=1e-6)


def test_the_loss_is_measured_against_its_plain_chain(tmp_path):
    figures = figures_of(tmp_path, "loss", *FAST, "scale=0.01")
    ratio = figures["asymmetric loss over the plain chain"]
    assert (ratio["target"], ratio["better"], len(ratio["samples"])) == (0.5, "lower", 2)
    plain, ours = figures["asymmetric loss, plain chain"]["samples"], figures["asymmetric loss"]["samples"]
    assert ratio["samples"] == pytest.approx([a / b for a, b in zip(ours, plain, strict=True)])


def test_growth_is_measured_along_each_axis_and_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(growth, "BASE", Shape(40, 10, 9, 2))
    monkeypatch.setattr(growth, "AXES", {"classes": (10, 40), "queries": (5, 10), "tokens": (9, 16), "images": (1, 2)})
    figures = figures_of(tmp_path, "growth", *FAST)
    assert {"ML-Decoder, 10 classes: forward and backward", "average pooling, 40 classes: peak memory"} <= set(figures)
    points = json.loads((tmp_path / "out.json").read_text())["points"]
    assert sum(point["head"] == "ML-Decoder" for point in points) == 8
    growth.draw(points, tmp_path / "growth.png")
    with Image.open(tmp_path / "growth.png") as image:
        assert image.size == (1440, 660)


@pytest.mark.slow  # builds TResNet-L
def test_the_average_is_measured_against_a_copy_and_a_step(tmp_path):
    figures = figures_of(tmp_path, "ema", *FAST)
    assert figures["update of tresnet_l over a copy of its bytes"]["target"] == 3
    assert 0 < figures["update in a training step of digits"]["value"] < 100


def test_mean_ap_is_measured_and_equals_scikit_learn(tmp_path):
    figures = figures_of(tmp_path, "metric", *FAST, "scale=0.002")
    assert figures["mean AP over scikit-learn's"]["target"] == 0.1
    assert figures["largest difference of an AP from scikit-learn's"]["value"] < 1e-12
    assert figures["mean AP of many labels"]["target"] == 240
    assert figures["mean AP of many labels: peak memory"]["target"] == 8


def test_every_augmentation_is_measured(tmp_path):
    figures = figures_of(tmp_path, "augment", *FAST, "scale=0.1")
    assert sum(name.startswith("operation ") for name in figures) == 2 * 15
    assert figures["paper, resizing to 448 included, over decoding and resizing"]["unit"] == "x"


def test_the_loader_is_measured_on_generated_images(tmp_path):
    figures = figures_of(tmp_path, "loader", "scale=0.1", "repeats=1", "workers=1,2")
    assert figures["loader with 1 worker, of that"]["target"] == 60
    assert figures["loader with 2 workers, of that"]["target"] is None


def test_the_loader_and_the_loop_are_measured_on_ones_own_images(tmp_path):
    small = ["experiment=digits", f"dataset.root={tmp_path / 'digits'}", "dataset.train=160", "dataset.val=8"]
    small += ["dataset.test=8", "runtime.threads=1", "schedule.batch_size=8"]
    figures = figures_of(tmp_path, "loader", *small, "repeats=1")
    assert "augment=digits" in figures["loader with 1 worker"]["note"]
    figures = figures_of(tmp_path, "train", *small, "repeats=1", "steps=2")
    share = figures["training loop of digits over a bare loop"]
    assert share["target"] == 90
    assert share["value"] == pytest.approx(100 * figures["training loop"]["value"] / figures["bare loop"]["value"])


def test_the_loop_is_measured_on_generated_images_without_a_dataset(tmp_path):
    small = [
        "experiment=digits",
        "dataset.root=/nowhere",
        "dataset.image_size=48",
        "augment=paper",
        "runtime.threads=1",
    ]
    words = ["schedule.batch_size=4", "repeats=1", "steps=2", "images=12", "labels=7"]
    figures = figures_of(tmp_path, "train", *small, *words)
    assert figures["training loop"]["value"] > 0


def test_generated_images_are_as_large_as_photographs(tmp_path):
    paths = write_images(tmp_path, 3)
    images = [decode(path) for path in paths]
    assert {image.shape for image in images} == {(HEIGHT, WIDTH, 3)}
    assert len({image.tobytes() for image in images}) == 3
    sizes = [os.path.getsize(path) for path in paths]
    assert 60_000 < min(sizes) < max(sizes) < 160_000


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["haed"], "did you mean head"),
        (["head", "schedule.epochs=1"], "schedule.epochs=1: no such word"),
        (["loss", "scale=0"], "scale=0: expected a number above 0"),
        (["metric", "repeats=none"], "repeats=none: expected a whole number"),
        (["loader", "workers=1,1"], "found 1 twice"),
        (["train", "step=3"], "step"),
    ],
)
def test_bad_input_is_one_clear_line(words, message, capsys):
    assert run(["benchmark", *words]) == 2
    assert message in capsys.readouterr().err


def test_starting_is_measured_in_whole_processes(tmp_path, monkeypatch):
    monkeypatch.setitem(startup.COMMANDS, startup.SHOW, ["-m", "mldec", "--version"])
    figures = figures_of(tmp_path, "startup", "repeats=1")
    assert figures["mldec --help"]["value"] < figures["import torch, timm"]["value"]  # it imports neither
    assert figures["mldec show experiment=digits over import torch, timm"]["target"] == 1.3
    assert run(["benchmark", "startup", "seconds=1"]) == 2
