"""Property: what was waited for and what was counted is what is read, once. Time is played, not measured."""

from __future__ import annotations

import pytest
import torch

from mldec.data.loader import Batch
from mldec.engine import observer
from mldec.engine.observer import Throughput


class Clock:
    """Seconds that pass only when somebody says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(observer, "time", clock)
    return clock


def batches(clock: Clock, count: int, seconds: float):
    for _ in range(count):
        clock.now += seconds
        yield Batch(torch.zeros(4, 3, 2, 2, dtype=torch.uint8), torch.zeros(4, 1, dtype=torch.int8), torch.arange(4))


def test_speed_counts_all_time_and_waiting_that_without_a_batch(clock):
    reader = Throughput()
    for _ in reader.timed(batches(clock, 5, seconds=1.0)):
        clock.now += 3.0  # the step
    speed, waiting = reader.read()
    assert speed == pytest.approx(20 / 20)
    assert waiting == pytest.approx(1 / 4)


def test_a_reading_starts_anew(clock):
    reader = Throughput()
    list(reader.timed(batches(clock, 3, seconds=1.0)))
    assert reader.read() == pytest.approx((4.0, 1.0))
    clock.now += 1.0
    assert reader.read() == (0.0, 0.0)


def test_time_between_epochs_is_not_training(clock):
    reader = Throughput()
    clock.now += 1000.0  # an evaluation
    list(reader.timed(batches(clock, 1, seconds=2.0)))
    assert reader.read()[0] == pytest.approx(4 / 2)
