"""Rates of repeated work on a device, and a reference rate that it cannot exceed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter

import torch

from mldec.benchmarks.figure import Figure

SLOW = 5  # times `seconds`: a longer step is not warmed up again


class Rate:
    """The rate, per second, of a repeated `step` that handles `amount` at a time."""

    def __init__(self, step: Callable[[], object], amount: float, device: torch.device, seconds: float) -> None:
        """Warm up, so that what is allocated, compiled or chosen in the first step does not count."""
        self.step, self.amount, self.device = step, amount, device
        self.samples: list[float] = []
        self.spent = 0.0
        self.duration = self._time(1)  # of a step
        if self.duration <= SLOW * seconds:
            self.duration = self._time(1)

    def sample(self, seconds: float) -> float:
        """Measure once more, for about `seconds`."""
        if self.device.type == "cuda" and self.duration <= seconds:
            self._time(1)  # allocate again what was released since the last round
        steps = max(1, round(seconds / max(self.duration, 1e-6)))
        elapsed = self._time(steps)
        self.duration = elapsed / steps
        self.spent += elapsed
        self.samples.append(self.amount * steps / elapsed)
        return self.samples[-1]

    def _time(self, steps: int) -> float:
        synchronize(self.device)
        began = perf_counter()
        for _ in range(steps):
            self.step()
        synchronize(self.device)
        return perf_counter() - began


def matrix_product(device: torch.device, dtype: torch.dtype, seconds: float) -> Rate:
    """Multiply-accumulates of a large square matrix product."""
    side = matrix_side(device)
    left, right, out = (torch.randn(side, side, device=device).to(dtype) for _ in range(3))
    return Rate(lambda: torch.mm(left, right, out=out), side**3, device, seconds)


def matrix_side(device: torch.device) -> int:
    """Rows and columns of the matrices of `matrix_product`."""
    return 2048 if device.type == "cpu" else 8192


def matrix_figure(samples: Sequence[float], device: torch.device, dtype: torch.dtype) -> Figure:
    """The rate of `matrix_product` in each round."""
    name, side = str(dtype).removeprefix("torch."), matrix_side(device)
    if device.type == "cuda" and dtype == torch.float32 and torch.get_float32_matmul_precision() != "highest":
        name += " (TF32)"
    note = f"multiply-accumulates of this device in {name}, {side} x {side}"
    return Figure.of_samples("matrix product", [sample / 1e9 for sample in samples], "G/s", note=note, better="higher")


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished its queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
