"""`mldec export`: an exported run is used as the run itself is; a mistake leaves nothing."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from PIL import Image

from mldec.commands.main import run
from tests.curve import small_experiment
from tests.engine.test_export import SMALL


@pytest.fixture(scope="module")
def trained(digits_root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert run(["train", *small_experiment(digits_root), *SMALL, "schedule.epochs=1", f"run_dir={folder}"]) == 0
    return folder


def test_an_exported_run_predicts_and_evaluates_as_the_run_does(trained, digits_root, tmp_path, capsys):
    capsys.readouterr()
    assert run(["export", f"run={trained}", "format=safetensors"]) == 0
    folder = trained / "export" / "safetensors"
    printed = capsys.readouterr().out
    assert "equal to the network" in printed
    assert f"written to {folder}" in printed
    assert sorted(os.listdir(folder)) == ["README.md", "mldec.json", "model.safetensors"]

    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(tmp_path / "a.png")
    for name in (trained, folder):
        command = ["predict", f"run={name}", f"input={tmp_path / 'a.png'}", "threshold=0", "device=cpu"]
        assert run([*command, f"output={tmp_path / name.name}"]) == 0
    first, second = (tmp_path / name / "predictions.jsonl" for name in (trained.name, folder.name))
    assert first.read_text() == second.read_text()

    command = ["evaluate", f"run={folder}", f"dataset.root={digits_root}", f"output={tmp_path / 'evaluation'}"]
    assert run(command) == 0
    record = json.loads((tmp_path / "evaluation" / "metrics.json").read_text())
    described = json.loads((folder / "mldec.json").read_text())["test"]
    assert record["metrics"] == {name: described[name] for name in record["metrics"]}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "run=… and format=… are missing"),
        (["run=RUN"], "format=… is missing"),
        (["run=RUN", "format=onxx"], "format=onxx: expected one of onnx, torch_export, safetensors"),
        (["run=RUN", "format=onnx,onnx"], "format=onnx,onnx: found an item twice; list different values"),
        (["run=RUN", "format=safetensors", "weights=reported"], "weights=reported: expected one of best, ema, raw"),
        (["run=RUN", "format=safetensors", "fold_batch_norm=yes"], "expected true or false"),
        (["run=RUN", "format=safetensors", "preprocessing=all"], "expected one of described, included"),
        (["run=RUN", "format=safetensors", "fold_batch_norm=true"], "true: no effect on format=safetensors"),
        (["run=RUN", "format=safetensors", "opset=17"], "opset=17: no such option of mldec export"),
        (["run=/nowhere", "format=safetensors"], "no run directory or checkpoint at /nowhere"),
        (["run=RUN/config.yaml", "format=safetensors"], "use output=DIR"),
        (["run=RUN", "format=safetensors", "output=RUN"], "exists already"),
    ],
)
def test_a_wrong_option_is_one_line_and_leaves_nothing(trained, capsys, options, message):
    before = sorted(trained.rglob("*"))
    assert run(["export", *(option.replace("RUN", str(trained)) for option in options)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error
    assert sorted(trained.rglob("*")) == before
