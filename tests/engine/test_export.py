"""Properties: an export says what the network says, in any batch and of any labels, and carries what it needs; where it
does not, it is not there."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil

import numpy as np
import onnxruntime
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image, ImageOps
from torch import nn

import mldec
from mldec.commands.main import run as command
from mldec.config import to_mapping
from mldec.data.image import Normalization
from mldec.engine import build
from mldec.engine.checkpoint import FORMAT, pack_label_embeddings, restore, save_checkpoint
from mldec.engine.export import exported_model, graph
from mldec.engine.export.exporter import export, preprocessing
from mldec.engine.export.graph import takes_vectors
from mldec.engine.export.model_card import template
from mldec.engine.metric_writer import read_records
from mldec.engine.run_directory import read_json
from mldec.engine.thresholds import read_thresholds
from mldec.errors import CheckpointError, ConfigError, RunError
from mldec.labels import LabelSpace
from mldec.models.classifier import Classifier
from mldec.models.heads import MLDecoder, ZeroShotMLDecoder
from mldec.models.label_embeddings import LabelEmbeddings
from tests.curve import make, small_experiment

LABELS = LabelSpace([f"thing {n}" for n in range(7)])
SMALL = ["backbone.widths=[8,16]", "backbone.blocks=[1,1]", "head.dim=16", "head.num_heads=2", "head.ffn_dim=16"]


def untrained(folder, *overrides, embeddings=None):
    """A checkpoint of a network as it is built, without a run folder."""
    config = make(["experiment=digits", *overrides, *SMALL])
    torch.manual_seed(0)
    network = build.build_classifier(config, LABELS, embeddings)
    content = {
        "format": FORMAT,
        "config": to_mapping(config),
        "labels": list(LABELS.names),
        "label_embeddings": pack_label_embeddings(network.label_embeddings),
        "normalization": {"mean": (0.1, 0.2, 0.3), "std": (0.5, 0.6, 0.7)},
        "model": network.state_dict(),
        "ema": None,
        "reported": "raw",
        "metrics": {},
        "step": 0,
    }
    save_checkpoint(folder / "network.pt", content)
    return folder / "network.pt"


@pytest.fixture(scope="module")
def run(digits_root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert command(["train", *small_experiment(digits_root), *SMALL, "schedule.epochs=1", f"run_dir={folder}"]) == 0
    return folder


@pytest.fixture(scope="module")
def exported(run):
    return export(run, run / "all", ["safetensors", "onnx", "torch_export"])


@pytest.fixture(scope="module")
def inputs():
    return list(np.random.default_rng(0).integers(0, 256, (7, 64, 64, 3), np.uint8))


def test_mldec_loads_the_folder_and_gives_equal_scores(run, exported, inputs, tmp_path):
    moved = shutil.copytree(exported.folder, tmp_path / "elsewhere")
    before, after = mldec.load(run, device="cpu"), mldec.load(moved, device="cpu")
    assert np.array_equal(after.scores(inputs), before.scores(inputs))
    assert after.labels.names == before.labels.names
    assert exported.differences["model.safetensors"] == (0, 0)
    assert restore(moved).config.backbone == restore(run).config.backbone


def test_onnx_gives_the_scores_of_the_network_in_any_batch(run, exported, inputs):
    session = onnxruntime.InferenceSession(exported.folder / "model.onnx")
    network = mldec.load(run, device="cpu")
    assert [(i.name, i.shape[1:], i.type) for i in session.get_inputs()] == [("images", [3, 64, 64], "tensor(float)")]
    for batch in (1, 4, 7):
        images = network.normalization(torch.from_numpy(np.stack(inputs[:batch])).permute(0, 3, 1, 2))
        scores, logits = session.run(["scores", "logits"], {"images": images.numpy()})
        np.testing.assert_allclose(scores, network.scores(inputs[:batch]), atol=1e-4, rtol=0)
        np.testing.assert_allclose(scores, 1 / (1 + np.exp(-logits)), atol=1e-6)
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["labels"]) == list(network.labels.names)
    assert metadata["activation"] == "sigmoid"
    assert json.loads(metadata["preprocessing"])["image_size"] == 64


def test_torch_export_gives_the_scores_of_the_network_in_any_batch(run, exported, inputs):
    extra = {"labels": "", "preprocessing": ""}
    module = torch.export.load(exported.folder / "model.pt2", extra_files=extra).module()
    network = mldec.load(run, device="cpu")
    images = network.normalization(torch.from_numpy(np.stack(inputs[:3])).permute(0, 3, 1, 2))
    scores, _ = module(images)
    np.testing.assert_allclose(scores.detach().numpy(), network.scores(inputs[:3]), atol=1e-6)
    assert json.loads(extra["labels"]) == list(network.labels.names)
    assert json.loads(extra["preprocessing"])["input"] == "float32, normalised"


def test_metrics_and_thresholds_of_the_run_go_along_and_paths_do_not(run, exported, digits_root):
    description = json.loads((exported.folder / "mldec.json").read_text())
    test = read_records(run / "metrics.jsonl")[-1]
    assert description["test"] == test
    assert description["data"] == read_json(run / "data.json")
    assert description["thresholds"] == read_thresholds(run / "thresholds.csv").values.tolist()
    assert str(digits_root.parent) not in (exported.folder / "mldec.json").read_text()

    card = ModelCard((exported.folder / "README.md").read_text())
    assert (card.data.library_name, card.data.pipeline_tag) == ("mldec", "image-classification")
    assert card.data.license is None  # nobody said one
    found = {result.metric_name: result.metric_value for result in card.data.eval_results}
    assert found["mAP"] == pytest.approx(test["mAP"], abs=1e-4)
    assert f"`{description['data']['train']['fingerprint'][:16]}`" in card.text


def run_code(card: str, title: str, threshold: str = "0.5") -> str:
    """What the Python of a section prints."""
    code = re.search(rf"## {title}\n\n```python\n(.*?)```", card, re.DOTALL)[1].replace("> 0.5", f"> {threshold}")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, title, "exec"), {})
    return printed.getvalue()


def test_the_code_of_the_card_says_what_mldec_says(exported, inputs, tmp_path, monkeypatch):
    folder = shutil.copytree(exported.folder, tmp_path / "folder")
    monkeypatch.chdir(folder)
    Image.fromarray(inputs[0]).resize((100, 80)).save("photo.jpg", quality=95)
    card = (folder / "README.md").read_text()
    found = eval(run_code(card, "Use with ONNX Runtime", threshold="0"))
    (said,) = mldec.load(folder, device="cpu").predict(["photo.jpg"], threshold=0)
    assert found == pytest.approx(said, abs=1e-4)
    assert len(found) == 80
    monkeypatch.setattr(mldec, "load", lambda path: mldec.engine.predictor.load(folder, device="cpu"))
    assert run_code(card, "Use with mldec").startswith("[{")
    run_code(card, "Use with torch.export")


def test_an_exported_folder_is_exported_again(exported, inputs, tmp_path):
    again = export(exported.folder, tmp_path / "again", ["safetensors"])
    first, second = (read_json(folder / "mldec.json") for folder in (exported.folder, again.folder))
    assert first == second
    assert np.array_equal(*(mldec.load(f.folder, device="cpu").scores(inputs) for f in (again, exported)))


def test_weights_that_the_run_does_not_report_carry_no_figures(run, tmp_path):
    raw = export(run, tmp_path / "raw", ["safetensors"], weights="raw").folder
    description = read_json(raw / "mldec.json")
    assert (description["weights"], description["test"], description["thresholds"]) == ("raw", None, None)
    assert "these weights were not evaluated on a test split" in (raw / "README.md").read_text()
    assert mldec.load(raw, device="cpu").model is not None  # the only ones that are there
    assert restore(raw, "raw").weights == "raw"
    with pytest.raises(CheckpointError, match="weights=raw"):
        restore(raw, "ema")


def test_asking_an_export_for_weights_that_it_lacks(exported):
    with pytest.raises(CheckpointError, match="exported with EMA weights only; use weights=ema"):
        mldec.load(exported.folder, weights="raw")


# What is refused ------------------------------------------------------------------------------------------------------


def test_what_differs_is_refused_and_nothing_is_left(run, tmp_path, monkeypatch):
    write = graph.write_program

    def shifted(scorer, *rest):
        nn.init.constant_(scorer.classifier.head.fc.bias, 0.01)
        write(scorer, *rest)

    monkeypatch.setattr(graph, "write_program", shifted)
    with pytest.raises(RunError, match=r"format=torch_export: .* differs .* in logits .*; nothing was written"):
        export(run, tmp_path / "deep" / "er" / "out", ["torch_export"])
    assert os.listdir(tmp_path) == []


def test_weights_that_read_back_otherwise_are_refused(run, tmp_path, monkeypatch):
    write = exported_model.write_weights

    def rounded(folder, state, metadata):
        write(folder, {name: tensor.half() for name, tensor in state.items()}, metadata)

    monkeypatch.setattr(exported_model, "write_weights", rounded)
    with pytest.raises(RunError, match=r"format=safetensors: .*\(0 and 0 allowed\)"):
        export(run, tmp_path / "out", ["safetensors"])
    assert os.listdir(tmp_path) == []


def test_what_a_format_cannot_express_is_one_sentence(run, tmp_path, monkeypatch):
    def forward(self, images, label_vectors=None):
        return (images, images) if images.sum() > 0 else (images + 1, images)  # depends on pixels

    monkeypatch.setattr(graph.Scorer, "forward", forward)
    with pytest.raises(RunError, match=r"format=torch_export: the network cannot be .*debug=true") as caught:
        export(run, tmp_path / "out", ["torch_export"])
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_a_folder_that_holds_something_is_kept(run, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="exists already; remove it or use another folder"):
        export(run, tmp_path / "out", ["safetensors"])
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"


def test_settings_without_effect_and_missing_packages(run, tmp_path, monkeypatch):
    for settings, message in (
        ({"fold": True}, "fold_batch_norm=true: no effect on format=safetensors"),
        ({"included": True}, "preprocessing=included: no effect on format=safetensors"),
        ({"device": "cuda:0"}, "only a torch_export program is bound to a device"),
    ):
        with pytest.raises(ConfigError, match=message):
            export(run, tmp_path / "out", ["safetensors"], **settings)
    monkeypatch.setattr(graph.importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else name)
    with pytest.raises(ConfigError, match=r"onnxruntime is not installed: pip install 'mldec\[export\]'"):
        export(run, tmp_path / "out", ["onnx"])
    assert os.listdir(tmp_path) == []


# Zero-shot and preprocessing ------------------------------------------------------------------------------------------


def zero_shot(folder, *overrides):
    embeddings = LabelEmbeddings((*LABELS.names, "never trained"), torch.randn(8, 5), "a test")
    return untrained(
        folder, "head=zero_shot", "head.label_embeddings.source=random:5", *overrides, embeddings=embeddings
    )


@pytest.fixture(scope="module")
def by_embeddings(tmp_path_factory):
    """With softmax scores, so that this is tried too: inputs of one label."""
    folder = tmp_path_factory.mktemp("embeddings")
    run = zero_shot(folder, "loss=ce", "dataset=cifar100", "dataset.image_size=64")
    return run, export(run, folder / "out", ["safetensors", "onnx", "torch_export"], fold=True, included=True)


def test_vectors_of_labels_are_an_input_of_any_length(by_embeddings, inputs):
    run, exported = by_embeddings
    session = onnxruntime.InferenceSession(exported.folder / "model.onnx")
    module = torch.export.load(exported.folder / "model.pt2").module()
    images = torch.from_numpy(np.stack(inputs[:3])).permute(0, 3, 1, 2)  # uint8: normalised within
    for count in (1, 2, 30):
        names, vectors = [f"new {n}" for n in range(count)], torch.randn(count, 5)
        network = mldec.load(run, device="cpu")  # forgets names that it was told of
        network.model.set_labels(names, LabelEmbeddings(tuple(names), vectors, "a test"))
        expected = network.scores(inputs[:3])
        scores, _ = session.run(None, {"images": images.numpy(), "label_vectors": vectors.numpy()})
        np.testing.assert_allclose(scores, expected, atol=1e-4, rtol=0)
        np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-5)
        np.testing.assert_allclose(module(images, vectors)[0].detach().numpy(), expected, atol=1e-4, rtol=0)
    assert "7 batch norms folded into convolutions in the graph" in exported.notes


def test_words_travel(by_embeddings, inputs, tmp_path):
    run, exported = by_embeddings
    moved = shutil.copytree(exported.folder, tmp_path / "elsewhere")
    before, after = mldec.load(run, device="cpu"), mldec.load(moved, device="cpu")
    for names in (LABELS.names, ["never trained", "thing 3"]):
        before.set_labels(names)
        after.set_labels(names)
        assert np.array_equal(after.scores(inputs), before.scores(inputs))
    (tmp_path / "elsewhere" / "label_vectors.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"no label_vectors\.safetensors"):
        mldec.load(moved)


def test_the_card_s_code_asks_by_vectors(by_embeddings, inputs, tmp_path, monkeypatch):
    _, exported = by_embeddings
    monkeypatch.chdir(shutil.copytree(exported.folder, tmp_path / "folder"))
    Image.fromarray(inputs[0]).save("photo.jpg", quality=95)
    card = (tmp_path / "folder" / "README.md").read_text()
    network = mldec.load(".", device="cpu")
    network.set_labels([*LABELS.names, "never trained"])
    (said,) = network.predict(["photo.jpg"], threshold=0)
    assert eval(run_code(card, "Use with ONNX Runtime", threshold="0")) == pytest.approx(said, abs=1e-4)
    run_code(card, "Use with torch.export")


def test_labels_that_share_queries_are_fixed_in_the_graph(inputs, tmp_path):
    exported = export(zero_shot(tmp_path, "head.num_groups=3"), tmp_path / "out", ["torch_export"])
    assert any("only score trained labels" in note for note in exported.notes)
    module = torch.export.load(tmp_path / "out" / "model.pt2").module()
    network = mldec.load(tmp_path / "network.pt", device="cpu")
    images = network.normalization(torch.from_numpy(np.stack(inputs)).permute(0, 3, 1, 2))
    np.testing.assert_allclose(module(images)[0].detach().numpy(), network.scores(inputs), atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "alone"),
    [
        ({"queries": "label_embeddings", "fc": "shared"}, True),
        ({"queries": "label_embeddings", "fc": "label_embeddings"}, True),
        ({"queries": "label_embeddings", "fc": "shared", "num_groups": 3}, False),
        ({"queries": "label_embeddings", "fc": "group"}, False),
        ({"queries": "fixed", "fc": "label_embeddings"}, False),
    ],
)
def test_which_heads_ask_by_vectors_alone(settings, alone):
    """Those, and only those, whose logits of new labels do not depend on which others are asked for with them."""
    torch.manual_seed(0)
    embeddings = LabelEmbeddings(LABELS.names, torch.randn(7, 5), "a test")
    small = {"dim": 16, "num_heads": 2, "ffn_dim": 16}
    head = ZeroShotMLDecoder(8, 7, **small, label_embeddings=embeddings, **settings).eval()
    assert takes_vectors(Classifier(nn.Identity(), head)) == alone
    assert not takes_vectors(Classifier(nn.Identity(), MLDecoder(8, 7, **small)))
    tokens, new = torch.randn(2, 4, 8), LabelEmbeddings(("a", "b", "c"), torch.randn(3, 5), "a test")
    nn.init.normal_(head.fc.bias)  # equal biases would hide whose they are
    head.vocabulary.set_labels(["a", "b", "c"], new)
    together = head(tokens)
    head.vocabulary.set_labels(["c", "a"])
    assert torch.allclose(head(tokens), together[:, [2, 0]], atol=1e-6) == alone
    if alone:
        torch.testing.assert_close(head(tokens, head.vocabulary.one_group_each(new.vectors)), together)


@pytest.mark.parametrize("interpolation", ["null", "bilinear"])
@pytest.mark.parametrize("crop", [0.8, 0.95, "null"])
def test_a_centre_crop_is_described_as_it_is_done(inputs, tmp_path, monkeypatch, crop, interpolation):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(inputs[0]).resize((173, 90)).save("photo.jpg", quality=95)
    overrides = [f"dataset.crop={crop}", f"dataset.interpolation={interpolation}"]
    restored = restore(untrained(tmp_path, *overrides))
    steps = preprocessing(restored, included=False)
    found = {"np": np, "Image": Image, "ImageOps": ImageOps}
    exec(template("open_image.py.jinja").render(preprocessing=steps), found)
    expected = build.build_resize(restored.config)(np.asarray(Image.open("photo.jpg")))
    normalization = Normalization((0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
    np.testing.assert_allclose(
        found["images"], normalization(torch.from_numpy(expected).permute(2, 0, 1)[None]).numpy(), atol=1e-6
    )
