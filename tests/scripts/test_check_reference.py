"""The comparison with published values, on a file that the test makes by formulas of its own."""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from scripts import check_reference

SALT = "salt"
REFERENCE = Path(__file__).parents[3] / "shared" / "data" / "reference" / "reference_shared.json"


@pytest.fixture(autouse=True)
def keep_default_dtype():
    yield
    torch.set_default_dtype(torch.float32)


def pooled_case() -> dict:
    """CSRA with one head, by finite differences where gradients are needed."""
    features, cotangent = {"seed": 1, "shape": [2, 4, 3, 3]}, {"seed": 2, "shape": [2, 5]}
    draw = {"draw": "standard_normal"}
    x = np.random.RandomState(1).standard_normal([2, 4, 3, 3])
    name = "multi_head.0.head.weight"
    w = np.random.RandomState(zlib.crc32((SALT + name).encode())).standard_normal([5, 4, 1, 1]) / 2
    c = np.random.RandomState(2).standard_normal([2, 5])

    def logits(x, w):
        tokens = x.reshape(2, 4, 9).transpose(0, 2, 1)
        s = tokens @ (w[:, :, 0, 0] / np.linalg.norm(w[:, :, 0, 0], axis=1, keepdims=True)).T
        a = np.exp(s) / np.exp(s).sum(axis=1, keepdims=True)
        return s.mean(axis=1) + 0.2 * (a * s).sum(axis=1)

    def norm(of):
        values, h = [x, w], 1e-6
        gradient = np.zeros_like(values[of])
        for place in np.ndindex(gradient.shape):
            above, below = values[of].copy(), values[of].copy()
            above[place] += h
            below[place] -= h
            up, down = ([*values[:of], moved, *values[of + 1 :]] for moved in (above, below))
            gradient[place] = ((logits(*up) - logits(*down)) * c).sum() / (2 * h)
        return float(np.linalg.norm(gradient))

    return {
        "kind": "head",
        "name": "csra_made",
        "salt": SALT,
        "settings": {"num_heads": 1, "lam": 0.2, "num_classes": 5, "channels": 4},
        "inputs": {"features": features | draw},
        "cotangent": cotangent | draw,
        "weights": {name: [5, 4, 1, 1]},
        "logits": logits(x, w).tolist(),
        "grad_norm_features": norm(0),
        "grad_norms": {name: norm(1)},
        "aux": {},
    }


def loss_cases() -> list[dict]:
    """ZLPR of two images."""
    x, y = np.array([[1.0, -0.5, 2.0], [0.3, 0.1, -1.0]]), np.array([[1, 0, 0], [0, 1, 1]])
    value, slope = 0.0, np.zeros_like(x)
    for b in range(2):
        for sign, row in ((1, y[b] == 0), (-1, y[b] == 1)):
            terms = np.exp(sign * x[b]) * row
            value += np.log(1 + terms.sum()) / 2
            slope[b] += sign * terms / (1 + terms.sum()) / 2
    loss = {"kind": "loss", "name": "zlpr_made", "targets": "targets_full", "settings": {}, "loss": value}
    inputs = {"kind": "loss_inputs", "name": "loss_inputs", "logits": x.tolist(), "targets_full": y.tolist()}
    return [inputs, loss | {"grad": slope.tolist()}]


def run(path, cases) -> int:
    path.write_text(json.dumps({"cases": cases}))
    return check_reference.main(path)


def test_equal_values_pass_and_other_cases_are_listed(tmp_path, capsys):
    other = {"kind": "loss", "name": "of_another_method_1"}
    assert run(tmp_path / "file.json", [pooled_case(), *loss_cases(), other]) == 0
    out = capsys.readouterr().out
    assert "csra: 1 cases" in out
    assert "zlpr: 1 cases" in out
    assert "not implemented: 1 cases: of_another_method_1" in out


@pytest.mark.parametrize("field", ["logits", "grad_norm_features", "grad_norms"])
def test_a_difference_of_a_head_is_found(tmp_path, capsys, field):
    case = pooled_case()
    if field == "logits":
        case[field][1][2] += 1e-4
    elif field == "grad_norms":
        case[field] = {name: value * 1.001 for name, value in case[field].items()}
    else:
        case[field] *= 1.001
    assert run(tmp_path / "file.json", [case]) == 1
    assert "csra_made" in capsys.readouterr().err


@pytest.mark.parametrize("field", ["loss", "grad"])
def test_a_difference_of_a_loss_is_found(tmp_path, field):
    inputs, case = loss_cases()
    if field == "loss":
        case["loss"] += 1e-4
    else:
        case["grad"][0][0] += 1e-4
    assert run(tmp_path / "file.json", [inputs, case]) == 1


def test_a_case_that_cannot_be_computed_fails_and_the_others_are_compared(tmp_path, capsys):
    broken = pooled_case() | {"name": "csra_broken", "settings": {}}
    assert run(tmp_path / "file.json", [broken, pooled_case()]) == 1
    printed = capsys.readouterr()
    assert "csra_broken (KeyError" in printed.err
    assert "values by" in printed.out


def test_features_of_ssgrl_are_those_after_its_pooling(monkeypatch):
    """They have no grid, as our head would pool maps of 14 x 14 again."""
    grids = []
    monkeypatch.setattr(check_reference, "call", lambda head, weights, tokens, **inputs: grids.append(tokens.grid))
    monkeypatch.setattr(check_reference, "compare", lambda *values: None)
    draw = {"draw": "standard_normal", "seed": 1}
    inputs = {"features": [1, 2, 14, 14], "words": [3, 2], "adjacency": [3, 3]}
    case = {
        "salt": SALT,
        "settings": {"time_step": 1, "intermediary_dim": 2, "output_dim": 2, "channels": 2},
        "inputs": {name: draw | {"shape": shape} for name, shape in inputs.items()},
        "weights": {},
        "grad_norms": {},
        "logits": [],
    }
    next(check_reference.ssgrl(case))
    assert grids == [None]


@pytest.mark.skipif(not REFERENCE.is_file(), reason="values of the published code are not here")
def test_the_published_values():
    assert check_reference.main(REFERENCE) == 0
