"""Property: what this machine has not is refused with what it has."""

from __future__ import annotations

import os

import pytest
import torch

from mldec.config import RuntimeConfig
from mldec.engine.device import autocast, choose_device, choose_precision, count_workers
from mldec.errors import ConfigError


def test_auto_takes_what_is_there():
    device = choose_device("auto")
    assert device.type == (
        "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    )
    assert choose_precision("auto", torch.device("cpu")) == torch.float32


@pytest.mark.parametrize(
    ("name", "message"), [("cuda:99", "not available here; found"), ("gpu", "no such device"), ("xpu", "not available")]
)
def test_a_device_that_is_not_there_is_refused(name, message):
    with pytest.raises(ConfigError, match=message):
        choose_device(name)


def test_fp16_needs_cuda():
    with pytest.raises(ConfigError, match=r"runtime\.precision=fp16 needs a CUDA device"):
        choose_precision("fp16", torch.device("cpu"))


def test_autocast_computes_products_in_the_given_dtype():
    x = torch.ones(2, 2)
    for dtype in (torch.float32, torch.bfloat16):
        with autocast(torch.device("cpu"), dtype):
            assert (x @ x).dtype == dtype


@pytest.mark.parametrize(("cores", "on_cpu", "on_cuda"), [(1, 0, 1), (2, 0, 2), (8, 2, 8), (64, 8, 8)])
def test_workers_are_as_configured_or_by_cores(cores: int, on_cpu: int, on_cuda: int, monkeypatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(cores), raising=False)
    for device, expected in (("cpu", on_cpu), ("cuda", on_cuda)):
        assert count_workers(RuntimeConfig(), torch.device(device)) == expected
        assert count_workers(RuntimeConfig(workers=3), torch.device(device)) == 3
