"""Property: what is built for a file's tensors is no larger than they are, and holds them exactly."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import nn

from mldec.errors import CheckpointError
from mldec.models.bounded import at_most, build_with, build_within

STATE = {"weight": torch.ones(2, 2), "bias": torch.zeros(2)}


def many(count: int) -> nn.Module:
    return nn.ModuleList(nn.Linear(2, 2) for _ in range(count))


def test_far_more_layers_than_tensors_are_not_built():
    for make in (lambda: many(3_000), lambda: nn.Sequential(*(nn.ReLU() for _ in range(20_000)))):
        with pytest.raises(CheckpointError, match=r"file\.pt: its settings describe a network of more than"):
            build_within(make, STATE, "file.pt")
    assert len(build_within(lambda: many(3), STATE, "file.pt")) == 3


def test_far_more_numbers_than_the_file_has_take_no_memory():
    with pytest.raises(CheckpointError, match=r"more than .* parameters"):
        build_within(lambda: nn.Linear(10**6, 10**6), STATE, "file.pt")

    class Table(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("places", torch.arange(10**5)[:, None] + torch.arange(10**5), persistent=False)

    with pytest.raises(CheckpointError, match="buffer values"):
        build_within(Table, STATE, "file.pt")


def test_weights_are_copied_in_the_format_of_the_network():
    state = {"weight": torch.ones(2, 2, dtype=torch.float16).t(), "bias": torch.zeros(2)}
    network = build_with(lambda: nn.Linear(2, 2), state, "file.pt")
    assert network.weight.dtype == torch.float32
    assert network.weight.is_contiguous()
    assert network.bias.data_ptr() != state["bias"].data_ptr()
    assert torch.equal(network.weight, torch.ones(2, 2))


def test_what_no_file_holds_is_there_all_the_same():
    class Scaled(nn.Linear):
        def __init__(self) -> None:
            super().__init__(2, 2)
            self.register_buffer("scale", torch.full((2,), 3.0), persistent=False)
            self.steps = [torch.arange(3)]

    network = build_with(Scaled, STATE, "file.pt")
    assert torch.equal(network.scale, torch.full((2,), 3.0))
    assert torch.equal(network.steps[0], torch.arange(3))
    assert torch.equal(network.weight, STATE["weight"])
    with pytest.raises(RuntimeError, match="size mismatch"):
        build_with(lambda: nn.Linear(3, 2), STATE, "file.pt")


def test_other_threads_are_not_counted_and_nothing_stays_behind():
    with at_most(STATE, "file.pt"):
        thread = threading.Thread(target=many, args=(3_000,))
        thread.start()
        thread.join()
        many(2)
    assert len(many(3_000)) == 3_000
