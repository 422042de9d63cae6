"""`mldec benchmark loader` and `train`: that they run and count correctly. How fast anything is, is not tested."""

import json
import os

import pytest
import torch

from mldec.benchmarks.generated_images import HEIGHT, WIDTH, write_images
from mldec.commands.main import run
from mldec.data.image import decode


def figures_of(tmp_path, *arguments: str) -> dict[str, dict]:
    assert run(["benchmark", *arguments, f"output={tmp_path / 'out.json'}", f"page={tmp_path / 'page.md'}"]) == 0
    record = json.loads((tmp_path / "out.json").read_text())
    assert record["environment"]["packages"]["torch"]
    assert (tmp_path / "page.md").read_text().startswith(f"# Benchmark: {arguments[0]}\n")
    figures = {figure["name"]: figure for figure in record["figures"]}
    assert all(figure["value"] is None or figure["value"] >= 0 for figure in figures.values())
    return figures


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
    options = ["schedule.batch_size=4", "repeats=1", "steps=2", "images=12", "num_labels=7"]
    figures = figures_of(tmp_path, "train", *small, *options)
    assert figures["training loop"]["value"] > 0


def test_generated_images_are_as_large_as_photographs(tmp_path):
    paths = write_images(tmp_path, 3)
    images = [decode(path) for path in paths]
    assert {image.shape for image in images} == {(HEIGHT, WIDTH, 3)}
    assert len({image.tobytes() for image in images}) == 3
    sizes = [os.path.getsize(path) for path in paths]
    assert 60_000 < min(sizes) < max(sizes) < 160_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["modle"], "did you mean model"),
        (["loader", "num_labels=3"], "num_labels=3: no such option of mldec benchmark loader"),
        (["loader", "scale=0"], "scale=0"),
        (["loader", "repeats=none"], "repeats=none"),
        (["loader", "workers=1,1"], "found an item twice"),
        (["loader", "runtime.threads=1"], "has no effect without experiment=… or dataset=…"),
        (["loader", "experiment=digits", "scale=0.1"], "scale=0.1: has no effect"),
        (["train", "step=3"], "did you mean steps"),
    ],
)
def test_bad_input_is_one_clear_line(arguments, message, capsys):
    assert run(["benchmark", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_cached_tokens_are_measured_on_generated_images(tmp_path, monkeypatch):
    def no_compiler(network):
        raise RuntimeError("no compiler")

    monkeypatch.setattr(torch, "compile", no_compiler)
    small = ["experiment=digits", "backbone.widths=[8,16]", "backbone.blocks=[1,1]", "dataset.image_size=48"]
    small += ["head.dim=32", "head.ffn_dim=32", "head.num_heads=4", "runtime.threads=1", "runtime.workers=0"]
    figures = figures_of(tmp_path, "cache", *small, "images=12", "num_labels=5", "repeats=1", "schedule.batch_size=4")
    share = figures["extraction over the bare network"]
    assert share["value"] == pytest.approx(100 * figures["extraction"]["value"] / figures["bare network"]["value"])
    assert {name: figure["target"] for name, figure in figures.items() if figure["target"]} == {
        "extraction over the bare network": 90,
        "epoch of average pooling, time without the cache over time with it": 20,
        "ML-Decoder step, time with reading over time without": 1.1,
        "ML-Decoder step, of the matrix product's rate": 40,
    }
    assert sum(name.startswith("network: ") for name in figures) == 5
    compiled = next(figure for name, figure in figures.items() if "torch.compile" in name)
    assert (compiled["value"], compiled["note"]) == (None, "RuntimeError: no compiler")
    assert "48 images" in figures["anonymous memory with 4 N over N images"]["note"]
