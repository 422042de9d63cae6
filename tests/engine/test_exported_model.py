"""Property: an exported folder from anybody is read as what it is, or refused in words; it runs nothing."""

from __future__ import annotations

import json
import shutil

import pytest
import safetensors.torch
import torch

import mldec
from mldec.engine.checkpoint import load_checkpoint, restore
from mldec.engine.export import exported_model
from mldec.engine.export.exporter import export
from mldec.errors import CheckpointError, ConfigError, MldecError
from tests.curve import small_experiment
from tests.engine.test_export import SMALL, zero_shot
from tests.nested import put


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    return export(zero_shot(folder), folder / "out", ["safetensors"]).folder


@pytest.fixture
def folder(original, tmp_path):
    return shutil.copytree(original, tmp_path / "out")


def change(folder, **values):
    """Set values of mldec.json by path, with __ between the parts; ... takes one out."""
    path = folder / exported_model.DESCRIPTION
    content = json.loads(path.read_text())
    for name, value in values.items():
        put(content, name.split("__"), value)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"labels": ...}, "it has no labels"),
        ({"format": True}, "format=True: expected an integer"),
        ({"step": "3"}, "step=3: expected an integer"),
        ({"format": 99}, "format 99, this mldec reads up to 1; upgrade mldec"),
        ({"labels": ["a\x1b[2J"] * 7, "label_embeddings__names": ["a\x1b[2J"] * 7}, "holds control characters"),
        ({"labels": ["a"] * 7, "label_embeddings__names": ["a"] * 7}, "found more than once: a"),
        ({"labels": [1, 2, 3, 4, 5, 6, 7]}, "labels: expected a list of names"),
        ({"labels": [f"other {n}" for n in range(7)]}, "first of its names must be the trained labels"),
        ({"labels": []}, "at least one label"),
        ({"seen": [True]}, "`seen` has 1 entries for 7 labels"),
        ({"seen": ["yes"] * 7}, "seen=.*: expected true or false"),
        ({"normalization__mean": [0.5, 0.5]}, "normalization=.*expected .*three finite numbers"),
        ({"normalization__std": [1.0, 0.0, 1.0]}, "normalization=.*expected .*std above 0"),
        ({"normalization__std": [1.0, float("nan"), 1.0]}, "normalization=.*expected .*three finite numbers"),
        ({"weights": "best"}, "weights=.?best.?: expected ema or raw"),
        ({"metrics": {"ema": 3}}, "metrics=.*: expected plain values by name, for each"),
        ({"data": {"train": {"images": "many"}}}, "images, labels and fingerprint by split"),
        ({"environment": {"packages": 3}}, "environment: expected versions by name"),
        ({"thresholds": [0.5] * 6}, "thresholds: expected 7 numbers, one per label"),
        ({"thresholds": [0.5] * 6 + [2]}, "thresholds=.*: expected a number from 0 to 1 for each label"),
        ({"label_embeddings": None}, "label_embeddings: missing, but the head"),
        ({"label_embeddings__source": 3}, "label_embeddings=.*: expected names, vectors and their source"),
        ({"label_embeddings__names": ["thing 0"]}, "first of its names must be the trained labels"),
    ],
)
def test_a_description_that_says_something_impossible(folder, values, message):
    change(folder, **values)
    if "labels" in values:  # whose other copy is in the header of the weights
        state = safetensors.torch.load_file(folder / exported_model.WEIGHTS)
        exported_model.write_weights(folder, state, {})
    with pytest.raises(CheckpointError, match=message) as caught:
        mldec.load(folder)
    assert str(folder) in str(caught.value)


def test_a_config_can_name_what_is_registered_and_nothing_else(folder):
    for values, message in (
        ({"config__backbone__name": "os.system"}, "os.system"),
        ({"config__head___target_": "os.system"}, "head._target_: .*no such setting"),
        ({"config__head": {"name": "ml_decoder", "dim": -3}}, "head.dim=-3: expected an integer ≥ 1"),
        ({"config": {}}, "missing; a value is needed"),
    ):
        change(folder, **values)
        with pytest.raises(ConfigError, match=message):
            mldec.load(folder)


def test_weights_of_another_network(folder):
    change(folder, config__head__dim=32)
    with pytest.raises(CheckpointError, match=r"does not fit the network that its own config describes(.|\n)*size"):
        mldec.load(folder)


def test_files_that_do_not_belong_together(folder, tmp_path):
    state = safetensors.torch.load_file(folder / exported_model.WEIGHTS)
    exported_model.write_weights(folder, state, {"labels": json.dumps(["cat"])})
    with pytest.raises(CheckpointError, match=r"has other labels than mldec\.json in the same folder"):
        mldec.load(folder)
    exported_model.write_weights(folder, state, {})
    safetensors.torch.save_file({"vectors": torch.randn(3, 5)}, folder / exported_model.VECTORS)
    with pytest.raises(MldecError, match="label embeddings of shape"):
        mldec.load(folder)


@pytest.mark.parametrize("name", [exported_model.WEIGHTS, exported_model.VECTORS, exported_model.DESCRIPTION])
@pytest.mark.parametrize(
    "content", [b"", b"\x80\x04no pickle is read", b"[" * 100_000], ids=["empty", "pickle", "deep"]
)
def test_damaged_files(folder, name, content):
    (folder / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=name):
        mldec.load(folder)


def test_a_cut_off_file(folder):
    whole = (folder / exported_model.WEIGHTS).read_bytes()
    (folder / exported_model.WEIGHTS).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="is damaged or not a safetensors file"):
        mldec.load(folder)


def test_folders_without_weights_say_how_what_they_hold_is_read(folder):
    (folder / exported_model.WEIGHTS).rename(folder / "model.onnx")
    for path in (folder, folder / "model.onnx"):
        with pytest.raises(CheckpointError, match=r"load model\.onnx with ONNX Runtime.*format=safetensors"):
            mldec.load(path)
    (folder / "model.onnx").rename(folder / "model.pt2")
    with pytest.raises(CheckpointError, match=r"load model\.pt2 with torch\.export\.load"):
        mldec.load(folder)
    (folder / "model.pt2").unlink()
    with pytest.raises(CheckpointError, match=r"not a complete export of mldec: it lacks model\.safetensors"):
        mldec.load(folder)


def test_a_file_is_as_good_as_its_folder(folder):
    file = folder / exported_model.WEIGHTS
    assert restore(file).labels == restore(folder).labels
    assert load_checkpoint(file)["label_embeddings"]["names"] == [*(f"thing {n}" for n in range(7)), "never trained"]


def test_a_run_starts_from_an_exported_folder(folder, digits_root, tmp_path, capsys):
    from mldec.commands.main import run

    words = [*small_experiment(digits_root), *SMALL, "schedule.epochs=1", f"run_dir={tmp_path / 'run'}"]
    assert run(["train", *words, f"init_from={folder}", "init_part=backbone"]) == 0
    assert "tensors loaded" in capsys.readouterr().out
    assert run(["train", f"resume={folder}"]) == 2
    assert "Traceback" not in capsys.readouterr().err
