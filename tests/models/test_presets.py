"""Backbones that are offered by name with a size: their tokens, weights and licences are those of the docs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import timm
import torch
import yaml

from mldec.models.backbone import Backbone, create_timm
from mldec.models.pretrained import PACKAGES, find_source

ROOT = Path(__file__).parents[2]
LICENCES = {
    "dinov3-license": "DINOv3 licence",
    "cc-by-nc-4.0": "CC BY-NC 4.0",
    "apache-2.0": "Apache 2.0",
    "mit": "MIT",
}
TABLE = re.findall(
    r"\| `(\w+)` \| (\d+) \| (\d+) \W (\d+) \| ([\d,]+) \| (.+) \|", (ROOT / "docs" / "backbones.md").read_text("utf-8")
)
PRESETS = {
    path.stem: path
    for path in (ROOT / "configs" / "backbone").glob("*.yaml")
    if "for images of" in path.read_text(encoding="utf-8")
}


def test_the_docs_list_all() -> None:
    assert [row[0] for row in TABLE] == sorted(PRESETS)


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row[0])
def test_tokens_and_weights_are_those_of_the_docs(row: tuple[str, ...]) -> None:
    name, size, height, width, channels, licence = row
    text = PRESETS[name].read_text(encoding="utf-8")
    model = yaml.safe_load(text)["model"]
    with torch.device("meta"):  # nothing is computed
        backbone = Backbone(create_timm(model, image_size=int(size)), image_size=int(size), final_norm=True).eval()
        tokens = backbone(torch.empty(2, 3, int(size), int(size)))
    assert f"for images of {size} px" in text
    assert tokens.grid == (int(height), int(width))
    assert tokens.values.shape == (2, int(height) * int(width), int(channels.replace(",", "")))
    published = timm.get_pretrained_cfg(model)
    assert published is not None
    assert LICENCES[str(published.license)] == licence
    source = find_source(model, True)
    assert source is not None
    assert source.kind == ("package" if source.name in {package.name for package in PACKAGES} else "hub")
