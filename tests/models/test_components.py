"""Every choice that the configuration offers for backbones and heads is one that can be built."""

from pathlib import Path

import pytest
import torch
import yaml

from mldec.labels import LabelSpace
from mldec.models.classifier import HeadOutput, Tokens
from mldec.models.label_embeddings import LabelEmbeddingsConfig, read_label_embeddings
from mldec.registry import BACKBONES, HEADS

CONFIGS = Path(__file__).parents[2] / "configs"


def settings(path):
    assert path.read_text().startswith("# ")
    return yaml.safe_load(path.read_text())


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("backbone/*.yaml")), ids=lambda path: path.stem)
def test_backbone_choices(path):
    values = settings(path)
    component = BACKBONES[values["name"]]
    more = {"model": "resnet18"} if path.stem == "timm" else {}
    with torch.device("meta"):  # the largest hold hundreds of millions of weights
        backbone = component.build(component.config_class(**values, **more), image_size=224)
        tokens = backbone.eval()(torch.rand(1, 3, 224, 224))
    assert tokens.values.shape == (1, tokens.grid[0] * tokens.grid[1], backbone.num_features)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("head/*.yaml")), ids=lambda path: path.stem)
def test_head_choices(path):
    values = settings(path)
    component = HEADS[values["name"]]
    labels = LabelSpace(["cat", "dog", "fox"])
    more = {}
    if "label_embeddings" in values:
        values["label_embeddings"] = LabelEmbeddingsConfig(source="random:5")
        more["label_embeddings"] = read_label_embeddings(values["label_embeddings"], labels.names)
    with torch.device("meta"):  # Query2Label's layers hold a hundred million weights
        head = component.build(component.config_class(**values), in_features=2048, labels=labels, **more)
        output = head(Tokens(torch.rand(2, 6, 2048), (2, 3)))
    assert (output.logits if isinstance(output, HeadOutput) else output).shape == (2, 3)


def test_every_backbone_and_head_has_a_choice():
    for group, registry in (("backbone", BACKBONES), ("head", HEADS)):
        offered = {settings(path)["name"] for path in CONFIGS.glob(f"{group}/*.yaml")}
        assert offered >= set(registry.names())
