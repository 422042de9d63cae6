"""Property: a head that is trained on cached tokens is the head that is trained on images, and the cache holds just the
tokens that this needs, whatever interrupts, damages or shares it."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mldec.commands import evaluate, predict
from mldec.config import build_config, to_mapping
from mldec.data import token_store
from mldec.data.token_store import list_stores
from mldec.engine import data_splits, token_cache
from mldec.engine.checkpoint import load_checkpoint, read_last
from mldec.engine.config_checks import check_config
from mldec.engine.display import Display
from mldec.engine.interrupt import Interrupted
from mldec.engine.stored_config import check_resumed, confine
from mldec.engine.token_cache import TokenCache
from mldec.engine.trainer import Trainer
from mldec.errors import ConfigError, DataError, RunError
from tests.curve import make, make_trainer
from tests.forked import begin, finish
from tests.same import assert_same_run, assert_same_tensors, timeless

FROZEN = ("backbone.freeze=all", "cache.batch_size=32")
TOKENS = ("cache.tokens=true", "cache.dtype=float32")
PLAIN = ("augment=none",)  # then tokens are those of the images themselves
AUGMENTED = ("augment.rotation=20", "cache.views=2")
IMAGES_PER_SHARD = 20


@pytest.fixture
def words(small_digits, tmp_path) -> list[str]:
    """Overrides of a frozen run with a cache of its own."""
    return [*small_digits, *FROZEN, f"dataset.cache={tmp_path / 'cache'}"]


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    """About 20 of the 96 images a shard."""
    monkeypatch.setattr(token_store.TokenShape, "images_per_shard", property(lambda _: IMAGES_PER_SHARD))


@pytest.fixture
def computed(monkeypatch) -> list[int]:
    """How many images are computed at once, each time; the first of a run is one empty image."""
    counts: list[int] = []
    compute = TokenCache._compute
    monkeypatch.setattr(
        TokenCache, "_compute", lambda self, images: [counts.append(len(images)), compute(self, images)][1]
    )
    return counts


def prepared(words) -> TokenCache:
    """The cache of a run, nothing of it computed."""
    runner = make_trainer(make([*words, *TOKENS]))
    return TokenCache(runner.config, runner.splits, runner.state.model, runner.scorer)


def fill(cache: TokenCache, should_stop=lambda: False) -> bool:
    return cache.fill(Display(quiet=True).bar, should_stop)


def keys(words) -> dict[tuple[str, int], str]:
    return {(view.split, view.number): view.store.key for view in prepared(words).views}


def fit(words, folder: Path) -> dict:
    return make_trainer(make(words)).fit(folder)


def weights(folder: Path) -> dict:
    content = load_checkpoint(folder / "checkpoints" / "last.pt")
    return {name: content[name] for name in ("model", "ema", "optimizer", "resume") if name in content}


# The same head --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "variant",
    [
        ("head=gap", "ema=none"),
        ("head=gap", "head.dropout=0.3", "schedule.accumulate=2"),
        ("head=ml_decoder", "head.dim=32", "head.ffn_dim=32", "head.num_heads=4", "head.dropout=0.2"),
        ("backbone=timm", "backbone.model=test_vit", "head.dropout=0"),
    ],
)
def test_the_cache_changes_no_bit_of_a_run(words, variant, tmp_path):
    if "head=gap" in variant:
        words = [word for word in words if not word.startswith("head.")]
    if "backbone=timm" in variant:
        words = [word for word in words if not word.startswith(("backbone.widths", "backbone.blocks"))]
    words = [*words, *PLAIN, *variant]
    fit(words, tmp_path / "images")
    fit([*words, *TOKENS], tmp_path / "tokens")
    assert_same_tensors(weights(tmp_path / "tokens"), weights(tmp_path / "images"))
    assert timeless(tmp_path / "tokens") == timeless(tmp_path / "images")
    assert (tmp_path / "tokens" / "thresholds.csv").read_text() == (tmp_path / "images" / "thresholds.csv").read_text()
