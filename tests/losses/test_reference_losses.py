"""The losses against values of the published code, in the file that the environment variable MLDEC_REFERENCE names.

Its README gives the format. All is in float64; values and gradients must agree to 1e-9 of their size. Without the file
`test_values.py` proves the values by oracles of its own.
"""

from __future__ import annotations

import json
import math
import os
import zlib
from functools import cache

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mldec.losses import (
    DistributionBalancedLoss,
    HingeRankingLoss,
    RankNetLoss,
    SdlLoss,
    TwoWayLoss,
    ZlprLoss,
)
from mldec.losses.lesa import distribution_loss, global_loss, span_loss

FILE = os.environ.get("MLDEC_REFERENCE")
SMALL = 1e-20  # a value that the published code's mask of -100 leaves where ours is 0

pytestmark = pytest.mark.skipif(not FILE, reason="MLDEC_REFERENCE names no file of reference values")


@cache
def cases() -> dict[str, dict]:
    with open(FILE or os.devnull) as file:
        return {case["name"]: case for case in json.load(file)["cases"]}


def names(*prefixes: str) -> list[str]:
    return [name for name in cases() if name.startswith(prefixes)] if FILE else []


def tensor(values) -> Tensor:
    return torch.tensor(np.asarray(values), dtype=torch.float64)


def drawn(recipe: dict) -> Tensor:
    rng = np.random.RandomState(recipe["seed"])
    draw = {"standard_normal": rng.standard_normal, "uniform": rng.random_sample}[recipe["draw"]]
    values = draw(recipe["shape"]) * recipe.get("scale", 1.0)
    values = np.maximum(values, 0) if recipe.get("relu") else values
    if recipe.get("l2_normalize_rows"):
        values = values / np.linalg.norm(values, axis=-1, keepdims=True)
    return tensor(values)


def weight(case: dict, name: str) -> Tensor:
    shape = case["weights"][name]
    z = np.random.RandomState(zlib.crc32((case["salt"] + name).encode())).standard_normal(shape)
    if len(shape) > 1:
        return tensor(z / math.sqrt(np.prod(shape[1:])))
    shifted = name in ("bn_gamma", "moving_variance")
    return tensor(1 + (0.1 * z if name == "bn_gamma" else np.abs(0.1 * z)) if shifted else 0.1 * z)


def build(name: str, case: dict):
    settings = dict(case["settings"])
    if name.startswith("hinge_ranking"):
        return HingeRankingLoss(unknown_weight=float(name.endswith("positives")))
    if name.startswith("ranknet"):
        return RankNetLoss()
    if name.startswith("zlpr"):
        return ZlprLoss(unknown_weight=1)
    if name.startswith("twoway"):  # timm counts unknown labels as absent, the authors leave them out
        return TwoWayLoss(settings["tp"], settings["tn"], unknown_weight=float("official" not in name))
    settings["label_smoothing"] = settings.pop("smoothing", 0.0)
    counts = torch.tensor(case["class_counts"])
    return DistributionBalancedLoss(counts, case["num_samples"], **settings, unknown_weight=1)


def assert_equal(found: Tensor, expected: Tensor) -> None:
    scale = max(expected.abs().max().item(), SMALL)
    difference = (found - expected).abs().max().item() / scale
    assert difference < 1e-9


@pytest.mark.parametrize("name", names("hinge_ranking", "ranknet", "twoway", "zlpr", "db_"))
def test_values_and_gradients_are_those_of_the_published_code(name):
    case, inputs = cases()[name], next(case for case in cases().values() if case["kind"] == "loss_inputs")
    logits = tensor(inputs["logits"]).requires_grad_()
    value = build(name, case)(logits, torch.tensor(inputs[case["targets"]]))
    (gradient,) = torch.autograd.grad(value, logits)
    assert_equal(value.detach(), tensor(case["loss"]))
    assert_equal(gradient, tensor(case["grad"]))


@pytest.mark.parametrize("name", names("sdl_"))
def test_the_loss_of_sdl_is_the_published_one(name):
    case = cases()[name]
    features, words = (drawn(case["inputs"][key]) for key in ("features", "words"))
    weights = weight(case, "embedding.weight").requires_grad_()
    outputs = features.mean(dim=(2, 3)) @ weights.T
    matrix = outputs.unflatten(1, (300, -1))
    logits = torch.einsum("bdk,nd->bnk", matrix, words).amax(dim=2)
    assert_equal(logits.detach(), tensor(case["logits"]))
    details = {"matrix": matrix, "label_vectors": words}
    value = SdlLoss(case["settings"]["weight"])(logits, torch.tensor(case["targets"]), details=details)
    by_weight, by_output = torch.autograd.grad(value, (weights, outputs))
    aux = case["aux"]
    assert_equal(value.detach(), tensor(aux["loss"]))
    assert_equal(by_output[0, :8], tensor(aux["loss_grad_embedding_image0_first_8"]))
    assert_equal(by_output.norm(), tensor(aux["loss_grad_embedding_norm"]))
    assert_equal(by_weight.norm(), tensor(aux["loss_grad_weight_norm"]))


@pytest.mark.parametrize("name", names("lesa_port"))
def test_the_losses_of_lesa_are_the_published_ones(name):
    """`labels_pm1`: 1 present, -1 absent, 0 unknown."""
    case = cases()[name]
    features, words = (drawn(case["inputs"][key]) for key in ("features", "words"))
    kernel = weight(case, "conv_weights").permute(3, 2, 0, 1)
    maps = F.conv2d(F.pad(features, (0, 1, 0, 1)), kernel)
    norm = [weight(case, key) for key in ("moving_mean", "moving_variance", "bn_gamma", "bn_beta")]
    maps = F.batch_norm(maps, *norm, eps=1e-3).relu()
    tokens = maps.flatten(2).transpose(1, 2)
    tokens = F.pad(tokens, (0, 1), value=1.0)
    hidden = F.pad(torch.tanh(tokens @ weight(case, "w_att_1")), (0, 1), value=1.0)
    scores = (hidden @ weight(case, "w_att_2")).transpose(1, 2)
    classifiers = F.pad(words @ weight(case, "W").T, (0, 1))
    attention_logits = scores.softmax(dim=2) @ tokens @ classifiers.T
    logits, mean_logits = attention_logits.amax(dim=1), tokens.mean(dim=1) @ classifiers.T
    assert_equal(logits, tensor(case["logits"]))
    signs = torch.tensor(case["labels_pm1"])
    positive, absent = signs > 0, (signs < 0).double()
    aux = case["aux"]
    assert_equal(distribution_loss(attention_logits, positive).mean(), tensor(aux["loss_dist"]))
    assert_equal(global_loss(logits, mean_logits, positive, absent), tensor(aux["loss_global"]))
    assert_equal(span_loss(scores), tensor(aux["loss_span"]))
