"""Every zero-shot head of another method is trained, stored, restored, exported and queried with unseen labels."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import mldec
from mldec.commands.main import run as command
from mldec.engine.checkpoint import restore
from mldec.engine.export.exporter import export
from tests.curve import SMALLER, make, make_trainer, small_experiment

HEADS = {
    "conse": [],
    "fast0tag": ["head.hidden=[32,16]"],
    "lesa": ["head.num_attentions=3"],
    "attention_per_label": [],
    "biam": ["head.dim=16", "head.out_dim=24"],
    "sdl": ["head.projection=24"],
}


@pytest.fixture(scope="module")
def trained(digits_root, tmp_path_factory) -> Callable[[str], tuple[Path, Any]]:
    """The run directory and the trainer of a head: two steps on the seen labels."""

    @cache
    def train(head: str) -> tuple[Path, Any]:
        small = [line for line in small_experiment(digits_root) if not line.startswith("head.")]
        chosen = [f"head={head}", "head.label_embeddings.source=random:12", "dataset.zero_shot=report"]
        more = ["schedule.epochs=1", "runtime.limit_train_batches=2"]
        trainer = make_trainer(make([*small, *SMALLER, *chosen, *HEADS[head], *more]))
        trainer.fit(tmp_path_factory.mktemp(head) / "run")
        return trainer.run_dir, trainer

    return train


@pytest.fixture(scope="module")
def inputs():
    return list(np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8))


@pytest.mark.parametrize("head", HEADS)
def test_a_trained_head_scores_unseen_labels(trained, inputs, head):
    folder, trainer = trained(head)
    assert '"zsl_mAP"' in (folder / "metrics.jsonl").read_text()
    everything = trainer.splits.labels.names
    network = mldec.load(folder, device="cpu")
    network.set_labels(everything)
    scores = network.scores(inputs)
    assert scores.shape == (3, 80)
    assert len(np.unique(scores)) > 200
    for weights, own in (("raw", trainer.state.model), ("ema", trainer.state.ema.module)):
        restored = restore(folder, weights=weights, which="last").classifier
        images = torch.rand(2, 3, 64, 64)
        with own.querying(everything), restored.querying(everything):
            assert torch.equal(restored(images), own.eval()(images))


@pytest.mark.parametrize("head", ["lesa", "biam", "sdl"])
def test_an_export_takes_label_vectors(trained, tmp_path, head):
    exported = export(trained(head)[0], tmp_path / "out", ["torch_export"])
    assert exported.differences["model.pt2"].logits < 1e-4
    assert not exported.notes


@pytest.mark.parametrize(("head", "maps"), [("conse", "false"), ("biam", "true"), ("attention_per_label", "attention")])
def test_the_command_predicts_labels_that_were_never_trained(trained, inputs, tmp_path, capsys, head, maps):
    folder, trainer = trained(head)
    Image.fromarray(inputs[0]).save(tmp_path / "image.png")
    labels = trainer.splits.labels
    unseen = [name for name, seen in zip(labels.names, labels.seen, strict=True) if not seen][:2]
    options = [f"input={tmp_path / 'image.png'}", f"labels={','.join(unseen)}", f"output={tmp_path / 'out'}"]
    assert command(["predict", f"run={folder}", *options, f"maps={maps}"]) == 0, capsys.readouterr().err
    assert (tmp_path / "out" / "maps").exists() == (maps != "false")
