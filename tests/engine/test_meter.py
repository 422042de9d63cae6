"""Property: what was waited for and what was counted is what is read, once."""

from __future__ import annotations

import time

import pytest
import torch

from mldec.data.loader import Batch
from mldec.engine.meter import Meter


def batches(count: int, delay: float):
    for _ in range(count):
        time.sleep(delay)
        yield Batch(torch.zeros(4, 3, 2, 2, dtype=torch.uint8), torch.zeros(4, 1, dtype=torch.int8), torch.arange(4))


def test_waiting_is_the_share_of_time_without_a_batch():
    meter = Meter()
    for _ in meter.waiting(batches(5, 0.03)):
        pass
    speed, waiting = meter.read()
    assert waiting > 0.9
    assert speed == pytest.approx(20 / 0.15, rel=0.5)
    for _ in meter.waiting(batches(5, 0)):
        time.sleep(0.03)
    assert meter.read()[1] < 0.2


def test_a_reading_starts_anew():
    meter = Meter()
    list(meter.waiting(batches(3, 0)))
    assert meter.read()[0] > 0
    assert meter.read()[0] == 0
