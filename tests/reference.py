"""Golden values of published heads: a file that MLDEC_REFERENCE names; tests that need it are skipped without it."""

from __future__ import annotations

import json
import math
import os
import zlib
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mldec.models.tokens import Tokens


def cases(*names: str) -> list[Any]:
    """Parameters of a test: the cases whose names begin so, or one that is skipped."""
    path = os.environ.get("MLDEC_REFERENCE")
    if path is None:
        return [pytest.param(None, marks=pytest.mark.skip(reason="MLDEC_REFERENCE names no file of golden values"))]
    with open(path) as file:
        found = [case for case in json.load(file)["cases"] if case["name"].startswith(names)]
    return [pytest.param(case, id=case["name"]) for case in found]


def draw(recipe: dict[str, Any]) -> Tensor:
    """An input as its recipe says, float64."""
    rng = np.random.RandomState(recipe["seed"])
    normal = recipe["draw"] == "standard_normal"
    x = rng.standard_normal(recipe["shape"]) if normal else rng.random_sample(recipe["shape"])
    x = x * recipe.get("scale", 1.0)
    x = np.maximum(x, 0) if recipe.get("relu") else x
    return torch.from_numpy(x / np.linalg.norm(x, axis=-1, keepdims=True) if recipe.get("l2_normalize_rows") else x)


def tokens(case: dict[str, Any]) -> Tokens:
    """The features of a case, whose gradient is recorded."""
    x = draw(case["inputs"]["features"])
    return Tokens(x.flatten(2).transpose(1, 2).clone().requires_grad_(), (x.shape[2], x.shape[3]))


def weights(case: dict[str, Any]) -> dict[str, Tensor]:
    """The weights of a case by their published names, float64."""
    return {name: torch.from_numpy(_weight(name, shape, case["salt"])) for name, shape in case["weights"].items()}


def _weight(name: str, shape: list[int], salt: str) -> np.ndarray:
    z = np.random.RandomState(zlib.crc32((salt + name).encode())).standard_normal(shape)
    if name.endswith(("running_var", "moving_variance")):
        return 1 + 0.1 * abs(z)
    if len(shape) > 1:
        return z / math.sqrt(np.prod(shape[1:]))
    return 0.1 * z + name.endswith(("weight", "bn_gamma"))
